"""Peer: Intel's getitune (the library of Geti, earlier OTX) on timm's EfficientNet-Lite0, by its own recipe.

It trains from the ImageNet weights on the labelled logos, exports to OpenVINO, quantizes to INT8 with NNCF, and is
measured with its Model API. Its recipe has no use for unlabelled logos. Apache-2.0; in its own environment.

    python benchmarks/peers/getitune.py train        # at most 90 epochs, until val stops to improve; resumes
    python benchmarks/peers/getitune.py measure
"""

from __future__ import annotations

import sys
from pathlib import Path

import peer
import torch

from logo_edge_bench.systems import System
from logo_edge_train.models.network import build_body

NAME = "getitune"
NETWORK, EPOCHS = "tf_efficientnet_lite0", 90
FILES = {"OpenVINO FP32": "fp32.xml", "OpenVINO INT8": "optimized.xml"}


def train(data: peer.Data, work: Path, epochs: int | None) -> None:
    key = data.key(network=NETWORK, epochs=epochs or EPOCHS)
    if peer.finished(work, key):
        return
    body, weights = build_body(NETWORK, 0, pretrained=True), work / "imagenet.pth"
    torch.save(body.state_dict(), weights)
    request = {"data": str(data.root.absolute()), "labels": list(data.labels), "weights": str(weights.absolute())}
    peer.own_python(NAME)
    with peer.timing(work):
        peer.run_inside(NAME, {**request, **key, "settings": _settings(work)}, work)
    peer.finish(work, key, f"{peer.IMAGENET}; {key['images']} labelled logos")


def systems(work: Path, threads: int) -> list[System]:
    """Model API on OpenVINO, FP32 and INT8."""
    files = {f"getitune {NETWORK}, {label}": work / file for label, file in FILES.items()}
    return peer.own_systems(NAME, "Apache-2.0", work, files, threads, _settings(work))


def _settings(work: Path) -> dict[str, str]:
    """No downloads and no reports of its use; its cache inside the work folder."""
    return {"PRETRAINED_WEIGHTS_CACHE_DIR": str((work / "cache").absolute()), "HF_HUB_OFFLINE": "1", "CI": "true"}


if __name__ == "__main__":
    peer.main(sys.modules[__name__])
