"""The processes of a run: a worker for each system, pinned to its own CPUs, and whole processes that are timed."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from logo_edge.errors import BenchError
from logo_edge.machine import on_cores
from logo_edge_bench.systems import System

WORKER = Path(__file__).with_name("worker.py")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Worker:
    """A system's process; a context manager."""

    def __init__(self, system: System, cpus: list[int], labels: list[str]):
        self.system, self.cpus = system, cpus
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(system.threads)) | system.environment
        if system.python != sys.executable:
            environment.pop("PYTHONPATH", None)  # a peer's environment is its own
        options = json.dumps({"labels": labels, **system.options})
        with on_cpus(cpus):
            self._process = subprocess.Popen(
                [system.python, str(WORKER), system.subject, options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_) -> None:
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def ask(self, do: str, **arguments) -> dict:
        """The reply to a request of worker.Server. Raises BenchError, naming the system, where there is none."""
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise BenchError(
                f"{self.system.name}: its process ended with status {self._process.wait(10)} when asked to {do}; "
                "its output is above"
            )
        reply = json.loads(line)
        if "error" in reply:
            raise BenchError(f"{self.system.name}: {do} failed: {reply['error']}")
        return reply


def measure_starts(commands: dict[str, tuple[str, ...]], starts: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Wall seconds of whole processes, by turns, and the reasons of the commands that failed, both by name.

    The first round warms the file cache and is dropped.
    """
    times: dict[str, list[float]] = {name: [] for name in commands}
    failed: dict[str, str] = {}
    for _ in range(starts + 1):
        for name in [name for name in commands if name not in failed]:
            start = time.perf_counter()
            reason = _failure_of(commands[name])
            times[name].append(time.perf_counter() - start)
            if reason:
                failed[name] = reason
    return {name: values[1:] for name, values in times.items() if name not in failed}, failed


def _failure_of(command: tuple[str, ...]) -> str:
    """Runs the command and gives the reason of its failure, or an empty text."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return f"{' '.join(command)} gave status {done.returncode}: {done.stderr[-500:]}" if done.returncode else ""


def settle(measure: Callable[[], float], within: float, limit_s: float) -> list[float]:
    """The medians of the windows of a warm-up, which ends when the last three agree within the share `within`.

    `measure` gives a window's median in seconds. Raises BenchError where no three do within `limit_s` seconds.
    """
    medians, end = [], time.perf_counter() + limit_s
    while True:
        medians.append(measure())
        last = medians[-3:]
        if len(last) == 3 and max(last) <= min(last) * (1 + within):
            return medians
        if time.perf_counter() >= end:
            shown = ", ".join(f"{median * 1e3:.2f}" for median in medians[-6:])
            raise BenchError(
                f"its latency did not settle in {limit_s:g} s: the medians of the last windows were {shown} ms; "
                f"expected three in a row that agree within {within:.0%}. Stop other programs, fix the clocks, or use "
                "--ratios, which compares side by side on a busy machine"
            )


def median_ms(reply: dict) -> float:
    return statistics.median(reply["ns"]) / 1e6


def on_cpus(cpus: list[int]) -> AbstractContextManager[None]:
    """Pins the processes started meanwhile to these CPUs, where the operating system can do it."""
    return on_cores(cpus if hasattr(os, "sched_setaffinity") else None)
