"""Other engines: a Ray cluster and Triton Inference Server."""
