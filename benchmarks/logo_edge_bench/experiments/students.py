"""Students of other networks, input sizes and shares of channels: size and latency, FP32 and INT8, by turns.

    python -m logo_edge_bench.experiments students [--students NAME@SIZE[/SHARE[/ROUND_TO]] ...]

Latency and size do not depend on the weights, so nothing is trained: channels are ranked by the size of ImageNet's or
random weights, and INT8 is calibrated on noise. Run it on an idle machine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from logo_edge_compress.distill.prune import count_macs, prune_channels
from logo_edge_compress.onnx.export import export_onnx
from logo_edge_compress.quantize.static import quantize_body, round_body
from logo_edge_compress.search.latency_table import latencies_by_turns
from logo_edge_train.architecture import Architecture
from logo_edge_train.data.icons import LABELS
from logo_edge_train.data.manifest import read_manifest
from logo_edge_train.models import LogoNetwork, has_imagenet_weights
from logo_edge_train.recipe import PruneConfig

LITE = "tf_efficientnet_lite0"
STUDENTS = (
    f"{LITE}@128",
    f"{LITE}:5@128",
    f"{LITE}:5@112",
    f"{LITE}:5@96",
    f"{LITE}:4@128",
    f"{LITE}:5@128/0.5/8",
    f"{LITE}:5@128/0.5/16",
    f"{LITE}:5@128/0.5/32",
    f"{LITE}:5@128/0.55",
    f"{LITE}:5@128/0.6",
    f"{LITE}:5@112/0.5",
    f"{LITE}:5@160/0.65",
    "mobilenetv4_conv_small_050@128",
    "mobilenetv3_small_050@128",
    "resnet10t@128",
)
ROUNDS = 7  # of all graphs by turns, so that a disturbance affects all of them
PRUNING = (("share", float), ("round_to", int))  # of a student, after its network
PROBES = 16  # images of noise to calibrate INT8 on


def parse_student(text: str) -> tuple[Architecture, PruneConfig]:
    """The network, and the share of its multiplications to prune, of NAME@SIZE[/SHARE[/ROUND_TO]]."""
    name, *numbers = text.split("/")
    settings = {key: kind(text) for (key, kind), text in zip(PRUNING, numbers, strict=False)}
    return Architecture.parse(name), PruneConfig(importance="magnitude", **settings)


def measure(*, students: Annotated[Sequence[str], {"metavar": "STUDENT"}] = STUDENTS, rounds: int = ROUNDS) -> dict:
    torch.set_num_threads(1)
    rows, graphs = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for text in students:
            print(text, flush=True)
            paths, macs = make_graphs(*parse_student(text), Path(folder) / text.replace("/", "-"))
            graphs |= {(text, precision): path for precision, path in paths.items()}
            rows[text] = {"million_macs": macs / 1e6}
        times_ms = latencies_by_turns(graphs, rounds)
        for (text, precision), path in graphs.items():
            rows[text][precision] = {"size_mb": path.stat().st_size / 1e6, "p50_ms": times_ms[text, precision]}
    return {"students": rows}


def make_graphs(architecture: Architecture, prune: PruneConfig, folder: Path) -> tuple[dict[str, Path], int]:
    """The student as FP32 and INT8, and its multiplications."""
    folder.mkdir()
    torch.manual_seed(0)
    name, size_px, manifest = architecture.model, architecture.size_px, read_manifest(LABELS)
    network = LogoNetwork(name, len(manifest.classes), size_px=size_px, pretrained=has_imagenet_weights(name)).eval()
    if prune.share:
        network = prune_channels(network, prune, manifest, manifest.classes, architecture.contract)
    noise = np.random.default_rng(0).integers(0, 256, (PROBES, size_px, size_px, network.channels), dtype=np.uint8)
    body, fp32 = folder / "body.onnx", folder / "fp32.onnx"
    export_onnx(network, size_px, fp32, body=body)
    rounded = round_body(body, noise, folder / "rounded.onnx", reduce_range=False)
    int8 = quantize_body(body, rounded, noise, size_px, folder / "int8.onnx", method="minmax", reduce_range=False)
    return {"FP32": fp32, "INT8": int8}, count_macs(network, size_px)
