"""Checkpoints -> verified, calibrated bundles, per target."""

import logo_edge  # noqa: F401  # which tells the libraries that load next to report nothing
