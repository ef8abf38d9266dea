"""Labelled images -> checkpoints. Import this before torch: it sets how OpenMP waits."""

import os

import logo_edge  # noqa: F401  # switches off the telemetry of the libraries that load next

# Threads that spin at barriers slow down training on shared cores (measured: 18 -> 240 ms an image).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
