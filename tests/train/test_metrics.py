"""The figures of a report: right on known cases, unbiased where they promise it, with intervals that hold the truth."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from logo_edge.probabilities import softmax
from logo_edge_train.metrics import (
    BINS,
    Figure,
    bootstrap,
    brier_score,
    calibration_error_interval,
    debiased_calibration_error,
    debiased_ece,
    ece_interval,
    equal_mass_bins,
    expected_calibration_error,
    negative_log_likelihood,
    summarize,
    wilson_interval,
)


def draw(generator: np.random.Generator, count: int, overconfidence: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(confidence, correct) of `count` answers that are right that much less often than their confidence says."""
    confidence = generator.uniform(0.55, 0.95, count)
    return confidence, generator.random(count) < confidence - overconfidence


def test_the_rows_of_a_softmax_sum_to_one_at_every_temperature():
    logits = np.random.default_rng(0).normal(0, 8, (50, 5)).astype(np.float32)
    for temperature in (0.05, 1.0, 20.0):
        probabilities = softmax(logits, temperature)
        assert probabilities.dtype == np.float64
        assert np.abs(probabilities.sum(axis=1) - 1).max() < 1e-12
        assert np.array_equal(probabilities.argmax(axis=1), logits.argmax(axis=1))


def test_the_softmax_of_known_logits_is_known():
    logits = np.log(np.array([[1.0, 2.0, 5.0], [3.0, 3.0, 2.0]]))
    assert softmax(logits) == pytest.approx(np.array([[0.125, 0.25, 0.625], [0.375, 0.375, 0.25]]))
    assert softmax(logits, 0.5)[0] == pytest.approx(np.array([1, 4, 25]) / 30)


def test_the_softmax_of_huge_logits_is_finite():
    assert softmax(np.array([[1e30, 0.0, -1e30]])) == pytest.approx(np.array([[1.0, 0.0, 0.0]]))


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_wilson_interval_is_that_of_the_literature(hits, total, low, high):
    figure = wilson_interval(hits, total)  # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
    assert (figure.value, figure.low, figure.high) == pytest.approx((hits / total, low, high), abs=5e-5)


@pytest.mark.parametrize(("hits", "total"), [(0, 10), (10, 10), (5, 10), (950, 1000), (1, 1)])
def test_at_the_ends_of_the_wilson_interval_the_share_is_just_plausible(hits, total):
    figure = wilson_interval(hits, total)
    for end in (figure.low, figure.high):
        assert (figure.value - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / total, abs=1e-9)
    assert figure.high - figure.low > 0.01


def test_the_share_of_nothing_may_be_anything():
    assert wilson_interval(0, 0) == Figure(0.0, 0.0, 1.0)


@pytest.mark.parametrize("total", [1, 3, 7, 19, 333])
def test_a_share_never_lies_outside_its_interval(total):
    figures = [wilson_interval(hits, total) for hits in range(total + 1)]
    assert all(0 <= figure.low <= figure.value <= figure.high <= 1 for figure in figures)


def test_the_wilson_interval_holds_the_truth_in_most_draws():
    hits = np.random.default_rng(1).binomial(60, 0.9, 1000)
    held = sum(figure.low <= 0.9 <= figure.high for figure in (wilson_interval(int(count), 60) for count in hits))
    assert 920 <= held <= 980


def test_a_figure_prints_with_its_interval():
    assert f"{Figure(0.9, 0.85, 0.94):.1%}" == "90.0% (85.0% to 94.0%)"


def test_the_likelihood_and_the_brier_score_of_known_answers_are_known():
    probabilities, targets = np.array([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]]), np.array([0, 2])
    assert negative_log_likelihood(probabilities, targets) == pytest.approx(-(math.log(0.5) + math.log(0.7)) / 2)
    assert brier_score(probabilities, targets) == pytest.approx((0.5 + 0.01 + 0.04 + 0.09) / 2)
    assert negative_log_likelihood(probabilities, np.array([2, 0])) < 20  # an impossible answer does not give infinity


