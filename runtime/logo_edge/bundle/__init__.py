"""A bundle on disk: its record, calibration, members and signature."""
