"""Accuracy and calibration of predictions on a labelled data set, with 95 % intervals.

Imports NumPy alone, so that `logo-edge bench` works on a device with the base install.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from logo_edge.probabilities import log_sigmoid, sigmoid, softmax

BINS = 15
LABEL_ROUNDS = 200  # of the bootstrap over images with K labels each, which takes K times as long


@dataclass(frozen=True)
class Figure:
    """An estimate with its 95 % interval, all as fractions of 1 (or nats, for a likelihood)."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def wilson_interval(hits: int, total: int) -> Figure:
    """The share hits / total with the Wilson score interval (Wilson 1927); of nothing, 0 (0 to 1)."""
    if total == 0:
        return Figure(0.0, 0.0, 1.0)
    z, share = 1.959964, hits / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * np.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low, high = float(centre - half), float(centre + half)
    return Figure(share, max(0.0, min(share, low)), min(1.0, max(share, high)))  # rounding may leave it by 1e-17


def probabilities_of(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(B, K): the softmax of the logits or, with multi-label targets (B, K), their sigmoid."""
    return sigmoid(logits) if targets.ndim == 2 else softmax(logits)


def is_correct(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(B,) whether the highest logit is the target's; multi-label: whether exactly the targets' logits are above 0."""
    return ((logits > 0) == targets).all(1) if targets.ndim == 2 else logits.argmax(1) == targets


def outcomes_of(probabilities: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M,) probabilities and (M,) whether they came true: of the top label; multi-label, of each label of each image.

    The calibration errors below compare them.
    """
    if targets.ndim == 2:
        return probabilities.ravel(), targets.ravel().astype(bool)
    return probabilities.max(1), probabilities.argmax(1) == targets


def negative_log_likelihood(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Mean of -log p(target) in nats. probabilities: (B, K), targets: (B,) integers."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(targets)), targets], 1e-12)).mean())


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
    return max(0.0, _signed_ece(confidence, correct, bins))


def debiased_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Root mean square calibration error of the top label, bias-corrected, 0 to 1.

    The l2 estimator of Kumar et al. 2019 (arXiv:1909.10155, section 5) over equal-mass bins: from each bin's squared
    gap the variance acc (1 - acc) / (n - 1) of its accuracy is taken off.
    """
    return float(np.sqrt(max(0.0, _signed_square_error(confidence, correct, bins))))


def ece_interval(confidence: np.ndarray, correct: np.ndarray, *, rounds: int = 1000) -> Figure:
    """`debiased_ece` with its basic bootstrap interval."""
    figure = bootstrap(_signed_ece, confidence, correct, plug_in=expected_calibration_error, rounds=rounds)
    return _moved_to_zero(figure)


def calibration_error_interval(confidence: np.ndarray, correct: np.ndarray, *, rounds: int = 1000) -> Figure:
    """`debiased_calibration_error` with its basic bootstrap interval, which is found for the squares."""
    figure = bootstrap(_signed_square_error, confidence, correct, plug_in=_plain_square_error, rounds=rounds)
    squares = _moved_to_zero(figure)
    return Figure(*(float(np.sqrt(end)) for end in (squares.value, squares.low, squares.high)))


def bootstrap(
    estimate: Callable[..., float],
    *arrays: np.ndarray,
    plug_in: Callable[..., float] | None = None,
    rounds: int = 1000,
    seed: int = 0,
) -> Figure:
    """The estimate with its 95 % bootstrap interval, which holds it; the arrays are resampled together along axis 0.

    The interval is the percentile one. An estimate that corrects a bias needs the basic one and `plug_in`, the same
    without the correction: the samples are drawn from a population of which just that is true, so that the errors are
    the draws less it (Davison and Hinkley 1997, "Bootstrap Methods", 2.2 and 5.2). The percentiles of the draws would
    lie too high by the very bias that the estimate is free of.
    """
    generator = np.random.default_rng(seed)
    count = len(arrays[0])
    draws = [estimate(*(array[index] for array in arrays)) for index in generator.integers(0, count, (rounds, count))]
    value, (low, high) = float(estimate(*arrays)), map(float, np.percentile(draws, [2.5, 97.5]))
    if plug_in is not None:
        true = plug_in(*arrays)
        low, high = value + true - high, value + true - low
    return Figure(value, min(low, value), max(high, value))


def summarize(logits: np.ndarray, targets: np.ndarray, sure: np.ndarray, temperature: float, labels: tuple[str, ...]):
    """Every figure of a report as plain numbers, for JSON.

    logits: (B, K) before temperature; targets: (B,) integers; sure: (B,) bool. Each share comes as
    {value, low, high} with its 95 % interval: Wilson for shares, bootstrap for calibration errors. With multi-label
    targets, (B, K) of 0 or 1, those of `summarize_labels`.
    """
    if targets.ndim == 2:
        return summarize_labels(logits / temperature, targets, sure, labels)
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
        "ece_debiased": vars(ece_interval(confidence, correct)),
        "calibration_error_debiased": vars(calibration_error_interval(confidence, correct)),
        "nll": negative_log_likelihood(probabilities, targets),
        "brier": brier_score(probabilities, targets),
        "mean_confidence": float(confidence.mean()),
        "confusion": confusion.tolist(),
    }


