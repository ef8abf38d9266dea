"""Temperature and abstention threshold: positive, optimal, and checked on logits of known miscalibration."""

from __future__ import annotations

import numpy as np
import pytest

from logo_edge.metrics import fit_temperature, negative_log_likelihood, softmax
from logo_edge_compress.calibrate import abstention_threshold, fit_calibration


def overconfident_logits(temperature: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Targets drawn from softmax(logits / temperature): that temperature is the right one."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (count, 4)).astype(np.float32)
    cumulative = softmax(logits, temperature).cumsum(1)
    return logits, (random.random((count, 1)) > cumulative).sum(1).clip(0, 3)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 6.0])
def test_the_true_temperature_is_found(temperature):
    assert fit_temperature(*overconfident_logits(temperature)) == pytest.approx(temperature, rel=0.05)


def test_no_other_temperature_has_a_lower_likelihood_loss():
    logits, targets = overconfident_logits(1.7, 400)
    best = fit_temperature(logits, targets)
    loss = negative_log_likelihood(softmax(logits, best), targets)
    others = [negative_log_likelihood(softmax(logits, other), targets) for other in np.geomspace(0.06, 19, 80)]
    assert loss <= min(others) + 1e-9


def test_a_perfect_set_still_gives_a_positive_temperature():
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2] * 5] * 9
    assert fit_temperature(logits, np.array([0, 1, 2] * 5)) > 0


def test_the_threshold_is_the_lowest_that_keeps_the_risk():
    confidence = np.array([0.99, 0.9, 0.8, 0.7, 0.6, 0.5])
    correct = np.array([True, True, True, False, True, False])
    assert abstention_threshold(confidence, correct, 0.2) == pytest.approx(0.55)
    assert abstention_threshold(confidence, correct, 0.0) == pytest.approx(0.75)
    assert abstention_threshold(confidence, correct, 0.5) == 0.0


def test_where_no_threshold_keeps_the_risk_nothing_is_answered():
    assert abstention_threshold(np.array([0.9, 0.8]), np.array([False, False]), 0.1) == 1.0


def test_calibration_keeps_the_risk_on_its_own_split():
    logits, targets = overconfident_logits(0.8, 2000)
    calibration = fit_calibration(logits, targets, target_risk=0.05)
    probabilities = softmax(logits, calibration.temperature)
    answered = probabilities.max(1) >= calibration.abstain_below
    assert 0.2 < answered.mean() < 1
    assert (probabilities.argmax(1) != targets)[answered].mean() <= 0.0501
