"""Few-shot learning of brands and of logo types: MAML, prototypical networks and ridge on frozen features, on unseen groups.

    python benchmarks/compare_few_shot.py                                   # EfficientNet-Lite0, hours
    python benchmarks/compare_few_shot.py --tasks brands-5 --methods ridge  # minutes
    python benchmarks/compare_few_shot.py --networks mobilenetv4_conv_small_050@96

Adds to benchmarks/results/few_shot.json what is not in it yet. Interrupted, it goes on from the runs that it keeps in
runs/few-shot/. Learned from the train split and the unlabelled pool, chosen by val, reported on test. A network without
ImageNet weights learns by prototypes first, and the other methods begin at what it has learned of the same task.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

from logo_edge_train.data.icons import LABELS, fetch_logos
from logo_edge_train.device import pick_device
from logo_edge_train.few_shot.run import evaluate_few_shot, train_few_shot
from logo_edge_train.keys import versions
from logo_edge_train.models import has_imagenet_weights
from logo_edge_train.progress import FitProgress
from logo_edge_train.recipe import Architecture, FewShotConfig
from logo_edge_train.runs import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULT, RUNS = ROOT / "benchmarks" / "results" / "few_shot.json", ROOT / "runs" / "few-shot"
TASKS = {  # 4-way, of types, whatever `ways`
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["tf_efficientnet_lite0@96"], metavar="NAME@SIZE")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["brands-1", "brands-5", "types-5"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["ridge", "prototypes", "MAML"])
    parser.add_argument("--epochs", type=int, default=FewShotConfig().fit.epochs, help="of meta-training")
    parser.add_argument("--episodes", type=int, default=600, help="that each is reported on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    fetch_logos()
    device = pick_device(arguments.device)
    with FitProgress() as progress:
        for network in arguments.networks:
            for task in arguments.tasks:
                for method in arguments.methods:
                    config = config_of(network, task, method, arguments.epochs, arguments.seed)
                    measure(config, task, method, arguments.episodes, device, progress)


def config_of(network: str, task: str, method: str, epochs: int, seed: int) -> FewShotConfig:
    """The settings of one row of the table."""
    config = FewShotConfig(network=network, seed=seed, **TASKS[task], **METHODS[method])
    return replace(config, fit=replace(config.fit, epochs=epochs))


def measure(
    config: FewShotConfig, task: str, method: str, episodes: int, device: torch.device, progress: FitProgress
) -> None:
    """Adds a method's accuracy on a task to the results, unless it is there, of the same settings."""
    place = {"network": config.network, "task": task, "method": method, "seed": config.seed}
    settings = json.loads(json.dumps(asdict(config)))
    record = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {"split": "test", "entries": []}
    before = [entry for entry in record["entries"] if place.items() <= entry.items()]
    if before and before[0]["settings"] == settings and before[0]["episodes"] >= episodes:
        return

    def report(item: dict) -> None:
        progress({**item, "name": f"{config.network} {task}, {method}"})

    start = None
    if method != "prototypes" and not has_imagenet_weights(Architecture.parse(config.network).model):
        start = folder_of(config.network, task, "prototypes", config)
        begin = config_of(config.network, task, "prototypes", config.fit.epochs, config.seed)
        train_few_shot(LABELS, begin, start, device=device, report=report)
    folder = folder_of(config.network, task, method, config)
    run = train_few_shot(LABELS, config, folder, device=device, report=report, start=start)
    progress.say(f"{folder.name}: {episodes} episodes of test")
    found = evaluate_few_shot(LABELS, folder, split="test", episodes=episodes, device=device)
    entry = {
        **place,
        "start": run["start"] and "prototypes",
        "settings": settings,
        "device": str(device),
        **found,
        "seconds": run["seconds"],
        "val": [epoch["accuracy"] for epoch in run["history"]],
        "penalties": run.get("penalties", {}),
    }
    entries = [*(other for other in record["entries"] if other not in before), entry]
    entries.sort(
        key=lambda e: (e["network"], list(TASKS).index(e["task"]), list(METHODS).index(e["method"]), e["seed"])
    )
    write_json(RESULT, {**record, "entries": entries, "versions": versions()})


def folder_of(network: str, task: str, method: str, config: FewShotConfig) -> Path:
    """Where a method's run of a task is kept."""
    name = f"{network}-{task}-{method.replace(', ', '-').replace(' ', '-')}"
    return RUNS / f"{name}-{config.fit.epochs}-epochs-seed-{config.seed}"


if __name__ == "__main__":
    main()
