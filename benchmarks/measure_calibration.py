"""Does a packed calibration keep its promises? `python benchmarks/measure_calibration.py [NAME=BUNDLE ...]`.

Writes benchmarks/results/NAME_calibration.json: what was compared within calib, and, for reports only, coverage, modes
and familiarity on test, with the artifact's own logits of both splits, by which the tests check the bundle without its
pictures. Left out: the two committed bundles.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from logo_edge.bundle.calibration import Calibration
from logo_edge.bundle.record import DEFAULT_BUNDLE
from logo_edge.classifier import Classifier
from logo_edge.decision import calibrated_logits, is_answered, logo_score
from logo_edge.probabilities import softmax
from logo_edge_compress.calibrate import compare_methods
from logo_edge_report.statistics import auroc, coverage_interval
from logo_edge_report.subjects import load_subject
from logo_edge_train.data.icons import LABELS, fetch_logos, renders_folder
from logo_edge_train.data.images import ImageFiles
from logo_edge_train.data.manifest import read_manifest, targets_of
from logo_edge_train.data.outliers import families_of, outlier_paths
from logo_edge_train.metrics import wilson_interval
from logo_edge_train.runs import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BUNDLES = {"default": DEFAULT_BUNDLE, "robust": ROOT / "runtime" / "bundles" / "robust"}


def main() -> None:
    named = dict(argument.split("=", 1) for argument in sys.argv[1:])
    fetch_logos()
    for name, folder in (named or BUNDLES).items():
        write_json(RESULTS / f"{name}_calibration.json", measure(Path(folder)))
        print(f"wrote {RESULTS / f'{name}_calibration.json'}")


def measure(folder: Path) -> dict:
    """Every figure of one bundle's calibration on the project's own logos."""
    classifier, manifest = Classifier.load(folder), read_manifest(LABELS)
    bundle, labels = classifier.bundle, classifier.labels
    rows = {split: manifest.split(split) for split in ("calib", "test")}
    logits = {
        split: np.concatenate(
            [
                classifier.logits(classifier.read_pixels(manifest.image_path(row, renders_folder()))[None])
                for row in part
            ]
        )
        for split, part in rows.items()
    }
    targets = {split: targets_of(part, labels) for split, part in rows.items()}
    subject = load_subject(folder)
    outside = {family: subject.predict(ImageFiles(paths)) for family, paths in outlier_paths("held_out").items()}
    return {
        "bundle": bundle.name,
        "labels": list(labels),
        "model_sha256": bundle.files[bundle.model.file].sha256,
        "methods": [
            {name: value for name, value in vars(entry).items() if name != "held_out"}
            for entry in compare_methods(logits["calib"], targets["calib"])
        ],
        "scaling": bundle.calibration.scaling and bundle.calibration.scaling.method,
        "coverage": measure_coverage(bundle.calibration, logits["test"], targets, labels),
        "modes": measure_modes(bundle.calibration, logits, targets),
        "familiarity": measure_familiarity(bundle.calibration, logits["test"], outside),
        "logits": {
            split: [" ".join(f"{value:.6f}" for value in row) for row in part] for split, part in logits.items()
        },
    }


def measure_coverage(
    calibration: Calibration, logits: np.ndarray, targets: dict[str, np.ndarray], labels: tuple[str, ...]
) -> list[dict]:
    """Coverage of the packed sets on test, marginal and for each class, beside where 95 % of such measurements fall.

    logits: (N, K) of test, before temperature; targets: (N,) integers of calib and test.
    """
    probabilities = softmax(calibrated_logits(logits, calibration.temperature, calibration.scaling))
    own = probabilities[np.arange(len(logits)), targets["test"]]
    found = []
    for entry in calibration.conformal:
        groups: list = [("all", entry.threshold, slice(None))]
        groups += [(label, entry.by_class[label], k) for k, label in enumerate(labels)] if entry.by_class else []
        for name, threshold, k in groups:
            if threshold is None:
                continue
            calib, test = (
                targets[split] == k if name != "all" else np.ones(len(targets[split]), bool) for split in targets
            )
            low, high = coverage_interval(int(calib.sum()), int(test.sum()), entry.level)
            limits = threshold if name == "all" else np.array([entry.by_class[label] for label in labels])
            found.append(
                {
                    "level": entry.level,
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
    return found


def measure_modes(calibration: Calibration, logits: dict[str, np.ndarray], targets: dict[str, np.ndarray]) -> dict:
    """For each mode and split: the share answered and how many of the answers are right."""
    found: dict = {}
    for mode, threshold in calibration.abstain_below.items():
        found[mode.value] = {"threshold": threshold}
        for split, part in logits.items():
            probabilities = softmax(calibrated_logits(part, calibration.temperature, calibration.scaling))
            answered = is_answered(calibration, mode, probabilities.max(1), logo_score(part))
            right = probabilities.argmax(1) == targets[split]
            found[mode.value][split] = {
                "answered": vars(wilson_interval(int(answered.sum()), len(answered))),
                "accuracy": vars(wilson_interval(int(right[answered].sum()), int(answered.sum()))),
            }
    return found


def measure_familiarity(calibration: Calibration, logits: np.ndarray, outside: dict[str, np.ndarray]) -> dict:
    """How many logos of test and how many pictures of each family are taken for no logo; AUROC of the logo score."""
    threshold = calibration.familiarity.threshold
    return {
        **vars(calibration.familiarity),
        "near": [name for name, family in families_of("held_out").items() if family.near],
        "logos": vars(wilson_interval(int((logo_score(logits) < threshold).sum()), len(logits))),
        "families": {
            family: {
                "auroc": auroc(logo_score(logits), logo_score(part)),
                "unfamiliar": vars(wilson_interval(int((logo_score(part) < threshold).sum()), len(part))),
            }
            for family, part in outside.items()
        },
    }


if __name__ == "__main__":
    main()
