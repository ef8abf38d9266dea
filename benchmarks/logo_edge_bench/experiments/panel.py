"""The effect of each part of the panel of `logo-edge data suspects`: cross-validation by groups, and by icon sets.

    python -m logo_edge_bench.experiments panel                      # all variants, about an hour of one core
    python -m logo_edge_bench.experiments panel --variants networks panel --no-packages

Writes each variant when it is measured; features and fits are kept in runs/panel/, so an interrupted run resumes. Only
train and val are used; each of two seeds divides their groups differently. `left_out` holds the figures on each icon
set when the classifiers have seen neither the set nor any of its groups.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from logo_edge_bench.experiments.record import RUNS, Out, read_logos, read_record, write_record
from logo_edge_train.data.dataset import soft_label
from logo_edge_train.data.manifest import LogoRow, targets_of
from logo_edge_train.recipe import ReviewConfig
from logo_edge_train.review.frozen_features import Features
from logo_edge_train.review.panel import fit_classifier, panel_inputs, review_labels

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


def measure(
    *,
    variants: Annotated[Sequence[str], {"choices": VARIANTS}] = tuple(VARIANTS),
    no_packages: Annotated[bool, "leave no icon set out"] = False,
    runs: Annotated[Path, "where features and fits are kept"] = RUNS / "panel",
    out: Out,
) -> None:
    manifest = read_logos()
    for name in variants:
        features = Features(manifest, VARIANTS[name], runs, torch.device("cpu"), lambda *report: None)
        start_s = time.process_time()
        variant = {"settings": asdict(VARIANTS[name]), **measure_folds(features)}
        if not no_packages:
            variant["left_out"] = measure_packages(features)
        variant["cpu_s"] = round(time.process_time() - start_s, 1)
        record = {
            "split": "train and val",
            "count": len(manifest.split("train", "val")),
            "classes": manifest.classes,
            "variants": {**read_record(out, {}).get("variants", {}), name: variant},
        }
        write_record(out, record)
        print(name, [seed["all"]["accuracy"] for seed in variant["seeds"]], flush=True)


def measure_folds(features: Features) -> dict:
    """Figures of each seed's out-of-fold probabilities, on all rows, on train and on val."""
    panel = review_labels(features)
    divisions, seeds = features.config.divisions, []
    parts = {"all": ("train", "val"), "train": ("train",), "val": ("val",)}
    for division in range(divisions):
        average = panel.probabilities[division::divisions].mean(0)
        figures = {}
        for name, splits in parts.items():
            indices = [index for index, row in enumerate(panel.rows) if row.split in splits]
            figures[name] = describe([panel.rows[index] for index in indices], average[indices], panel.classes)
        seeds.append(figures)
    return {"seeds": seeds}


def measure_packages(features: Features) -> dict:
    """Figures on each icon set by the panel that was fitted on the other ones."""
    rows, classes = features.manifest.split("train", "val"), features.manifest.classes
    soft = np.stack([soft_label(row, classes, True) for row in rows])
    figures, members = {}, panel_inputs(features.config)
    inputs = {names: features.read(names, rows) for _, names in members}
    for package in sorted({row.package for row in rows}):
        left_out = np.array([row.package == package for row in rows])
        if left_out.sum() < LEAST_PACKAGE:
            continue
        groups = {row.group for row in rows if row.package == package}
        fitted_on = np.array([row.group not in groups for row in rows])
        predictions = []
        for classifier, names in members:
            model = fit_classifier(classifier, inputs[names][fitted_on], soft[fitted_on], features.config.penalty, 0)
            predictions.append(model.predict_proba(inputs[names][left_out]))
        figures[package] = describe([row for row in rows if row.package == package], np.mean(predictions, 0), classes)
    return figures


def describe(rows: list[LogoRow], probabilities: np.ndarray, classes: tuple[str, ...]) -> dict:
    """Count, accuracy of all and of sure rows, recall by class and NLL in nats, of (N, K) probabilities."""
    targets = targets_of(rows, classes)
    right, sure = probabilities.argmax(1) == targets, np.array([row.sure for row in rows])
    likelihood = np.clip(probabilities[np.arange(len(rows)), targets], 1e-7, 1)
    own = {name: right[targets == index] for index, name in enumerate(classes)}
    return {
        "count": len(rows),
        "accuracy": round(float(right.mean()), 4),
        "accuracy_sure": round(float(right[sure].mean()), 4),
        "recall": {name: round(float(hits.mean()), 4) for name, hits in own.items() if len(hits)},
        "nll": round(float(-np.log(likelihood).mean()), 4),
    }
