"""Evaluations and reports of bundles, runs and checkpoints."""

import logo_edge  # noqa: F401  # before other libraries: it switches off their telemetry
