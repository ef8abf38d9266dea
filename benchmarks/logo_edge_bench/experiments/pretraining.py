"""The effect of pretraining without labels: probes of frozen features, and the accuracy of a fit by epoch and by start.

    python -m logo_edge_bench.experiments pretraining                # the default network, hours
    python -m logo_edge_bench.experiments pretraining --networks logo_vit_tiny@64 --epochs 8 --fit-epochs 12
    python -m logo_edge_bench.experiments pretraining --starts SimCLR "SimCLR, uncertain pairs" --seeds 0

Each run adds the missing entries; interrupted, it resumes from the runs in runs/pretraining/. Probes learn on the train
split, everything is measured on val.

The default network is RegNetX-200MF at 64 px: small enough to pretrain on two cores, without ImageNet weights available
here, and without depthwise convolutions, which learn slowly from few logos.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch

from logo_edge_bench.experiments.record import RUNS, Device, Out, file_name, read_record, write_record
from logo_edge_bench.experiments.training_tables import first_epoch
from logo_edge_train.architecture import Architecture
from logo_edge_train.data.icons import LABELS, fetch_logos
from logo_edge_train.data.images import pixels_of
from logo_edge_train.data.lookalikes import find_lookalikes
from logo_edge_train.data.manifest import read_manifest, targets_of
from logo_edge_train.device import pick_device
from logo_edge_train.fit_config import TeacherFit
from logo_edge_train.models import LogoNetwork, has_imagenet_weights
from logo_edge_train.pretrain.probe import features_of, linear_probe, neighbour_probe
from logo_edge_train.pretrain.simclr import start_from
from logo_edge_train.progress import FitProgress
from logo_edge_train.recipe import PretrainConfig, Recipe, TrainConfig
from logo_edge_train.train import pretrain_networks, train_ensemble

EMPTY = {"split": "val", "entries": []}
LEVELS = (0.8, 0.85, 0.9)  # of val accuracy; their first epochs are recorded
SIMCLR = {
    "SimCLR": {},
    "SimCLR, views of one logo": {"neighbours": 0},
    "SimCLR, uncertain pairs": {"uncertainty": True},
    "SimCLR, fixed temperatures": {"learn_temperature": False},
    "SimCLR, fixed strengths": {"strength_step": 0.0},
}
STARTS = ("random", *SIMCLR, "ImageNet", "ImageNet, then SimCLR")


def measure(
    *,
    networks: Annotated[Sequence[str], {"metavar": "NAME@SIZE"}] = ("regnetx_002@64",),
    starts: Annotated[Sequence[str], {"choices": STARTS, "help": "default: random, SimCLR and any ImageNet"}] = (),
    seeds: Sequence[int] = (0, 1, 2),
    epochs: Annotated[int, "of pretraining"] = 30,
    fit_epochs: int = 40,
    no_fit: Annotated[bool, "only probe frozen features"] = False,
    device: Device = "auto",
    out: Out,
) -> None:
    fetch_logos()
    with FitProgress() as progress:
        for seed in seeds:
            for network in networks:
                usual = ["random", "SimCLR", *(["ImageNet"] if has_imagenet_weights(network) else [])]
                for start in starts or usual:
                    recipe = recipe_of(network, start, seed, epochs if "SimCLR" in start else 0, fit_epochs)
                    name = f"{start}, seed {seed}: "

                    def report(item: dict, name: str = name) -> None:
                        progress({**item, "name": name + item["name"]})

                    measure_start(recipe, start, pick_device(device), report, out, fits=not no_fit)


def recipe_of(network: str, start: str, seed: int, epochs: int, fit_epochs: int) -> Recipe:
    """The recipe of one teacher with this start."""
    pretraining = PretrainConfig(seed=seed, from_imagenet=True, **SIMCLR.get(start, {}))
    fit = TeacherFit(epochs=fit_epochs, learning_rate=1e-3, warmup_epochs=2.0, class_weight_power=0.7)
    return Recipe(
        name="pretraining",
        pretrain=replace(pretraining, fit=replace(pretraining.fit, epochs=epochs)),
        train=TrainConfig((network,), pretrained=start.startswith("ImageNet"), seed=seed, fit=fit),
    )


def measure_start(
    recipe: Recipe, start: str, device: torch.device, report: Callable[[dict], None], out: Path, *, fits: bool
) -> None:
    """Adds the start's probes and, on request, its fit to the result, unless it has them of the same recipe."""
    (network,), seed, epochs = recipe.train.teachers, recipe.train.seed, recipe.pretrain.fit.epochs
    key = {"network": network, "start": start, "seed": seed, "pretraining_epochs": epochs}
    before = [run for run in read_record(out, EMPTY)["entries"] if key.items() <= run.items()]
    settings, fit = (json.loads(json.dumps(asdict(part))) for part in (recipe.pretrain, recipe.train.fit))
    run = before[0] if before and before[0]["settings"] == settings else {**key, "settings": settings}
    digest = hashlib.sha256(json.dumps([settings, recipe.train.pretrained]).encode()).hexdigest()[:8]
    folder = RUNS / "pretraining" / f"{network}-{file_name(start)}-{seed}-{digest}"
    if "linear_probe" not in run:
        run |= {"device": str(device), **probe_start(recipe, folder, device, report)}
    if fits and run.get("fit") != fit:
        run |= {"fit": fit, **fit_start(recipe, folder, device, report)}
    record = read_record(out, EMPTY)  # again: another process may have added an entry meanwhile
    runs = [*(other for other in record["entries"] if not key.items() <= other.items()), run]
    runs.sort(key=lambda e: (e["network"], STARTS.index(e["start"]), e["pretraining_epochs"], e["seed"]))
    write_record(out, {**record, "entries": runs})


def probe_start(recipe: Recipe, folder: Path, device: torch.device, report: Callable[[dict], None]) -> dict:
    """The linear probe and the nearest-neighbour vote on the frozen features that the recipe's teacher starts with."""
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
    left_out = find_lookalikes(manifest, manifest.split("train"))
    splits = [[row for row in manifest.split("train") if row not in left_out], manifest.split("val")]
    train, val = (features_of(network, pixels_of(rows, manifest, architecture.contract), device) for rows in splits)
    targets = [targets_of(rows, manifest.classes) for rows in splits]
    groups = [row.group for row in splits[0]]
    linear, neighbours = (probe(train, targets[0], groups) for probe in (linear_probe, neighbour_probe))
    return {
        "linear_probe": linear.score(val, targets[1]),
        "neighbours": neighbours.score(val, targets[1]),
        "chosen": {**linear.best_params_, **neighbours.best_params_},
        "features": train.shape[1],
        "pretraining_seconds": sum(epoch["seconds"] for epoch in history),
    }


def fit_start(recipe: Recipe, folder: Path, device: torch.device, report: Callable[[dict], None]) -> dict:
    """The accuracy on val by epoch of the fit from this start, the last one, and the first epochs at LEVELS."""
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
