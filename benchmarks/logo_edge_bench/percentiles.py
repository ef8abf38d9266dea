"""Percentiles of latencies with intervals from order statistics, which assume no distribution.

The calls of a run follow one another, and their latencies are correlated: an interval is one of this run on this
machine. How far runs lie apart is seen in the rounds.
"""

from __future__ import annotations

from functools import cache
from math import log

import numpy as np

PERCENTILES = (50, 90, 95, 99)
CONFIDENCE = 0.95
EARLY_STOPPING_CONFIDENCE = 0.99  # like MLPerf's LoadGen, with its tolerance of 0
KEPT_QUANTILES = 41


def summarize_latencies(times_ms: np.ndarray, percentile: int) -> dict:
    """The figures of a sample of latencies in ms: percentiles with intervals, and LoadGen's bound on `percentile`.

    A percentile whose interval would have to lie beyond the sample is left out: n does not support it.
    """
    ordered = np.sort(times_ms)
    percentiles = {f"p{p}_ms": known for p in PERCENTILES if (known := percentile_interval(ordered, p)) is not None}
    shares = np.linspace(0, 1, KEPT_QUANTILES)
    return {
        "count": len(ordered),
        "mean_ms": float(ordered.mean()),
        **percentiles,
        "early_stopping": early_stopping_bound(ordered, percentile),
        "quantiles_ms": [round(value, 4) for value in np.quantile(ordered, shares).tolist()],
    }


def percentile_interval(ordered: np.ndarray, percentile: float) -> dict | None:
    """{value, low, high} of a percentile of a sorted sample, or None where the sample is too small for the interval.

    low and high are the order statistics between which the percentile lies with P >= 95 % (Conover 1999, 3.2).
    """
    count, share = len(ordered), percentile / 100
    below = binomial_cdf(count, share)  # P(at most k of the sample lie below the percentile), k = 0 to count
    tail = (1 - CONFIDENCE) / 2
    # the largest index whose value is too high with P <= tail, and the least whose value is too low with P <= tail
    low, high = int(np.searchsorted(below, tail, side="right")) - 1, int(np.searchsorted(below, 1 - tail, side="left"))
    if low < 0 or high > count - 1:
        return None
    value = float(np.quantile(ordered, share))
    return {"value": value, "low": min(float(ordered[low]), value), "high": max(float(ordered[high]), value)}


def median_interval(values: list[float]) -> dict:
    """{value, low, high} of the median of a few rounds; for fewer than six their range, which covers less than 95 %."""
    ordered = np.sort(np.array(values))
    whole = {"value": float(np.median(ordered)), "low": float(ordered[0]), "high": float(ordered[-1])}
    return percentile_interval(ordered, 50) or whole


def early_stopping_bound(ordered: np.ndarray, percentile: int) -> dict:
    """{percentile, bound_ms, queries, needed}: with 99 % confidence the percentile is at most bound_ms.

    Like LoadGen's early stopping: the largest t such that t queries over the bound among all allow the claim; the
    bound is the t-th largest latency. None where fewer than `needed` queries were made (64 for p90, 662 for p99).
    """
    share, count = percentile / 100, len(ordered)
    needed = _least_queries(1, share)
    if count < needed:
        return {"percentile": percentile, "bound_ms": None, "queries": count, "needed": needed}
    low, high = 1, count  # the largest t with _least_queries(t) <= count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _least_queries(middle, share) <= count else (low, middle - 1)
    return {"percentile": percentile, "bound_ms": float(ordered[count - low]), "queries": count, "needed": needed}


def binomial_cdf(count: int, share: float) -> np.ndarray:
    """(count + 1,) P(X <= k) of a binomial X, k = 0 to count."""
    k = np.arange(count + 1)
    logarithms = _log_factorials(count)
    mass = logarithms[count] - logarithms[k] - logarithms[count - k] + k * log(share) + (count - k) * log(1 - share)
    return np.cumsum(np.exp(mass)).clip(0, 1)


@cache
def _least_queries(over: int, share: float) -> int:
    """The least n with P(at most `over` of n queries over the bound) <= 1 %, if the percentile were above the bound."""
    low, high = over + 1, 2 * (over + 1)
    while not _allows(over, high, share):
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _allows(over, middle, share) else (middle + 1, high)
    return low


def _allows(over: int, count: int, share: float) -> bool:
    return binomial_cdf(count, 1 - share)[over] <= 1 - EARLY_STOPPING_CONFIDENCE


@cache
def _log_factorials(count: int) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
