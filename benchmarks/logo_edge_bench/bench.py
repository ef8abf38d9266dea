"""Accuracy and latency of systems, measured side by side in one run. Both figures of a system are of the same file.

The method follows MLPerf (docs/results/benchmarks.md lists the differences): SingleStream sends one image after the
other and reports p90, MultiStream sends queries of several images and reports p99, Offline reports images per second. A
warm-up ends when the latency has settled; then the systems alternate window by window, so a disturbance affects all.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from PIL import Image

from logo_edge.bundle.record import read_bundle
from logo_edge.errors import BenchError
from logo_edge.files import json_text, write_file
from logo_edge.images.load import load_image
from logo_edge.tables.find import walk_images
from logo_edge_bench import machine
from logo_edge_bench.energy import open_meter
from logo_edge_bench.percentiles import median_interval, summarize_latencies
from logo_edge_bench.processes import Worker, measure_starts, median_ms, settle
from logo_edge_bench.systems import PERCENTILE, System
from logo_edge_train.data.manifest import LogoRow, Manifest, labelled_rows, targets_of
from logo_edge_train.metrics import summarize
from logo_edge_train.provenance import provenance
from logo_edge_train.temperature import fit_temperature

FORMAT, FORMAT_VERSION = "logo-edge-bench", 1
STAGES = ("preprocess", "inference", "end_to_end")
LATENCY_IMAGES = 100
BARE_IMPORT = "import numpy, onnxruntime"
SPREAD = 0.1  # of the medians of the rounds; a row with a larger one is reported as noisy

Say = Callable[[str], None]


@dataclass(frozen=True)
class Preset:
    """The length of a run: `rounds` windows of `window_s` for each stage, after a warm-up.

    The warm-up ends with three windows that agree within `settle_within`, and fails after `settle_s`; with None it has
    two windows, and the result holds only ratios. `starts` is the number of process starts, `offline` that of images in
    an Offline pass. `size_px` is the longer side of the timed PNG files.
    """

    name: str
    rounds: int
    window_s: float
    settle_s: float
    starts: int
    offline: int
    settle_within: float | None = 0.1
    size_px: int = 192


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("quick", rounds=7, window_s=0.4, settle_s=15, starts=7, offline=100),
        Preset("full", rounds=20, window_s=3, settle_s=60, starts=20, offline=300),
        Preset("ratios", rounds=25, window_s=0.15, settle_s=0, starts=0, offline=0, settle_within=None),
    )
}


@dataclass(frozen=True)
class Images:
    """Images of one split: accuracy is measured on all, latency on some, as PNG files of one size.

    Images without labels have no `rows` and no `split`, and are only timed.
    """

    split: str
    labels: tuple[str, ...]
    rows: tuple[LogoRow, ...]
    paths: tuple[str, ...]
    timed: tuple[str, ...]


def read_images(manifest: Manifest, split: str, labels: tuple[str, ...], folder: Path, size_px: int) -> Images:
    """The split's images; the timed ones are written into `folder`. Raises like `labelled_rows`, and ImageError."""
    rows = labelled_rows(manifest, split, labels, "the bundle's")
    paths = manifest.image_paths(rows)
    return Images(split, labels, tuple(rows), tuple(map(str, paths)), _write_timed(paths, folder, size_px))


def read_folder(source: Path, labels: tuple[str, ...], folder: Path, size_px: int) -> Images:
    """The images of the folder `source` without labels; the timed ones are written into `folder`.

    Raises BenchError where there are none, and ImageError.
    """
    paths = list(walk_images(source))
    if not paths:
        raise BenchError(
            f"{source}: no image found; expected a folder of images, or --manifest, a CSV of labelled ones"
        )
    return Images("", labels, (), tuple(paths), _write_timed(paths, folder, size_px))


