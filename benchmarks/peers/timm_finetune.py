"""Peer: timm's EfficientNet-Lite0 and MobileNetV3, trained with care, at the input size of the compared bundle.

Lite0 is fine-tuned from ImageNet weights on the labelled logos: AdamW, cosine, crops, flips and colour jitter, label
smoothing, the best epoch on val. With --run, Lite0, and MobileNetV3 from scratch (its weights are not available here),
are also distilled from the run's teachers as the bundle's student is: the same pictures, soft targets and epochs.
Measured in eager PyTorch and in ONNX Runtime, FP32, and INT8 by ONNX Runtime and by NNCF (by Olive: olive.py).

    python benchmarks/peers/timm_finetune.py train --run RUN
    python benchmarks/peers/timm_finetune.py measure
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
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

from logo_edge_bench.experiments import plain_fit
from logo_edge_bench.experiments.plain_fit import BATCH, MEAN, STD
from logo_edge_bench.systems import System
from logo_edge_compress.distill.distill import distill
from logo_edge_train.architecture import Architecture
from logo_edge_train.models.network import build_body

NAME, LICENCE = "timm", "Apache-2.0"
EPOCHS = 25
CALIBRATING = 128
IN_FLOAT = 4  # convolutions: the stem and the first block


@dataclass(frozen=True)
class Variant:
    """A network, whether it starts from ImageNet weights, and whether it is distilled from the teachers of a run."""

    network: str
    pretrained: bool
    distilled: bool

    @property
    def title(self) -> str:
        return f"timm {self.network}" + " distilled" * self.distilled


VARIANTS = {
    "lite0": Variant("tf_efficientnet_lite0", pretrained=True, distilled=False),
    "lite0-distilled": Variant("tf_efficientnet_lite0", pretrained=True, distilled=True),
    "mobilenetv3-distilled": Variant("mobilenetv3_small_100", pretrained=False, distilled=True),
}


FILES = {
    "ONNX Runtime FP32": "fp32.onnx",
    "INT8 by ONNX Runtime": "int8-onnxruntime.onnx",
    "INT8 by NNCF": "int8-nncf.onnx",
}


@dataclass(frozen=True)
class Images:
    """What a network is fitted on and chosen by: {split: pictures of 160 px}, {split: targets}, and its input size."""

    pixels: dict[str, list[torch.Tensor]]
    labels: dict[str, torch.Tensor]
    size_px: int

    @classmethod
    def read(cls, data: peer.Data) -> Images:
        files = {split: data.files(split) for split in peer.SPLITS}
        return cls(
            {split: _read(paths) for split, (paths, _) in files.items()},
            {split: torch.tensor(targets) for split, (_, targets) in files.items()},
            data.size_px,
        )

    def input(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 3, S, S) float32, normalised."""
        small = v2.functional.resize(image, [self.size_px, self.size_px], antialias=True)
        return ((small.float() - MEAN) / STD)[None]

    def calibration(self) -> list[np.ndarray]:
        """Inputs of every n-th logo of train."""
        train = self.pixels["train"]
        return [self.input(image).numpy() for image in train[:: max(1, len(train) // CALIBRATING)]]


def train(data: peer.Data, work: Path, epochs: int | None) -> None:
    """Trains and exports the networks that are not trained yet; resumes from a checkpoint after every epoch."""
    images = Images.read(data)
    for name, variant in VARIANTS.items():
        if variant.distilled and data.run is None:
            print(f"{name}: left out, since it needs --run")
            continue
        (folder := work / name).mkdir(exist_ok=True)
        learn = _distil if variant.distilled else _finetune
        learn(data, variant, images, folder, epochs)


def systems(work: Path, threads: int) -> list[System]:
    """Eager PyTorch of the fine-tuned one, and ONNX Runtime in FP32 and INT8 of each network that is trained."""
    peer.need(work / next(iter(VARIANTS)) / "done.json", "timm_finetune")
    systems = []
    for name, variant in VARIANTS.items():
        folder = work / name
        if (folder / "done.json").exists():
            files = FILES if variant.distilled else {"eager PyTorch": "best.pt", **FILES}
            about = peer.about(folder, "timm_finetune", LICENCE)
            systems += [
                system(f"{variant.title}, {label}", folder, file, threads, about) for label, file in files.items()
            ]
    return systems


def system(title: str, folder: Path, file: str, threads: int, about: dict[str, str]) -> System:
    """The row of a file of a trained network."""
    subject = "onnx" if file.endswith(".onnx") else "eager"
    options = {"model": str((folder / file).absolute()), "about": str((folder / "model.json").absolute())}
    script = str(peer.SUBJECTS / f"{subject}_subject.py")
    return System(title, script, {**options, "threads": threads}, threads, kind="peer", about=about)


def _finetune(data: peer.Data, variant: Variant, images: Images, folder: Path, epochs: int | None) -> None:
    key = data.key(network=variant.network, epochs=epochs or EPOCHS)
    if peer.finished(folder, key):
        return
    with peer.timing(folder):
        torch.manual_seed(0)
        start = build_body(variant.network, len(data.labels), pretrained=variant.pretrained)
        network = fit(folder, start, images, key["epochs"])
    finish(network, variant.network, data, images, folder)
    peer.finish(folder, key, f"{peer.IMAGENET}; {key['images']} labelled logos")


def _distil(data: peer.Data, variant: Variant, images: Images, folder: Path, epochs: int | None) -> None:
    """As `logo-edge compress` does with its students; it resumes and keeps its own record in `student`."""
    run, architecture = data.run, Architecture(variant.network, data.size_px)
    config = run.recipe.distill
    fit = replace(config.fit, epochs=epochs or config.fit.epochs, frozen_blocks=-1)
    if data.limit:
        fit = replace(fit, max_images=data.limit * len(data.labels))
    config = replace(config, fit=fit, epistemic="off", start_from_teacher=False, pretrained=variant.pretrained)
    teachers = [member["sha256"] for member in run.record["members"]]
    key = data.key(network=str(architecture), epochs=fit.epochs, teachers=teachers)
    if peer.finished(folder, key):
        return
    with peer.timing(folder):
        student = distill(
            run,
            run.read_manifest(),
            config,
            architecture,
            folder / "student",
            device=torch.device("cpu"),
            report=_report,
        )
    network = student.network.backbone.eval()
    plain_fit.save({"network": network.state_dict()}, folder / "best.pt")
    finish(network, variant.network, data, images, folder)
    sources = [peer.IMAGENET] if variant.pretrained else [peer.NO_WEIGHTS]
    sources += [f"{key['images']} labelled logos", *(["the unlabelled pool"] if config.use_unlabelled else [])]
    peer.finish(folder, key, "; ".join([*sources, f"{len(teachers)} teachers of {run.folder.name}"]))


def _report(item: dict) -> None:
    """Prints the start and the epochs of a fit."""
    if item["kind"] == "start":
        print(f"{item['name']} {item['note']}", flush=True)
    elif item["kind"] == "epoch":
        print(f"{item['name']}: epoch {item['epoch']}, val {item['accuracy']:.1%}", flush=True)


def finish(network: nn.Module, name: str, data: peer.Data, images: Images, folder: Path) -> None:
    """Writes the ONNX files of a trained network, FP32 and INT8, and model.json, which its subjects read."""
    plain_fit.export(network, data.size_px, folder / "fp32.onnx")
    quantize(folder, images)
    (folder / "model.json").write_text(
        json.dumps({"network": name, "labels": data.labels, "size_px": data.size_px}), encoding="utf-8"
    )


def fit(folder: Path, network: nn.Module, images: Images, epochs: int) -> nn.Module:
    """The network of the best epoch on val; a fit goes on from state.pt in its folder."""
    pixels, labels = images.pixels["train"], images.labels["train"]
    return plain_fit.fit(network, pixels, labels, images.size_px, epochs, folder, partial(_accuracy, images=images))


def quantize(folder: Path, images: Images) -> None:
    """int8-onnxruntime.onnx and int8-nncf.onnx, both from fp32.onnx and the same calibration images."""
    choose_int8(folder, images, "onnxruntime", quantize_by_onnxruntime)
    choose_int8(folder, images, "nncf", quantize_by_nncf)


def choose_int8(
    folder: Path, images: Images, name: str, make: Callable[[Path, Path, list[np.ndarray], list[str]], None]
) -> None:
    """int8-NAME.onnx: the better on val of `make(fp32, int8, inputs, nodes in float)` with and without some in float.

    Without its first convolutions in float a Lite0 may lose half of its accuracy, which a careful user sees and looks
    up.
    """
    import onnx

    fp32, partial, best = folder / "fp32.onnx", folder / f"int8-{name}.partial.onnx", -1.0
    first = [node.name for node in onnx.load(fp32).graph.node if node.op_type == "Conv"][:IN_FLOAT]
    for in_float in ([], first):
        make(fp32, partial, images.calibration(), in_float)
        session = onnxruntime.InferenceSession(partial)
        inputs = [{"planes": images.input(image).numpy()} for image in images.pixels["val"]]
        guesses = np.array([session.run(None, own)[0].argmax() for own in inputs])
        accuracy = float((guesses == images.labels["val"].numpy()).mean())
        print(f"{folder.name}: INT8 by {name}, {len(in_float)} of its convolutions in float: val {accuracy:.1%}")
        if accuracy > best:
            best = accuracy
            partial.replace(folder / f"int8-{name}.onnx")
        partial.unlink(missing_ok=True)


def quantize_by_onnxruntime(fp32: Path, int8: Path, inputs: list[np.ndarray], in_float: list[str]) -> None:
    """ONNX Runtime's static quantization."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self._inputs = iter([{"planes": planes} for planes in inputs])

        def get_next(self):
            return next(self._inputs, None)

    quantize_static(
        str(fp32),
        str(int8),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        nodes_to_exclude=in_float,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def quantize_by_nncf(fp32: Path, int8: Path, inputs: list[np.ndarray], in_float: list[str]) -> None:
    """NNCF's post-training quantization for CPUs, with its own fusions and bias correction."""
    import nncf
    import onnx

    quantized = nncf.quantize(
        onnx.load(fp32),
        nncf.Dataset([{"planes": planes} for planes in inputs]),
        subset_size=len(inputs),
        target_device=nncf.TargetDevice.CPU,
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=in_float),
    )
    onnx.save(quantized, int8)


@torch.inference_mode()
def _accuracy(network: nn.Module, images: Images) -> float:
    network.eval()
    pictures = images.pixels["val"]
    guesses = [
        network(torch.cat([images.input(image) for image in pictures[start : start + BATCH]])).argmax(1)
        for start in range(0, len(pictures), BATCH)
    ]
    return (torch.cat(guesses) == images.labels["val"]).float().mean().item()


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


if __name__ == "__main__":
    peer.main(sys.modules[__name__])
