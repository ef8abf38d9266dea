"""Percentiles with intervals only where the sample supports them, and LoadGen's early stopping."""

from __future__ import annotations

import numpy as np
import pytest

from logo_edge_bench.percentiles import (
    binomial_cdf,
    early_stopping_bound,
    median_interval,
    percentile_interval,
    summarize_latencies,
)


@pytest.mark.parametrize(("percentile", "least"), [(50, 6), (90, 36), (95, 72), (99, 368)])
def test_a_percentile_is_left_out_until_the_sample_supports_its_interval(percentile, least):
    assert percentile_interval(np.arange(float(least - 1)), percentile) is None
    interval = percentile_interval(np.arange(float(least)), percentile)
    assert interval["low"] <= interval["value"] <= interval["high"] == least - 1


def test_the_interval_of_a_median_is_that_of_the_tables():
    interval = percentile_interval(np.arange(1.0, 21.0), 50)  # Conover 1999, table A3: ranks 6 and 15 of 20
    assert interval == {"value": 10.5, "low": 6.0, "high": 15.0}


@pytest.mark.parametrize("percentile", [50, 90, 99])
def test_the_interval_holds_the_percentile_as_often_as_it_says(percentile):
    random, truth, held = np.random.default_rng(0), -np.log(1 - percentile / 100), 0
    for _ in range(400):
        interval = percentile_interval(np.sort(random.exponential(size=500)), percentile)
        held += interval["low"] <= truth <= interval["high"]
    assert held >= 370  # 95 % of 400 are 380; 370 is 2.3 standard errors below


def test_a_binomial_distribution_is_exact():
    assert binomial_cdf(4, 0.5) == pytest.approx([1 / 16, 5 / 16, 11 / 16, 15 / 16, 1])


@pytest.mark.parametrize(("percentile", "needed"), [(90, 64), (99, 662)])
def test_early_stopping_needs_as_many_queries_as_mlperf_publishes(percentile, needed):
    short = early_stopping_bound(np.arange(float(needed - 1)), percentile)
    assert (short["bound_ms"], short["needed"]) == (None, needed)
    assert early_stopping_bound(np.arange(float(needed)), percentile)["bound_ms"] == needed - 1


def test_the_early_stopping_bound_comes_down_to_the_percentile_as_queries_grow():
    bounds = [early_stopping_bound(np.linspace(0, 100, count), 90)["bound_ms"] for count in (64, 640, 6400, 64000)]
    assert bounds == sorted(bounds, reverse=True)
    assert 90 < bounds[-1] < 90.5


def test_the_bound_is_seldom_below_the_true_percentile():
    random, truth = np.random.default_rng(1), -np.log(0.1)
    below = sum(
        early_stopping_bound(np.sort(random.exponential(size=200)), 90)["bound_ms"] < truth for _ in range(1000)
    )
    assert below <= 20  # 1 % of 1000 are 10


def test_a_summary_leaves_out_what_few_calls_do_not_support():
    few, many = summarize_latencies(np.random.default_rng(0).random(50), 90), summarize_latencies(np.arange(400.0), 99)
    assert {"p50_ms", "p90_ms"} <= set(few)
    assert not {"p95_ms", "p99_ms"} & set(few)
    assert few["early_stopping"]["bound_ms"] is None
    assert "p99_ms" in many
    assert many["quantiles_ms"] == sorted(many["quantiles_ms"])


def test_of_very_few_rounds_the_range_is_told():
    assert median_interval([3.0, 1.0, 2.0]) == {"value": 2.0, "low": 1.0, "high": 3.0}
