"""What each memory switch of a fit is worth: peak memory of a few steps, each variant in a fresh process.

python benchmarks/measure_memory.py [--device cuda]  ->  benchmarks/results/memory.json

Memory of the process: its peak resident set, and what of it was there before the first step (PyTorch, the network). GPU
memory: the peak of what was allocated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from rich.progress import track

from logo_edge_train.device import describe_device, pick_device
from logo_edge_train.fit import fit
from logo_edge_train.keys import versions
from logo_edge_train.losses import supervised_objective
from logo_edge_train.models import LogoNetwork
from logo_edge_train.recipe import Architecture, FitConfig
from logo_edge_train.resources import peak_memory
from logo_edge_train.runs import write_json

RESULT = Path(__file__).parent / "results" / "memory.json"
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "VARIANT"), help="measure this one, in this process")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one, pick_device(arguments.device))))
        return
    found = []
    for network, variant in track(
        [(network, variant) for network in arguments.networks for variant in arguments.variants]
    ):
        command = [sys.executable, __file__, "--device", arguments.device, "--one", network, variant]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found.append({"network": network, "variant": variant, **json.loads(done.stdout.splitlines()[-1])})
    record = {
        "device": describe_device(pick_device(arguments.device)),
        "batch_size": PLAIN.batch_size,
        "measured": found,
        "versions": versions(),
    }
    write_json(arguments.out, record)


def measure(network: str, variant: str, device: torch.device) -> dict:
    """Peak memory in MB of a few steps on noise, what was there before them, and the pace."""
    architecture = Architecture.parse(network)
    config = replace(PLAIN, **VARIANTS[variant])
    module = LogoNetwork(architecture.model, CLASSES, size_px=architecture.size_px).to(device)
    before = peak_memory(device)
    with tempfile.TemporaryDirectory() as folder:
        _, history = fit(
            module,
            Noise(architecture.size_px, STEPS * config.batch_size),
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


class Noise(torch.utils.data.Dataset):
    """What a LogoDataset gives, of one logo that is noise."""

    def __init__(self, size_px: int, count: int):
        self.count = count
        self.pixels = torch.randint(0, 256, (size_px, size_px, 3), dtype=torch.uint8)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        return self.pixels, torch.eye(CLASSES)[position % CLASSES], torch.tensor(1.0), position


if __name__ == "__main__":
    main()
