"""Peer: Ultralytics' YOLO26n-cls, trained, exported and run by its own package, as its users do.

Its licence is AGPL-3.0: it has its own environment and process, and no part of it enters this project. Its pretrained
weights come from a hub that cannot be reached here, so it is trained from scratch, on the labelled logos: its
classifier has no use for the others.

    python benchmarks/peers/yolo.py train        # 60 epochs; resumes
    python benchmarks/peers/yolo.py measure
"""

from __future__ import annotations

import sys
from pathlib import Path

import peer

from logo_edge_bench.systems import System

NAME = "yolo"
MODEL, EPOCHS = "yolo26n-cls", 60


def train(data: peer.Data, work: Path, epochs: int | None) -> None:
    """Trains from scratch, goes on with last.pt where it was interrupted, and exports the best epoch to ONNX."""
    key = data.key(model=MODEL, epochs=epochs or EPOCHS)
    if peer.finished(work, key):
        return
    request = {"data": str(data.root.absolute()), "settings": _settings(work), **key}
    peer.own_python(NAME)
    with peer.timing(work):
        peer.run_inside(NAME, request, work)
    peer.finish(work, key, f"{key['images']} labelled logos; {peer.NO_WEIGHTS}")


def systems(work: Path, threads: int) -> list[System]:
    """Its default predict on the PyTorch weights, and predict on the exported ONNX."""
    files = {
        f"YOLO26n-cls, predict, {label}": work / "fit" / "weights" / file
        for label, file in [("PyTorch", "best.pt"), ("ONNX", "best.onnx")]
    }
    return peer.own_systems(NAME, "AGPL-3.0", work, files, threads, _settings(work))


def _settings(work: Path) -> dict[str, str]:
    """No look for updates, no pip, no accounts, its settings inside the work folder."""
    return {
        "YOLO_CONFIG_DIR": str(work.absolute()),
        "YOLO_OFFLINE": "True",
        "YOLO_AUTOINSTALL": "False",
        "WANDB_MODE": "disabled",
    }


if __name__ == "__main__":
    peer.main(sys.modules[__name__])
