"""Temperature and abstention threshold, fitted on the exported artifact's own logits on the calib split."""

from __future__ import annotations

import numpy as np

from logo_edge.bundle import Calibration
from logo_edge.metrics import fit_temperature, softmax


def fit_calibration(logits: np.ndarray, targets: np.ndarray, *, target_risk: float) -> Calibration:
    """Both numbers from (N, K) logits and (N,) integer targets of the calib split."""
    temperature = fit_temperature(logits, targets)
    probabilities = softmax(logits, temperature)
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == targets
    return Calibration(round(temperature, 6), round(abstention_threshold(confidence, correct, target_risk), 6))


def abstention_threshold(confidence: np.ndarray, correct: np.ndarray, target_risk: float) -> float:
    """The least confidence such that, of all logos at or above it, at most `target_risk` are wrong.

    confidence: (N,), correct: (N,) bool. 0 where everything may be answered; 1 where no threshold suffices.
    Selective classification: Geifman and El-Yaniv 2017, arXiv:1705.08500.
    """
    order = np.argsort(-confidence, kind="stable")
    risk = np.cumsum(~correct[order]) / np.arange(1, len(order) + 1)
    allowed = np.flatnonzero(risk <= target_risk)
    if not len(allowed):
        return 1.0
    last = int(allowed[-1])
    if last == len(order) - 1:
        return 0.0
    return float((confidence[order[last]] + confidence[order[last + 1]]) / 2)
