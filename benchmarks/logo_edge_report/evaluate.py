"""One subject on one labelled split: every figure of a report, as plain numbers for JSON."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from logo_edge.decision import logo_score
from logo_edge.errors import RunError
from logo_edge.preprocess import InputContract, preprocess
from logo_edge.probabilities import softmax
from logo_edge_compress.calibrate import LEVELS, choose_method, compare_methods, conformal_threshold, fit_familiarity
from logo_edge_compress.figures import summarize_rows
from logo_edge_report.attacks import ATTACKS, attack
from logo_edge_report.conditions import (
    SEVERITIES,
    Condition,
    background_conditions,
    corruptions,
    jpeg_conditions,
    size_conditions,
    thumbnail_conditions,
)
from logo_edge_report.statistics import (
    area_under_risk_coverage,
    auroc,
    compare_paired,
    coverage_interval,
    precision,
    prediction_sets,
    reliability_bins,
    risk_coverage,
)
from logo_edge_report.subjects import BATCH, Subject
from logo_edge_train.data.images import ImageFiles
from logo_edge_train.data.manifest import LogoRow, Manifest, labelled_rows, targets_of
from logo_edge_train.data.outliers import families_of, outlier_paths
from logo_edge_train.metrics import Figure, bootstrap, wilson_interval
from logo_edge_train.recipe import CalibrateConfig

RADII = (1, 2, 4)
CONFIDENT = 0.9
HISTOGRAM = 20
Say = Callable[[str], None]


PARTS = ("slices", "corruptions", "outliers", "attacks")


def evaluate_subjects(
    subjects: list[Subject], manifest: Manifest, split: str, renders: Path, *, parts: Collection[str], say: Say
) -> dict:
    """Every figure of one or more subjects on one split; two are compared. `parts`: which of PARTS to add.

    Attacks are made on the sure logos, against the one checkpoint among the subjects. Raises DatasetError where the
    split does not fit a subject, RunError where attacks are asked for and not exactly one subject is a checkpoint.
    """
    for subject in subjects:
        check_labels(subject, manifest, split)
    white = [subject for subject in subjects if subject.network is not None]
    if "attacks" in parts and len(white) != 1:
        raise RunError(
            f"{len(white)} of the subjects are checkpoints; attacks are made against exactly one: name a .safetensors "
            "file of a run, and beside it the bundle that was made of it"
        )
    images = {name: load_split(manifest, name, renders) for name in sorted({split, "calib"})}
    rows = manifest.split(split)
    targets, sure = targets_of(rows, subjects[0].labels), [index for index, row in enumerate(rows) if row.sure]
    predicted = []
    for subject in subjects:
        say(f"logos to {subject.name}")
        predicted.append({name: subject.predict(part) for name, part in images.items() if part})
    entries: list[dict] = [
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
        for entry, figures in zip(entries, more[part](), strict=True):
            entry[part] = figures
    found: dict = {"split": split, "subjects": entries}
    if len(subjects) == 2:
        found["comparison"] = compare_subjects(
            (subjects[0], predicted[0][split]), (subjects[1], predicted[1][split]), targets
        )
    return found


def evaluate_predictions(subject: Subject, logits: dict[str, np.ndarray], manifest: Manifest, split: str) -> dict:
    """Figures that need no further picture: from the (N, K) logits of `split` and of calib, for prediction sets."""
    rows = manifest.split(split)
    targets = targets_of(rows, subject.labels)
    probabilities = softmax(subject.calibrated(logits[split]))
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    correct = predicted == targets
    shares = {
        name: {"true": float((targets == k).mean()), "predicted": float((predicted == k).mean())}
        for k, name in enumerate(subject.labels)
    }
    coverage, risk = risk_coverage(confidence, correct)
    kept = np.unique(np.linspace(0, len(coverage) - 1, 101).round().astype(int))
    confident, answered = confidence >= CONFIDENT, subject.answered(logits[split])
    return {
        **summarize_rows(subject.calibrated(logits[split]), rows, subject.labels),
        "precision": {name: vars(precision(predicted, targets, k)) for k, name in enumerate(subject.labels)},
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
        "annotator_agreement": _annotator_agreement(rows),
    }


class ChangedImages(Sequence):
    """Images under a condition, each made whenever it is asked for; the seed of each is its index."""

    def __init__(self, images: Sequence[Image.Image], condition: Condition):
        self.images, self.condition = images, condition

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Image.Image:
        return self.condition(self.images[index], index)


def evaluate_conditions(
    subjects: list[Subject],
    images: Sequence[Image.Image],
    targets: np.ndarray,
    conditions: dict[str, Condition],
    say: Say,
) -> list[dict[str, dict]]:
    """For each subject, name of the condition -> accuracy, with its Wilson interval. All see the same pictures."""
    found: list[dict] = [{} for _ in subjects]
    for name, condition in conditions.items():
        say(name)
        changed = ChangedImages(images, condition)
        for entry, subject in zip(found, subjects, strict=True):
            entry[name] = vars(_share_of(subject.guesses(changed) == targets))
    return found


def evaluate_slices(
    subjects: list[Subject], images: Sequence[Image.Image], targets: np.ndarray, say: Say
) -> list[dict[str, dict]]:
    """For each subject: accuracy by delivered size, background and JPEG quality, and of small JPEGs."""
    kinds = {
        "size": size_conditions(),
        "background": background_conditions(),
        "jpeg": jpeg_conditions(),
        "thumbnail": thumbnail_conditions(),
    }
    by_kind = [evaluate_conditions(subjects, images, targets, conditions, say) for conditions in kinds.values()]
    return [dict(zip(kinds, figures, strict=True)) for figures in zip(*by_kind, strict=True)]


def evaluate_corruptions(
    subjects: list[Subject], images: Sequence[Image.Image], targets: np.ndarray, severities: tuple[int, ...], say: Say
) -> list[dict[str, dict]]:
    """For each subject: name -> severity -> accuracy, and the mean over all names at each severity under `mean`."""
    found: list[dict] = [{} for _ in subjects]
    for name, make in corruptions().items():
        conditions = {str(severity): make(severity) for severity in severities}
        figures = evaluate_conditions(subjects, images, targets, conditions, lambda s, name=name: say(f"{name} {s}"))
        for entry, own in zip(found, figures, strict=True):
            entry[name] = own
    return [
        {
            "by_corruption": entry,
            "mean": {
                str(severity): float(np.mean([own[str(severity)]["value"] for own in entry.values()]))
                for severity in severities
            },
        }
        for entry in found
    ]


def evaluate_outliers(
    subjects: list[Subject], logits: list[dict[str, np.ndarray]], split: str, say: Say, count: int | None = None
) -> list[dict]:
    """For each subject, how its logo score distinguishes the logos of `split` from pictures of the held-out families.

    `logits`: each subject's of `split`, and of calib if there is one. A picture is called no logo below the threshold that
    the bundle carries; those of other subjects come from calib. `count`: at most so many pictures of a family.
    """
    outside: list[dict] = [{} for _ in subjects]
    for family, paths in outlier_paths("held_out", count).items():
        say(family)
        for entry, subject in zip(outside, subjects, strict=True):
            entry[family] = subject.predict(ImageFiles(paths))
    return [
        compare_with_outliers(
            logo_score(own[split]),
            {family: logo_score(part) for family, part in others.items()},
            _logo_threshold(subject, own),
            {family: subject.answered(part) for family, part in others.items()},
        )
        for subject, own, others in zip(subjects, logits, outside, strict=True)
    ]


def compare_with_outliers(
    scores: np.ndarray, outside: Mapping[str, np.ndarray], threshold: float, answered: Mapping[str, np.ndarray]
) -> dict:
    """The scores of logos, (N,), against those of other pictures, (M,) by held-out family: higher for logos.

    `answered`, (M,) bool by family: whether mode balanced gives a label. Below `threshold` a picture is called no logo.
    Near and far families are also taken together, under `auroc_together` and `answered_together`; `worst_far` is the far
    family of the least AUROC. AUROC: 0.5 is chance, 1 perfect.
    """
    families = families_of("held_out")
    areas = {family: auroc(scores, part) for family, part in outside.items()}
    groups = {
        kind: [family for family in outside if families[family].near == (kind == "near")] for kind in ("far", "near")
    }
    together = {kind: names for kind, names in groups.items() if names}
    return {
        "auroc": areas,
        "answered": {family: vars(_share_of(hits)) for family, hits in answered.items()},
        "rejected": {family: vars(_share_of(part < threshold)) for family, part in outside.items()},
        "logos": len(scores),
        "logos_rejected": vars(_share_of(scores < threshold)),
        "auroc_together": {
            kind: auroc(scores, np.concatenate([outside[name] for name in names])) for kind, names in together.items()
        },
        "answered_together": {
            kind: vars(_share_of(np.concatenate([answered[name] for name in names])))
            for kind, names in together.items()
        },
        "worst_far": min(groups["far"], key=areas.__getitem__, default=None),
        "near": groups["near"],
        "threshold": threshold,
        "count": {family: len(part) for family, part in outside.items()},
    }


def evaluate_attacks(
    subjects: list[Subject],
    white_box: Subject,
    images: Sequence[Image.Image],
    targets: np.ndarray,
    radii: tuple[int, ...],
    say: Say,
) -> list[dict]:
    """For each subject, attack -> "radius/255" -> accuracy on pictures that attack `white_box`, a checkpoint.

    `images` and `targets`: those to attack. For the white box itself the attack is white-box; for any other subject it
    is transferred, and weaker than one on itself. Raises RunError where a subject cannot see the attacked pixels.
    """
    for subject in subjects:
        if white_box.contract.details and subject.contract != white_box.contract:
            raise RunError(
                f"{subject.name} does not read what {white_box.name} reads, {white_box.contract.size_px} px with detail "
                "planes, of which an attacked picture is no image; expected one network that reads the same"
            )
    pixels = np.stack([preprocess(image, white_box.contract) for image in images])
    found: list[dict] = [{"from": white_box.name, "count": len(targets)} for _ in subjects]
    for name in ATTACKS:
        for radius in radii:
            attacked = []
            for batch in attack(name, white_box.network, pixels, targets, radius):
                attacked += list(batch)
                say(f"{name} {radius}/255: {len(attacked)} of {len(targets)}")
            for entry, subject in zip(found, subjects, strict=True):
                correct = _guess_pixels(subject, attacked, white_box.contract) == targets
                entry.setdefault(name, {})[f"{radius}/255"] = vars(_share_of(correct))
    return found


def _guess_pixels(subject: Subject, pixels: list[np.ndarray], contract: InputContract) -> np.ndarray:
    """(N,) integers: the likeliest labels of (S, S, C) uint8 pixels as the contract has them."""
    if subject.contract != contract:
        return subject.guesses([Image.fromarray(one) for one in pixels])
    batches = [np.stack(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
    return subject.calibrated(np.concatenate([subject.forward(batch) for batch in batches])).argmax(1)


def compare_subjects(
    first: tuple[Subject, np.ndarray], second: tuple[Subject, np.ndarray], targets: np.ndarray
) -> dict:
    """McNemar's test and the paired bootstrap of two subjects' (N, K) logits on the same logos."""
    paired = compare_paired(*(subject.calibrated(logits).argmax(1) == targets for subject, logits in (first, second)))
    return {
        "first": first[0].name,
        "second": second[0].name,
        "difference": vars(paired.difference),
        "only_first_right": paired.only_first_right,
        "only_second_right": paired.only_second_right,
        "mcnemar_p_value": paired.p_value,
    }


def load_split(manifest: Manifest, split: str, renders: Path) -> ImageFiles:
    """The images of a split, decoded whenever they are asked for. Raises DatasetError where one is missing."""
    return ImageFiles(manifest.image_paths(manifest.split(split), renders))


def check_labels(subject: Subject, manifest: Manifest, split: str) -> None:
    """Raises DatasetError where the split is empty or has classes that the subject does not know."""
    labelled_rows(manifest, split, subject.labels, f"those of {subject.name}")


def _logo_threshold(subject: Subject, logits: dict[str, np.ndarray]) -> float:
    """The logo score below which a picture is called no logo; that of no picture where calib is too small to tell."""
    fitted = subject.familiarity
    if fitted is None and "calib" in logits:
        fitted = fit_familiarity(logits["calib"], CalibrateConfig().false_positive_rate)
    return fitted.threshold if fitted else -np.inf


def _prediction_sets(subject: Subject, logits: dict[str, np.ndarray], manifest: Manifest, split: str) -> dict:
    """Split-conformal sets: coverage with the interval that both sizes imply, and mean size.

    A bundle's thresholds are those that it carries; of other subjects they come from calib.
    """
    calib = manifest.split("calib")
    if not calib or "calib" not in logits:
        return {}
    thresholds = {entry.level: entry.threshold for entry in subject.conformal}
    if not thresholds:
        calib_targets = targets_of(calib, subject.labels)
        held_out = _held_out_probabilities(subject, logits["calib"], calib_targets)
        thresholds = {level: conformal_threshold(held_out, calib_targets, level) for level in LEVELS}
    probabilities, targets = (
        softmax(subject.calibrated(logits[split])),
        targets_of(manifest.split(split), subject.labels),
    )
    found = {}
    for level, threshold in thresholds.items():
        sets = prediction_sets(probabilities, threshold or 0.0)  # without a threshold all labels join
        low, high = coverage_interval(len(calib), len(targets), level)
        found[f"{level:.2f}"] = {
            "threshold": threshold,
            "coverage": float(sets[np.arange(len(targets)), targets].mean()),
            "expected_low": low,
            "expected_high": high,
            "mean_size": float(sets.sum(1).mean()),
        }
    return found


def _held_out_probabilities(subject: Subject, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N, K) of the logos of calib, each from a fit that has not seen it, where the subject was calibrated on them."""
    if subject.scaling is None and subject.temperature == 1.0:
        return softmax(logits)
    candidates = compare_methods(logits, targets)
    return (choose_method(candidates) if subject.scaling else candidates[0]).held_out


def _share_of(hits: np.ndarray) -> Figure:
    return wilson_interval(int(hits.sum()), len(hits))


def _annotator_agreement(rows: list[LogoRow]) -> dict | None:
    """How often the first two annotators chose the same label: the ceiling of every accuracy."""
    pairs = [row.votes[:2] for row in rows if len(row.votes) >= 2]
    if not pairs:
        return None
    agreed: Figure = wilson_interval(sum(first == second for first, second in pairs), len(pairs))
    return {**vars(agreed), "count": len(pairs)}
