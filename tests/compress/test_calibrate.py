"""Calibration: positive, optimal, and correct on logits of known miscalibration; too small a calib split is refused."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from logo_edge.bundle.calibration import Calibration, Conformal, Mode, Scaling
from logo_edge.decision import calibrated_logits, is_logo, logo_score, prediction_set
from logo_edge.errors import BundleError
from logo_edge.probabilities import log_softmax, softmax
from logo_edge_compress import calibrate
from logo_edge_compress.calibrate import (
    MethodResult,
    abstention_threshold,
    cautious_threshold,
    choose_method,
    compare_methods,
    conformal_threshold,
    fit_calibration,
    fit_conformal,
    fit_familiarity,
    fit_scaling,
    highest_risk,
    stratified_folds,
)
from logo_edge_train.metrics import negative_log_likelihood
from logo_edge_train.promises import least_answers, least_count
from logo_edge_train.recipe import CalibrateConfig
from logo_edge_train.temperature import PRIOR, fit_temperature


def overconfident_logits(temperature: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Targets drawn from softmax(logits / temperature): that temperature is the right one."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (count, 4)).astype(np.float32)
    cumulative = softmax(logits, temperature).cumsum(1)
    return logits, (random.random((count, 1)) > cumulative).sum(1).clip(0, 3)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 6.0])
def test_the_true_temperature_is_found(temperature):
    assert fit_temperature(*overconfident_logits(temperature)) == pytest.approx(temperature, rel=0.05)


def test_the_temperature_is_the_least_of_its_penalised_loss():
    logits, targets = overconfident_logits(1.7, 400)
    best = fit_temperature(logits, targets)

    def loss(temperature: float) -> float:
        likelihood = -np.log(softmax(logits, temperature)[np.arange(400), targets]).sum()
        return likelihood + PRIOR * (1 / temperature - 1 + np.log(temperature))

    minimum = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-7})
    assert best == pytest.approx(minimum.x, rel=1e-4)
    assert best == pytest.approx(1.7, rel=0.1)


@pytest.mark.parametrize("count", [0, 1, 2, 6, 30])
def test_few_logos_all_right_or_all_wrong_leave_the_temperature_near_one(count):
    logits = 3 * np.eye(2, dtype=np.float32)[np.arange(count) % 2]
    right = fit_temperature(logits, np.arange(count) % 2)
    wrong = fit_temperature(logits, (np.arange(count) + 1) % 2)
    assert right == wrong == pytest.approx(1, abs=1e-4) if count == 0 else 0.4 < right < 1 < wrong < 30


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
def test_no_set_takes_the_temperature_to_the_end_of_its_search(scale):
    logits, targets = scale * np.eye(3, dtype=np.float32)[[0, 1, 2] * 400], np.array([0, 1, 2] * 400)
    for labels in (targets, (targets + 1) % 3):
        assert -14 < np.log(fit_temperature(logits, labels)) < 14


@pytest.mark.parametrize(("wrong", "answers"), [(0, 59), (0, 58), (3, 200), (7, 255), (40, 41), (5, 5), (0, 1)])
def test_the_highest_risk_is_that_of_the_exact_binomial_test(wrong, answers):
    expected = binomtest(wrong, answers, alternative="less").proportion_ci(0.95, method="exact").high
    assert highest_risk(np.array(wrong), np.array(answers)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("risk", "needed"), [(0.05, 59), (0.03, 99), (0.01, 299)])
def test_a_risk_needs_a_sample_before_it_is_promised(risk, needed):
    assert least_answers(risk) == needed
    confidence = np.linspace(0.6, 0.99, needed)
    assert abstention_threshold(confidence, np.ones(needed, bool), risk) == 0.0
    assert abstention_threshold(confidence[1:], np.ones(needed - 1, bool), risk) is None
    assert least_answers(0.0) == np.inf


@pytest.mark.parametrize("ties", [2, 1, 0])  # decimals of the confidences: the fewer, the more are equal
def test_the_threshold_is_the_lowest_between_different_confidences_that_keeps_the_risk(ties):
    random, seen = np.random.default_rng(ties), 0
    for _ in range(8):
        confidence = np.round(random.uniform(0.5, 1, 120), ties)
        correct = random.random(120) < 0.75 + confidence / 4
        threshold = abstention_threshold(confidence, correct, 0.1)
        levels = [level for level in np.unique(confidence) if keeps(confidence, correct, level, 0.1)]
        assert (threshold is None) == (not levels)
        if levels:
            assert np.array_equal(confidence >= threshold, confidence >= levels[0])
            seen += 1
    assert seen >= (2 if ties else 0)


def keeps(confidence: np.ndarray, correct: np.ndarray, level: float, risk: float) -> bool:
    """By brute force: whether of all answers from that confidence on at most the share is wrong, with 95 %."""
    answered = confidence >= level
    wrong = int((~correct[answered]).sum())
    return binomtest(wrong, int(answered.sum()), alternative="less").proportion_ci(0.95, "exact").high <= risk


def test_confidences_that_differ_by_less_than_the_packed_digits_are_answered_together():
    confidence = np.repeat([0.9 + 2e-9, 0.9 + 1e-9], 100)
    correct = np.repeat([True, False], 100)
    assert abstention_threshold(confidence, correct, 0.05) is None
    assert cautious_threshold(confidence, correct, 0.05) == 0.95


def test_without_a_promise_answers_need_the_confidence_that_the_risk_implies_and_what_calib_asks_for():
    right = np.ones(6, bool)
    assert cautious_threshold(np.full(6, 0.8), right, 0.05) == 0.95, "no logo of calib speaks of more"
    assert cautious_threshold(np.full(6, 0.99), right, 0.05) == 0.95
    assert cautious_threshold(np.array([0.96, 0.97, 0.98, 0.99]), np.array([False, False, True, True]), 0.05) == 0.975
    assert cautious_threshold(np.full(6, 0.99), ~right, 0.05) == 1.0
    assert cautious_threshold(np.full(6, 0.99), right, 0.0) == 1.0


def test_six_right_pictures_promise_nothing_and_make_nobody_overconfident():
    logits = np.float32([[2, 0], [0, 2]] * 3)
    fitted = fit_calibration(logits, np.array([0, 1] * 3), ("ok", "scratch"))
    calibration = fitted.calibration
    assert 0.5 < calibration.temperature < 1
    assert calibration.scaling is None
    assert [calibration.abstain_below[mode] for mode in Mode] == [0.0, 0.95, 0.97]
    assert set(fitted.unpromised) == {Mode.BALANCED, Mode.STRICT}
    assert fitted.unpromised[Mode.BALANCED].startswith("not promised: 6 pictures; 59 answers, none of them wrong")
    assert fitted.unpromised[Mode.STRICT].startswith("not promised: 6 pictures; 99 answers, none of them wrong")
    confidence = softmax(calibrated_logits(logits, calibration.temperature)).max(1)
    assert (confidence < 0.98).all(), "2 nats apart are 88 %, and six pictures show little more"


def test_enough_pictures_without_a_risk_to_show_say_that_too_many_are_wrong():
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (200, 4)).astype(np.float32)
    fitted = fit_calibration(logits, random.integers(0, 4, 200), LABELS)
    assert "191 pictures; too many of the surest answers are wrong" in fitted.unpromised[Mode.BALANCED]
    assert 0.95 <= fitted.calibration.abstain_below[Mode.BALANCED] <= fitted.calibration.abstain_below[Mode.STRICT]


def test_the_promised_risk_is_kept_on_other_logos_in_nearly_every_draw():
    random = np.random.default_rng(0)
    confidence = 1 - 0.6 * random.beta(0.45, 3, 100_000)
    correct = random.random(100_000) < confidence
    broken = answered = 0
    for _ in range(300):
        calib = random.integers(0, 100_000, 345)
        threshold = abstention_threshold(confidence[calib], correct[calib], 0.05)
        sure = confidence >= (2 if threshold is None else threshold)
        broken += sure.any() and (~correct[sure]).mean() > 0.05
        answered += sure.mean() / 300
    assert broken <= 24  # 15 by each bound alone, and a few more by choosing the threshold among all
    assert answered > 0.5


LABELS = ("a", "b", "c", "d")
RISKS = CalibrateConfig(target_risk=0.05, strict_risk=0.02)


def skewed_logits(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets drawn after an offset and a factor for each class, which no temperature gives back."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (count, 4)).astype(np.float32)
    cumulative = softmax(logits * [0.4, 1.0, 1.0, 1.6] + [1.5, 0.0, 0.0, -1.5]).cumsum(1)
    return logits, (random.random((count, 1)) > cumulative).sum(1).clip(0, 3)


def test_calibration_keeps_the_risk_of_each_mode_on_its_own_split():
    logits, targets = overconfident_logits(0.8, 2000)
    calibration = fit_calibration(logits, targets, LABELS, RISKS).calibration
    probabilities = softmax(calibrated_logits(logits, calibration.temperature, calibration.scaling))
    shares = []
    for mode, risk in ((Mode.BALANCED, 0.05), (Mode.STRICT, 0.02)):
        answered = probabilities.max(1) >= calibration.abstain_below[mode]
        assert (probabilities.argmax(1) != targets)[answered].mean() <= risk + 1e-4
        shares.append(answered.mean())
    assert 0.2 < shares[1] < shares[0] < 1
    assert calibration.abstain_below[Mode.BEST_GUESS] == 0


def test_the_risk_is_of_the_answers_given_so_that_logos_rejected_as_no_logo_count_neither_way():
    random = np.random.default_rng(0)
    targets = random.integers(0, 2, 400)
    logits = 6.0 * np.eye(2)[targets]  # all right, and of equal confidence
    rejected = np.arange(400) < 19  # the 20th smallest logo score is the threshold: 401 x 5 %
    logits[rejected] = logits[rejected, ::-1] - 4  # as confident and wrong, of a low score
    calibration = fit_calibration(logits, targets, LABELS[:2], RISKS).calibration
    assert np.array_equal(is_logo(logo_score(logits), calibration.familiarity), ~rejected)
    assert calibration.abstain_below[Mode.STRICT] == 0, "of the 381 that are left all are right"
    unlimited = fit_calibration(logits, targets, LABELS[:2], CalibrateConfig(0.05, 0.02, 0.0)).calibration
    assert unlimited.familiarity is None
    assert unlimited.abstain_below[Mode.STRICT] > 0.9, "19 of 400 equally sure ones are wrong"


def test_the_promised_risk_is_kept_by_the_answers_on_other_logos_of_which_the_familiar_ones_are_right_less_often():
    random = np.random.default_rng(0)
    broken = answered = 0
    for _ in range(150):
        confidence = 1 - 0.6 * random.beta(0.45, 3, (2, 20_000))  # a sample of calib's, and others
        scores = random.normal(0, 1, confidence.shape)
        correct = random.random(confidence.shape) < confidence - 0.03 * np.tanh(scores)
        calib = slice(0, 345)
        threshold = np.sort(scores[0, calib])[16]
        accepted = scores[0, calib] >= threshold
        least = abstention_threshold(confidence[0, calib][accepted], correct[0, calib][accepted], 0.05)
        sure = (confidence[1] >= (2 if least is None else least)) & (scores[1] >= threshold)
        broken += sure.any() and (~correct[1][sure]).mean() > 0.05
        answered += sure.mean() / 150
    assert broken <= 14  # 7.5 by each bound alone, and a few more by choosing the threshold among all
    assert answered > 0.4


def test_a_scaling_is_chosen_only_where_its_gain_exceeds_one_standard_error():
    plain = MethodResult("temperature", None, 0.300)
    doubtful, clear = (
        MethodResult("dirichlet", 0.1, 0.280, 0.020, 0.021),
        MethodResult("vector", 0.1, 0.290, 0.010, 0.009),
    )
    assert choose_method([plain, doubtful]) == plain
    assert choose_method([plain, doubtful, clear]) == clear
    assert choose_method([plain, clear, MethodResult("vector", 1.0, 0.285, 0.015, 0.009)]).penalty == 1.0


def test_where_a_temperature_is_right_whatever_is_chosen_costs_next_to_nothing():
    logits, targets = overconfident_logits(1.7)
    calib, held = slice(0, 400), slice(400, None)
    assert [result.method for result in compare_methods(logits[calib], targets[calib])[::3]] == [
        "temperature",
        "vector",
        "dirichlet",
    ]
    calibration = fit_calibration(logits[calib], targets[calib], LABELS, RISKS).calibration
    plain, chosen = (
        negative_log_likelihood(
            softmax(calibrated_logits(logits[held], calibration.temperature, scaling)), targets[held]
        )
        for scaling in (None, calibration.scaling)
    )
    assert chosen <= plain + 0.01


def test_where_classes_are_skewed_a_scaling_wins_and_is_better_on_logos_it_has_not_seen():
    logits, targets = skewed_logits(600, 0)
    calibration = fit_calibration(logits, targets, LABELS, RISKS).calibration
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
    scaling = fit_scaling(logits, targets, 1.3, method, penalty)

    def loss(scaling: Scaling) -> float:
        left = np.sum((np.array(scaling.weight) - np.eye(4)) ** 2) + np.sum(np.array(scaling.bias) ** 2)
        likelihood = negative_log_likelihood(softmax(calibrated_logits(logits, 1.3, scaling)), targets)
        return likelihood + (penalty + PRIOR / 300) / 2 * left

    assert method == "dirichlet" or np.count_nonzero(scaling.weight) == 4
    for _ in range(40):
        weight, bias = random.normal(0, 0.02, (4, 4)), random.normal(0, 0.02, 4)
        weight = weight if method == "dirichlet" else np.diag(np.diag(weight))
        assert loss(scaling) <= loss(Scaling(method, np.array(scaling.weight) + weight, np.array(scaling.bias) + bias))


def test_a_great_penalty_gives_temperature_scaling_back():
    scaling = fit_scaling(*skewed_logits(300, 0), 1.3, "dirichlet", 1e6)
    assert np.allclose(scaling.weight, np.eye(4), atol=1e-3)
    assert np.allclose(scaling.bias, 0, atol=1e-3)


@pytest.mark.parametrize(("count", "scaled"), [(19, False), (60, True)])
def test_class_balance_adds_its_share_of_the_inverse_frequency_to_the_log_probabilities(count, scaled):
    logits, targets = skewed_logits(2000, 0)
    rows = np.concatenate([np.flatnonzero(targets != 3), np.flatnonzero(targets == 3)[:count]])
    logits, targets = logits[rows], targets[rows]
    plain, balanced = (
        fit_calibration(logits, targets, LABELS, CalibrateConfig(class_balance=balance)).calibration
        for balance in (0.0, 0.5)
    )
    assert (plain.scaling is not None) == scaled
    before, after = (
        log_softmax(calibrated_logits(logits, fitted.temperature, fitted.scaling)) for fitted in (plain, balanced)
    )
    lift = -0.5 * np.log(np.bincount(targets, minlength=4))
    assert np.allclose(after, log_softmax(before + lift), atol=1e-5)
    rare = targets == 3
    assert (after.argmax(1) == 3)[rare].mean() > (before.argmax(1) == 3)[rare].mean()
    assert balanced.familiarity == plain.familiarity, "the logo score is of the logits"
    assert balanced.conformal != plain.conformal, "sets and modes are fitted to the probabilities that are shown"


def test_a_class_with_few_logos_is_calibrated_by_temperature_alone():
    logits, targets = skewed_logits(600, 0)
    few = np.concatenate([np.flatnonzero(targets != 3), np.flatnonzero(targets == 3)[:19]])
    assert [result.method for result in compare_methods(logits[few], targets[few])] == ["temperature"]


def test_of_many_classes_only_the_diagonal_is_fitted_and_that_in_little_time():
    random, classes = np.random.default_rng(0), 64
    targets = np.arange(64 * 20) % classes
    logits = (random.normal(0, 1.5, (len(targets), classes)) + 4 * np.eye(classes)[targets]).astype(np.float32)
    began = time.process_time()
    candidates = compare_methods(logits, targets)
    assert [result.method for result in candidates] == ["temperature", *["vector"] * 3]
    assert time.process_time() - began < 30  # about 1 s; a whole matrix of 4160 numbers took 20 s a fit, 60 fits


def test_thresholds_are_fitted_to_probabilities_of_fits_that_have_not_seen_the_logo():
    logits, targets = skewed_logits(300, 0)
    chosen = choose_method(compare_methods(logits, targets))
    assert chosen.held_out.shape == (300, 4)
    assert chosen.held_out.sum(1) == pytest.approx(np.ones(300))
    calibration = fit_calibration(logits, targets, LABELS, RISKS).calibration
    seen = softmax(calibrated_logits(logits, calibration.temperature, calibration.scaling))
    own, held_out = (part[np.arange(300), targets] for part in (seen, chosen.held_out))
    assert np.log(held_out).mean() < np.log(own).mean(), "a fit is better on what it has seen"
    for result in calibration.conformal:
        rank = np.ceil(round(301 * result.level, 9)).astype(int)
        assert result.threshold == pytest.approx(np.sort(held_out)[::-1][rank - 1], abs=2e-6)


@pytest.mark.parametrize(("count", "skew", "rounds"), [(30, 1.0, 60), (200, 1.0, 20)])
def test_sets_cover_as_promised_where_the_scaling_is_fitted_on_the_same_calib(monkeypatch, count, skew, rounds):
    random, covered = np.random.default_rng(count), []
    monkeypatch.setattr(calibrate, "PENALTIES", (0.01,))  # one that bends most, for speed
    monkeypatch.setattr(calibrate, "MOST_CLASSES", {"vector": 128})

    def draw(size: int) -> tuple[np.ndarray, np.ndarray]:
        targets = random.choice(3, size, p=[0.5, 0.3, 0.2])
        logits = random.normal(0, 2.4, (size, 3)) + 3 * np.eye(3)[targets]
        return logits * (1 + skew * np.array([-0.5, 0, 0.5])) + skew * np.array([-1, 0, 1]), targets

    for _ in range(rounds):
        calibration = fit_calibration(*draw(count), LABELS[:3]).calibration
        logits, targets = draw(2000)
        probabilities = softmax(calibrated_logits(logits, calibration.temperature, calibration.scaling))
        own = probabilities[np.arange(2000), targets]
        covered.append([(own >= result.threshold).mean() for result in calibration.conformal[:3]])
    for level, mean in zip((0.8, 0.9, 0.95), np.mean(covered, axis=0), strict=True):
        error = np.sqrt(level * (1 - level) / (count + 2) / rounds)  # of the mean of beta-distributed coverages
        assert level - 2.5 * error <= mean <= level + 1 / (count + 1) + 2.5 * error + 0.01


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
    fitted = [conformal_threshold(probabilities, targets, level) for level in (0.8, 0.9, 0.95)]
    assert fitted == pytest.approx([0.2, 0.1, 0.05])  # the 16th, 18th and 19th of 19


def test_what_calib_is_too_small_for_is_refused_with_class_count_and_need():
    random = np.random.default_rng(0)
    probabilities, targets = random.dirichlet([1, 1], 120), np.repeat([0, 1], [105, 15])
    fitted = {level: fit_conformal(probabilities, targets, ("many", "few"), level) for level in (0.9, 0.95, 0.99)}
    assert (set(fitted[0.9].by_class), fitted[0.9].refused) == ({"many", "few"}, "")
    assert (fitted[0.95].by_class, fitted[0.95].refused) == (None, "few: 15 images of calib, 19 needed")
    assert fitted[0.99].threshold is not None
    small = fit_conformal(probabilities[:8], targets[:8], ("many", "few"), 0.9)
    assert (small.threshold, small.by_class) == (None, None)
    assert "all classes together: 8 images of calib, 9 needed" in small.refused


def test_prediction_sets_by_class_cover_every_class_and_marginal_ones_all_together():
    random, covered = np.random.default_rng(0), []
    for _ in range(200):
        targets = random.choice(3, 400, p=[0.7, 0.2, 0.1])
        logits = random.normal(0, 1, (400, 3)) + 2.5 * np.eye(3)[targets] * np.array([2.0, 1.0, 0.4])[targets, None]
        probabilities = softmax(logits)
        fitted = fit_conformal(probabilities[:200], targets[:200], ("a", "b", "c"), 0.8)
        own = probabilities[np.arange(400), targets][200:]
        by_class = own >= np.array([fitted.by_class[label] for label in "abc"])[targets[200:]]
        covered.append([(own >= fitted.threshold).mean(), *(by_class[targets[200:] == k].mean() for k in range(3))])
    means = np.mean(covered, axis=0)
    assert means[0] == pytest.approx(0.8, abs=0.015)
    assert (means[1:] >= 0.79).all()


def test_few_logos_are_unfamiliar_by_the_corrected_rank():
    logits = np.repeat(np.arange(1.0, 40.0)[:, None], 2, axis=1)  # 39 of growing logo score
    fitted = fit_familiarity(logits, 0.05)
    assert (logo_score(logits) < fitted.threshold).sum() == 1  # the second of 39 is the threshold: 2 / 40
    assert fitted.threshold == pytest.approx(2 + np.log(2), abs=1e-6)
    assert fit_familiarity(logits[:18], 0.05) is None


def test_a_set_that_the_bundle_cannot_promise_is_refused_with_the_reason():
    calibration = Calibration(
        1.0,
        dict.fromkeys(Mode, 0.0),
        None,
        (Conformal(0.8, 0.3, {"a": 0.6, "b": 0.1}), Conformal(0.99, 0.05, None, "b: 40 logos of calib, 99 needed")),
    )
    shares = {"a": 0.35, "b": 0.55, "c": 0.1}
    assert prediction_set(calibration, shares, 0.8) == ("b", "a")
    assert prediction_set(calibration, {"a": 0.5, "b": 0.5}, 0.8, by_class=True) == ("b",)
    assert prediction_set(calibration, shares, 0.99) == ("b", "a", "c")
    with pytest.raises(BundleError, match="by class at level 0.99: b: 40 logos of calib, 99 needed. Ask for a lower"):
        prediction_set(calibration, shares, 0.99, by_class=True)
    with pytest.raises(BundleError, match="level 0.5; the bundle holds these: 0.8, 0.99"):
        prediction_set(calibration, shares, 0.5)
