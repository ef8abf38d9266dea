"""Drawn families that networks may learn from: documents, screens, charts and plans, drawn at two to three times the kept size."""
