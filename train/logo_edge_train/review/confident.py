"""Confident learning: which labels are probably wrong, by out-of-fold probabilities (Northcutt et al. 2021, arXiv:1911.00068).

The package cleanlab does the same and more, and brings pandas, tqdm and termcolor along.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelErrors:
    """`joint`, (K, K): how many of the N labels of class i are estimated to belong to class j; it sums to N.

    `suspects` are the rows whose label is probably wrong, the worst first. `margins`, (N,): the lead of the likeliest
    other class over the label, -1 to 1.
    """

    joint: np.ndarray
    suspects: np.ndarray
    margins: np.ndarray


def find_label_errors(probabilities: np.ndarray, targets: np.ndarray) -> LabelErrors:
    """The label errors among N rows: (N, K) probabilities by models that have not seen the row, (N,) indices of labels.

    A row counts for the likeliest of the classes whose probability reaches the mean that rows of that label have; `joint`
    is these counts, scaled to those of the labels. Suspect are the rows that count for another class than their label,
    and of each pair of classes as many as `joint` has, by the lead of the other class; never one whose label is the
    likeliest class. Every class has at least one row.
    """
    count, classes = probabilities.shape
    thresholds = np.array([probabilities[targets == k, k].mean() for k in range(classes)])
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    confident, counted = reached.argmax(1), reached.max(1) >= 0
    confused = np.zeros((classes, classes))
    np.add.at(confused, (targets[counted], confident[counted]), 1)
    confused[np.diag_indices(classes)] += confused.sum(1) == 0  # of a class whose rows reach no threshold
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
    """Up to `count` indices of (N,) non-negative worths, the best first, no two of which look alike in (N, F) features.

    Each next one has the greatest product of its worth and its distance from the nearest that is chosen already: 1 less
    the cosine of standardised features, at most 1. Worth and spread together as in Ash et al. 2020, arXiv:1906.03671.
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
