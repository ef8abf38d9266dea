"""Differentiable search and random search with the same budget and the same target latencies.

    python -m logo_edge_bench.experiments search --work runs/compare-search

In each round the differentiable search runs once per target; its total seconds are the budget of the random search,
which draws networks of the same space, evenly among those within the slowest target, and trains each for a short time
on the train split until the budget is used up (the last one counts). For every target the best of them on val within
the target is taken: random search chooses on val, differentiable search never sees it. All chosen networks are then
trained alike, with several seeds, exported and timed. Fronts are compared on val; test is only reported. Interrupted,
it resumes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from logo_edge_bench.experiments.record import Device
from logo_edge_compress.onnx.export import export_onnx
from logo_edge_compress.search.latency_table import LatencyTable, measure_options, onnx_latency
from logo_edge_compress.search.search import architecture_name, derived_recipe, search, table_ms
from logo_edge_train.data.icons import LABELS
from logo_edge_train.data.manifest import Manifest, read_manifest, targets_of
from logo_edge_train.device import pick_device
from logo_edge_train.progress import FitProgress
from logo_edge_train.recipe import Recipe
from logo_edge_train.recipe_io import load_recipe
from logo_edge_train.runs import Run
from logo_edge_train.train import train_ensemble

METHODS = ("differentiable", "random")


def measure(
    *,
    work: Annotated[Path, "the folder that keeps all runs"],
    recipe: str = "cpu",
    set: Annotated[Sequence[str], {"metavar": "KEY=VALUE", "help": "such as search.size_px=96"}] = (),
    targets_ms: Sequence[float] = (1.0, 2.0, 4.0),
    rounds: Annotated[int, "seeds of both searches"] = 2,
    short_epochs: Annotated[int, "of a network of the random search"] = 4,
    final_epochs: Annotated[int, "of a chosen network"] = 20,
    final_seeds: int = 2,
    manifest: Path = LABELS,
    device: Device = "auto",
) -> dict:
    torch.set_float32_matmul_precision("high")
    settings = {
        "recipe": recipe,
        "set": list(set),
        "targets_ms": list(targets_ms),
        "rounds": rounds,
        "short_epochs": short_epochs,
        "final_epochs": final_epochs,
        "final_seeds": final_seeds,
        "device": device,
    }
    base, logos = load_recipe(recipe, tuple(set)), read_manifest(manifest)
    latencies = measure_options(base.search, len(logos.classes), work / "latency.json")
    with FitProgress() as progress:
        comparison = Comparison(manifest, work, base, latencies, settings, pick_device(device), progress)
        results = [comparison.run_round(seed) for seed in range(rounds)]
        names = {pick["network"] for one in results for method in METHODS for pick in one[method]["picks"]}
        networks = {name: comparison.train_finally(name, logos) for name in sorted(names)}
    commonest = max(share_of_classes(logos, "val"))
    reference = (max(targets_ms), commonest)
    for one in results:
        picks = {method: {pick["network"] for pick in one[method]["picks"]} for method in METHODS}
        points = {
            method: [(networks[name]["measured_ms"], networks[name]["val"]["mean"]) for name in names]
            for method, names in picks.items()
        }
        for method, other in zip(METHODS, METHODS[::-1], strict=True):
            one[method]["hypervolume"] = hypervolume(points[method], reference)
            one[method]["dominated"] = sum(is_dominated(point, points[other]) for point in points[method])
    return {
        "settings": settings,
        "size_px": base.search.size_px,
        "reference": {"ms": reference[0], "accuracy": commonest},
        "machine": latencies.machine,
        "rounds": results,
        "networks": networks,
    }


@dataclass
class Comparison:
    """Both searches and the training of the chosen networks, each in its own folder, so that all resume."""

    manifest: Path
    work: Path
    recipe: Recipe
    table: LatencyTable
    settings: dict
    device: torch.device
    progress: FitProgress

    def run_round(self, seed: int) -> dict:
        """The network that each method chose for each target, and the seconds of each method."""
        recipe = replace(self.recipe, train=replace(self.recipe.train, seed=seed))
        picks, seconds = [], 0.0
        for target_ms in self.settings["targets_ms"]:
            targeted = replace(recipe, search=replace(recipe.search, target_ms=target_ms))
            folder = self.work / f"differentiable-{seed}-{target_ms:g}ms"
            self.progress.say(f"differentiable search, seed {seed}, at most {target_ms} ms", style="bold")
            search(self.manifest, targeted, self.table, folder, device=self.device, report=self.progress)
            history = json.loads((folder / "search" / "history.json").read_text())
            picks.append({"target_ms": target_ms, "network": history["chosen"], "table_ms": history["table_ms"]})
            seconds += history["seconds"]
        tried = self.search_randomly(recipe, seed, seconds)
        return {
            "seed": seed,
            "budget_s": round(seconds, 1),
            "differentiable": {"picks": picks, "seconds": round(seconds, 1)},
            "random": {
                "picks": [self.best_within(target_ms, tried) for target_ms in self.settings["targets_ms"]],
                "seconds": round(sum(trial["seconds"] for trial in tried), 1),
                "tried": tried,
            },
        }

    def search_randomly(self, recipe: Recipe, seed: int, budget_s: float) -> list[dict]:
        """Draws networks and trains each for a short time until the budget is used up."""
        config, costs = self.recipe.search, self.table.costs(self.recipe.search)
        space = list(product(*(range(len(cost)) for cost in costs)))
        allowed = [choice for choice in space if table_ms(costs, choice) <= max(self.settings["targets_ms"])]
        tried: list[dict] = []
        for index in np.random.default_rng(seed).permutation(len(allowed)):
            if sum(trial["seconds"] for trial in tried) >= budget_s:
                break
            name, ms = architecture_name(config, allowed[index]), table_ms(costs, allowed[index])
            run = self.train(recipe, name, self.settings["short_epochs"], 1, f"random-{seed}-{name}")
            member = run.record["members"][0]
            accuracy, seconds = member["history"][-1]["accuracy"], sum(one["seconds"] for one in member["history"])
            key = {"network": member["architecture"], "table_ms": ms}
            tried.append({**key, "accuracy": accuracy, "seconds": seconds})
        return tried

    def best_within(self, target_ms: float, tried: list[dict]) -> dict:
        """The most accurate on val within the target, or the fastest network where none is."""
        within = [trial for trial in tried if trial["table_ms"] <= target_ms]
        best = max(within, key=lambda trial: trial["accuracy"]) if within else min(tried, key=lambda e: e["table_ms"])
        return {"target_ms": target_ms, "network": best["network"], "table_ms": best["table_ms"]}

    def train_finally(self, architecture: str, manifest: Manifest) -> dict:
        """A chosen network's accuracy on val and test over the seeds, and its latency after export."""
        name, _, size = architecture.partition("@")
        epochs, seeds = self.settings["final_epochs"], self.settings["final_seeds"]
        run = self.train(self.recipe, name, epochs, seeds, f"final-{name}")
        with tempfile.TemporaryDirectory() as folder:
            path = export_onnx(run.load_member(0), int(size), Path(folder) / "fp32.onnx")
            latency = onnx_latency(path, np.zeros((1, int(size), int(size), 3), np.uint8))
        splits = [split for split in ("val", "test") if manifest.split(split)]
        return {
            "measured_ms": latency.p50_ms,
            "float32_bytes": run.load_member(0).float32_bytes,
            **{split: accuracies(run, manifest, split) for split in splits},
        }

    def train(self, recipe: Recipe, name: str, epochs: int, seeds: int, folder: str) -> Run:
        alike = derived_recipe(recipe, name)
        fit = replace(alike.train.fit, epochs=epochs)
        alike = replace(alike, train=replace(alike.train, teachers=alike.train.teachers * seeds, fit=fit))
        self.progress.say(f"{name}, {epochs} epochs", style="bold")
        return train_ensemble(self.manifest, alike, self.work / folder, device=self.device, report=self.progress)


