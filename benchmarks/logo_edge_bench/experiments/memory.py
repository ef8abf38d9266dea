"""The effect of each memory switch of a fit: peak memory of a few steps, each variant in a fresh process.

python -m logo_edge_bench.experiments memory [--device cuda]

Memory of the process: its peak resident set, and its size before the first step (PyTorch, the network). GPU memory: the
peak of the allocated memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from rich.progress import track
from torch.utils.data import TensorDataset

from logo_edge_bench.experiments.record import Device
from logo_edge_train.architecture import Architecture
from logo_edge_train.device import describe_device, pick_device
from logo_edge_train.fit import fit
from logo_edge_train.fit_config import FitConfig
from logo_edge_train.losses import supervised_objective
from logo_edge_train.models import LogoNetwork
from logo_edge_train.resources import peak_memory

NETWORKS = ("tf_efficientnet_lite0@192", "vit_tiny_patch16_224@224")
CLASSES, STEPS = 4, 4
PLAIN = FitConfig(epochs=1, batch_size=32, amp="off")
VARIANTS = {
    "plain": {},
    "accumulate = 4": {"accumulate": 4},
    "grad_checkpointing": {"grad_checkpointing": True},
    "amp = bf16": {"amp": "bf16"},
    "compile": {"compile": True},
    "all of them": {"accumulate": 4, "grad_checkpointing": True, "amp": "bf16", "compile": True},
}
ONE = "import json, sys; from {module} import measure_one; print(json.dumps(measure_one(*sys.argv[1:])))"


def measure(
    *,
    networks: Sequence[str] = NETWORKS,
    variants: Annotated[Sequence[str], {"choices": VARIANTS}] = tuple(VARIANTS),
    device: Device = "auto",
) -> dict:
    measured = []
    for network, variant in track([(network, variant) for network in networks for variant in variants]):
        command = [sys.executable, "-c", ONE.format(module=__name__), network, variant, device]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        measured.append({"network": network, "variant": variant, **json.loads(done.stdout.splitlines()[-1])})
    name = describe_device(pick_device(device))
    return {"device": name, "batch_size": PLAIN.batch_size, "measured": measured}


def measure_one(network: str, variant: str, device_text: str) -> dict:
    """Peak memory in MB of a few steps on noise, the memory before them, and the images a second."""
    architecture, device = Architecture.parse(network), pick_device(device_text)
    config = replace(PLAIN, **VARIANTS[variant])
    module = LogoNetwork(architecture.model, CLASSES, size_px=architecture.size_px).to(device)
    before = peak_memory(device)
    with tempfile.TemporaryDirectory() as folder:
        _, history = fit(
            module,
            draw_noise(architecture.size_px, STEPS * config.batch_size),
            supervised_objective(0.05),
            config,
            state=Path(folder) / "state",
            seed=0,
            device=device,
            evaluate=lambda _: {},
            report=lambda _: None,
        )
    figures = {name: value for name, value in history[0].items() if name.startswith("peak_")}
    return {**figures, "before_mb": before.get("peak_memory_mb"), "images_per_s": history[0]["images_per_s"]}


def draw_noise(size_px: int, count: int) -> TensorDataset:
    """The items of a LogoDataset, of one logo that is noise."""
    pixels = torch.randint(0, 256, (size_px, size_px, 3), dtype=torch.uint8).expand(count, -1, -1, -1)
    positions = torch.arange(count)
    return TensorDataset(pixels, torch.eye(CLASSES)[positions % CLASSES], torch.ones(count), positions)
