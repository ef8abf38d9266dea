"""Peer: LightlyTrain's distillation (method distillationv3) into timm's EfficientNet-Lite0, then the timm peer's
fine-tune.

It learns without labels from train and the unlabelled pool. Its usual teacher, DINOv3, cannot be fetched here, and it
reads RGB, unlike the shipped run's teachers: the teacher is EfficientNet-Lite2 with ImageNet weights. Its licence is
AGPL-3.0, or commercial: it runs unchanged, in its own environment and process, and no part of it enters this project.

    python benchmarks/peers/lightly.py train
    python benchmarks/peers/lightly.py measure
"""

from __future__ import annotations

import sys
from pathlib import Path

import peer
import timm_finetune
import torch

from logo_edge_bench.experiments import plain_fit
from logo_edge_bench.systems import System
from logo_edge_train.models.network import build_body

NAME = "lightly"
VARIANT, TEACHER = timm_finetune.VARIANTS["lite0"], "tf_efficientnet_lite2"
EPOCHS = 100  # of the distillation; the fine-tune has the timm peer's


def train(data: peer.Data, work: Path, epochs: int | None) -> None:
    """Distils, goes on where it was interrupted, then fine-tunes on the labelled logos and exports."""
    key = data.key(distilled=epochs or EPOCHS, epochs=epochs or timm_finetune.EPOCHS)
    if peer.finished(work, key):
        return
    classes, pool = len(data.labels), data.pool()
    request = {"student": VARIANT.network, "teacher": TEACHER, "classes": classes, "data": str(pool.absolute())}
    request |= {"epochs": key["distilled"], "batch": plain_fit.BATCH, "size_px": data.size_px}
    request |= {"mean": plain_fit.MEAN, "std": plain_fit.STD, "settings": _settings(work)}
    for part in ("student", "teacher"):
        weights = work / f"{part}.pt"
        torch.save(build_body(request[part], classes, pretrained=True).state_dict(), weights)
        request[f"{part}_weights"] = str(weights.absolute())
    peer.own_python(NAME)
    images = timm_finetune.Images.read(data)
    with peer.timing(work):
        if not (work / "pretrained.pt").exists():
            peer.run_inside(NAME, request, work)
        torch.manual_seed(0)
        network = build_body(VARIANT.network, classes)
        network.load_state_dict(torch.load(work / "pretrained.pt", weights_only=True))
        network = timm_finetune.fit(work, network, images, key["epochs"])
    timm_finetune.finish(network, VARIANT.network, data, images, work)
    unlabelled = len(list(pool.iterdir())) - key["images"]
    sources = [peer.IMAGENET, f"{key['images']} labelled logos", f"{unlabelled} unlabelled", f"{TEACHER}'s features"]
    peer.finish(work, key, "; ".join(sources))


def systems(work: Path, threads: int) -> list[System]:
    """Lite0 in ONNX Runtime, FP32 and INT8."""
    about = peer.about(work, NAME, "AGPL-3.0 or commercial")
    return [
        timm_finetune.system(f"LightlyTrain {VARIANT.network}, {label}", work, file, threads, about)
        for label, file in timm_finetune.FILES.items()
    ]


def _settings(work: Path) -> dict[str, str]:
    """No reports of its use, no downloads, its cache inside the work folder."""
    return {
        "LIGHTLY_TRAIN_EVENTS_DISABLED": "1",
        "LIGHTLY_TRAIN_CACHE_DIR": str((work / "cache").absolute()),
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
    }


if __name__ == "__main__":
    peer.main(sys.modules[__name__])
