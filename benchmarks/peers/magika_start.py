"""Reference for a lean ONNX command: the process start of Google's Magika (its Python command) on one file.

It detects file types, not logos, so it has no accuracy here, only a process start.

    python benchmarks/peers/magika_start.py train      # installs it into its own environment
    python benchmarks/peers/magika_start.py measure
"""

from __future__ import annotations

import sys
from pathlib import Path

import peer

from logo_edge_bench.systems import System

NAME = "magika"
CALL = "import sys; from magika import Magika; print(Magika().identify_path(sys.argv[1]).output.label)"


def train(data: peer.Data, work: Path, epochs: int | None) -> None:
    print(f"{NAME}: {peer.own_python(NAME)}")


def systems(work: Path, threads: int) -> list[System]:
    return []


def starts(work: Path) -> dict[str, tuple[str, ...]]:
    """Its Python API in a process of its own: the newer `magika` command is a Rust program, which does not compare."""
    return {"Magika, Python, one file": (peer.own_python(NAME), "-c", CALL)}


if __name__ == "__main__":
    peer.main(sys.modules[__name__])
