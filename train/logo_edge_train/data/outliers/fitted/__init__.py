"""Drawn families that networks may learn from, drawn at two to three times the kept size."""