def _write_timed(paths: Sequence[Path | str], folder: Path, size_px: int) -> tuple[str, ...]:
    """At most about LATENCY_IMAGES of the images, as PNG files with a longer side of `size_px`."""
    every, timed = max(1, len(paths) // LATENCY_IMAGES), []
    for index, path in enumerate(paths[::every][:LATENCY_IMAGES]):
        image = load_image(path)
        scale = size_px / max(image.size)
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
        timed.append(folder / f"{index:03d}.png")
        image.save(timed[-1])
    return tuple(map(str, timed))


def run_bench(
    systems: list[System],
    images: Images,
    preset: Preset,
    *,
    starts: dict[str, tuple[str, ...]] | None = None,
    calib: Images | None = None,
    say: Say = lambda line: None,
) -> dict:
    """The result of one run, ready for JSON: a row for each system, ratios to the first, the machine, warnings.

    `starts` are further commands, by name, whose process starts are timed by turns with those of the systems. With
    `calib`, the rows of systems that are no bundles also have a temperature fitted there, and their ECE at it. A system
    that does not load, such as one that fails its golden vectors, is left out; the reasons are in `not_measured`.
    Raises BenchError where the first system or all others do not load, or one fails later, does not settle, or shares
    its name.
    """
    if len({system.name for system in systems}) < len(systems):
        raise BenchError(f"two systems have one name: {', '.join(system.name for system in systems)}")
    cpus, before, started = machine.usable_cpus(), machine.conditions(), time.perf_counter()
    with contextlib.ExitStack() as stack:
        meter = open_meter()
        if meter:
            stack.callback(meter.close)
        measured, refused = [], {}
        for system in systems:
            worker = stack.enter_context(Worker(system, cpus[: system.threads], list(images.labels)))
            one = _Measured(system, worker)
            try:
                one.prepare(images, calib, preset, say)
            except BenchError as error:
                refused[system.name] = str(error)
                if len(refused) == max(1, len(systems) - 1) or not measured:
                    raise
                say(f"left out: {error}")
            else:
                measured.append(one)
        for one in measured:
            one.warm_up(preset, say)
        for number in range(preset.rounds):
            say(f"round {number + 1} of {preset.rounds}")
            for one in measured:
                one.measure_round(preset, meter)
        for one in measured:
            one.description |= one.worker.ask("memory")
    start_times, failed = _measure_starts([one.system for one in measured], starts or {}, images.timed[0], preset, say)
    after, this_machine = machine.conditions(), machine.describe()
    rows = [one.row(start_times.get(one.system.name)) for one in measured]
    names = {row["name"] for row in rows}
    if preset.settle_within is None:
        rows = [_without_milliseconds(row) for row in rows]
    folders = sorted({system.options["bundle"] for system in systems if "bundle" in system.options})
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "provenance": provenance(map(read_bundle, folders), preset=preset.name),
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "method": asdict(preset),
        "split": images.split,
        "seconds": round(time.perf_counter() - started, 1),
        "machine": this_machine,
        "conditions": {"before": before, "after": after},
        "energy_by": meter and meter.name,
        "warnings": machine.warnings_of(before, after, len(cpus))
        + [
            f"{row['name']}: its rounds' medians lie {row['noise']['spread']:.0%} apart"
            for row in rows
            if row["noise"]["spread"] > SPREAD
        ],
        "process_starts_s": {name: time_s for name, time_s in start_times.items() if name not in names},
        "not_measured": refused | {f"process start of {name}": reason for name, reason in failed.items()},
        "rows": rows,
        "ratios": {"to": systems[0].name, "of": _ratios(measured)},
    }


