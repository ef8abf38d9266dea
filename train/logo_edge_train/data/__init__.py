"""Labelled images: where they come from, and the batches that a network learns from."""
