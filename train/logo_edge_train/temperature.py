"""Fits a temperature to logits; NumPy only."""

from __future__ import annotations

import numpy as np

from logo_edge.probabilities import log_sigmoid, log_softmax

LOG_TEMPERATURE = (-15.0, 15.0)  # ends of the search; the prior keeps the result away from them
PRIOR = 4.0  # weight of "the temperature is 1", in images
GOLDEN = (5**0.5 - 1) / 2


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature of least penalised NLL: a golden-section search over its logarithm.

    Guo et al. 2017, arXiv:1706.04599, with a Gamma prior on the inverse temperature b, whose mode is 1: PRIOR (b - 1 -
    log b) nats, as much as 2 PRIOR observations of a precision of 1 say. A few images, all of them right, would take
    the temperature to 0, and worse than chance to infinity; the prior's share vanishes as images become many. Both
    terms are convex in b, so that their sum is unimodal in log T too. With multi-label targets, (N, K) of 0 or 1, the
    NLL is the sum over the labels.
    """
    low, high = LOG_TEMPERATURE

    def loss(log_temperature: float) -> float:
        inverse = float(np.exp(-log_temperature))
        scaled = logits.astype(np.float64) * inverse
        if targets.ndim == 2:
            own = log_sigmoid(np.where(targets, scaled, -scaled))  # (N, K)
        else:
            own = log_softmax(scaled)[np.arange(len(targets)), targets]
        return PRIOR * (inverse - 1 + log_temperature) - float(own.sum())

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
