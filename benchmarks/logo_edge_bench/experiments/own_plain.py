"""A plain timm fine-tune of EfficientNet-Lite0 with ImageNet weights, FP32, exported to ONNX; for one label or several.

    python -m logo_edge_bench.experiments.own_plain MANIFEST FOLDER SIZE_PX EPOCHS

Fitted by `plain_fit`, as benchmarks/peers/timm_finetune.py; resumes after the last epoch. FOLDER gets fp32.onnx and
model.json, which the subject of benchmarks/peers/subjects/onnx_subject.py reads.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from logo_edge.images.load import load_image
from logo_edge_bench.experiments.own_images import score
from logo_edge_bench.experiments.plain_fit import BATCH, DECAY, MEAN, RATE, SMOOTHING, STD, export, fit
from logo_edge_train.data.manifest import read_manifest, targets_of
from logo_edge_train.metrics import probabilities_of
from logo_edge_train.models.network import build_body

NETWORK = "tf_efficientnet_lite0"
KEPT_SCALE = 1.25  # of the images that views are cropped from
SETTINGS = {
    "network": NETWORK,
    "batch_size": BATCH,
    "learning_rate": RATE,
    "weight_decay": DECAY,
    "label_smoothing": SMOOTHING,
}


def main() -> None:
    manifest_path, folder, size_px, epochs = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
    manifest = read_manifest(manifest_path)
    images, targets = {}, {}
    for split in ("train", "val"):
        rows = manifest.split(split)
        images[split] = [read_square(path, round(KEPT_SCALE * size_px)) for path in manifest.image_paths(rows)]
        targets[split] = torch.tensor(targets_of(rows, manifest.classes))
    torch.manual_seed(0)
    start = build_body(NETWORK, len(manifest.classes), pretrained=True)
    on_val = partial(evaluate, images=images["val"], targets=targets["val"].numpy(), size_px=size_px)
    network = fit(start, images["train"], targets["train"], size_px, epochs, folder, on_val)
    export(network, size_px, folder / "fp32.onnx")
    about = {"labels": manifest.classes, "size_px": size_px, "multi_label": manifest.multi_label}
    (folder / "model.json").write_text(json.dumps(about), encoding="utf-8")


@torch.inference_mode()
def evaluate(network: nn.Module, images: list[torch.Tensor], targets: np.ndarray, size_px: int) -> float:
    """The score on these images, (3, H, W) uint8 each."""
    network.eval()
    logits = []
    for start in range(0, len(images), BATCH):
        batch = torch.stack(images[start : start + BATCH])
        small = v2.functional.resize(batch, [size_px, size_px], antialias=True)
        logits.append(network((small.float() - MEAN) / STD).numpy())
    return score(probabilities_of(np.concatenate(logits), targets), targets)


def read_square(path: Path, side: int) -> torch.Tensor:
    """(3, side, side) uint8, letterboxed in white."""
    image = load_image(path).convert("RGBA")
    image.thumbnail((side, side))
    square = Image.new("RGB", (side, side), "white")
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2), image)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


if __name__ == "__main__":
    main()