class _Measured:
    """A system, its process and its measurements so far."""

    def __init__(self, system: System, worker: Worker):
        self.system, self.worker = system, worker
        self.description: dict = {}
        self.times: dict[str, list[np.ndarray]] = {}
        self.per_s: list[float] = []
        self.joules: list[float] = []
        self.settled_ms: list[float] = []
        self.switches = 0

    def prepare(self, images: Images, calib: Images | None, preset: Preset, say: Say) -> None:
        paths = images.paths if images.rows else images.timed
        say(f"{self.system.name}: loading, and {len(paths)} images" + " for its accuracy" * bool(images.rows))
        self.description = self.worker.ask("load")
        logits = self._predict(paths, images)
        self.accuracy = _summarize(logits, images)
        if calib and images.rows and self.system.kind != "bundle":
            self.accuracy["calibrated"] = _calibrate(logits, images, self._predict(calib.paths, calib), calib)
        stages = self.worker.ask("prepare", paths=images.timed, batch=self.system.batch)["stages"]
        self.times = {stage: [] for stage in stages}

    def _predict(self, paths: Sequence[str], images: Images) -> np.ndarray:
        """(N, K) logarithms of the system's probabilities. Raises BenchError where it gives others."""
        probabilities = np.array(self.worker.ask("predict", paths=paths)["probabilities"])
        if probabilities.shape != (len(paths), len(images.labels)) or not np.isfinite(probabilities).all():
            raise BenchError(
                f"found probabilities of shape {probabilities.shape}; expected {len(paths)} rows of "
                f"{len(images.labels)} finite numbers"
            )
        return np.log(np.maximum(probabilities, 1e-12))

    def warm_up(self, preset: Preset, say: Say) -> None:
        def window() -> float:
            return median_ms(self.worker.ask("time", stage="end_to_end", seconds=preset.window_s, least=3)) / 1e3

        if preset.settle_within is None:
            self.settled_ms = [window() * 1e3 for _ in range(2)]
            return
        say(f"{self.system.name}: warming up")
        try:
            self.settled_ms = [median * 1e3 for median in settle(window, preset.settle_within, preset.settle_s)]
        except BenchError as error:
            raise BenchError(f"{self.system.name}: {error}") from error

    def measure_round(self, preset: Preset, meter) -> None:
        for stage, times in self.times.items():
            reply = self.worker.ask("time", stage=stage, seconds=preset.window_s, least=3)
            times.append(np.array(reply["ns"]) / 1e6)
            self.switches += reply["involuntary_switches"]
        if preset.offline:
            queries = -(-preset.offline // self.system.batch)
            joules = meter.joules() if meter else 0.0
            wall_s = self.worker.ask("time", stage="end_to_end", least=queries)["wall_ns"] / 1e9
            self.per_s.append(queries * self.system.batch / wall_s)
            if meter:
                self.joules.append((meter.joules() - joules) / (queries * self.system.batch))

    def row(self, start: dict | None) -> dict:
        percentile = PERCENTILE[self.system.scenario]
        medians = [statistics.median(times.tolist()) for times in self.times["end_to_end"]]
        return {
            "name": self.system.name,
            "kind": self.system.kind,
            "note": self.system.note,
            "threads": self.system.threads,
            "batch": self.system.batch,
            "scenario": self.system.scenario,
            "cpus": self.worker.cpus,
            "spinning": self.system.options.get("spinning", False),
            **self.description,
            **({"about": self.system.about} if self.system.about else {}),
            **self.accuracy,
            "latency": {
                stage: summarize_latencies(np.concatenate(times), percentile) for stage, times in self.times.items()
            },
            "images_per_s": median_interval(self.per_s) if self.per_s else None,
            "joules_per_image": median_interval(self.joules) if self.joules else None,
            "process_start_s": start,
            "noise": {
                "settled_ms": [round(value, 4) for value in self.settled_ms],
                "round_medians_ms": [round(value, 4) for value in medians],
                "spread": max(medians) / min(medians) - 1,
                "involuntary_switches": self.switches,
            },
        }


def _without_milliseconds(row: dict) -> dict:
    """The row without latencies, for a run that did not wait for a settled latency."""
    noise = {key: row["noise"][key] for key in ("spread", "involuntary_switches")}
    return {key: value for key, value in row.items() if key not in ("latency", "load_s")} | {"noise": noise}


def _summarize(logits: np.ndarray, images: Images, temperature: float = 1.0) -> dict:
    """`metrics.summarize` and the worst class of (N, K) logits; empty of images without labels."""
    if not images.rows:
        return {}
    sure = np.array([row.sure for row in images.rows], bool)
    accuracy = summarize(logits, targets_of(images.rows, images.labels), sure, temperature, images.labels)
    label, recall = min(accuracy["recall"].items(), key=lambda item: item[1]["value"])
    return {"accuracy": accuracy, "worst_class": {"label": label, **recall}}


def _calibrate(logits: np.ndarray, images: Images, calib_logits: np.ndarray, calib: Images) -> dict:
    """The temperature fitted on calib, as a bundle's is, and the calibration error of (N, K) logits at it."""
    temperature = fit_temperature(calib_logits, targets_of(calib.rows, calib.labels))
    figures = _summarize(logits, images, temperature)["accuracy"]
    return {"temperature": temperature, "ece": figures["ece"], "ece_debiased": figures["ece_debiased"]}


def _ratios(measured: list[_Measured]) -> dict[str, dict]:
    """For each system but the first: its median end-to-end time / that of the first, in each round; then the median.

    Per image, so that batches of different sizes are comparable.
    """

    def medians(one: _Measured) -> np.ndarray:
        return np.array([np.median(times) for times in one.times["end_to_end"]]) / one.system.batch

    first = medians(measured[0])
    return {one.system.name: median_interval((medians(one) / first).tolist()) for one in measured[1:]}


def _measure_starts(
    systems: list[System], others: dict[str, tuple[str, ...]], image: str, preset: Preset, say: Say
) -> tuple[dict[str, dict], dict[str, str]]:
    """The medians of whole processes, and the reasons of the commands that failed, both by name."""
    commands = {system.name: system.command for system in systems if system.command} | others
    if not commands or not preset.starts:
        return {}, {}
    say(f"{preset.starts} process starts of {len(commands)} commands")
    commands[BARE_IMPORT] = (sys.executable, "-c", BARE_IMPORT)
    times, failed = measure_starts({name: (*command, image) for name, command in commands.items()}, preset.starts)
    return {name: median_interval(values) for name, values in times.items()}, failed


def write_result(result: dict, path: Path) -> None:
    """Writes a result as JSON, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json_text(result))


def read_result(path: Path) -> dict:
    """A result of `write_result`. Raises BenchError for another file or another format version."""
    try:
        result = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BenchError(f"{path}: {reason}; expected a result of `logo-edge bench --out`") from error
    version = (result.get("format"), result.get("format_version")) if isinstance(result, dict) else None
    if version != (FORMAT, FORMAT_VERSION):
        raise BenchError(f"{path}: found {version}; expected {(FORMAT, FORMAT_VERSION)}. Measure again")
    return result
