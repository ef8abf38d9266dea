"""A plain timm fine-tune of EfficientNet-Lite0 with ImageNet weights, FP32, exported to ONNX; for one label or several.

    python -m logo_edge_bench.experiments.own_plain MANIFEST FOLDER SIZE_PX EPOCHS

AdamW, cosine, crops, flips and colour jitter, label smoothing, the best epoch on val: the settings of
benchmarks/peers/timm_finetune.py. Resumes after the last epoch. FOLDER gets fp32.onnx and model.json, which the subject
of benchmarks/peers/subjects/onnx_subject.py reads.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from logo_edge.files import replacing
from logo_edge.images.load import load_image
from logo_edge_bench.experiments.own_images import score
from logo_edge_train.data.manifest import read_manifest, targets_of
from logo_edge_train.metrics import probabilities_of
from logo_edge_train.models.network import build_body

NETWORK, BATCH, RATE, DECAY, SMOOTHING = "tf_efficientnet_lite0", 64, 1e-3, 0.05, 0.1
MEAN, STD = 127.0, 128.0
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
    network = fit(images, targets, len(manifest.classes), size_px, epochs, folder)
    export(network, size_px, folder / "fp32.onnx")
    about = {"labels": manifest.classes, "size_px": size_px, "multi_label": manifest.multi_label}
    (folder / "model.json").write_text(json.dumps(about), encoding="utf-8")


def fit(images: dict, targets: dict, classes: int, size_px: int, epochs: int, folder: Path) -> nn.Module:
    """The network of the best epoch on val."""
    torch.manual_seed(0)
    network, several = build_body(NETWORK, classes, pretrained=True), targets["train"].ndim == 2
    decayed = [weight for weight in network.parameters() if weight.ndim > 1]
    plain = [weight for weight in network.parameters() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    change = v2.Compose(
        [
            v2.RandomResizedCrop(size_px, scale=(0.6, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.2, 0.2, 0.2, 0.05),
            v2.ToDtype(torch.float32),
            v2.Normalize([MEAN] * 3, [STD] * 3),
        ]
    )
    state, best, start = folder / "state.pt", -1.0, 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        best, start = saved["best"], saved["epoch"]
    for epoch in range(start, epochs):
        torch.manual_seed(epoch)
        network.train()
        for chosen in torch.randperm(len(targets["train"])).split(BATCH):
            if len(chosen) < 2:
                continue  # batch-norm needs two
            logits = network(torch.stack([change(images["train"][index]) for index in chosen.tolist()]))
            wanted = targets["train"][chosen]
            loss = (
                nn.functional.binary_cross_entropy_with_logits(logits, wanted.float()) * classes
                if several
                else nn.functional.cross_entropy(logits, wanted, label_smoothing=SMOOTHING)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        reached = evaluate(network, images["val"], targets["val"].numpy(), size_px)
        print(f"epoch {epoch + 1} of {epochs}, loss {loss.item():.3f}, val {reached:.1%}", flush=True)
        if reached > best:
            best = reached
            save({"network": network.state_dict()}, folder / "best.pt")
        parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
        save({name: part.state_dict() for name, part in parts.items()} | {"best": best, "epoch": epoch + 1}, state)
    network.load_state_dict(torch.load(folder / "best.pt", weights_only=True)["network"])
    return network.eval()


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


def export(network: nn.Module, size_px: int, path: Path) -> None:
    """The network as ONNX, planes -> logits, by PyTorch's exporter."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    raw = path.with_name("raw.onnx")
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 3, size_px, size_px),),
        dynamo=True,
        input_names=["planes"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
        verbose=False,
    )
    program.save(str(raw), include_initializers=True, external_data=False)
    quant_pre_process(str(raw), str(path), skip_symbolic_shape=True)
    raw.unlink()


def read_square(path: Path, side: int) -> torch.Tensor:
    """(3, side, side) uint8, letterboxed in white."""
    image = load_image(path).convert("RGBA")
    image.thumbnail((side, side))
    square = Image.new("RGB", (side, side), "white")
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2), image)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def save(content: dict, path: Path) -> None:
    with replacing(path) as part:
        torch.save(content, part)


if __name__ == "__main__":
    main()
