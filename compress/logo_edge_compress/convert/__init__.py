"""Artifacts of other formats, one file a format."""
