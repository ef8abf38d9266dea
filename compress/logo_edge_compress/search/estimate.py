"""How long `logo-edge search` would take here: a few steps, extrapolated (`--estimate`)."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import torch

from logo_edge_compress.search.latency_table import LatencyTable
from logo_edge_compress.search.search import search
from logo_edge_train.data.manifest import read_manifest
from logo_edge_train.data.pool import stratified_sample
from logo_edge_train.device import describe_device
from logo_edge_train.estimate import Reports, extrapolate, keep_reports, trial_images
from logo_edge_train.recipe import Recipe


def estimate_search(manifest_path: Path, recipe: Recipe, table: LatencyTable, *, device: torch.device) -> dict:
    """As `estimate_training`, for `search`: an upper bound, because the trial has none of the faster first epochs."""
    config, rows = recipe.search, read_manifest(manifest_path).split("train")
    rows = stratified_sample(rows, recipe.train.fit.max_images)
    # a third more than two halves of the trial's steps: the halves are never quite equal
    images = min(8 * trial_images(config.batch_size, device) // 3, len(rows))
    trial = replace(
        recipe,
        search=replace(config, epochs=2, warmup_epochs=0),
        train=replace(recipe.train, fit=replace(recipe.train.fit, max_images=images)),
    )
    reports: Reports = {}
    with tempfile.TemporaryDirectory(prefix="logo-edge-") as folder:
        search(manifest_path, trial, table, Path(folder), device=device, report=keep_reports(reports))
    stages = [extrapolate(name, fit_reports, config, len(rows) // 2) for name, fit_reports in reports.items()]
    return {
        "command": f"logo-edge search --recipe {recipe.name}",
        "device": describe_device(device),
        "side_by_side": 1,
        "stages": [asdict(stage) for stage in stages],
        "seconds": sum(stage.seconds for stage in stages),
    }
