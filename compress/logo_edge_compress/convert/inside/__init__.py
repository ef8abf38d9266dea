"""Scripts that run in a converter's own environment (`environments.py`), where logo_edge is not installed."""
