"""Learning from a few examples of each class."""
