"""Calibration: positive, optimal, and checked on logits of known miscalibration; what calib cannot bear is refused."""

from __future__ import annotations

import numpy as np
import pytest

from logo_edge.decision import Calibration, Conformal, Mode, Scaling, calibrated_logits, energy, prediction_set
from logo_edge.errors import BundleError
from logo_edge.metrics import fit_temperature, negative_log_likelihood, softmax
from logo_edge_compress.calibrate import (
    Candidate,
    abstention_threshold,
    choose_method,
    compare_methods,
    conformal_threshold,
    fit_calibration,
    fit_conformal,
    fit_familiarity,
    fit_scaling,
    least_count,
    stratified_folds,
)


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


LABELS = ("a", "b", "c", "d")
RISKS = {Mode.BALANCED: 0.05, Mode.STRICT: 0.02}


def skewed_logits(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets drawn after an offset and a factor for each class, which no temperature gives back."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (count, 4)).astype(np.float32)
    cumulative = softmax(logits * [0.4, 1.0, 1.0, 1.6] + [1.5, 0.0, 0.0, -1.5]).cumsum(1)
    return logits, (random.random((count, 1)) > cumulative).sum(1).clip(0, 3)


def test_calibration_keeps_the_risk_of_each_mode_on_its_own_split():
    logits, targets = overconfident_logits(0.8, 2000)
    calibration = fit_calibration(logits, targets, LABELS, risks=RISKS)
    probabilities = softmax(calibrated_logits(logits, calibration.temperature, calibration.scaling))
    shares = []
    for mode, risk in RISKS.items():
        answered = probabilities.max(1) >= calibration.abstain_below[mode]
        assert (probabilities.argmax(1) != targets)[answered].mean() <= risk + 1e-4
        shares.append(answered.mean())
    assert 0.2 < shares[1] < shares[0] < 1
    assert calibration.abstain_below[Mode.BEST_GUESS] == 0


def test_a_scaling_is_chosen_only_where_its_gain_exceeds_one_standard_error():
    plain = Candidate("temperature", None, 0.300)
    doubtful, clear = Candidate("dirichlet", 0.1, 0.280, 0.020, 0.021), Candidate("vector", 0.1, 0.290, 0.010, 0.009)
    assert choose_method([plain, doubtful]) == plain
    assert choose_method([plain, doubtful, clear]) == clear
    assert choose_method([plain, clear, Candidate("vector", 1.0, 0.285, 0.015, 0.009)]).penalty == 1.0


def test_where_a_temperature_is_right_whatever_is_chosen_costs_next_to_nothing():
    logits, targets = overconfident_logits(1.7)
    kept, held = slice(0, 400), slice(400, None)
    assert [entry.method for entry in compare_methods(logits[kept], targets[kept])[::3]] == [
        "temperature", "vector", "dirichlet"
    ]  # fmt: skip
    found = fit_calibration(logits[kept], targets[kept], LABELS, risks=RISKS)
    plain, chosen = (
        negative_log_likelihood(softmax(calibrated_logits(logits[held], found.temperature, scaling)), targets[held])
        for scaling in (None, found.scaling)
    )
    assert chosen <= plain + 0.01


def test_where_classes_are_skewed_a_scaling_wins_and_is_better_on_logos_it_has_not_seen():
    logits, targets = skewed_logits(600, 0)
    calibration = fit_calibration(logits, targets, LABELS, risks=RISKS)
    assert calibration.scaling.method in ("vector", "dirichlet")
    others, their_targets = skewed_logits(4000, 1)
    plain, scaled = (
        negative_log_likelihood(softmax(calibrated_logits(others, calibration.temperature, scaling)), their_targets)
        for scaling in (None, calibration.scaling)
    )
    assert scaled < plain - 0.05


@pytest.mark.parametrize("method", ["vector", "dirichlet"])
def test_a_scaling_is_at_the_least_of_its_convex_loss(method):
    logits, targets = skewed_logits(300, 0)
    penalty, random = 0.1, np.random.default_rng(0)
    found = fit_scaling(logits, targets, 1.3, method, penalty)

    def loss(scaling: Scaling) -> float:
        left = np.sum((np.array(scaling.weight) - np.eye(4)) ** 2) + np.sum(np.array(scaling.bias) ** 2)
        return negative_log_likelihood(softmax(calibrated_logits(logits, 1.3, scaling)), targets) + penalty / 2 * left

    assert method == "dirichlet" or np.count_nonzero(found.weight) == 4
    for _ in range(40):
        weight, bias = random.normal(0, 0.02, (4, 4)), random.normal(0, 0.02, 4)
        weight = weight if method == "dirichlet" else np.diag(np.diag(weight))
        assert loss(found) <= loss(Scaling(method, np.array(found.weight) + weight, np.array(found.bias) + bias))


def test_a_great_penalty_gives_temperature_scaling_back():
    found = fit_scaling(*skewed_logits(300, 0), 1.3, "dirichlet", 1e6)
    assert np.allclose(found.weight, np.eye(4), atol=1e-3)
    assert np.allclose(found.bias, 0, atol=1e-3)


def test_folds_hold_each_class_in_equal_numbers():
    targets = np.array([0] * 23 + [1] * 10 + [2] * 7)
    folds = stratified_folds(targets, np.random.default_rng(0))
    counts = np.array([[(targets[folds == fold] == label).sum() for label in range(3)] for fold in range(5)])
    assert counts.sum() == 40
    assert (np.ptp(counts, axis=0) <= 1).all()


@pytest.mark.parametrize(("level", "count"), [(0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_a_conformal_threshold_needs_as_many_logos_as_its_level_implies(level, count):
    assert least_count(level) == count
    probabilities, targets = np.tile([0.7, 0.3], (count, 1)), np.zeros(count, int)
    assert conformal_threshold(probabilities, targets, level) == pytest.approx(0.7)
    assert conformal_threshold(probabilities[1:], targets[1:], level) is None


def test_the_finite_sample_rank_chooses_the_threshold():
    probabilities = np.linspace(0.05, 0.95, 19)[:, None]
    targets = np.zeros(19, int)
    found = [conformal_threshold(probabilities, targets, level) for level in (0.8, 0.9, 0.95)]
    assert found == pytest.approx([0.2, 0.1, 0.05])  # the 16th, 18th and 19th of 19


def test_what_calib_is_too_small_for_is_refused_with_class_count_and_need():
    random = np.random.default_rng(0)
    probabilities, targets = random.dirichlet([1, 1], 120), np.repeat([0, 1], [105, 15])
    found = {level: fit_conformal(probabilities, targets, ("many", "few"), level) for level in (0.9, 0.95, 0.99)}
    assert (set(found[0.9].by_class), found[0.9].refused) == ({"many", "few"}, "")
    assert (found[0.95].by_class, found[0.95].refused) == (None, "few: 15 logos of calib, 19 needed")
    assert found[0.99].threshold is not None
    small = fit_conformal(probabilities[:8], targets[:8], ("many", "few"), 0.9)
    assert (small.threshold, small.by_class) == (None, None)
    assert "all classes together: 8 logos of calib, 9 needed" in small.refused


def test_prediction_sets_by_class_cover_every_class_and_marginal_ones_all_together():
    random, covered = np.random.default_rng(0), []
    for _ in range(200):
        targets = random.choice(3, 400, p=[0.7, 0.2, 0.1])
        logits = random.normal(0, 1, (400, 3)) + 2.5 * np.eye(3)[targets] * np.array([2.0, 1.0, 0.4])[targets, None]
        probabilities = softmax(logits)
        found = fit_conformal(probabilities[:200], targets[:200], ("a", "b", "c"), 0.8)
        own = probabilities[np.arange(400), targets][200:]
        by_class = own >= np.array([found.by_class[label] for label in "abc"])[targets[200:]]
        covered.append([(own >= found.threshold).mean(), *(by_class[targets[200:] == k].mean() for k in range(3))])
    means = np.mean(covered, axis=0)
    assert means[0] == pytest.approx(0.8, abs=0.015)
    assert (means[1:] >= 0.79).all()


def test_few_logos_are_unfamiliar_by_the_corrected_rank():
    logits = np.repeat(np.arange(1.0, 40.0)[:, None], 2, axis=1)  # 39 of growing energy
    found = fit_familiarity(logits, 0.05)
    assert (energy(logits) < found.threshold).sum() == 1  # the second of 39 is the threshold: 2 / 40
    assert found.threshold == pytest.approx(2 + np.log(2), abs=1e-6)
    assert fit_familiarity(logits[:18], 0.05) is None


def test_a_set_that_the_bundle_cannot_promise_is_refused_with_the_reason():
    calibration = Calibration(
        1.0, dict.fromkeys(Mode, 0.0), None,
        (Conformal(0.8, 0.3, {"a": 0.6, "b": 0.1}), Conformal(0.99, 0.05, None, "b: 40 logos of calib, 99 needed")),
    )  # fmt: skip
    shares = {"a": 0.35, "b": 0.55, "c": 0.1}
    assert prediction_set(calibration, shares, 0.8) == ("b", "a")
    assert prediction_set(calibration, {"a": 0.5, "b": 0.5}, 0.8, by_class=True) == ("b",)
    assert prediction_set(calibration, shares, 0.99) == ("b", "a", "c")
    with pytest.raises(BundleError, match="by class at level 0.99: b: 40 logos of calib, 99 needed. Ask for a lower"):
        prediction_set(calibration, shares, 0.99, by_class=True)
    with pytest.raises(BundleError, match="level 0.5; the bundle holds these: 0.8, 0.99"):
        prediction_set(calibration, shares, 0.5)
