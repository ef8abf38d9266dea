"""What pretraining without labels is worth: probes of frozen features, and how soon a fit gets how far, by where it starts.

    python benchmarks/compare_pretraining.py                                            # the default network, hours
    python benchmarks/compare_pretraining.py --networks logo_vit_tiny@64 --epochs 8 --fit-epochs 12
    python benchmarks/compare_pretraining.py --starts SimCLR "SimCLR, uncertain pairs" --seeds 0

Adds to benchmarks/results/pretraining.json what is not in it yet. Interrupted, it goes on from the runs that it keeps in
runs/pretraining/. Probes learn on the train split, everything is measured on val.

The default network is RegNetX-200MF at 64 px: small enough for two cores to pretrain it, without ImageNet weights that could
be had here, and without depthwise convolutions, which learn slowly from few logos.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from logo_edge_train.data.icons import LABELS, fetch_logos, renders_folder
from logo_edge_train.data.images import pixels_of
from logo_edge_train.data.lookalikes import find_lookalikes
from logo_edge_train.data.manifest import read_manifest, targets_of
from logo_edge_train.device import pick_device
from logo_edge_train.keys import versions
from logo_edge_train.models import LogoNetwork, has_imagenet_weights
from logo_edge_train.pretrain.probe import features_of, linear_probe, neighbour_probe
from logo_edge_train.pretrain.simclr import start_from
from logo_edge_train.progress import FitProgress
from logo_edge_train.recipe import Architecture, PretrainConfig, Recipe, TeacherFit, TrainConfig
from logo_edge_train.runs import write_json
from logo_edge_train.train import pretrain_networks, train_ensemble

ROOT = Path(__file__).resolve().parents[1]
RESULT, RUNS = ROOT / "benchmarks" / "results" / "pretraining.json", ROOT / "runs" / "pretraining"
LEVELS = (0.8, 0.85, 0.9)  # of val accuracy, whose first epoch is told
SIMCLR = {
    "SimCLR": {},
    "SimCLR, views of one logo": {"neighbours": 0},
    "SimCLR, uncertain pairs": {"uncertainty": True},
    "SimCLR, fixed temperatures": {"learn_temperature": False},
    "SimCLR, fixed strengths": {"strength_step": 0.0},
}
STARTS = ("random", *SIMCLR, "ImageNet", "ImageNet, then SimCLR")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["regnetx_002@64"], metavar="NAME@SIZE")
    parser.add_argument(
        "--starts", nargs="+", choices=STARTS, help="left out: random, SimCLR and, where there is one, ImageNet"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=30, help="of pretraining")
    parser.add_argument("--fit-epochs", type=int, default=40)
    parser.add_argument("--no-fit", action="store_true", help="only probe frozen features")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    fetch_logos()
    device = pick_device(arguments.device)
    with FitProgress() as progress:
        for seed in arguments.seeds:
            for network in arguments.networks:
                usual = ["random", "SimCLR", *(["ImageNet"] if has_imagenet_weights(network) else [])]
                for start in arguments.starts or usual:
                    epochs = arguments.epochs if "SimCLR" in start else 0
                    recipe = recipe_of(network, start, seed, epochs, arguments.fit_epochs)
                    name = f"{start}, seed {seed}: "

                    def report(item: dict, name: str = name) -> None:
                        progress({**item, "name": name + item["name"]})

                    measure(recipe, start, device, report, fits=not arguments.no_fit)


def recipe_of(network: str, start: str, seed: int, epochs: int, fit_epochs: int) -> Recipe:
    """The recipe whose one teacher starts so."""
    pretraining = PretrainConfig(seed=seed, from_imagenet=True, **SIMCLR.get(start, {}))
    fit = TeacherFit(epochs=fit_epochs, learning_rate=1e-3, warmup_epochs=2.0, class_weight_power=0.7)
    return Recipe(
        name="pretraining",
        pretrain=replace(pretraining, fit=replace(pretraining.fit, epochs=epochs)),
        train=TrainConfig((network,), pretrained=start.startswith("ImageNet"), seed=seed, fit=fit),
    )


def measure(recipe: Recipe, start: str, device: torch.device, report: Callable[[dict], None], *, fits: bool) -> None:
    """Adds the start's probes and, where asked for, its fit to the results, unless they are there of the same recipe."""
    (network,), seed, epochs = recipe.train.teachers, recipe.train.seed, recipe.pretrain.fit.epochs
    place = {"network": network, "start": start, "seed": seed, "pretraining_epochs": epochs}
    before = [entry for entry in read_results()["entries"] if place.items() <= entry.items()]
    settings, fit = (json.loads(json.dumps(asdict(part))) for part in (recipe.pretrain, recipe.train.fit))
    entry = before[0] if before and before[0]["settings"] == settings else {**place, "settings": settings}
    key = hashlib.sha256(json.dumps([settings, recipe.train.pretrained]).encode()).hexdigest()[:8]
    folder = RUNS / f"{network}-{start.replace(', ', '-').replace(' ', '-')}-{seed}-{key}"
    if "linear_probe" not in entry:
        entry |= {"device": str(device), **probe_start(recipe, folder, device, report)}
    if fits and entry.get("fit") != fit:
        entry |= {"fit": fit, **fit_start(recipe, folder, device, report)}
    record = read_results()  # anew: another process may have added its own meanwhile
    entries = [*(other for other in record["entries"] if not place.items() <= other.items()), entry]
    entries.sort(
        key=lambda entry: (entry["network"], STARTS.index(entry["start"]), entry["pretraining_epochs"], entry["seed"])
    )
    write_json(RESULT, {**record, "entries": entries, "versions": versions()})


