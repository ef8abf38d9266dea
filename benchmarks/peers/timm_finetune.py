"""Peer: a plain fine-tune of EfficientNet-Lite0 (ImageNet weights) and MobileNetV3 (random weights: its own are missing
here), written with care: AdamW, cosine, crops, flips and colour jitter, label smoothing, the best epoch on val.
Measured in eager PyTorch and in ONNX Runtime, FP32 and statically quantized to INT8.

    python benchmarks/peers/timm_finetune.py train            # 25 epochs each, about 40 s an epoch on two idle cores
    python benchmarks/peers/timm_finetune.py measure
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import logo_edge  # noqa: F401  # before onnxruntime: it switches off its telemetry

# isort: split
import numpy as np
import onnxruntime
import peer
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from logo_edge.files import replacing
from logo_edge_bench.systems import System
from logo_edge_train.models.network import build_body

NAME = "timm"
NETWORKS = {"tf_efficientnet_lite0": True, "mobilenetv3_small_100": False}  # whether there are ImageNet weights
SIZE_PX, BATCH, EPOCHS, RATE = 128, 64, 25, 1e-3
MEAN, STD = 127.0, 128.0
CALIBRATING = 128
IN_FLOAT = 4  # convolutions: the stem and the first block


def train(data: peer.Data, work: Path, epochs: int | None) -> None:
    """Trains and exports the networks that are not trained yet; resumes from a checkpoint after every epoch."""
    epochs = epochs or EPOCHS
    images = {split: _read(data.files(split)[0]) for split in peer.SPLITS}
    labels = {split: torch.tensor(data.files(split)[1]) for split in peer.SPLITS}
    for name in NETWORKS:
        folder, key = (
            work / name,
            {"epochs": epochs, "images": len(labels["train"]), "labels": data.digest, "size_px": SIZE_PX},
        )
        folder.mkdir(exist_ok=True)
        if peer.finished(folder, key):
            print(f"{name}: done before")
            continue
        network = _fit(name, len(data.labels), images, labels, epochs, folder, key)
        export(network, folder)
        quantize(folder, images, labels["val"])
        (folder / "model.json").write_text(json.dumps({"network": name, "labels": data.labels, "size_px": SIZE_PX}))
        peer.finish(folder, key)


def systems(work: Path, threads: int) -> list[System]:
    """Eager PyTorch, and ONNX Runtime in FP32 and INT8, of each network."""
    systems = []
    for name, pretrained in NETWORKS.items():
        peer.need(work / name / "done.json", "timm_finetune")
        note = "" if pretrained else "from scratch"
        for label, subject, file in [
            ("eager PyTorch", "eager", "best.pt"),
            ("ONNX Runtime FP32", "onnx", "fp32.onnx"),
            ("ONNX Runtime INT8", "onnx", "int8.onnx"),
        ]:
            options = {
                "model": peer.need(work / name / file, "timm_finetune"),
                "threads": threads,
                "about": peer.need(work / name / "model.json", "timm_finetune"),
            }
            systems.append(
                System(
                    f"timm {name}, {label}",
                    str(peer.SUBJECTS / f"{subject}_subject.py"),
                    options,
                    threads,
                    kind="peer",
                    note=note,
                )
            )
    return systems


def _fit(name: str, classes: int, images: dict, labels: dict, epochs: int, folder: Path, key: dict) -> nn.Module:
    """The network of the best epoch on val."""
    torch.manual_seed(0)
    network = build_body(name, classes, pretrained=NETWORKS[name])
    decayed = [weight for weight in network.parameters() if weight.ndim > 1]
    plain = [weight for weight in network.parameters() if weight.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], lr=RATE
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    change = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE_PX, scale=(0.6, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.2, 0.2, 0.2, 0.05),
            v2.ToDtype(torch.float32),
            v2.Normalize([MEAN] * 3, [STD] * 3),
        ]
    )
    state, best, start = folder / "state.pt", -1.0, 0
    if state.exists() and (saved := torch.load(state, weights_only=True))["key"] == key:
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        best, start = saved["best"], saved["epoch"]
        print(f"{name}: goes on after epoch {start}")
    for epoch in range(start, epochs):
        torch.manual_seed(epoch)
        network.train()
        for chosen in torch.randperm(len(labels["train"])).split(BATCH):
            if len(chosen) < 2:
                continue  # batch-norm needs two
            batch = torch.stack([change(images["train"][index]) for index in chosen.tolist()])
            loss = nn.functional.cross_entropy(network(batch), labels["train"][chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        accuracy = _accuracy(network, images["val"], labels["val"])
        print(f"{name}: epoch {epoch + 1} of {epochs}, loss {loss.item():.3f}, val {accuracy:.1%}", flush=True)
        if accuracy > best:
            best = accuracy
            _save({"network": network.state_dict()}, folder / "best.pt")
        _save(
            {
                "key": key,
                "epoch": epoch + 1,
                "best": best,
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
            },
            state,
        )
    network.load_state_dict(torch.load(folder / "best.pt", weights_only=True)["network"])
    return network.eval()


def export(network: nn.Module, folder: Path) -> None:
    """fp32.onnx by PyTorch's exporter."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    raw = folder / "raw.onnx"
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 3, SIZE_PX, SIZE_PX),),
        dynamo=True,
        input_names=["planes"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
        verbose=False,
    )
    program.save(str(raw), include_initializers=True, external_data=False)
    quant_pre_process(str(raw), str(folder / "fp32.onnx"), skip_symbolic_shape=True)
    raw.unlink()


