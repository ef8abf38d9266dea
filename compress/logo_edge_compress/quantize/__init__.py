"""INT8 and other precisions of a graph."""
