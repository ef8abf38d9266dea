"""The candidates for a bundle: plans, making, measuring, storage."""
