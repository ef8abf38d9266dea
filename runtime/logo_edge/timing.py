"""Latency of a call, measured by one method everywhere, and the machine that it was measured on."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from logo_edge.machine import describe_core, instruction_sets


@dataclass(frozen=True)
class Latency:
    """Wall-clock times of `runs` single calls, in milliseconds."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    runs: int


def measure_latency(call: Callable[[], object], *, runs: int = 200, warmup_s: float = 0.3) -> Latency:
    """The latency of `call`, after calling it for `warmup_s` seconds uncounted."""
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


def describe_machine() -> dict:
    """What a latency depends on besides the code."""
    core = describe_core()
    return {
        "cpu": core.get("model name") or platform.processor(),
        "isa": instruction_sets(core),
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "onnxruntime": version("onnxruntime"),
        "pillow": version("pillow"),
        "numpy": version("numpy"),
    }
