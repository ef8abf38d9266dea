"""What a report says of predictions beyond `logo_edge_train.metrics`: selection, prediction sets, detection, comparison.

Everything takes NumPy arrays: probabilities (B, K), targets (B,) integers, confidence (B,), correct (B,) bool.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from logo_edge_compress.calibrate import conformal_rank
from logo_edge_train.metrics import Figure, bootstrap, equal_mass_bins, wilson_interval


@dataclass(frozen=True)
class Paired:
    """Two subjects on the same logos: `difference` is accuracy of the second less that of the first."""

    difference: Figure
    only_first_right: int
    only_second_right: int
    p_value: float


def precision(predicted: np.ndarray, targets: np.ndarray, label: int) -> Figure:
    """The share of the predictions of one label that are right, with its Wilson interval; NaN where it was never predicted."""
    right = targets[predicted == label] == label
    return wilson_interval(int(right.sum()), len(right)) if len(right) else Figure(*[float("nan")] * 3)


def reliability_bins(confidence: np.ndarray, correct: np.ndarray, bins: int = 10) -> list[dict[str, float]]:
    """Equal-mass bins in order of confidence: their count, mean confidence and accuracy."""
    return [
        {
            "count": len(members),
            "confidence": float(confidence[members].mean()),
            "accuracy": float(correct[members].mean()),
        }
        for members in equal_mass_bins(confidence, min(bins, max(1, len(confidence) // 5)))
    ]


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(coverage, risk), (B,) each: the error among the most confident share. Geifman and El-Yaniv 2017, arXiv:1705.08500.

    Of equal confidences each is as wrong as all of them on the mean, so that their order does not count.
    """
    _, level, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)  # the most confident first
    wrong = np.repeat(np.bincount(level, ~correct) / sizes, sizes)
    counts = np.arange(1, len(wrong) + 1)
    return counts / len(wrong), np.cumsum(wrong) / counts


def area_under_risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Mean risk over all coverages, 0 to 1; lower is better."""
    return float(risk_coverage(confidence, correct)[1].mean())


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """The probability that a value drawn from `inside` is above one from `outside`, ties counted half: 0 to 1."""
    values = np.concatenate([inside, outside])
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[index]  # mean rank of each value, from 1
    total = ranks[: len(inside)].sum() - len(inside) * (len(inside) + 1) / 2
    return float(total / (len(inside) * len(outside)))


def prediction_sets(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """(B, K) bool: which labels are in each set."""
    return probabilities >= threshold


def coverage_interval(calibrated: int, tested: int, level: float, confidence: float = 0.95) -> tuple[float, float]:
    """Where the coverage measured on `tested` items falls with that probability, if `calibrated` set the threshold.

    Beta-binomial: given n calibration items, coverage is Beta(k, n + 1 - k), k = ceil((n + 1) level) (Vovk 2012).
    """
    rank = min(conformal_rank(calibrated, level), calibrated)
    first, second = rank, calibrated + 1 - rank
    hits = np.arange(tested + 1)
    log_mass = np.array(
        [
            math.lgamma(tested + 1)
            - math.lgamma(hit + 1)
            - math.lgamma(tested - hit + 1)
            + math.lgamma(hit + first)
            + math.lgamma(tested - hit + second)
            - math.lgamma(tested + first + second)
            + math.lgamma(first + second)
            - math.lgamma(first)
            - math.lgamma(second)
            for hit in hits
        ]
    )
    cumulated = np.cumsum(np.exp(log_mass))
    tail = (1 - confidence) / 2
    low, high = np.searchsorted(cumulated, tail), np.searchsorted(cumulated, 1 - tail)
    return float(low / tested), float(min(high, tested) / tested)


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value that both err equally often. McNemar 1947; the exact binomial form."""
    total, least = only_first + only_second, min(only_first, only_second)
    if total == 0:
        return 1.0
    tail = sum(math.comb(total, count) for count in range(least + 1)) / 2**total
    return min(1.0, 2 * tail)


def compare_paired(first: np.ndarray, second: np.ndarray, *, rounds: int = 2000, seed: int = 0) -> Paired:
    """Two (B,) bool arrays of who was right on the same logos: paired bootstrap interval and McNemar's test."""
    gain = second.astype(float) - first.astype(float)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    difference = bootstrap(lambda drawn: float(drawn.mean()), gain, rounds=rounds, seed=seed)
    return Paired(difference, only_first, only_second, mcnemar_p_value(only_first, only_second))
