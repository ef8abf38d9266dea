"""Labelled logos -> checkpoints. Import this before torch: it sets how OpenMP waits."""

import os

import logo_edge  # noqa: F401  # which tells the libraries that load next to report nothing

# Training shares its cores; threads that spin at barriers slow it manyfold (measured: 18 -> 240 ms an image).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