def read_results() -> dict:
    return json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {"split": "val", "entries": []}


def probe_start(recipe: Recipe, folder: Path, device: torch.device, report: Callable[[dict], None]) -> dict:
    """The linear probe and the vote of neighbours on the frozen features that the recipe's teacher starts with."""
    manifest, (text,) = read_manifest(LABELS), recipe.train.teachers
    starts = pretrain_networks(LABELS, recipe, folder, [0], device=device, report=report)
    architecture = Architecture.parse(text)
    torch.manual_seed(recipe.train.seed)
    network = LogoNetwork(
        architecture.model, len(manifest.classes), size_px=architecture.size_px, pretrained=recipe.train.pretrained
    ).to(device)
    history = []
    if starts:
        start_from(starts[text], network)
        history = json.loads(starts[text].with_suffix(".json").read_text(encoding="utf-8"))["history"]
    left_out = find_lookalikes(manifest, manifest.split("train"), renders_folder())
    splits = [[row for row in manifest.split("train") if row not in left_out], manifest.split("val")]
    (known, asked) = (features_of(network, pixels_of(rows, manifest, architecture.contract), device) for rows in splits)
    targets = [targets_of(rows, manifest.classes) for rows in splits]
    groups = [row.group for row in splits[0]]
    linear, neighbours = (probe(known, targets[0], groups) for probe in (linear_probe, neighbour_probe))
    return {
        "linear_probe": linear.score(asked, targets[1]),
        "neighbours": neighbours.score(asked, targets[1]),
        "chosen": {**linear.best_params_, **neighbours.best_params_},
        "features": known.shape[1],
        "pretraining_seconds": sum(epoch["seconds"] for epoch in history),
        "pretraining_history": history,
    }


def fit_start(recipe: Recipe, folder: Path, device: torch.device, report: Callable[[dict], None]) -> dict:
    """The accuracy on val by epoch of the fit that starts so, its last, and when it first reached some levels."""
    fitted = folder / f"fit-{recipe.train.fit.epochs}"
    if recipe.pretrain.fit.epochs:
        shutil.copytree(folder / "pretrain", fitted / "pretrain", dirs_exist_ok=True)
    history = train_ensemble(LABELS, recipe, fitted, device=device, report=report).record["members"][0]["history"]
    curve = [epoch["accuracy"] for epoch in history]
    return {
        "fit_seconds": sum(epoch["seconds"] for epoch in history),
        "curve": curve,
        "accuracy": curve[-1],
        "reached": {f"{level:.0%}": first_epoch(curve, level) for level in LEVELS},
    }


def first_epoch(curve: list[float], level: float) -> int | None:
    """The first epoch, from 1 on, whose accuracy is at least `level`; None where none is."""
    return next((index + 1 for index, accuracy in enumerate(curve) if accuracy >= level), None)


if __name__ == "__main__":
    main()
