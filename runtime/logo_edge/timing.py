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
