"""Accuracy and latency of a bundle together; needs only the runtime."""
