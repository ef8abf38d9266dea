"""Differentiable search against random search at the same budget, both for the same targets of latency.

    python benchmarks/compare_search.py --work runs/compare-search  ->  benchmarks/results/search.json

In each round the differentiable search looks once for every target, and the seconds that it took are the budget of the
random search: networks of the same space, drawn evenly among those within the slowest target, are trained for a short
time each on the train split until the budget is used up (the one that uses it up counts). For every target the best of
them on val within it is taken: random search chooses on val, differentiable search never sees it. Whatever either found
is then trained alike, with several seeds, and exported and timed. Fronts are compared on val; test is only reported.
Interrupted, it goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path

import logo_edge_train  # noqa: F401 (before torch)

# isort: split
import numpy as np
import torch

from logo_edge_compress.onnx.export import export_onnx
from logo_edge_compress.search.latency_table import LatencyTable, measure_options, onnx_latency
from logo_edge_compress.search.search import architecture_name, derived_recipe, search, table_ms
from logo_edge_train.data.icons import LABELS
from logo_edge_train.data.manifest import Manifest, read_manifest, targets_of
from logo_edge_train.device import pick_device
from logo_edge_train.keys import versions
from logo_edge_train.progress import FitProgress
from logo_edge_train.recipe import Recipe
from logo_edge_train.recipe_io import load_recipe
from logo_edge_train.runs import Run, write_json
from logo_edge_train.train import train_ensemble

RESULT = Path(__file__).parent / "results" / "search.json"
METHODS = ("differentiable", "random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="the folder that all runs are kept in")
    parser.add_argument("--recipe", default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as search.size_px=96")
    parser.add_argument("--targets-ms", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--rounds", type=int, default=2, help="seeds of both searches")
    parser.add_argument("--short-epochs", type=int, default=4, help="of a network of the random search")
    parser.add_argument("--final-epochs", type=int, default=20, help="of a network that was found")
    parser.add_argument("--final-seeds", type=int, default=2)
    parser.add_argument("--manifest", type=Path, default=LABELS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    recipe, manifest = load_recipe(arguments.recipe, tuple(arguments.set)), read_manifest(arguments.manifest)
    table = measure_options(recipe.search, len(manifest.classes), arguments.work / "latency.json")
    with FitProgress() as progress:
        comparison = Comparison(arguments, recipe, table, progress)
        rounds = [comparison.run_round(seed) for seed in range(arguments.rounds)]
        picks = {pick["network"] for found in rounds for method in METHODS for pick in found[method]["picks"]}
        networks = {name: comparison.train_finally(name, manifest) for name in sorted(picks)}
    commonest = max(share_of_classes(manifest, "val"))
    reference = (max(arguments.targets_ms), commonest)
    for found in rounds:
        points = {
            method: [(networks[name]["measured_ms"], networks[name]["val"]["mean"]) for name in names]
            for method in METHODS
            for names in [{pick["network"] for pick in found[method]["picks"]}]
        }
        for method, other in zip(METHODS, METHODS[::-1], strict=True):
            found[method]["hypervolume"] = hypervolume(points[method], reference)
            found[method]["dominated"] = sum(is_dominated(point, points[other]) for point in points[method])
    settings = {name: value for name, value in vars(arguments).items() if name not in ("work", "out", "manifest")}
    record = {
        "settings": settings,
        "size_px": recipe.search.size_px,
        "reference": {"ms": reference[0], "accuracy": commonest},
        "machine": table.machine,
        "rounds": rounds,
        "networks": networks,
        "versions": versions(),
    }
    write_json(arguments.out, record)


class Comparison:
    """Both searches and the training of what they find, each in a folder of its own, so that all can be gone on with."""

    def __init__(self, arguments: argparse.Namespace, recipe: Recipe, table: LatencyTable, progress: FitProgress):
        self.arguments, self.recipe, self.table, self.progress = arguments, recipe, table, progress
        self.device, self.costs = pick_device(arguments.device), table.costs(recipe.search)

    def run_round(self, seed: int) -> dict:
        """What each method found for each target, and what it took."""
        recipe = replace(self.recipe, train=replace(self.recipe.train, seed=seed))
        picks, seconds = [], 0.0
        for target_ms in self.arguments.targets_ms:
            aimed = replace(recipe, search=replace(recipe.search, target_ms=target_ms))
            folder = self.arguments.work / f"differentiable-{seed}-{target_ms:g}ms"
            self.progress.say(f"differentiable search, seed {seed}, at most {target_ms} ms", style="bold")
            search(self.arguments.manifest, aimed, self.table, folder, device=self.device, report=self.progress)
            history = json.loads((folder / "search" / "history.json").read_text())
            picks.append({"target_ms": target_ms, "network": history["chosen"], "table_ms": history["table_ms"]})
            seconds += history["seconds"]
        tried = self.search_randomly(recipe, seed, seconds)
        return {
            "seed": seed,
            "budget_s": round(seconds, 1),
            "differentiable": {"picks": picks, "seconds": round(seconds, 1)},
            "random": {
                "picks": [self.best_within(target_ms, tried) for target_ms in self.arguments.targets_ms],
                "seconds": round(sum(entry["seconds"] for entry in tried), 1),
                "tried": tried,
            },
        }

    def search_randomly(self, recipe: Recipe, seed: int, budget_s: float) -> list[dict]:
        """The networks that were drawn and trained for a short time, until the budget was used up."""
        config = self.recipe.search
        space = list(product(*(range(len(cost)) for cost in self.costs)))
        allowed = [place for place in space if table_ms(self.costs, place) <= max(self.arguments.targets_ms)]
        tried: list[dict] = []
        for index in np.random.default_rng(seed).permutation(len(allowed)):
            if sum(entry["seconds"] for entry in tried) >= budget_s:
                break
            name, ms = architecture_name(config, allowed[index]), table_ms(self.costs, allowed[index])
            run = self.train(recipe, name, self.arguments.short_epochs, 1, f"random-{seed}-{name}")
            history = run.record["members"][0]["history"]
            tried.append(
                {
                    "network": run.record["members"][0]["architecture"],
                    "table_ms": ms,
                    "accuracy": history[-1]["accuracy"],
                    "seconds": sum(epoch["seconds"] for epoch in history),
                }
            )
        return tried

    def best_within(self, target_ms: float, tried: list[dict]) -> dict:
        """The most accurate on val of those within the target, or the fastest of all where none is."""
        within = [entry for entry in tried if entry["table_ms"] <= target_ms]
        best = max(within, key=lambda entry: entry["accuracy"]) if within else min(tried, key=lambda e: e["table_ms"])
        return {"target_ms": target_ms, "network": best["network"], "table_ms": best["table_ms"]}

    def train_finally(self, architecture: str, manifest: Manifest) -> dict:
        """A found network's accuracy on val and test over the seeds, and its latency as it was exported."""
        name, _, size = architecture.partition("@")
        arguments = self.arguments
        run = self.train(self.recipe, name, arguments.final_epochs, arguments.final_seeds, f"final-{name}")
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
        return train_ensemble(
            self.arguments.manifest, alike, self.arguments.work / folder, device=self.device, report=self.progress
        )


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
    """How much of the split each class is."""
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
    """Whether some other (ms, accuracy) is no slower and no worse, and not the same."""
    return any(other != point and other[0] <= point[0] and other[1] >= point[1] for other in others)


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
