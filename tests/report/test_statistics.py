"""The report's statistics compared with maintained libraries and with their guarantees."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from logo_edge_compress.calibrate import conformal_threshold
from logo_edge_report import console_tables, sections
from logo_edge_report.statistics import (
    area_under_risk_coverage,
    auroc,
    compare_paired,
    coverage_interval,
    mcnemar_p_value,
    precision,
    prediction_sets,
    reliability_bins,
    risk_coverage,
)


@pytest.mark.parametrize("decimals", [1, 6])
def test_auroc_is_that_of_scikit_learn_with_ties_and_without(decimals):
    random = np.random.default_rng(0)
    inside, outside = random.normal(0.5, 1, 90).round(decimals), random.normal(0, 1, 140).round(decimals)
    expected = roc_auc_score([1] * 90 + [0] * 140, np.concatenate([inside, outside]))
    assert auroc(inside, outside) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (3, 9), (12, 4), (5, 5)])
def test_mcnemar_is_the_exact_binomial_test(first, second):
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar_p_value(first, second) == pytest.approx(expected)


def test_the_coverage_interval_is_that_of_the_beta_binomial():
    rank = int(np.ceil(346 * 0.9))
    interval = coverage_interval(345, 531, 0.9)
    expected = stats.betabinom(531, rank, 346 - rank).interval(0.95)
    assert np.allclose(np.array(interval) * 531, expected, atol=1)


def test_prediction_sets_cover_as_promised_over_many_draws():
    random, covered = np.random.default_rng(0), []
    for _ in range(300):
        logits = random.normal(0, 2, (150, 4))
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        targets = np.array([random.choice(4, p=row) for row in probabilities])
        threshold = conformal_threshold(probabilities[:50], targets[:50], 0.8)
        sets = prediction_sets(probabilities[50:], threshold)
        covered.append(sets[np.arange(100), targets[50:]].mean())
    assert 0.8 <= np.mean(covered) <= 0.8 + 1 / 51 + 0.01


def test_risk_falls_with_coverage_where_confidence_is_informative():
    confidence = np.linspace(0, 1, 100)
    correct = confidence > 0.3
    coverage, risk = risk_coverage(confidence, correct)
    assert coverage[-1] == 1
    assert risk[0] == 0
    assert risk[-1] == pytest.approx(1 - correct.mean())
    assert area_under_risk_coverage(confidence, correct) < area_under_risk_coverage(-confidence, correct)


def test_a_paired_comparison_counts_who_alone_was_right():
    first, second = np.array([1, 1, 0, 0, 1] * 20, bool), np.array([1, 0, 1, 1, 1] * 20, bool)
    paired = compare_paired(first, second)
    assert (paired.only_first_right, paired.only_second_right) == (20, 40)
    assert paired.difference.value == pytest.approx(0.2)
    assert paired.difference.low < 0.2 < paired.difference.high


def test_precision_of_a_label_that_was_never_predicted_is_unknown():
    figure = precision(np.zeros(3, int), np.zeros(3, int), 1)
    assert np.isnan(figure.value)
    assert sections.share(vars(figure)) == console_tables._share(vars(figure)) == "unknown"


def test_precision_of_a_label_that_was_predicted_once_has_an_interval_too():
    figure = precision(np.array([1, 0, 0, 0]), np.array([1, 0, 0, 0]), 1)
    assert (figure.value, figure.high) == (1.0, 1.0)
    assert 0.2 < figure.low < 0.21
    assert "nan" not in sections.share(vars(figure))
    assert precision(np.array([1, 1, 0]), np.array([1, 0, 0]), 1).value == 0.5


def test_the_order_of_equal_confidences_does_not_count():
    random = np.random.default_rng(0)
    confidence, correct = np.round(random.random(200), 1), random.random(200) < 0.7
    areas, risks = [], []
    for seed in range(200):
        order = np.random.default_rng(seed).permutation(200)
        areas.append(area_under_risk_coverage(confidence[order], correct[order]))
        ranked = np.lexsort((order, -confidence))  # equal ones in a random order
        risks.append(np.cumsum(~correct[ranked]) / np.arange(1, 201))
    assert np.ptp(areas) < 1e-12
    assert risk_coverage(confidence, correct)[1] == pytest.approx(np.mean(risks, axis=0), abs=0.05)
    bins = [reliability_bins(confidence[::step], correct[::step]) for step in (1, -1)]
    assert [list(row.values()) for row in bins[0]] == [pytest.approx(list(row.values())) for row in bins[1]]


def test_reliability_bins_hold_every_prediction_once():
    random = np.random.default_rng(0)
    bins = reliability_bins(random.random(57), random.random(57) < 0.5)
    assert sum(row["count"] for row in bins) == 57
    assert [row["confidence"] for row in bins] == sorted(row["confidence"] for row in bins)
