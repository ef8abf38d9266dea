"""Statistics of predictions beyond `logo_edge_train.metrics`: selection, prediction sets, detection, comparison.

Everything takes NumPy arrays: probabilities (B, K), targets (B,) integers, confidence (B,), correct (B,) bool.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import betabinom, binomtest
from sklearn.metrics import roc_auc_score

from logo_edge_train.metrics import Figure, bootstrap, equal_mass_bins, wilson_interval
from logo_edge_train.promises import conformal_rank


@dataclass(frozen=True)
class Paired:
    """Two subjects on the same images; `difference` is the accuracy of the second minus that of the first."""

    difference: Figure
    only_first_right: int
    only_second_right: int
    p_value: float


def precision(predicted: np.ndarray, targets: np.ndarray, label: int) -> Figure:
    """The precision of one label with its Wilson interval; NaN if it was never predicted."""
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
    """(coverage, risk), (B,) each: the error of the most confident share. Geifman and El-Yaniv 2017, arXiv:1705.08500.

    Equal confidences share their mean error, so their order does not matter.
    """
    _, level, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)  # the most confident first
    wrong = np.repeat(np.bincount(level, ~correct) / sizes, sizes)
    counts = np.arange(1, len(wrong) + 1)
    return counts / len(wrong), np.cumsum(wrong) / counts


def area_under_risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Mean risk over all coverages, 0 to 1; lower is better."""
    return float(risk_coverage(confidence, correct)[1].mean())


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """The probability that a value from `inside` is above one from `outside`, with ties counted half: 0 to 1."""
    labels = np.repeat([1, 0], [len(inside), len(outside)])
    return float(roc_auc_score(labels, np.concatenate([inside, outside])))


def prediction_sets(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """(B, K) bool: the labels of each set."""
    return probabilities >= threshold


def coverage_interval(calibrated: int, tested: int, level: float, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of the coverage measured on `tested` items, with the threshold of `calibrated` items.

    Beta-binomial: given n calibration items, coverage is Beta(k, n + 1 - k), k = ceil((n + 1) level) (Vovk 2012).
    """
    rank = min(conformal_rank(calibrated, level), calibrated)
    low, high = betabinom(tested, rank, calibrated + 1 - rank).interval(confidence)
    return float(low / tested), float(high / tested)


def controlled_interval(held: np.ndarray, calibrated: int, level: float) -> tuple[float, float]:
    """The range of the mean of `held`, (B,) shares, where a risk is controlled: its expectation is at least `level`.

    Its lower end allows two standard errors, of both samples; its upper end is 1, since more is no fault.
    """
    error = float(held.std() * (1 / len(held) + 1 / calibrated) ** 0.5)
    return max(0.0, level - 1.959964 * error), 1.0


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value of equal error rates. McNemar 1947, in the exact binomial form."""
    total = only_first + only_second
    return float(binomtest(only_first, total).pvalue) if total else 1.0


def compare_paired(first: np.ndarray, second: np.ndarray, *, rounds: int = 2000, seed: int = 0) -> Paired:
    """Compares two (B,) bool arrays of correct answers on the same images: paired bootstrap and McNemar's test."""
    gain = second.astype(float) - first.astype(float)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    difference = bootstrap(lambda drawn: float(drawn.mean()), gain, rounds=rounds, seed=seed)
    return Paired(difference, only_first, only_second, mcnemar_p_value(only_first, only_second))
