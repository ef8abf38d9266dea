"""Coverage, modes and familiarity of a packed calibration: `python -m logo_edge_bench.experiments calibration`.

Writes benchmarks/results/NAME_calibration.json for each bundle: the methods compared within calib, and, for reports
only, coverage, modes and familiarity on test. It also holds the artifact's logits of both splits, with which tests
check the bundle without images. Default: the two committed bundles.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np

from logo_edge.bundle.calibration import Calibration
from logo_edge.bundle.record import read_bundle
from logo_edge.classifier import Classifier
from logo_edge.decision import calibrated_logits, given_labels, logo_score
from logo_edge.probabilities import softmax
from logo_edge_bench.experiments.record import BUNDLES, read_logos, result_path, write_record
from logo_edge_compress.calibrate import compare_methods
from logo_edge_report.statistics import auroc, coverage_interval
from logo_edge_report.subjects import load_subject
from logo_edge_train.data.images import ImageFiles
from logo_edge_train.data.manifest import targets_of
from logo_edge_train.data.outliers import families_of, outlier_paths
from logo_edge_train.metrics import wilson_interval


def measure(
    bundles: Annotated[Sequence[str], {"metavar": "NAME=BUNDLE", "help": "default: the committed ones"}] = (),
) -> None:
    for name, folder in (dict(text.split("=", 1) for text in bundles) or BUNDLES).items():
        path = result_path(f"{name}_calibration")
        write_record(path, measure_bundle(Path(folder)), [read_bundle(folder)])
        print(f"wrote {path}")


def measure_bundle(folder: Path) -> dict:
    """The figures of one bundle's calibration on the project's logos."""
    classifier, manifest = Classifier.load(folder), read_logos()
    bundle, labels = classifier.bundle, classifier.labels
    rows = {split: manifest.split(split) for split in ("calib", "test")}
    paths = {split: manifest.image_paths(part) for split, part in rows.items()}
    logits = {
        split: np.concatenate([classifier.logits(classifier.read_pixels(path)[None]) for path in part])
        for split, part in paths.items()
    }
    targets = {split: targets_of(part, labels) for split, part in rows.items()}
    subject = load_subject(folder)
    outside = {family: subject.predict(ImageFiles(paths)) for family, paths in outlier_paths("held_out").items()}
    return {
        "bundle": bundle.name,
        "labels": list(labels),
        "methods": [
            {name: value for name, value in vars(method).items() if name != "held_out"}
            for method in compare_methods(logits["calib"], targets["calib"])
        ],
        "scaling": bundle.calibration.scaling and bundle.calibration.scaling.method,
        "coverage": measure_coverage(bundle.calibration, logits["test"], targets, labels),
        "modes": measure_modes(bundle.calibration, logits, targets),
        "familiarity": measure_familiarity(bundle.calibration, logits["test"], targets["test"], labels, outside),
        "logits": {
            split: [" ".join(f"{value:.6f}" for value in row) for row in part] for split, part in logits.items()
        },
    }


def measure_coverage(
    calibration: Calibration, logits: np.ndarray, targets: dict[str, np.ndarray], labels: tuple[str, ...]
) -> list[dict]:
    """Coverage of the packed sets on test, marginal and by class, with the range of 95 % of such measurements.

    logits: (N, K) of test, before temperature; targets: (N,) integers of calib and test.
    """
    probabilities = softmax(calibrated_logits(logits, calibration.temperature, calibration.scaling))
    own = probabilities[np.arange(len(logits)), targets["test"]]
    sets = []
    for packed in calibration.conformal:
        groups: list = [("all", packed.threshold, slice(None))]
        groups += [(label, packed.by_class[label], k) for k, label in enumerate(labels)] if packed.by_class else []
        for name, threshold, k in groups:
            if threshold is None:
                continue
            calib, test = (
                targets[split] == k if name != "all" else np.ones(len(targets[split]), bool) for split in targets
            )
            low, high = coverage_interval(int(calib.sum()), int(test.sum()), packed.level)
            limits = threshold if name == "all" else np.array([packed.by_class[label] for label in labels])
            sets.append(
                {
                    "level": packed.level,
                    "of": name,
                    "threshold": threshold,
                    "calib": int(calib.sum()),
                    "test": int(test.sum()),
                    "coverage": float((own[test] >= threshold).mean()),
                    "expected_low": low,
                    "expected_high": high,
                    "mean_size": float((probabilities[test] >= limits).sum(1).mean()),
                }
            )
    return sets


def measure_modes(calibration: Calibration, logits: dict[str, np.ndarray], targets: dict[str, np.ndarray]) -> dict:
    """For each mode and split: the answered share, and the accuracy of the answers."""
    figures: dict = {}
    for mode, threshold in calibration.abstain_below.items():
        figures[mode.value] = {"threshold": threshold}
        for split, part in logits.items():
            probabilities = softmax(calibrated_logits(part, calibration.temperature, calibration.scaling))
            answered = given_labels(calibration, mode, probabilities, logo_score(part)).any(1)
            right = probabilities.argmax(1) == targets[split]
            figures[mode.value][split] = {
                "answered": vars(wilson_interval(int(answered.sum()), len(answered))),
                "accuracy": vars(wilson_interval(int(right[answered].sum()), int(answered.sum()))),
            }
    return figures


def measure_familiarity(
    calibration: Calibration,
    logits: np.ndarray,
    targets: np.ndarray,
    labels: tuple[str, ...],
    outside: dict[str, np.ndarray],
) -> dict:
    """The rejected shares of test logos, of all and by class, and of each family's images; AUROC of the logo score.

    logits: (N, K) and targets: (N,) of test; outside: the (N, K) logits of each family.
    """

    def rejected(part: np.ndarray) -> dict:
        below = logo_score(part) < calibration.familiarity.threshold
        return vars(wilson_interval(int(below.sum()), len(part)))

    return {
        **vars(calibration.familiarity),
        "near": [name for name, family in families_of("held_out").items() if family.near],
        "logos": rejected(logits),
        "classes": {label: rejected(logits[targets == k]) for k, label in enumerate(labels)},
        "families": {
            family: {"auroc": auroc(logo_score(logits), logo_score(part)), "unfamiliar": rejected(part)}
            for family, part in outside.items()
        },
    }
