"""What each part of the panel of `logo-edge data suspects` is worth: cross-validation by groups, and by icon sets.

    python benchmarks/compare_panel.py                      # all variants, about an hour of one core
    python benchmarks/compare_panel.py --variants networks panel --no-packages

Writes each variant to benchmarks/results/panel.json when it is measured. Interrupted, it goes on: features and fits are kept
in runs/panel/. Only train and val take part; each of two seeds divides their groups otherwise. `left_out` is of each icon set
that classifiers have not seen, nor any group of it.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from logo_edge_bench.machine import provenance
from logo_edge_train.data.dataset import soft_label
from logo_edge_train.data.icons import LABELS, fetch_logos
from logo_edge_train.data.manifest import LogoRow, read_manifest, targets_of
from logo_edge_train.recipe import ReviewConfig
from logo_edge_train.review.frozen_features import Features
from logo_edge_train.review.panel import fit_classifier, panel_inputs, review_labels
from logo_edge_train.runs import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULT, RUNS = ROOT / "benchmarks" / "results" / "panel.json", ROOT / "runs" / "panel"
LITE2 = "tf_efficientnet_lite2@192"
LEAST_PACKAGE = 100  # rows; smaller icon sets are not left out
PLAIN = ReviewConfig(classifiers=("logistic",), measures=("curves",))
VARIANTS = {
    "networks": replace(PLAIN, measures=()),
    "measurements": PLAIN,
    "fades": replace(PLAIN, measures=("curves", "fades")),
    "lettering": replace(PLAIN, measures=("curves", "lettering")),
    "Lite2": replace(PLAIN, networks=(*PLAIN.networks, LITE2)),
    "all measures": replace(PLAIN, measures=("curves", "fades", "lettering")),
    "perceptron": replace(ReviewConfig(), classifiers=("perceptron",)),
    "boosting": replace(ReviewConfig(), classifiers=("boosting",)),
    "panel": ReviewConfig(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--no-packages", action="store_true", help="leave no icon set out")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where features and fits are kept")
    arguments = parser.parse_args()
    fetch_logos()
    manifest = read_manifest(LABELS)
    for name in arguments.variants:
        features = Features(manifest, VARIANTS[name], arguments.runs, torch.device("cpu"), lambda *report: None)
        start = time.process_time()
        entry = {"settings": asdict(VARIANTS[name]), **measure_folds(features)}
        if not arguments.no_packages:
            entry["left_out"] = measure_packages(features)
        entry["cpu_s"] = round(time.process_time() - start, 1)
        before = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
        rows = manifest.split("train", "val")
        write_json(
            RESULT,
            {
                **provenance(),
                "split": "train and val",
                "count": len(rows),
                "classes": manifest.classes,
                "variants": {**before.get("variants", {}), name: entry},
            },
        )
        print(name, [seed["all"]["accuracy"] for seed in entry["seeds"]], flush=True)


def measure_folds(features: Features) -> dict:
    """Figures of each seed's out-of-fold probabilities: over all rows, those of train and those of val."""
    panel = review_labels(features)
    divisions, seeds = features.config.divisions, []
    for division in range(divisions):
        mean = panel.probabilities[division::divisions].mean(0)
        parts = {"all": ("train", "val"), "train": ("train",), "val": ("val",)}
        chosen = {
            name: [at for at, row in enumerate(panel.rows) if row.split in splits] for name, splits in parts.items()
        }
        seeds.append(
            {
                name: describe([panel.rows[at] for at in places], mean[places], panel.classes)
                for name, places in chosen.items()
            }
        )
    return {"seeds": seeds}


def measure_packages(features: Features) -> dict:
    """Figures of each icon set, by the panel of the other ones."""
    rows = features.manifest.split("train", "val")
    classes = features.manifest.classes
    soft = np.stack([soft_label(row, classes, True) for row in rows])
    packages = sorted({row.package for row in rows})
    own = {name: np.array([row.package == name for row in rows]) for name in packages}
    figures, members = {}, panel_inputs(features.config)
    read = {names: features.read(names, rows) for _, names in members}
    for package, left_out in own.items():
        if left_out.sum() < LEAST_PACKAGE:
            continue
        groups = {row.group for row, out in zip(rows, left_out, strict=True) if out}
        learned = np.array([row.group not in groups for row in rows])
        said = []
        for classifier, names in members:
            model = fit_classifier(classifier, read[names][learned], soft[learned], features.config.penalty, 0)
            said.append(model.predict_proba(read[names][left_out]))
        figures[package] = describe([row for row in rows if row.package == package], np.mean(said, 0), classes)
    return figures


def describe(rows: list[LogoRow], probabilities: np.ndarray, classes: tuple[str, ...]) -> dict:
    """Count, accuracy of all and of sure rows, recall by class and negative log-likelihood in nats of (N, K) probabilities."""
    targets = targets_of(rows, classes)
    right, sure = probabilities.argmax(1) == targets, np.array([row.sure for row in rows])
    likelihood = np.clip(probabilities[np.arange(len(rows)), targets], 1e-7, 1)
    return {
        "count": len(rows),
        "accuracy": round(float(right.mean()), 4),
        "accuracy_sure": round(float(right[sure].mean()), 4),
        "recall": {
            name: round(float(right[targets == at].mean()), 4)
            for at, name in enumerate(classes)
            if (targets == at).any()
        },
        "nll": round(float(-np.log(likelihood).mean()), 4),
    }


if __name__ == "__main__":
    main()