def test_the_plain_ece_of_a_hand_made_case_is_known():
    confidence = np.repeat([0.6, 0.9], 10)
    correct = np.array([True] * 8 + [False] * 2 + [True] * 6 + [False] * 4)
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx((0.2 + 0.3) / 2)


def test_on_a_calibrated_set_the_plain_ece_is_biased_and_the_debiased_one_less():
    generator = np.random.default_rng(2)
    draws = [draw(generator, 400) for _ in range(300)]
    plain = np.mean([expected_calibration_error(*arrays) for arrays in draws])
    debiased = np.mean([debiased_ece(*arrays) for arrays in draws])
    assert plain > 0.05
    assert debiased / plain == pytest.approx(2 - math.sqrt(2), abs=0.04)


def test_on_a_calibrated_set_the_root_mean_square_error_is_near_zero():
    generator = np.random.default_rng(3)
    errors = np.array([debiased_calibration_error(*draw(generator, 400)) for _ in range(300)])
    plain = 0.75 * 0.25 / (400 / BINS)  # squared, what chance alone gives a bin
    assert np.median(errors) < 0.02
    assert (errors == 0).sum() > 100  # about every second draw lies below what chance explains
    assert (errors**2).mean() < plain / 5


@pytest.mark.parametrize("overconfidence", [0.1, 0.2, -0.04])
def test_a_miscalibrated_set_measures_what_it_is_off_by(overconfidence):
    generator = np.random.default_rng(4)
    draws = [draw(generator, 1500, overconfidence) for _ in range(60)]
    for estimate, tolerance in ((debiased_ece, 0.012), (debiased_calibration_error, 0.012)):
        assert np.mean([estimate(*arrays) for arrays in draws]) == pytest.approx(abs(overconfidence), abs=tolerance)


def test_the_estimators_do_not_mind_the_order_of_the_answers():
    confidence, correct = draw(np.random.default_rng(5), 500)
    order = np.random.default_rng(6).permutation(500)
    for estimate in (expected_calibration_error, debiased_ece, debiased_calibration_error):
        assert estimate(confidence, correct) == pytest.approx(estimate(confidence[order], correct[order]), abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, BINS, 2 * BINS + 1])
def test_small_sets_are_measured_too(count):
    confidence, correct = np.full(count, 0.8), np.ones(count, bool)
    for estimate in (expected_calibration_error, debiased_ece, debiased_calibration_error):
        assert estimate(confidence, correct) == pytest.approx(0.2)


def test_a_bootstrap_holds_the_truth_in_most_draws():
    generator = np.random.default_rng(7)
    figures = [bootstrap(np.mean, generator.random(200) < 0.8, rounds=200, seed=seed) for seed in range(100)]
    assert 88 <= sum(figure.low <= 0.8 <= figure.high for figure in figures) <= 100
    assert all(figure.low < figure.value < figure.high for figure in figures)


def test_a_bootstrap_resamples_its_arrays_together_and_repeatably():
    array = np.arange(100.0)
    figure = bootstrap(lambda first, second: float(np.abs(first - second).max()), array, array.copy(), rounds=50)
    assert (figure.value, figure.low, figure.high) == (0, 0, 0)
    assert bootstrap(np.mean, array, seed=3) == bootstrap(np.mean, array, seed=3) != bootstrap(np.mean, array, seed=4)


@pytest.mark.parametrize("decimals", [1, 8])
def test_bins_are_equal_in_mass_and_split_no_equal_confidences(decimals):
    confidence = np.random.default_rng(0).random(203).round(decimals)
    bins = equal_mass_bins(confidence, 15)
    assert sorted(np.concatenate(bins).tolist()) == list(range(203))
    held = [set(confidence[members].tolist()) for members in bins]
    assert sum(map(len, held)) == len(set().union(*held)) > 10
    assert all(max(low) < min(high) for low, high in pairwise(held))
    if decimals == 8:
        expected = np.array_split(np.argsort(confidence), 15)
        assert all(np.array_equal(one, other) for one, other in zip(bins, expected, strict=True))


