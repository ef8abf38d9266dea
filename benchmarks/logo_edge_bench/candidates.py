"""What is to be measured, and the processes that are: one worker for each candidate, kept on its own CPUs."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from logo_edge.backends.choose import OWN_GRAPH, READS
from logo_edge.bundle.record import DEFAULT_BUNDLE, read_bundle
from logo_edge.errors import BenchError
from logo_edge.machine import on_cores

WORKER = Path(__file__).with_name("worker.py")
CLASSIFY = "from logo_edge.cli.main import main; main()"
DEFAULT_BACKEND = OWN_GRAPH[0]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
SINGLE_STREAM, MULTI_STREAM = "SingleStream", "MultiStream"
PERCENTILE = {SINGLE_STREAM: 90, MULTI_STREAM: 99}  # that MLPerf reports of each


@dataclass(frozen=True)
class Candidate:
    """One row: a subject with its options, on so many threads, asked for `batch` images at a time.

    `subject` is a module or a .py file with `load(labels, **options)` (see worker.py), run by `python`. `command` is
    what its users type for one image, whose path is appended; it is timed from process start to exit. `environment` is
    added to the process's variables.
    """

    name: str
    subject: str
    options: dict = field(default_factory=dict)
    threads: int = 1
    batch: int = 1
    kind: str = "bundle"
    python: str = sys.executable
    command: tuple[str, ...] = ()
    note: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def scenario(self) -> str:
        return SINGLE_STREAM if self.batch == 1 else MULTI_STREAM


def bundle_candidates(
    bundles: Iterable[Path | None],
    *,
    backends: Iterable[str] = ("onnxruntime",),
    threads: Iterable[int] = (1,),
    batches: Iterable[int] = (1,),
    spinning: bool = False,
    artifacts: Iterable[Path] = (),
    public_key: Path | None = None,
) -> list[Candidate]:
    """Every bundle with every backend, number of threads and batch; and every artifact of `logo-edge export` likewise.

    None is the default bundle. With `public_key` each of their processes verifies who signed it. An artifact is run with the first bundle's preprocessing and calibration.
    """
    runs = [
        (folder or DEFAULT_BUNDLE, {} if backend == DEFAULT_BACKEND else {"backend": backend}, backend)
        for folder in bundles
        for backend in backends
    ]
    runs += [
        (
            runs[0][0],
            {"backend": _backend_of(path), "artifact": str(path.absolute())},
            f"{_backend_of(path)} {path.name}",
        )
        for path in artifacts
    ]
    found = []
    for folder, options, label in runs:
        bundle = read_bundle(folder, public_key=public_key)
        title = bundle.name if folder == DEFAULT_BUNDLE else f"{bundle.name} ({folder.name})"
        precision = precision_of(options["artifact"]) if "artifact" in options else bundle.model.precision
        options = options | _signed_by(public_key)
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        command = (sys.executable, "-c", CLASSIFY, "classify", "--bundle", str(folder), *arguments)
        options = {"bundle": str(folder), **({"spinning": True} if spinning else {}), **options}
        found += [
            Candidate(
                f"{title}, {label}, {precision}, {count} thread{'s' * (count > 1)}, batch {batch}",
                "logo_edge_bench.subject",
                {**options, "threads": count},
                count,
                batch,
                command=command,
            )
            for count in threads
            for batch in batches
        ]
    return found


def precision_of(artifact: str) -> str:
    """What the record of `logo-edge export` says of one of its files."""
    return str((record_of(artifact) or {}).get("precision", "not told"))


def record_of(artifact: str) -> dict | None:
    """The record of `logo-edge export` that names this file of its; it lies beside it, of an engine a folder above."""
    path = Path(artifact)
    for record in sorted([*path.parent.glob("*.json"), *path.parent.parent.glob("*.json")]):
        with suppress(OSError, ValueError, AttributeError):
            found = json.loads(record.read_bytes())
            if (
                path.name in found.get("files", {})
                or Path((found.get("engine") or {}).get("file", "")).name == path.name
            ):
                return found
    return None


def reference_candidate(bundle: Path | None, public_key: Path | None = None) -> Candidate:
    """The yardstick: see reference.py."""
    return Candidate(
        "by hand: Pillow and ONNX Runtime",
        "logo_edge_bench.reference",
        {"bundle": str(bundle or DEFAULT_BUNDLE), **_signed_by(public_key)},
        kind="reference",
    )


def _signed_by(public_key: Path | None) -> dict[str, str]:
    """The option of a subject that verifies who signed its bundle."""
    return {"public_key": str(public_key)} if public_key else {}


class Worker:
    """A candidate's process; a context manager."""

    def __init__(self, candidate: Candidate, cpus: list[int], labels: list[str]):
        self.candidate, self.cpus = candidate, cpus
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(candidate.threads)) | candidate.environment
        if candidate.python != sys.executable:
            environment.pop("PYTHONPATH", None)  # a peer's environment is its own
        options = json.dumps({"labels": labels, **candidate.options})
        with on_cpus(cpus):
            self._process = subprocess.Popen(
                [candidate.python, str(WORKER), candidate.subject, options],
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
        """The reply to a request of worker.Server. Raises BenchError, naming the candidate, where there is none."""
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise BenchError(
                f"{self.candidate.name}: its process ended with status {self._process.wait(10)} when asked to {do}; "
                "what it printed stands above"
            )
        reply = json.loads(line)
        if "error" in reply:
            raise BenchError(f"{self.candidate.name}: {do} failed: {reply['error']}")
        return reply


def measure_starts(commands: dict[str, tuple[str, ...]], starts: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Wall seconds of whole processes, by turns, and why there are none of a command that failed, both by name.

    The first round warms the file cache and is dropped.
    """
    times: dict[str, list[float]] = {name: [] for name in commands}
    failed: dict[str, str] = {}
    for _ in range(starts + 1):
        for name in [name for name in commands if name not in failed]:
            start = time.perf_counter()
            reason = _why_it_failed(commands[name])
            times[name].append(time.perf_counter() - start)
            if reason:
                failed[name] = reason
    return {name: values[1:] for name, values in times.items() if name not in failed}, failed


def _why_it_failed(command: tuple[str, ...]) -> str:
    """Runs the command; empty where it succeeds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return f"{' '.join(command)} gave status {done.returncode}: {done.stderr[-500:]}" if done.returncode else ""


def settle(measure: Callable[[], float], within: float, limit_s: float) -> list[float]:
    """The medians of the windows of a warm-up, ended by three that agree within that share of the least.

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
                f"its latency did not settle in {limit_s:g} s: the last windows' medians were {shown} ms, and three in a "
                f"row must agree within {within:.0%}. Stop other programs, fix the clocks, or take --ratios, which "
                "compares side by side on a busy machine"
            )


def median_ms(reply: dict) -> float:
    return statistics.median(reply["ns"]) / 1e6


def on_cpus(cpus: list[int]) -> AbstractContextManager[None]:
    """Keeps on these CPUs what is started meanwhile; anywhere, where the system cannot do it."""
    return on_cores(cpus if hasattr(os, "sched_setaffinity") else None)


def _backend_of(artifact: Path) -> str:
    if artifact.suffix not in READS:
        raise BenchError(
            f"{artifact}: found {artifact.suffix!r}; expected an artifact of `logo-edge export`: {', '.join(READS)}"
        )
    return READS[artifact.suffix][0]
