"""Latency and peak memory of artifacts on this machine, measured by turns, so that a slow moment slows them all.

Each artifact is opened in a separate process that loads only its runtime: no torch, unless that is the runtime.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from logo_edge.preprocess import InputContract
from logo_edge_compress.onnx.graph import LOGITS
from logo_edge_compress.subprocess_call import Subprocess, SubprocessError
from logo_edge_compress.verify import Forward, open_artifact

ROUNDS = 11
ROUND_S = 0.2  # of each artifact in each round
RUNS = (5, 50)  # in a round, at least and at most
WARMUP_S = 0.3
START_S = 300.0  # until an artifact is open
SURE = 2  # rounds of 11 that may disagree: the median is then above 1 with 97 % (a sign test)


@dataclass(frozen=True)
class Cost:
    """One image on one thread, ms; the p50 of every round; the peak memory of the process, MB of 10^6 bytes."""

    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    runs: int
    rounds_ms: tuple[float, ...]
    peak_memory_mb: float


@dataclass(frozen=True)
class Opened:
    """How to open an artifact: its backend, its files and the input contract of its images."""

    backend: str
    paths: tuple[Path, ...]
    contract: InputContract
    members: tuple[tuple[str, int, float], ...] = ()  # of an ensemble: MemberEntry's fields


def measure_side_by_side(artifacts: dict[str, Opened], logs: Path) -> dict[str, Cost | str]:
    """The cost of each artifact, or the error of its process."""
    costs: dict[str, Cost | str] = {}
    processes: dict[str, Subprocess] = {}
    times: dict[str, list[np.ndarray]] = {}
    runs: dict[str, int] = {}
    try:
        for name, artifact in artifacts.items():  # one at a time, so that none is warmed up while another loads
            log = logs / f"measure-{len(processes)}.log"
            process = processes[name] = Subprocess(serve, (artifact,), log)
            try:
                usual_ms = process.receive(time.monotonic() + START_S)
                runs[name], times[name] = int(np.clip(1e3 * ROUND_S / usual_ms, *RUNS)), []
            except SubprocessError as error:
                costs[name] = str(error)
        for _ in range(ROUNDS):
            for name in [name for name in times if name not in costs]:
                try:
                    processes[name].send(runs[name])
                    times[name].append(processes[name].receive(time.monotonic() + START_S))
                except SubprocessError as error:
                    costs[name] = str(error)
        for name in [name for name in times if name not in costs]:
            try:
                processes[name].send(0)
                costs[name] = _cost(times[name], processes[name].receive(time.monotonic() + START_S))
            except SubprocessError as error:
                costs[name] = str(error)
    finally:
        for process in processes.values():
            process.close()
    return {name: costs[name] for name in artifacts}


def is_slower(cost: Cost, other: Cost) -> bool:
    """Whether the median of the rounds' ratios is above 1 with 97 % confidence (a sign test)."""
    slower = sum(mine > theirs for mine, theirs in zip(cost.rounds_ms, other.rounds_ms, strict=True))
    return slower >= len(cost.rounds_ms) - SURE


def serve(artifact: Opened, connection) -> None:
    """Opens the artifact and sends its usual latency in ms; then, for each number received, the ms of that many runs.

    At 0 it sends the peak memory of this process, MB.
    """
    forward = open_single(artifact)
    side, channels = artifact.contract.size_px, artifact.contract.channels
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, channels), dtype=np.uint8)
    end, times_ms = time.perf_counter() + WARMUP_S, []
    while time.perf_counter() < end or len(times_ms) < 3:
        times_ms.append(_time_ms(forward, pixels))
    connection.send(float(np.median(times_ms)))
    while runs := connection.receive():
        connection.send(np.array([_time_ms(forward, pixels) for _ in range(runs)]))
    connection.send(peak_memory_mb())


def open_single(artifact: Opened) -> Forward:
    """The function that runs the artifact on one thread."""
    if artifact.backend == "members":
        return open_members(artifact, threads=1)
    return open_artifact(artifact.backend, artifact.paths[0], threads=1)


def open_members(artifact: Opened, *, threads: int) -> Forward:
    """The function that runs the members of an ensemble and pools their logits, as the runtime does."""
    from logo_edge.backends.base import ModelFile, Resources
    from logo_edge.backends.choose import open_backend
    from logo_edge.bundle.members import Ensemble
    from logo_edge.bundle.record import MemberEntry

    members = [MemberEntry(*member) for member in artifact.members]
    backends = [open_backend("onnxruntime", ModelFile.read(path), Resources(threads)) for path in artifact.paths]
    ensemble = Ensemble(members, backends, LOGITS)
    return lambda pixels: ensemble.run(pixels, [LOGITS])[0]


def peak_memory_mb() -> float:
    """The peak resident set of this process, MB; memory of the parent before the fork is not counted."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def _time_ms(forward: Forward, pixels: np.ndarray) -> float:
    start = time.perf_counter()
    forward(pixels)
    return 1e3 * (time.perf_counter() - start)


def _cost(rounds: list[np.ndarray], memory_mb: float) -> Cost:
    p50, p90, p95, p99 = np.percentile(np.concatenate(rounds), [50, 90, 95, 99]).tolist()
    medians = tuple(float(np.median(part)) for part in rounds)
    return Cost(p50, p90, p95, p99, sum(map(len, rounds)), medians, memory_mb)
