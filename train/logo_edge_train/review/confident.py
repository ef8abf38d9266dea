"""Confident learning: finds probably wrong labels by out-of-fold probabilities.

Northcutt et al. 2021, arXiv:1911.00068. The package cleanlab does this and more, but needs pandas, tqdm and termcolor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelErrors:
    """`joint`, (K, K): the estimated number of the N rows with label i that belong to class j; it sums to N.

    `suspects`: rows whose label is probably wrong, the worst first. `margins`, (N,): the probability of the most likely
    other class minus that of the label, -1 to 1.
    """

    joint: np.ndarray
    suspects: np.ndarray
    margins: np.ndarray


def find_label_errors(probabilities: np.ndarray, targets: np.ndarray) -> LabelErrors:
    """The label errors among N rows, given (N, K) out-of-fold probabilities and (N,) indices of labels.

    A row counts for the most likely class among those whose probability reaches the mean over the rows with that label.
    `joint` holds these counts, scaled to the sizes of the classes. A row is suspect if it counts for another class than
    its label, or is among the `joint` rows of a pair of classes with the largest margins; never if its label is the
    most likely class. Every class needs a row.
    """
    count, classes = probabilities.shape
    thresholds = np.array([probabilities[targets == k, k].mean() for k in range(classes)])
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    confident, counted = reached.argmax(1), reached.max(1) >= 0
    confused = np.zeros((classes, classes))
    np.add.at(confused, (targets[counted], confident[counted]), 1)
    confused[np.diag_indices(classes)] += confused.sum(1) == 0  # for a class whose rows reach no threshold
    sizes = np.bincount(targets, minlength=classes)
    joint = confused / confused.sum(1, keepdims=True) * sizes[:, None]
    lead = probabilities - probabilities[np.arange(count), targets, None]  # (N, K) of each class over the label
    suspect = counted & (confident != targets)
    for i, j in zip(*np.nonzero(np.rint(joint * (1 - np.eye(classes)))), strict=True):
        own = np.flatnonzero(targets == i)
        suspect[own[np.argsort(-lead[own, j], kind="stable")[: round(joint[i, j])]]] = True
    margins = np.where(np.eye(classes, dtype=bool)[targets], -1.0, lead).max(1)
    suspects = np.flatnonzero(suspect & (margins > 0))
    return LabelErrors(joint, suspects[np.argsort(-margins[suspects], kind="stable")], margins)


def choose_diverse(worth: np.ndarray, features: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` indices by (N,) non-negative worths, the best first, with diverse (N, F) features.

    The next index has the greatest product of its worth and its distance to the nearest chosen one: 1 minus the cosine
    of standardised features, at most 1. Worth and diversity together as in Ash et al. 2020, arXiv:1906.03671.
    """
    scaled = (features - features.mean(0)) / np.maximum(features.std(0), 1e-6)
    scaled /= np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-6)
    distance, chosen = np.ones(len(worth)), []
    open_ = np.ones(len(worth), bool)
    for _ in range(min(count, len(worth))):
        best = int(np.where(open_, worth * distance, -1.0).argmax())
        chosen.append(best)
        open_[best] = False
        distance = np.minimum(distance, np.maximum(1 - scaled @ scaled[best], 0.0))
    return np.array(chosen, int)