def accuracies(run: Run, manifest: Manifest, split: str) -> dict:
    """Accuracy of each member, their mean and standard deviation (None for one)."""
    targets = targets_of(manifest.split(split), run.classes)
    values = [float((logits.argmax(1) == targets).mean()) for logits in run.member_logits(split)]
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "values": values,
    }


def share_of_classes(manifest: Manifest, split: str) -> list[float]:
    """The share of each class in the split."""
    labels = [row.label for row in manifest.split(split)]
    return [labels.count(name) / len(labels) for name in manifest.classes]


def hypervolume(points: list[tuple[float, float]], reference: tuple[float, float]) -> float:
    """The share of the box from `reference` to (0 ms, accuracy 1) that the (ms, accuracy) points dominate.

    Zitzler & Thiele 1998; greater is better.
    """
    limit_ms, floor = reference
    area, best = 0.0, floor
    for ms, accuracy in sorted(points):
        if ms < limit_ms and accuracy > best:
            area, best = area + (limit_ms - ms) * (accuracy - best), accuracy
    return area / (limit_ms * (1 - floor))


def is_dominated(point: tuple[float, float], others: list[tuple[float, float]]) -> bool:
    """Whether another (ms, accuracy) point is no slower and no worse."""
    return any(other != point and other[0] <= point[0] and other[1] >= point[1] for other in others)
