"""What a manifest has too few images for, and what to do; said before hours of training."""

from __future__ import annotations

import math
from collections import Counter

from logo_edge_train.data.manifest import Manifest
from logo_edge_train.promises import LEAST_PER_CLASS, LEVELS, least_answers, least_count
from logo_edge_train.recipe import CalibrateConfig

IMBALANCED = 3  # times as many images of one class as of another
WIDE_POINTS = 5  # half of a 95 % interval that is reported
LIKELY_ACCURACY = 0.9  # at which the interval is computed


def describe_limits(manifest: Manifest, config: CalibrateConfig) -> list[str]:
    """Sentences about imbalance, imprecise figures and promises that too few images rule out; [] if all is enough."""
    sizes = {
        split: Counter(label for row in manifest.split(split) for label in row.every_label)
        for split in ("train", "val", "calib", "test")
    }
    lines, classes = [], manifest.classes
    if not classes:
        return lines
    by_size = sorted(classes, key=sizes["train"].__getitem__)
    few, many = (sizes["train"][name] for name in (by_size[0], by_size[-1]))
    if many >= IMBALANCED * few:
        remedy = (
            "Each label has a threshold of its own"
            if manifest.multi_label
            else "Recipes weight the loss of rare classes (train.fit.class_weight_power); --set "
            "train.fit.balanced_batches=true shows all classes equally often"
        )
        lines.append(
            f"imbalanced: train has {many} images of {by_size[-1]!r} and {few} of {by_size[0]!r}. {remedy}; more "
            "images of rare classes help most"
        )
    for split, use in {"val": "by which networks are chosen", "test": "which reports give"}.items():
        count = len(manifest.split(split))
        points = 196 * math.sqrt(LIKELY_ACCURACY * (1 - LIKELY_ACCURACY) / count) if count else 100
        if points > WIDE_POINTS:
            lines.append(
                f"{split} has {count} images: its accuracy, {use}, is known to about {points:.0f} points (95 % "
                f"interval); {math.ceil((196 / WIDE_POINTS) ** 2 * LIKELY_ACCURACY * (1 - LIKELY_ACCURACY))} images "
                f"give {WIDE_POINTS}"
            )
    calib = len(manifest.split("calib"))
    for mode, risk in {"balanced": config.target_risk, "strict": config.strict_risk}.items():
        if calib < (least := least_answers(risk)):
            lines.append(f"calib has {calib} images: mode {mode} promises a risk of {risk:.0%} from {least} on")
    rarest = min(classes, key=sizes["calib"].__getitem__)
    size = sizes["calib"][rarest]
    if refused := [f"{level:.0%} from {least_count(level)} on" for level in LEVELS if size < least_count(level)]:
        lines.append(
            f"calib has {size} images of {rarest!r}: prediction sets by class are promised at {', '.join(refused)}"
        )
    if size < LEAST_PER_CLASS:
        lines.append(
            f"calib has {size} images of {rarest!r}: confidence is calibrated by one temperature; by class from "
            f"{LEAST_PER_CLASS} of each class on"
        )
    if len(lines) > (many >= IMBALANCED * few):
        lines.append("more images, of which each of val, calib and test takes a tenth, remove these limits")
    return lines
