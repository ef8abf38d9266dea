"""Accuracy and calibration of a set of predictions, with 95 % intervals; NumPy only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BINS = 15
LOG_TEMPERATURE = (-3.0, 3.0)  # 0.05 to 20
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Figure:
    """An estimate with its 95 % interval, all as fractions of 1 (or nats, for a likelihood)."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Class probabilities, (B, K) float64, rows sum to 1. Guo et al. 2017, arXiv:1706.04599."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    exponentials = np.exp(scaled)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def wilson_interval(hits: int, total: int) -> Figure:
    """The share hits / total with the Wilson score interval (Wilson 1927); of nothing, 0 (0 to 1)."""
    if total == 0:
        return Figure(0.0, 0.0, 1.0)
    z, share = 1.959964, hits / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * np.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low, high = float(centre - half), float(centre + half)
    return Figure(share, max(0.0, min(share, low)), min(1.0, max(share, high)))  # rounding may leave it by 1e-17


def negative_log_likelihood(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Mean of -log p(target) in nats. probabilities: (B, K), targets: (B,) integers."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(targets)), targets], 1e-12)).mean())


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature of least NLL, positive by construction: a golden-section search over its logarithm.

    Guo et al. 2017, arXiv:1706.04599. NLL is unimodal in 1 / T, hence in log T.
    """
    low, high = LOG_TEMPERATURE

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(softmax(logits, float(np.exp(log_temperature))), targets)

    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    while high - low > 1e-5:
        if loss_left < loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - GOLDEN * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + GOLDEN * (high - low)
            loss_right = loss(right)
    return float(np.exp((low + high) / 2))


def brier_score(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Mean squared distance to the one-hot target, 0 to 2 (Brier 1950)."""
    one_hot = np.eye(probabilities.shape[1])[targets]
    return float(((probabilities - one_hot) ** 2).sum(axis=1).mean())


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Plain plug-in ECE of the top label over equal-mass bins, 0 to 1; biased upwards on small sets."""
    return float(sum(share * abs(gap) for share, gap, _ in _bins(confidence, correct, bins)))


def debiased_ece(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """ECE of the top label over equal-mass bins less its own sampling bias, 0 to 1.

    The l1 estimator of Kumar et al. 2019 (arXiv:1909.10155, appendix): the bias is what the plug-in estimate gains
    when each bin's accuracy is drawn anew from its normal approximation. Here its expectation is taken in closed form.
    The correction is of first order: on a calibrated set 2 - sqrt(2), three fifths, of the plug-in's bias is left.
    """
    estimate = 0.0
    for share, gap, variance in _bins(confidence, correct, bins):
        estimate += share * (2 * abs(gap) - _folded_normal_mean(gap, np.sqrt(variance)))
    return float(max(0.0, estimate))


def debiased_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Root mean square calibration error of the top label, bias-corrected, 0 to 1.

    The l2 estimator of Kumar et al. 2019 (arXiv:1909.10155, section 5) over equal-mass bins: from each bin's squared
    gap the variance acc (1 - acc) / (n - 1) of its accuracy is taken off.
    """
    squared = sum(share * (gap * gap - variance) for share, gap, variance in _bins(confidence, correct, bins))
    return float(np.sqrt(max(0.0, squared)))


def bootstrap(estimate: Callable[..., float], *arrays: np.ndarray, rounds: int = 1000, seed: int = 0) -> Figure:
    """The estimate with its percentile bootstrap interval; the arrays are resampled together along axis 0."""
    generator = np.random.default_rng(seed)
    count = len(arrays[0])
    draws = [estimate(*(array[index] for array in arrays)) for index in generator.integers(0, count, (rounds, count))]
    low, high = np.percentile(draws, [2.5, 97.5])
    return Figure(estimate(*arrays), float(low), float(high))


def summarize(logits: np.ndarray, targets: np.ndarray, sure: np.ndarray, temperature: float, labels: tuple[str, ...]):
    """Every figure of a report as plain numbers, for JSON.

    logits: (B, K) before temperature; targets: (B,) integers; sure: (B,) bool. Each share comes as
    {value, low, high} with its 95 % interval: Wilson for shares, bootstrap for calibration errors.
    """
    probabilities = softmax(logits, temperature)
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    correct = predicted == targets
    confusion = np.zeros((len(labels), len(labels)), int)
    np.add.at(confusion, (targets, predicted), 1)
    return {
        "count": len(targets),
        "count_sure": int(sure.sum()),
        "accuracy": vars(wilson_interval(int(correct.sum()), len(correct))),
        "accuracy_sure": vars(wilson_interval(int(correct[sure].sum()), int(sure.sum()))),
        "recall": {
            name: vars(wilson_interval(int(confusion[k, k]), int(confusion[k].sum()))) for k, name in enumerate(labels)
        },
        "ece": expected_calibration_error(confidence, correct),
        "ece_debiased": vars(bootstrap(debiased_ece, confidence, correct)),
        "calibration_error_debiased": vars(bootstrap(debiased_calibration_error, confidence, correct)),
        "nll": negative_log_likelihood(probabilities, targets),
        "brier": brier_score(probabilities, targets),
        "mean_confidence": float(confidence.mean()),
        "confusion": confusion.tolist(),
    }


def _bins(confidence: np.ndarray, correct: np.ndarray, bins: int):
    """(share, confidence - accuracy, variance of the accuracy) of each of the equal-mass bins."""
    order = np.argsort(confidence, kind="stable")
    for members in np.array_split(order, min(bins, max(1, len(order) // 2))):
        accuracy = correct[members].mean()
        gap = confidence[members].mean() - accuracy
        yield len(members) / len(order), gap, accuracy * (1 - accuracy) / max(1, len(members) - 1)


def _folded_normal_mean(mean: float, deviation: float) -> float:
    if deviation == 0:
        return abs(mean)
    from math import erf, exp, pi, sqrt

    z = mean / deviation
    return deviation * sqrt(2 / pi) * exp(-z * z / 2) + mean * erf(z / sqrt(2))
