"""How long `logo-edge train` would take here: two short epochs of each of its fits, extrapolated (`--estimate`)."""

from __future__ import annotations

import heapq
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from logo_edge_train.console import figures_table, percent
from logo_edge_train.data.manifest import Manifest, read_manifest
from logo_edge_train.data.pool import pool_rows, stratified_sample
from logo_edge_train.device import describe_device
from logo_edge_train.fit_config import LoopConfig, PhasesConfig
from logo_edge_train.parallel import run_side_by_side
from logo_edge_train.pretrain.simclr import pretrain
from logo_edge_train.recipe import PretrainConfig, Recipe, SearchConfig, TrainConfig
from logo_edge_train.train import (
    check_multi_label,
    check_splits,
    count_workers,
    fit_member,
    networks_to_pretrain,
    settle_recipe,
)

TRIAL_STEPS = 6  # per epoch of a trial
GPU_TRIAL_STEPS = 200  # more batches than the loaders make ahead, so that their pace shows


Reports = dict[str, list[tuple[float, dict]]]  # by fit of a trial: (time, report)


@dataclass(frozen=True)
class StageEstimate:
    """One fit: the figures of the second epoch of its trial, and the estimated seconds of the whole fit."""

    stage: str
    epochs: int
    steps: int
    images_per_s: float
    data_wait: float | None
    gpu_utilisation: float | None
    seconds: float


def estimate_training(manifest_path: Path, recipe: Recipe, *, device: torch.device) -> dict:
    """The recipe, the device, a StageEstimate as a dict for each network and teacher, and the total seconds.

    Pretrains every network, if the recipe pretrains, and fits every teacher for two short epochs, in a temporary folder
    and as parallel as the real run. The estimate leaves out the loading of further images and the search for
    look-alikes.
    """
    manifest = read_manifest(manifest_path)
    check_splits(manifest)
    check_multi_label(manifest, recipe)
    recipe = settle_recipe(recipe, manifest)
    networks = networks_to_pretrain(recipe)
    workers = [count_workers(len(jobs), device) for jobs in (networks, recipe.train.teachers)]
    with tempfile.TemporaryDirectory(prefix="logo-edge-") as folder:
        shared = (manifest_path, manifest, Path(folder), device)
        pretraining = _try_pretraining(recipe.pretrain, networks, recipe.train.pretrained, workers[0], *shared)
        teachers = _try_teachers(recipe.train, workers[1], *shared)
    seconds = [finish_time([stage.seconds for stage in pretraining], workers[0])] if networks else []
    seconds.append(finish_time([stage.seconds for stage in teachers], workers[1]))
    return {
        "command": f"logo-edge train --recipe {recipe.name}",
        "device": describe_device(device),
        "side_by_side": workers[1],
        "stages": [asdict(stage) for stage in [*pretraining, *teachers]],
        "seconds": sum(seconds),
    }


def _try_pretraining(
    config: PretrainConfig,
    networks: list[str],
    imagenet: bool,
    workers: int,
    manifest_path: Path,
    manifest: Manifest,
    folder: Path,
    device: torch.device,
) -> list[StageEstimate]:
    rows = pool_rows(manifest, use_unlabelled=config.use_unlabelled, max_images=config.fit.max_images)
    few = stratified_sample(rows, min(trial_images(config.fit.batch_size, device), len(rows)))
    trial, reports = replace(config, fit=_trial_fit(config.fit)), {}
    jobs = [(manifest_path, trial, text, imagenet, few, folder, str(device), "") for text in networks]
    run_side_by_side(pretrain, jobs, keep_reports(reports), workers=workers)
    measured = [sum(bool(row.label) for row in part) + len(manifest.split("val")) for part in (rows, few)]
    return [
        extrapolate(name, trial_reports, config.fit, len(rows), growth=measured[0] / measured[1])
        for name, trial_reports in reports.items()
    ]


