"""Temperature and abstention threshold, fitted on the exported artifact's own logits on the calib split."""

from __future__ import annotations

import numpy as np

from logo_edge.bundle import Calibration
from logo_edge.metrics import negative_log_likelihood, softmax

LOG_TEMPERATURE = (-3.0, 3.0)  # 0.05 to 20
GOLDEN = (5**0.5 - 1) / 2


def fit_calibration(logits: np.ndarray, targets: np.ndarray, *, target_risk: float) -> Calibration:
    """Both numbers from (N, K) logits and (N,) integer targets of the calib split."""
    temperature = fit_temperature(logits, targets)
    probabilities = softmax(logits, temperature)
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == targets
    return Calibration(round(temperature, 6), round(abstention_threshold(confidence, correct, target_risk), 6))


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
