"""How long `logo-edge train` would take here: a few steps of each of its fits, extrapolated (`--estimate`)."""

from __future__ import annotations

import heapq
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from logo_edge.manifest import read_manifest
from logo_edge_train.dataset import stratified_sample
from logo_edge_train.parallel import run_side_by_side
from logo_edge_train.progress import percent
from logo_edge_train.recipe import FitConfig, Recipe
from logo_edge_train.train import check_splits, count_workers, device_name, fit_member

TRIAL_STEPS = 6  # per epoch
GPU_TRIAL_STEPS = 200  # more than its loaders make ahead: else their pace would not show


@dataclass(frozen=True)
class StageEstimate:
    """One fit: what its trial showed (of its second epoch), and the seconds of the whole."""

    stage: str
    epochs: int
    steps: int
    images_per_s: float
    data_wait: float
    gpu_utilisation: float | None
    seconds: float


def estimate_training(manifest_path: Path, recipe: Recipe, *, device: torch.device) -> dict:
    """The recipe, the device, a StageEstimate as a dict for each teacher, and the seconds of all together.

    Every teacher is really fitted for two short epochs, in a folder that is thrown away, side by side where they would
    be. What is left out: the loading of the images beyond the trial's, and the search for look-alikes.
    """
    manifest, config = read_manifest(manifest_path), recipe.train
    check_splits(manifest)
    rows = len(stratified_sample(manifest.split("train"), config.fit.max_images))
    images = config.fit.batch_size * (GPU_TRIAL_STEPS if device.type == "cuda" else TRIAL_STEPS)
    trial = replace(config, fit=replace(config.fit, epochs=2, max_images=min(images, rows)))
    workers = count_workers(len(config.teachers), device)
    reports: dict[str, list[tuple[float, dict]]] = {}

    def keep(report: dict) -> None:
        reports.setdefault(report["name"], []).append((time.perf_counter(), report))

    with tempfile.TemporaryDirectory(prefix="logo-edge-") as folder:
        jobs = [
            (manifest_path, trial, index, Path(folder), str(device), set(), None)
            for index in range(len(config.teachers))
        ]
        run_side_by_side(fit_member, jobs, keep, workers=workers)
    held_out = [len(manifest.split(*splits)) for splits in (("val",), ("val", "calib", "test"))]
    stages = [
        extrapolate(name, found, config.fit, rows, evaluations=held_out[1] / held_out[0])
        for name, found in reports.items()
    ]
    return {
        "recipe": recipe.name, "device": device_name(device), "side_by_side": workers,
        "stages": [asdict(stage) for stage in stages],
        "seconds": finish([stage.seconds for stage in stages], workers),
    }  # fmt: skip


def extrapolate(
    name: str, reports: list[tuple[float, dict]], config: FitConfig, images: int, *, evaluations: float
) -> StageEstimate:
    """The whole fit, of `config` on so many images, from the (time, report) of a trial of two short epochs.

    The second epoch gives the pace, and what an epoch takes besides (evaluating, writing); the first, by what it took
    longer, the start. `evaluations` is how many evaluations on val the last predictions are worth.
    """
    began = reports[0][0]
    (first_s, _), (second_s, epoch) = [(at, report) for at, report in reports if report["kind"] == "epoch"]
    steps = next(report["steps"] for _, report in reports if report["kind"] == "step")
    seen = steps * min(config.batch_size, images)  # in an epoch of the trial
    besides_s = second_s - first_s - seen / epoch["images_per_s"]
    start_s = max(0.0, first_s - began - (second_s - first_s))
    batch_size = min(config.batch_size, images)
    epoch_s = images // batch_size * batch_size / epoch["images_per_s"] + besides_s
    return StageEstimate(
        name, config.epochs, images // batch_size, epoch["images_per_s"], epoch["data_wait"],
        epoch.get("gpu_utilisation"), start_s + config.epochs * epoch_s + evaluations * besides_s,
    )  # fmt: skip


def finish(seconds: list[float], workers: int) -> float:
    """When the last of the jobs ends, which so many workers take up in order."""
    busy = [0.0] * workers
    for job_s in seconds:
        heapq.heapreplace(busy, busy[0] + job_s)
    return max(busy)


def print_estimate(estimate: dict) -> None:
    """A row per fit, and the sum in words."""
    table = Table(box=None, pad_edge=False)
    for heading in ("estimate", "epochs", "steps", "images/s", "waits for data", "GPU busy", "minutes"):
        table.add_column(heading, justify="left" if heading == "estimate" else "right", no_wrap=True)
    for stage in estimate["stages"]:
        table.add_row(
            stage["stage"], str(stage["epochs"]), str(stage["steps"]), f"{stage['images_per_s']:.0f}",
            percent(stage["data_wait"]), percent(stage["gpu_utilisation"]), f"{stage['seconds'] / 60:.1f}",
        )  # fmt: skip
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"`logo-edge train --recipe {estimate['recipe']}` on {estimate['device']}, {estimate['side_by_side']} at a time: "
        f"about {estimate['seconds'] / 60:.0f} minutes"
    )
