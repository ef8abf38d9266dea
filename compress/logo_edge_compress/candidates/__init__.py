"""The candidates for a bundle: which there are, how each is made, where it is stored."""