def quantize(folder: Path, images: dict, targets: torch.Tensor) -> None:
    """int8.onnx by ONNX Runtime's static quantization of fp32.onnx: with or without its first convolutions, by val.

    With them a Lite0 may lose half of its accuracy, which a careful user sees and looks up.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            every = max(1, len(images["train"]) // CALIBRATING)
            self._inputs = iter([{"planes": _input(image).numpy()} for image in images["train"][::every]])

        def get_next(self):
            return next(self._inputs, None)

    fp32 = folder / "fp32.onnx"
    first = [node.name for node in onnx.load(fp32).graph.node if node.op_type == "Conv"][:IN_FLOAT]
    best = -1.0
    for excluded in ([], first):
        partial = folder / "int8.partial.onnx"
        quantize_static(
            str(fp32),
            str(partial),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            nodes_to_exclude=excluded,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        session = onnxruntime.InferenceSession(partial)
        guesses = [session.run(None, {"planes": _input(image).numpy()})[0].argmax() for image in images["val"]]
        accuracy = float((torch.tensor(np.array(guesses)) == targets).float().mean())
        print(f"{folder.name}: INT8, {len(excluded)} of its convolutions in float: val {accuracy:.1%}")
        if accuracy > best:
            best = accuracy
            partial.replace(folder / "int8.onnx")
        partial.unlink(missing_ok=True)


@torch.inference_mode()
def _accuracy(network: nn.Module, images: list[torch.Tensor], labels: torch.Tensor) -> float:
    network.eval()
    guesses = [
        network(torch.cat([_input(image) for image in images[start : start + BATCH]])).argmax(1)
        for start in range(0, len(images), BATCH)
    ]
    return (torch.cat(guesses) == labels).float().mean().item()


def _input(image: torch.Tensor) -> torch.Tensor:
    """(1, 3, S, S) float32, normalised."""
    small = v2.functional.resize(image, [SIZE_PX, SIZE_PX], antialias=True)
    return ((small.float() - MEAN) / STD)[None]


def _read(paths: list[Path]) -> list[torch.Tensor]:
    """(3, 160, 160) uint8 each, letterboxed in white."""
    pixels = []
    for path in paths:
        image = Image.open(path, formats=("PNG", "JPEG", "WEBP")).convert("RGB")
        image.thumbnail((160, 160))
        square = Image.new("RGB", (160, 160), "white")
        square.paste(image, ((160 - image.width) // 2, (160 - image.height) // 2))
        pixels.append(torch.from_numpy(np.array(square)).permute(2, 0, 1))
    return pixels


def _save(content: dict, path: Path) -> None:
    with replacing(path) as part:
        torch.save(content, part)


if __name__ == "__main__":
    peer.main(sys.modules[__name__])
