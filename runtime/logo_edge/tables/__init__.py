"""Folders of any size, classified into one table."""
