"""Figures of labelled images: on all, by icon set and by round of labelling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from logo_edge.names import printable
from logo_edge_train.data.manifest import LogoRow, targets_of
from logo_edge_train.metrics import is_correct, summarize, wilson_interval

PREFIX = "@iconify-json/"  # of every icon set's package; left out of the names shown
SLICES = {"by_round": "round ", "by_package": ""}  # prefix of each slice's name


def summarize_rows(logits: np.ndarray, rows: Sequence[LogoRow], labels: tuple[str, ...]) -> dict:
    """`metrics.summarize` of (N, K) calibrated logits, with the accuracy `by_package` and `by_round`."""
    targets, sure = targets_of(rows, labels), np.array([row.sure for row in rows], bool)
    correct = is_correct(logits, targets)
    return {
        **summarize(logits, targets, sure, 1.0, labels),
        "by_package": _accuracy_by([row.package for row in rows], correct, sure),
        "by_round": _accuracy_by([row.round for row in rows], correct, sure),
    }


def named_slices(figures: dict) -> dict[str, dict]:
    """The slices of `summarize_rows` by their shown names, rounds first; a kind with a single slice is left out."""
    named = {}
    for kind, prefix in SLICES.items():
        slices = figures.get(kind, {})  # bundles of earlier releases have none
        if len(slices) > 1:
            named |= {prefix + printable(name.removeprefix(PREFIX)): part for name, part in slices.items()}
    return named


def _accuracy_by(keys: Sequence, correct: np.ndarray, sure: np.ndarray) -> dict[str, dict]:
    """{key: accuracy on all and on sure images, and their numbers}, in the keys' order."""
    accuracies = {}
    for key in sorted(set(keys)):
        own = np.array([other == key for other in keys])
        accuracies[str(key)] = {
            "count": int(own.sum()),
            "count_sure": int((own & sure).sum()),
            "accuracy": vars(wilson_interval(int(correct[own].sum()), int(own.sum()))),
            "accuracy_sure": vars(wilson_interval(int(correct[own & sure].sum()), int((own & sure).sum()))),
        }
    return accuracies
