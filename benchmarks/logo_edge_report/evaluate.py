"""The figures of subjects on one labelled split, as plain numbers for JSON."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from logo_edge.errors import RunError
from logo_edge_compress.calibrate import choose_method, compare_methods, conformal_threshold, risk_controlled_threshold
from logo_edge_compress.figures import summarize_rows
from logo_edge_report.conditions import SEVERITIES
from logo_edge_report.robustness import Say, evaluate_attacks, evaluate_corruptions, evaluate_outliers, evaluate_slices
from logo_edge_report.statistics import (
    area_under_risk_coverage,
    compare_paired,
    controlled_interval,
    coverage_interval,
    precision,
    prediction_sets,
    reliability_bins,
    risk_coverage,
)
from logo_edge_report.subjects import Subject
from logo_edge_train.data.images import ImageFiles
from logo_edge_train.data.manifest import LogoRow, Manifest, labelled_rows, targets_of
from logo_edge_train.metrics import Figure, bootstrap, is_correct, outcomes_of, probabilities_of, wilson_interval
from logo_edge_train.promises import LEVELS
from logo_edge_train.provenance import provenance

RADII = (1, 2, 4)
CONFIDENT = 0.9
HISTOGRAM = 20
PARTS = ("slices", "corruptions", "outliers", "attacks")


def evaluate_subjects(
    subjects: list[Subject], manifest: Manifest, split: str, *, parts: Collection[str], say: Say
) -> dict:
    """The figures of one or more subjects on one split; two are compared. `parts`: those of PARTS to add.

    Attacks change the sure images, against the one checkpoint among the subjects. Raises DatasetError where the split
    does not fit a subject, RunError for attacks without exactly one checkpoint.
    """
    for subject in subjects:
        check_labels(subject, manifest, split)
    white = [subject for subject in subjects if subject.network is not None]
    if "attacks" in parts and len(white) != 1:
        raise RunError(
            f"{len(white)} of the subjects are checkpoints; attacks need exactly one: name a .safetensors file of a "
            "run, and with it the bundle made from it"
        )
    images = {name: load_split(manifest, name) for name in sorted({split, "calib"})}
    rows = manifest.split(split)
    targets, sure = targets_of(rows, subjects[0].labels), [index for index, row in enumerate(rows) if row.sure]
    predicted = []
    for subject in subjects:
        say(f"predictions of {subject.name}")
        predicted.append({name: subject.predict(part) for name, part in images.items() if part})
    figures_by_subject: list[dict] = [
        {
            "name": subject.name,
            "kind": subject.kind,
            "size_bytes": subject.size_bytes,
            **evaluate_predictions(subject, logits, manifest, split),
        }
        for subject, logits in zip(subjects, predicted, strict=True)
    ]
    more: dict[str, Callable[[], list[dict]]] = {
        "slices": lambda: evaluate_slices(subjects, images[split], targets, say),
        "corruptions": lambda: evaluate_corruptions(subjects, images[split], targets, SEVERITIES, say),
        "outliers": lambda: evaluate_outliers(subjects, predicted, split, say),
        "attacks": lambda: evaluate_attacks(
            subjects, white[0], ImageFiles([images[split].paths[index] for index in sure]), targets[sure], RADII, say
        ),
    }
    for part in (part for part in PARTS if part in parts):
        for own, figures in zip(figures_by_subject, more[part](), strict=True):
            own[part] = figures
    origin = provenance(subject.bundle for subject in subjects if subject.bundle)
    evaluation: dict = {"provenance": origin, "split": split, "subjects": figures_by_subject}
    if len(subjects) == 2:
        evaluation["comparison"] = compare_subjects(
            (subjects[0], predicted[0][split]), (subjects[1], predicted[1][split]), targets
        )
    return evaluation


def evaluate_predictions(subject: Subject, logits: dict[str, np.ndarray], manifest: Manifest, split: str) -> dict:
    """Figures from the (N, K) logits of `split`, and of calib for prediction sets.

    Multi-label, an image is right in the figures of selection if it has the most probable label; `answered` has the
    share of images that get a label, and the share of these labels that is right.
    """
    rows = manifest.split(split)
    targets = targets_of(rows, subject.labels)
    true = targets if subject.multi_label else np.eye(len(subject.labels), dtype=int)[targets]  # (N, K)
    probabilities = probabilities_of(subject.calibrated(logits[split]), targets)
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    correct = true[np.arange(len(true)), predicted] == 1
    found = probabilities > 0.5 if subject.multi_label else np.eye(len(subject.labels))[predicted]
    shares = {
        name: {"true": float(true[:, k].mean()), "predicted": float(found[:, k].mean())}
        for k, name in enumerate(subject.labels)
    }
    summary = summarize_rows(subject.calibrated(logits[split]), rows, subject.labels)
    if not subject.multi_label:
        summary["precision"] = {name: vars(precision(predicted, targets, k)) for k, name in enumerate(subject.labels)}
    coverage, risk = risk_coverage(confidence, correct)
    kept = np.unique(np.linspace(0, len(coverage) - 1, 101).round().astype(int))
    confident, given = confidence >= CONFIDENT, subject.given(logits[split])
    return {
        **summary,
        "class_shares": shares,
        "confidence_histogram": np.histogram(confidence, HISTOGRAM, (0, 1))[0].tolist(),
        "reliability": reliability_bins(*outcomes_of(probabilities, targets)),
        "confident": {
            "share": float(confident.mean()),
            "accuracy": vars(wilson_interval(int(correct[confident].sum()), int(confident.sum()))),
        },
        "answered": {
            "share": float(given.any(1).mean()),
            "accuracy": vars(wilson_interval(int((given & (true == 1)).sum()), int(given.sum()))),
        },
        "risk_coverage": {"coverage": coverage[kept].tolist(), "risk": risk[kept].tolist()},
        "area_under_risk_coverage": vars(bootstrap(area_under_risk_coverage, confidence, correct)),
        "prediction_sets": _prediction_sets(subject, logits, manifest, split),
        "annotator_agreement": _annotator_agreement(rows),
    }


def compare_subjects(
    first: tuple[Subject, np.ndarray], second: tuple[Subject, np.ndarray], targets: np.ndarray
) -> dict:
    """McNemar's test and the paired bootstrap of two subjects' (N, K) logits on the same images."""
    paired = compare_paired(*(is_correct(subject.calibrated(logits), targets) for subject, logits in (first, second)))
    return {
        "first": first[0].name,
        "second": second[0].name,
        "difference": vars(paired.difference),
        "only_first_right": paired.only_first_right,
        "only_second_right": paired.only_second_right,
        "mcnemar_p_value": paired.p_value,
    }


def load_split(manifest: Manifest, split: str) -> ImageFiles:
    """The images of a split, decoded on access. Raises DatasetError where one is missing."""
    return ImageFiles(manifest.image_paths(manifest.split(split)))


def check_labels(subject: Subject, manifest: Manifest, split: str) -> None:
    """Raises DatasetError where the split is empty or has classes that the subject lacks."""
    labelled_rows(manifest, split, subject.labels, f"those of {subject.name}", multi_label=subject.multi_label)


def _prediction_sets(subject: Subject, logits: dict[str, np.ndarray], manifest: Manifest, split: str) -> dict:
    """Split-conformal sets: coverage with its interval for both sample sizes, and mean size.

    Thresholds come from the bundle, or from calib for other subjects. Multi-label, the coverage is the mean share of an
    image's labels that its set holds, and the risk is controlled in one direction only.
    """
    calib = manifest.split("calib")
    if not calib or "calib" not in logits:
        return {}
    thresholds = {packed.level: packed.threshold for packed in subject.conformal}
    if not thresholds:
        calib_targets = targets_of(calib, subject.labels)
        held_out = _held_out_probabilities(subject, logits["calib"], calib_targets)
        fit_threshold = risk_controlled_threshold if subject.multi_label else conformal_threshold
        thresholds = {level: fit_threshold(held_out, calib_targets, level) for level in LEVELS}
    targets = targets_of(manifest.split(split), subject.labels)
    probabilities = probabilities_of(subject.calibrated(logits[split]), targets)
    by_level = {}
    for level, threshold in thresholds.items():
        sets = prediction_sets(probabilities, threshold or 0.0)  # without a threshold all labels join
        if subject.multi_label:
            held = 1 - (targets * ~sets).sum(1) / np.maximum(targets.sum(1), 1)  # (N,)
            low, high = controlled_interval(held, len(calib), level)
        else:
            held = sets[np.arange(len(targets)), targets]
            low, high = coverage_interval(len(calib), len(targets), level)
        by_level[f"{level:.2f}"] = {
            "threshold": threshold,
            "coverage": float(held.mean()),
            "expected_low": low,
            "expected_high": high,
            "mean_size": float(sets.sum(1).mean()),
        }
    return by_level


def _held_out_probabilities(subject: Subject, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N, K) probabilities of calib's images, cross-validated if the subject was calibrated on them."""
    if subject.scaling is None and subject.temperature == 1.0:
        return probabilities_of(logits, targets)
    candidates = compare_methods(logits, targets)
    return (choose_method(candidates) if subject.scaling else candidates[0]).held_out


def _annotator_agreement(rows: list[LogoRow]) -> dict | None:
    """The agreement of the first two annotators, which limits every accuracy."""
    pairs = [row.votes[:2] for row in rows if len(row.votes) >= 2]
    if not pairs:
        return None
    agreed: Figure = wilson_interval(sum(first == second for first, second in pairs), len(pairs))
    return {**vars(agreed), "count": len(pairs)}
