"""Few-shot learning of unseen brands and of logo types: MAML, prototypical networks and ridge on frozen features.

    python -m logo_edge_bench.experiments few_shot                                   # EfficientNet-Lite0, hours
    python -m logo_edge_bench.experiments few_shot --tasks brands-5 --methods ridge  # minutes
    python -m logo_edge_bench.experiments few_shot --networks mobilenetv4_conv_small_050@96

Each run adds the missing entries; interrupted, it resumes from the runs in runs/few-shot/. Trained on the train split
and the unlabelled pool, chosen on val, reported on test. A network without ImageNet weights learns by prototypes first,
and the other methods start from that network.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Annotated

import torch

from logo_edge_bench.experiments.record import RUNS, Device, Out, file_name, read_record, write_record
from logo_edge_train.architecture import Architecture
from logo_edge_train.data.icons import LABELS, fetch_logos
from logo_edge_train.device import pick_device
from logo_edge_train.few_shot.run import evaluate_few_shot, train_few_shot
from logo_edge_train.models import has_imagenet_weights
from logo_edge_train.progress import FitProgress
from logo_edge_train.recipe import FewShotConfig

TASKS = {  # types are always 4-way
    "brands-1": {"task": "brands", "shots": 1},
    "brands-5": {"task": "brands", "shots": 5},
    "types-1": {"task": "types", "shots": 1},
    "types-5": {"task": "types", "shots": 5},
}
METHODS = {
    "ridge": {"method": "ridge"},
    "prototypes": {"method": "prototypes"},
    "MAML": {"method": "maml"},
    "MAML, first order": {"method": "maml", "second_order": False},
    "MAML, fixed rates": {"method": "maml", "rates": "fixed"},
    "MAML, a rate for each weight": {"method": "maml", "rates": "element"},
}


def measure(
    *,
    networks: Annotated[Sequence[str], {"metavar": "NAME@SIZE"}] = ("tf_efficientnet_lite0@96",),
    tasks: Annotated[Sequence[str], {"choices": TASKS}] = ("brands-1", "brands-5", "types-5"),
    methods: Annotated[Sequence[str], {"choices": METHODS}] = ("ridge", "prototypes", "MAML"),
    epochs: Annotated[int, "of meta-training"] = FewShotConfig().fit.epochs,
    episodes: Annotated[int, "for each reported accuracy"] = 600,
    seed: int = 0,
    device: Device = "auto",
    out: Out,
) -> None:
    fetch_logos()
    with FitProgress() as progress:
        for network, task, method in product(networks, tasks, methods):
            config = config_of(network, task, method, epochs, seed)
            measure_method(config, task, method, episodes, pick_device(device), progress, out)


def config_of(network: str, task: str, method: str, epochs: int, seed: int) -> FewShotConfig:
    """The settings of one entry."""
    config = FewShotConfig(network=network, seed=seed, **TASKS[task], **METHODS[method])
    return replace(config, fit=replace(config.fit, epochs=epochs))


def measure_method(
    config: FewShotConfig, task: str, method: str, episodes: int, device: torch.device, progress: FitProgress, out: Path
) -> None:
    """Adds a method's accuracy on a task to the result, unless it is there with the same settings."""
    key = {"network": config.network, "task": task, "method": method, "seed": config.seed}
    settings = json.loads(json.dumps(asdict(config)))
    record = read_record(out, {"split": "test", "entries": []})
    before = [measurement for measurement in record["entries"] if key.items() <= measurement.items()]
    if before and before[0]["settings"] == settings and before[0]["episodes"] >= episodes:
        return

    def report(item: dict) -> None:
        progress({**item, "name": f"{config.network} {task}, {method}"})

    def train(method: str, start: Path | None) -> tuple[Path, dict]:
        own = config_of(config.network, task, method, config.fit.epochs, config.seed)
        name = f"{own.network}-{task}-{file_name(method)}-{own.fit.epochs}-epochs-seed-{own.seed}"
        folder = RUNS / "few-shot" / name
        return folder, train_few_shot(LABELS, own, folder, device=device, report=report, start=start)

    start = None
    if method != "prototypes" and not has_imagenet_weights(Architecture.parse(config.network).model):
        start, _ = train("prototypes", None)
    folder, run = train(method, start)
    progress.say(f"{folder.name}: {episodes} episodes of test")
    figures = evaluate_few_shot(LABELS, folder, split="test", episodes=episodes, device=device)
    measurement = {
        **key,
        "start": run["start"] and "prototypes",
        "settings": settings,
        "device": str(device),
        **figures,
        "seconds": run["seconds"],
        "val": [epoch["accuracy"] for epoch in run["history"]],
        "penalties": run.get("penalties", {}),
    }
    measurements = [*(other for other in record["entries"] if other not in before), measurement]
    tasks, methods = list(TASKS), list(METHODS)
    measurements.sort(key=lambda e: (e["network"], tasks.index(e["task"]), methods.index(e["method"]), e["seed"]))
    write_record(out, {**record, "entries": measurements})
