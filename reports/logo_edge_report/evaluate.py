"""One subject on one labelled split: every figure of a report, as plain numbers for JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from logo_edge.manifest import LogoRow, Manifest, labelled_rows
from logo_edge.metrics import Figure, bootstrap, softmax, summarize, wilson_interval
from logo_edge_report.conditions import (
    Condition,
    background_conditions,
    corruptions,
    jpeg_conditions,
    size_conditions,
)
from logo_edge_report.statistics import (
    area_under_risk_coverage,
    compare_paired,
    conformal_threshold,
    coverage_interval,
    precision,
    prediction_sets,
    reliability_bins,
    risk_coverage,
)
from logo_edge_report.subjects import Subject
from logo_edge_train.dataset import load_images

LEVELS = (0.80, 0.90, 0.95, 0.99)
CONFIDENT = 0.9
HISTOGRAM = 20
Say = Callable[[str], None]


def evaluate_predictions(subject: Subject, logits: dict[str, np.ndarray], manifest: Manifest, split: str) -> dict:
    """Figures that need no further picture: from the (N, K) logits of `split` and of calib, for prediction sets."""
    rows = manifest.split(split)
    targets, sure = targets_of(rows, subject.labels), np.array([row.sure for row in rows], bool)
    probabilities = softmax(logits[split], subject.temperature)
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    correct = predicted == targets
    shares = {
        name: {"true": float((targets == k).mean()), "predicted": float((predicted == k).mean())}
        for k, name in enumerate(subject.labels)
    }
    coverage, risk = risk_coverage(confidence, correct)
    kept = np.unique(np.linspace(0, len(coverage) - 1, 101).round().astype(int))
    confident, answered = confidence >= CONFIDENT, confidence >= subject.abstain_below
    return {
        **summarize(logits[split], targets, sure, subject.temperature, subject.labels),
        "precision": {
            name: vars(bootstrap(lambda p, t, k=k: precision(p, t, k), predicted, targets))
            for k, name in enumerate(subject.labels)
        },
        "class_shares": shares,
        "confidence_histogram": np.histogram(confidence, HISTOGRAM, (0, 1))[0].tolist(),
        "reliability": reliability_bins(confidence, correct),
        "confident": {
            "share": float(confident.mean()),
            "accuracy": vars(wilson_interval(int(correct[confident].sum()), int(confident.sum()))),
        },
        "answered": {
            "share": float(answered.mean()),
            "accuracy": vars(wilson_interval(int(correct[answered].sum()), int(answered.sum()))),
        },
        "risk_coverage": {"coverage": coverage[kept].tolist(), "risk": risk[kept].tolist()},
        "area_under_risk_coverage": vars(bootstrap(area_under_risk_coverage, confidence, correct)),
        "prediction_sets": _prediction_sets(subject, logits, manifest, split),
        "by_package": _by_package(rows, correct),
        "annotator_agreement": _annotator_agreement(rows),
    }


def evaluate_conditions(
    subject: Subject, images: list[Image.Image], targets: np.ndarray, conditions: dict[str, Condition], say: Say
) -> dict[str, dict]:
    """Accuracy under each named condition, with its Wilson interval."""
    found = {}
    for name, condition in conditions.items():
        say(name)
        logits = subject.predict([condition(image, seed) for seed, image in enumerate(images)])
        found[name] = vars(wilson_interval(int((logits.argmax(1) == targets).sum()), len(targets)))
    return found


def evaluate_slices(subject: Subject, images: list[Image.Image], targets: np.ndarray, say: Say) -> dict[str, dict]:
    """Accuracy by delivered size, background and JPEG quality."""
    return {
        "size": evaluate_conditions(subject, images, targets, size_conditions(), say),
        "background": evaluate_conditions(subject, images, targets, background_conditions(), say),
        "jpeg": evaluate_conditions(subject, images, targets, jpeg_conditions(), say),
    }


def evaluate_corruptions(
    subject: Subject, images: list[Image.Image], targets: np.ndarray, severities: tuple[int, ...], say: Say
) -> dict[str, dict]:
    """name -> severity -> accuracy, and the mean over all names at each severity under `mean`."""
    found: dict[str, dict] = {}
    for name, make in corruptions().items():
        conditions = {str(severity): make(severity) for severity in severities}
        found[name] = evaluate_conditions(subject, images, targets, conditions, lambda s, name=name: say(f"{name} {s}"))
    means = {
        str(severity): float(np.mean([entry[str(severity)]["value"] for entry in found.values()]))
        for severity in severities
    }
    return {"by_corruption": found, "mean": means}


def compare_subjects(
    first: tuple[Subject, np.ndarray], second: tuple[Subject, np.ndarray], targets: np.ndarray
) -> dict:
    """McNemar's test and the paired bootstrap of two subjects' (N, K) logits on the same logos."""
    paired = compare_paired(first[1].argmax(1) == targets, second[1].argmax(1) == targets)
    return {
        "first": first[0].name, "second": second[0].name, "difference": vars(paired.difference),
        "only_first_right": paired.only_first_right, "only_second_right": paired.only_second_right,
        "mcnemar_p_value": paired.p_value,
    }  # fmt: skip


def load_split(manifest: Manifest, split: str, renders: Path) -> list[Image.Image]:
    return load_images(manifest, manifest.split(split), renders)


def targets_of(rows: list[LogoRow], labels: tuple[str, ...]) -> np.ndarray:
    """(N,) integers: the index of each row's label."""
    return np.array([labels.index(row.label) for row in rows])


def check_labels(subject: Subject, manifest: Manifest, split: str) -> None:
    """Raises DatasetError where the split is empty or has classes that the subject does not know."""
    labelled_rows(manifest, split, subject.labels, f"those of {subject.name}")


def _prediction_sets(subject: Subject, logits: dict[str, np.ndarray], manifest: Manifest, split: str) -> dict:
    """Split-conformal sets, thresholds from calib: coverage with the interval that both sizes imply, and mean size."""
    calib = manifest.split("calib")
    if not calib or "calib" not in logits:
        return {}
    held_out = softmax(logits["calib"], subject.temperature)
    probabilities, targets = (
        softmax(logits[split], subject.temperature),
        targets_of(manifest.split(split), subject.labels),
    )
    found = {}
    for level in LEVELS:
        threshold = conformal_threshold(held_out, targets_of(calib, subject.labels), level)
        sets = prediction_sets(probabilities, threshold)
        low, high = coverage_interval(len(calib), len(targets), level)
        found[f"{level:.2f}"] = {
            "threshold": threshold, "coverage": float(sets[np.arange(len(targets)), targets].mean()),
            "expected_low": low, "expected_high": high, "mean_size": float(sets.sum(1).mean()),
        }  # fmt: skip
    return found


def _by_package(rows: list[LogoRow], correct: np.ndarray) -> dict[str, dict]:
    packages = np.array([row.package for row in rows])
    return {
        package: {**vars(wilson_interval(int(correct[packages == package].sum()), int((packages == package).sum()))),
                  "count": int((packages == package).sum())}
        for package in sorted(set(packages))
    }  # fmt: skip


def _annotator_agreement(rows: list[LogoRow]) -> dict | None:
    """How often the first two annotators chose the same label: the ceiling of every accuracy."""
    pairs = [row.votes[:2] for row in rows if len(row.votes) >= 2]
    if not pairs:
        return None
    agreed: Figure = wilson_interval(sum(first == second for first, second in pairs), len(pairs))
    return {**vars(agreed), "count": len(pairs)}
