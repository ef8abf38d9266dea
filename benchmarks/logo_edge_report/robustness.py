"""A subject under changed conditions: sizes, backgrounds, JPEG, corruptions, images that are no logos, and attacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image

from logo_edge.decision import logo_score
from logo_edge.errors import RunError
from logo_edge.preprocess import InputContract, preprocess
from logo_edge_compress.calibrate import fit_familiarity
from logo_edge_report.attacks import ATTACKS, attack
from logo_edge_report.conditions import (
    Condition,
    background_conditions,
    corruptions,
    jpeg_conditions,
    size_conditions,
    thumbnail_conditions,
)
from logo_edge_report.statistics import auroc
from logo_edge_report.subjects import BATCH, Subject
from logo_edge_train.data.images import ImageFiles
from logo_edge_train.data.outliers import families_of, outlier_paths
from logo_edge_train.metrics import Figure, is_correct, wilson_interval
from logo_edge_train.recipe import CalibrateConfig

Say = Callable[[str], None]


class ChangedImages(Sequence):
    """Images under a condition, computed on access; the seed of an image is its index."""

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
    """For each subject, name of the condition -> accuracy with its Wilson interval, on the same images."""
    accuracies: list[dict] = [{} for _ in subjects]
    for name, condition in conditions.items():
        say(name)
        changed = ChangedImages(images, condition)
        for own, subject in zip(accuracies, subjects, strict=True):
            own[name] = vars(_share_of(subject.correct(changed, targets)))
    return accuracies


def evaluate_slices(
    subjects: list[Subject], images: Sequence[Image.Image], targets: np.ndarray, say: Say
) -> list[dict[str, dict]]:
    """For each subject: accuracy by delivered size, background, JPEG quality and on small JPEGs."""
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
    """For each subject: corruption -> severity -> accuracy, and under `mean` the mean over all at each severity."""
    by_subject: list[dict] = [{} for _ in subjects]
    for name, make in corruptions().items():
        conditions = {str(severity): make(severity) for severity in severities}
        figures = evaluate_conditions(subjects, images, targets, conditions, lambda s, name=name: say(f"{name} {s}"))
        for by_corruption, own in zip(by_subject, figures, strict=True):
            by_corruption[name] = own
    return [
        {
            "by_corruption": by_corruption,
            "mean": {
                str(severity): float(np.mean([own[str(severity)]["value"] for own in by_corruption.values()]))
                for severity in severities
            },
        }
        for by_corruption in by_subject
    ]


def evaluate_outliers(
    subjects: list[Subject], logits: list[dict[str, np.ndarray]], split: str, say: Say, count: int | None = None
) -> list[dict]:
    """For each subject, how well its logo score separates the logos of `split` from images of the held-out families.

    `logits`: each subject's of `split`, and of calib if there is one. An image is rejected as no logo below the
    bundle's threshold; the threshold of other subjects comes from calib. `count`: the maximum number of images of a
    family.
    """
    outside: list[dict] = [{} for _ in subjects]
    for family, paths in outlier_paths("held_out", count).items():
        say(family)
        for own, subject in zip(outside, subjects, strict=True):
            own[family] = subject.predict(ImageFiles(paths))
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
    """Compares the scores of logos, (N,), with those of other images, (M,) by held-out family; higher for logos.

    `answered`, (M,) bool by family: whether mode balanced gives a label. Below `threshold` an image is rejected. Near
    and far families are also pooled, under `auroc_together` and `answered_together`; `worst_far` is the far family with
    the lowest AUROC. AUROC: 0.5 is chance, 1 perfect.
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
    """For each subject, attack -> "radius/255" -> accuracy on images that attack `white_box`, a checkpoint.

    On the white box itself the attack is white-box; on any other subject it is transferred, and weaker. Raises RunError
    where a subject cannot read the attacked pixels.
    """
    for subject in subjects:
        if white_box.contract.details and subject.contract != white_box.contract:
            raise RunError(
                f"{subject.name} does not have the input of {white_box.name}, {white_box.contract.size_px} px with "
                "detail planes, which an attacked image cannot replace; expected a network with the same input"
            )
    pixels = np.stack([preprocess(image, white_box.contract) for image in images])
    accuracies: list[dict] = [{"from": white_box.name, "count": len(targets)} for _ in subjects]
    for name in ATTACKS:
        for radius in radii:
            attacked = []
            for batch in attack(name, white_box.network, pixels, targets, radius):
                attacked += list(batch)
                say(f"{name} {radius}/255: {len(attacked)} of {len(targets)}")
            for own, subject in zip(accuracies, subjects, strict=True):
                correct = _correct_pixels(subject, attacked, white_box.contract, targets)
                own.setdefault(name, {})[f"{radius}/255"] = vars(_share_of(correct))
    return accuracies


def _correct_pixels(
    subject: Subject, pixels: list[np.ndarray], contract: InputContract, targets: np.ndarray
) -> np.ndarray:
    """(N,) bool: as `Subject.correct`, of (S, S, C) uint8 pixels of the contract."""
    if subject.contract != contract:
        return subject.correct([Image.fromarray(image) for image in pixels], targets)
    batches = [np.stack(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
    logits = np.concatenate([subject.forward(batch) for batch in batches])
    return is_correct(subject.calibrated(logits), targets)


def _logo_threshold(subject: Subject, logits: dict[str, np.ndarray]) -> float:
    """The logo score below which an image is rejected; minus infinity where calib is too small to fit it."""
    fitted = subject.familiarity
    if fitted is None and "calib" in logits:
        fitted = fit_familiarity(logits["calib"], CalibrateConfig().false_positive_rate)
    return fitted.threshold if fitted else -np.inf


def _share_of(hits: np.ndarray) -> Figure:
    return wilson_interval(int(hits.sum()), len(hits))
