"""Pairs of drawn logos that differ only in the feature that decides their labels."""