def test_calibration_errors_do_not_mind_the_order_of_equal_confidences():
    generator = np.random.default_rng(0)
    confidence, correct = draw(generator, 300, 0.1)
    confidence = confidence.round(1)
    order = generator.permutation(300)
    for estimate in (expected_calibration_error, debiased_ece, debiased_calibration_error):
        assert estimate(confidence, correct) == pytest.approx(estimate(confidence[order], correct[order]), abs=1e-12)


def test_the_interval_of_a_bias_corrected_error_holds_it_and_the_truth_in_most_draws():
    held = {(name, off): 0 for name in ("ece", "rms") for off in (0.0, 0.1)}
    for seed in range(40):
        overconfidence = (0.0, 0.1)[seed % 2]
        arrays = draw(np.random.default_rng(seed), (60, 360)[seed % 4 // 2], overconfidence)
        for name, interval, estimate in (
            ("ece", ece_interval, debiased_ece),
            ("rms", calibration_error_interval, debiased_calibration_error),
        ):
            figure = interval(*arrays, rounds=200)
            assert figure.value == pytest.approx(estimate(*arrays))
            assert 0 <= figure.low <= figure.value <= figure.high
            held[name, overconfidence] += figure.low <= overconfidence <= figure.high
    assert min(held["rms", 0.0], held["rms", 0.1]) >= 17  # of 20
    assert held["ece", 0.1] >= 14
    assert held["ece", 0.0] >= 8  # of a calibrated set three fifths of the bias is left


def test_where_the_draws_all_lie_above_the_estimate_the_interval_still_holds_it():
    confidence, correct = draw(np.random.default_rng(2), 400)
    draws = [
        debiased_ece(confidence[index], correct[index])
        for index in np.random.default_rng(0).integers(0, 400, (200, 400))
    ]
    figure = ece_interval(confidence, correct, rounds=200)
    assert np.percentile(draws, 2.5) > figure.value, "the percentile interval would not"
    assert figure.low <= figure.value <= figure.high < np.percentile(draws, 97.5)


def test_the_summary_of_a_hand_made_case_is_known():
    targets = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 2, 2])
    logits = np.log(np.full((6, 3), 0.1) + 0.7 * np.eye(3)[predicted])
    sure = np.array([True, True, False, True, False, True])
    report = summarize(logits, targets, sure, temperature=1.0, labels=("a", "b", "c"))
    assert report["confusion"] == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert (report["count"], report["count_sure"]) == (6, 4)
    assert report["accuracy"]["value"] == pytest.approx(4 / 6)
    assert report["accuracy_sure"]["value"] == 1
    assert {name: figure["value"] for name, figure in report["recall"].items()} == {
        "a": pytest.approx(2 / 3),
        "b": 0.5,
        "c": 1,
    }
    assert report["mean_confidence"] == pytest.approx(0.8)
    assert report["nll"] == pytest.approx(-(4 * math.log(0.8) + 2 * math.log(0.1)) / 6)
    assert all(
        figure["low"] <= figure["value"] <= figure["high"] for figure in (report["accuracy"], report["ece_debiased"])
    )
    assert json.loads(json.dumps(report)) == report


def test_the_summary_of_a_flatter_temperature_keeps_the_answers():
    logits = np.random.default_rng(8).normal(0, 3, (40, 3))
    targets = np.random.default_rng(9).integers(0, 3, 40)
    sharp, flat = (summarize(logits, targets, targets >= 0, value, ("a", "b", "c")) for value in (1.0, 4.0))
    assert flat["confusion"] == sharp["confusion"]
    assert flat["mean_confidence"] < sharp["mean_confidence"]
