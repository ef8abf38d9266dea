"""Peer: the default bundle's model in a hand-written loop of OpenCV and ONNX Runtime, on white, uncalibrated.

There is nothing to train.

    python benchmarks/peers/opencv_loop.py measure
"""

from __future__ import annotations

import sys
from pathlib import Path

import peer

from logo_edge.bundle.record import DEFAULT_BUNDLE
from logo_edge_bench.systems import System

NAME = "opencv-loop"


def train(data: peer.Data, work: Path, epochs: int | None) -> None:
    print(f"{NAME}: nothing to train")


def systems(work: Path, threads: int) -> list[System]:
    options = {"bundle": str(DEFAULT_BUNDLE), "threads": threads}
    subject = str(peer.SUBJECTS / "opencv_subject.py")
    return [
        System("by hand: OpenCV and ONNX Runtime", subject, options, threads, kind="peer", note="the bundle's model")
    ]


if __name__ == "__main__":
    peer.main(sys.modules[__name__])