def summarize_labels(logits: np.ndarray, targets: np.ndarray, sure: np.ndarray, labels: tuple[str, ...]) -> dict:
    """The figures of multi-label predictions, for JSON, from (B, K) calibrated logits and (B, K) targets of 0 or 1.

    A label is predicted if it is more probable than not. accuracy: the share of images with exactly their labels;
    recall, precision and average_precision by label; f1: of all labels of all images together, `f1_macro` the mean over
    the labels; calibration errors: of all probabilities of all images; nll and brier: sums over the labels.
    """
    probabilities, predicted, truth = sigmoid(logits), logits > 0, targets.astype(bool)
    correct = is_correct(logits, targets)
    hits, given, true = ((part).sum(0) for part in (predicted & truth, predicted, truth))  # (K,) each
    f1 = 2 * hits / np.maximum(given + true, 1)
    return {
        "multi_label": True,
        "count": len(targets),
        "count_sure": int(sure.sum()),
        "accuracy": vars(wilson_interval(int(correct.sum()), len(correct))),
        "accuracy_sure": vars(wilson_interval(int(correct[sure].sum()), int(sure.sum()))),
        "recall": {name: vars(wilson_interval(int(hits[k]), int(true[k]))) for k, name in enumerate(labels)},
        "precision": {name: vars(wilson_interval(int(hits[k]), int(given[k]))) for k, name in enumerate(labels)},
        "average_precision": {
            name: average_precision(probabilities[:, k], truth[:, k]) for k, name in enumerate(labels)
        },
        "f1": float(2 * hits.sum() / max(1, (given + true).sum())),
        "f1_macro": float(f1.mean()),
        "ece": expected_calibration_error(probabilities, truth),
        "ece_debiased": vars(ece_interval(probabilities, truth, rounds=LABEL_ROUNDS)),
        "calibration_error_debiased": vars(calibration_error_interval(probabilities, truth, rounds=LABEL_ROUNDS)),
        "nll": binary_nll(logits, targets),
        "brier": float(((probabilities - targets) ** 2).sum(1).mean()),
        "mean_confidence": float(probabilities.max(1).mean()),
    }


def binary_nll(logits: np.ndarray, targets: np.ndarray) -> float:
    """Mean over the images, in nats, of the sum over the labels of -log p. logits, targets: (B, K), targets 0 or 1."""
    return float(-log_sigmoid(np.where(targets, logits, -logits)).sum(1).mean())


def average_precision(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """The mean precision at the (N,) true items, in order of probability; equal ones together. 0 without true items."""
    order = np.argsort(-probabilities, kind="stable")
    hits = truth[order].cumsum()
    last = np.append(np.diff(probabilities[order]) != 0, True)  # of equal probabilities
    precision, recalled = (hits / np.arange(1, len(hits) + 1))[last], hits[last]
    return float((np.diff(recalled, prepend=0) * precision).sum() / max(1, truth.sum()))


def equal_mass_bins(confidence: np.ndarray, bins: int) -> list[np.ndarray]:
    """The indices of each bin, at most `bins` of as equal size as equal confidences, which share a bin, allow."""
    order = np.argsort(confidence, kind="stable")
    bin_of_rank = np.repeat(np.arange(bins), [len(part) for part in np.array_split(order, bins)])
    _, first, count = np.unique(confidence[order], return_index=True, return_counts=True)
    bin_of_rank = np.repeat(bin_of_rank[first + count // 2], count)
    return np.split(order, np.flatnonzero(np.diff(bin_of_rank)) + 1)


def _moved_to_zero(figure: Figure) -> Figure:
    """A figure that cannot be negative: one below 0 is moved up with its interval, whose length chance alone makes."""
    up = max(0.0, -figure.value)
    return Figure(figure.value + up, max(0.0, figure.low + up), figure.high + up)


def _signed_ece(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """`debiased_ece` before it is cut off at 0."""
    return float(
        sum(
            share * (2 * abs(gap) - _folded_normal_mean(gap, np.sqrt(variance)))
            for share, gap, variance in _bins(confidence, correct, bins)
        )
    )


def _signed_square_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """The square of `debiased_calibration_error` before it is cut off at 0."""
    return float(sum(share * (gap * gap - variance) for share, gap, variance in _bins(confidence, correct, bins)))


def _plain_square_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    return float(sum(share * gap * gap for share, gap, _ in _bins(confidence, correct, bins)))


def _bins(confidence: np.ndarray, correct: np.ndarray, bins: int):
    """(share, confidence - accuracy, variance of the accuracy) of each of the equal-mass bins; arrays of any shape."""
    confidence, correct = confidence.ravel(), correct.ravel()
    for members in equal_mass_bins(confidence, min(bins, max(1, len(confidence) // 2))):
        accuracy = correct[members].mean()
        gap = confidence[members].mean() - accuracy
        yield len(members) / len(confidence), gap, accuracy * (1 - accuracy) / max(1, len(members) - 1)


def _folded_normal_mean(mean: float, deviation: float) -> float:
    if deviation == 0:
        return abs(mean)
    from math import erf, exp, pi, sqrt

    z = mean / deviation
    return deviation * sqrt(2 / pi) * exp(-z * z / 2) + mean * erf(z / sqrt(2))