def _try_teachers(
    config: TrainConfig, workers: int, manifest_path: Path, manifest: Manifest, folder: Path, device: torch.device
) -> list[StageEstimate]:
    every = len(manifest.split("train")) + 2 * config.synthetic
    count = min(every, config.fit.max_images or every)
    images = min(trial_images(config.fit.batch_size, device), count)
    # without the curriculum, which takes no time but needs features of all images
    fit = replace(_trial_fit(config.fit), max_images=images, curriculum_epochs=0.0)
    trial, reports = replace(config, fit=fit, synthetic=0), {}
    jobs = [(manifest_path, trial, i, folder, str(device), set(), None, "") for i in range(len(config.teachers))]
    run_side_by_side(fit_member, jobs, keep_reports(reports), workers=workers)
    held_out = [len(manifest.split(*splits)) for splits in (("val",), ("val", "calib", "test"))]
    return [
        extrapolate(name, trial_reports, config.fit, count, evaluations=held_out[1] / held_out[0])
        for name, trial_reports in reports.items()
    ]


def _trial_fit(config: LoopConfig) -> LoopConfig:
    """Two epochs, the second in the main phase, which is the slowest one: the estimate is an upper bound."""
    return replace(config, epochs=2, least_steps=0, phases=PhasesConfig())


def trial_images(batch_size: int, device: torch.device) -> int:
    """How many images a trial has per epoch."""
    return batch_size * (GPU_TRIAL_STEPS if device.type == "cuda" else TRIAL_STEPS)


def keep_reports(reports: Reports) -> Callable[[dict], None]:
    """A report callback that stores each report of a fit, with its time, under the name of the fit."""

    def keep(report: dict) -> None:
        if report["kind"] != "stage":
            reports.setdefault(report["name"], []).append((time.perf_counter(), report))

    return keep


def extrapolate(
    name: str,
    reports: list[tuple[float, dict]],
    config: LoopConfig | SearchConfig,
    images: int,
    *,
    evaluations: float = 0.0,
    growth: float = 1.0,
) -> StageEstimate:
    """The estimate for the fit of `config` on `images` images, from the (time, report) of a trial of two short epochs.

    The second epoch gives the pace and the overhead of an epoch (evaluation, writing); the extra time of the first
    epoch is the start-up. `evaluations` is the cost of the final predictions in evaluations on val; `growth` is the
    factor between an evaluation in the fit and in the trial.
    """
    start = reports[0][0]
    (first_s, _), (second_s, epoch) = [(at, report) for at, report in reports if report["kind"] == "epoch"]
    steps = next(report["steps"] for _, report in reports if report["kind"] == "step")
    seen = steps * min(config.batch_size, images)  # in an epoch of the trial
    overhead_s = growth * (second_s - first_s - seen / epoch["images_per_s"])
    start_s = max(0.0, first_s - start - (second_s - first_s))
    batch_size = min(config.batch_size, images)
    epoch_steps = images // batch_size
    epochs = config.fitted_epochs(epoch_steps) if isinstance(config, LoopConfig) else config.epochs
    epoch_s = epoch_steps * batch_size / epoch["images_per_s"] + overhead_s
    return StageEstimate(
        name,
        epochs,
        epoch_steps,
        epoch["images_per_s"],
        epoch.get("data_wait"),
        epoch.get("gpu_utilisation"),
        start_s + epochs * epoch_s + evaluations * overhead_s,
    )


def finish_time(seconds: list[float], workers: int) -> float:
    """The time at which the last job ends, if the workers take the jobs in order."""
    busy = [0.0] * workers
    for job_s in seconds:
        heapq.heapreplace(busy, busy[0] + job_s)
    return max(busy)


def print_estimate(estimate: dict) -> None:
    """A row per fit, and the total."""
    headings = ("estimate", "epochs", "steps", "images/s", "waits for data", "GPU busy", "minutes")
    table = figures_table(*headings, no_wrap=True)
    for stage in estimate["stages"]:
        table.add_row(
            stage["stage"],
            str(stage["epochs"]),
            str(stage["steps"]),
            f"{stage['images_per_s']:.0f}",
            percent(stage["data_wait"]),
            percent(stage["gpu_utilisation"]),
            f"{stage['seconds'] / 60:.1f}",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"`{estimate['command']}` on {estimate['device']}, {estimate['side_by_side']} at a time: "
        f"about {estimate['seconds'] / 60:.0f} minutes"
    )
