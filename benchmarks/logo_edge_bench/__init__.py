"""Accuracy and latency of a bundle together; needs only the runtime."""

import logo_edge  # noqa: F401  # which tells the libraries that load next to report nothing
