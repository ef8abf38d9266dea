"""Latency of a call, measured by one method everywhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Latency:
    """Wall-clock times of `runs` single calls, in milliseconds."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    runs: int


def measure_by_turns(
    calls: dict[str, Callable[[], object]], *, rounds: int = 5, runs: int = 10, warmup_s: float = 0.2
) -> dict[str, float]:
    """The median latency of each call in ms: they take turns, so that a slow moment of the machine affects all."""
    medians_ms: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds):
        for name, call in calls.items():
            latency = measure_latency(call, runs=runs, warmup_s=0.0 if index else warmup_s)
            medians_ms[name].append(latency.p50_ms)
    return {name: float(np.median(medians)) for name, medians in medians_ms.items()}


def measure_latency(call: Callable[[], object], *, runs: int = 200, warmup_s: float = 0.3) -> Latency:
    """The latency of `call`, after a warm-up of `warmup_s` seconds of calls that do not count."""
    end = time.perf_counter() + warmup_s
    while time.perf_counter() < end:
        call()
    times = np.empty(runs)
    for index in range(runs):
        start = time.perf_counter()
        call()
        times[index] = time.perf_counter() - start
    p50, p90, p99 = np.percentile(times * 1e3, [50, 90, 99]).tolist()
    return Latency(p50, p90, p99, runs)
