"""This toolchain, a plain timm fine-tune and Ultralytics on four data sets that are not logos, on the same splits.

    python -m logo_edge_bench.experiments own_images                       # two cores, an hour and a half; resumes
    python -m logo_edge_bench.experiments own_images --latency             # then, on an idle machine

The data sets are those of own_data.py. Each of the systems is trained with its own settings, written in the record, and
chooses by val; test is only reported. This toolchain is `logo-edge train` and `compress` with a recipe that ships. The
others have its input size; Ultralytics cannot be given its pretrained weights here, so it is trained from scratch.
Rows are written one by one. If interrupted, also by SIGTERM, the same command goes on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Annotated

import numpy as np

from logo_edge.bundle.record import read_bundle
from logo_edge.errors import LogoEdgeError
from logo_edge.files import json_text, write_file
from logo_edge_bench.experiments.own_data import DATA_SETS, make_data
from logo_edge_bench.experiments.record import ROOT, RUNS, Out, read_record, write_record
from logo_edge_bench.machine import usable_cpus
from logo_edge_bench.processes import Worker, median_ms, settle
from logo_edge_bench.systems import System
from logo_edge_train.architecture import Architecture
from logo_edge_train.data.manifest import SPLITS, Manifest, read_manifest, targets_of
from logo_edge_train.evaluate import ensemble_logits
from logo_edge_train.keys import data_hash, row_hashes
from logo_edge_train.metrics import (
    Figure,
    average_precision,
    bootstrap,
    ece_interval,
    outcomes_of,
    probabilities_of,
    wilson_interval,
)
from logo_edge_train.recipe_io import load_recipe
from logo_edge_train.runs import read_run

OURS, TIMM, ULTRALYTICS = "logo-edge", "timm", "ultralytics"
PEERS = ROOT / "benchmarks" / "peers"
EPOCHS = {TIMM: 15, ULTRALYTICS: 60}
WINDOW_S, ROUNDS, TIMED = 0.4, 7, 60


def measure(
    *,
    data: Annotated[Sequence[str], {"choices": tuple(DATA_SETS)}] = tuple(DATA_SETS),
    systems: Annotated[Sequence[str], {"choices": (OURS, TIMM, ULTRALYTICS)}] = (TIMM, OURS, ULTRALYTICS),
    recipe: Annotated[str, "of logo-edge"] = "own",
    latency: Annotated[bool, "time what is trained, by turns, and train nothing"] = False,
    limit: Annotated[int | None, "images of a class, of four classes: a quick test"] = None,
    epochs: Annotated[int | None, "of the other systems"] = None,
    work: Annotated[Path, "folder of data, runs and bundles"] = RUNS / "own",
    out: Out,
) -> None:
    size_px = Architecture.parse(load_recipe(recipe).distill.students[0]).size_px
    if latency:
        for name in data:
            record_latencies(name, work, out)
        return
    for name, system in plan(data, systems):
        folder = work / name / system
        folder.mkdir(parents=True, exist_ok=True)
        manifest_path = organize(make_data(name, work / "data", limit), work / name / "manifest.csv")
        manifest = read_manifest(manifest_path)
        if system == ULTRALYTICS and manifest.multi_label:
            keep_row(out, name, system, {"not_measured": "its classifier gives one label an image"})
            continue
        with timed(folder / "time.json"):
            if system == OURS:
                train_ours(manifest_path, folder, recipe)
            elif system == TIMM:
                train_timm(manifest_path, folder, size_px, epochs or EPOCHS[system])
            else:
                train_ultralytics(manifest, folder, size_px, epochs or EPOCHS[system])
        row = describe(system, manifest, folder, recipe, epochs or EPOCHS.get(system))
        keep_row(out, name, system, row)
        print(f"{name}, {system}: {row['test']['score']['value']:.1%}, {row['minutes']:.1f} minutes", flush=True)


def plan(data: Sequence[str], systems: Sequence[str]) -> list[tuple[str, str]]:
    """(data set, system) in order: Ultralytics last, since nothing is compared with it."""
    pairs = [(name, system) for name in data for system in systems]
    return sorted(pairs, key=lambda pair: pair[1] == ULTRALYTICS)


def organize(source: Path, manifest: Path) -> Path:
    """The manifest of the source, written once."""
    if not manifest.exists():
        arguments = ("data", "organize", os.path.relpath(source, manifest.parent), "--out", manifest.name)
        run_logo_edge(*arguments, folder=manifest.parent, log=manifest.with_name("organize.log"))
    return manifest


def train_ours(manifest: Path, folder: Path, recipe: str) -> None:
    """Writes the run and the bundle; both commands resume. Their paths are relative, for the walk through them."""
    run, bundle, at = f"{folder.name}/run", f"{folder.name}/bundle", folder.parent
    train = ("train", "--data", manifest.name, "--recipe", recipe, "--out", run)
    run_logo_edge(*train, folder=at, log=folder / "train.log")
    run_logo_edge("compress", run, "--out", bundle, folder=at, log=folder / "compress.log")


def train_timm(manifest: Path, folder: Path, size_px: int, epochs: int) -> None:
    if not (folder / "model.json").exists():  # which is written last
        module = "logo_edge_bench.experiments.own_plain"
        command = [sys.executable, "-m", module, str(manifest), str(folder), str(size_px), str(epochs)]
        run(command, ROOT, folder / "train.log")


def train_ultralytics(manifest: Manifest, folder: Path, size_px: int, epochs: int) -> None:
    """Trains benchmarks/peers/yolo.py on flat copies of train and val."""
    peer, yolo = import_peer()
    flat = folder.parent / "flat"
    for split in peer.SPLITS:
        for index, row in enumerate(manifest.split(split)):
            if not (target := flat / split / row.label / f"{index:04d}.png").exists():
                peer.write_flat(manifest.image_path(row), target)
    digest = data_hash(row_hashes(manifest, manifest.rows))
    yolo.train(peer.Data(flat, manifest.classes, digest, size_px), folder, epochs)


def import_peer() -> tuple[ModuleType, ModuleType]:
    """The modules peer and yolo of benchmarks/peers."""
    if str(PEERS) not in sys.path:
        sys.path.append(str(PEERS))
    import peer
    import yolo

    return peer, yolo


def describe(system: str, manifest: Manifest, folder: Path, recipe: str, epochs: int | None) -> dict:
    """The figures of a trained system, from the probabilities that its users get, on val and test."""
    seconds = json.loads((folder / "time.json").read_text(encoding="utf-8"))
    subject = system_of(system, folder)
    row = {
        "images": {split: len(manifest.split(split)) for split in SPLITS},
        "classes": len(manifest.classes),
        "multi_label": manifest.multi_label,
        "minutes": seconds["wall_s"] / 60,
    }
    with Worker(subject, usable_cpus()[:1], list(manifest.classes)) as worker:
        about = worker.ask("load")
        row |= {key: about[key] for key in ("size_bytes", "precision", "input_px", "backend")}
        for split in ("val", "test"):
            rows = manifest.split(split)
            paths = list(map(str, manifest.image_paths(rows)))
            given = np.array(worker.ask("predict", paths=paths)["probabilities"])
            np.save(folder / f"{split}.npy", given)
            row[split] = figures(given, np.array(targets_of(rows, manifest.classes)))
    if system == OURS:
        row |= describe_ours(manifest, folder, recipe)
    else:
        row["epochs"] = epochs
    reference = folder.parent / TIMM / "test.npy"
    if system != TIMM and reference.exists():
        targets = np.array(targets_of(manifest.split("test"), manifest.classes))
        row["over_timm"] = vars(bootstrap(score_gain, np.load(folder / "test.npy"), np.load(reference), targets))
    return row


def describe_ours(manifest: Manifest, folder: Path, recipe: str) -> dict:
    """The recipe, the score of the teachers on val and the bundle's calibration."""
    run, bundle = read_run(folder / "run"), read_bundle(folder / "bundle")
    targets = np.array(targets_of(manifest.split("val"), manifest.classes))
    logits = ensemble_logits(run.member_logits("val"), multi_label=run.multi_label)
    return {
        "recipe": recipe,
        "settings": {part: run.record["recipe"][part] for part in ("train", "distill", "quantize", "calibrate")},
        "teachers_val": score(probabilities_of(logits, targets), targets),
        "student": bundle.provenance.get("student", ""),
        "calibration": bundle.calibration.scaling.method if bundle.calibration.scaling else "temperature",
    }


def figures(probabilities: np.ndarray, targets: np.ndarray) -> dict:
    """The score with its interval, the calibration error and, of several labels, the mean average precision."""
    if targets.ndim == 1:
        reached = wilson_interval(int((probabilities.argmax(1) == targets).sum()), len(targets))
    else:
        reached = bootstrap(score, probabilities, targets)
    figures = {"count": len(targets), "score": vars(reached)}
    figures["ece_debiased"] = vars(ece_interval(*outcomes_of(probabilities, targets), rounds=200))
    if targets.ndim == 2:
        precisions = [average_precision(*pair) for pair in zip(probabilities.T, targets.T == 1, strict=True)]
        figures["mean_average_precision"] = float(np.mean(precisions))
        figures["exact"] = float(((probabilities > 0.5) == targets).all(1).mean())
    return figures


def score(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """The accuracy of (N, K) probabilities for (N,) targets; for (N, K) targets of 0 or 1, the micro-averaged F1.

    A label is predicted if it is more probable than not.
    """
    if targets.ndim == 1:
        return float((probabilities.argmax(1) == targets).mean())
    predicted, true = probabilities > 0.5, targets == 1
    return float(2 * (predicted & true).sum() / max(1, predicted.sum() + true.sum()))


def score_gain(one: np.ndarray, other: np.ndarray, targets: np.ndarray) -> float:
    return score(one, targets) - score(other, targets)


def system_of(system: str, folder: Path) -> System:
    """The subject of a worker, on one thread."""
    if system == OURS:
        return System(OURS, "logo_edge_bench.subject", {"bundle": str(folder / "bundle"), "threads": 1})
    if system == TIMM:
        options = {"model": str(folder / "fp32.onnx"), "about": str(folder / "model.json"), "threads": 1}
        return System(TIMM, str(PEERS / "subjects" / "onnx_subject.py"), options)
    _, yolo = import_peer()
    return yolo.systems(folder, 1)[1]  # its ONNX


def record_latencies(name: str, work: Path, out: Path) -> None:
    """Adds the medians of all trained systems of the data set, window by window by turns, on one thread."""
    rows = read_record(out, {"rows": {}})["rows"]
    trained = [row["system"] for row in rows.values() if row["data"] == name and "test" in row]
    manifest = read_manifest(work / name / "manifest.csv")
    paths = list(map(str, manifest.image_paths(manifest.split("test")[:TIMED])))
    with ExitStack() as stack:
        workers = {
            system: stack.enter_context(
                Worker(system_of(system, work / name / system), usable_cpus()[:1], list(manifest.classes))
            )
            for system in trained
        }
        medians: dict[str, list[float]] = {system: [] for system in trained}
        for worker in workers.values():
            worker.ask("load")
            worker.ask("prepare", paths=paths, batch=1)

        def window(system: str) -> float:
            return median_ms(workers[system].ask("time", stage="end_to_end", seconds=WINDOW_S, least=3))

        for system in trained:
            settle(lambda system=system: window(system) / 1e3, 0.1, 60)
        for _ in range(ROUNDS):
            for system in trained:
                medians[system].append(window(system))
    for system in trained:
        row = rows[f"{name}, {system}"]
        figure = asdict(Figure(median(medians[system]), min(medians[system]), max(medians[system])))
        keep_row(out, name, system, row | {"latency_ms": figure})


def keep_row(out: Path, name: str, system: str, row: dict) -> None:
    """Writes the row of a data set and system into the result, beside the others."""
    record = read_record(out, {"cores": len(usable_cpus()), "rows": {}})
    record["rows"][f"{name}, {system}"] = {"data": name, "system": system, **row}
    write_record(out, {key: record[key] for key in ("cores", "rows")})


def run_logo_edge(*arguments: str, folder: Path, log: Path) -> None:
    run([sys.executable, "-m", "logo_edge", *arguments], folder, log, f"$ logo-edge {' '.join(arguments)}\n")


def run(command: list[str], folder: Path, log: Path, title: str = "") -> None:
    """Runs the command in the folder; its output goes to the log, below the title.

    Raises LogoEdgeError, with the last lines, where it fails.
    """
    with log.open("w", encoding="utf-8") as file:
        file.write(title)
        file.flush()
        status = subprocess.run(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if status:
        raise LogoEdgeError(f"{' '.join(command)} ended with status {status}: {log.read_text(encoding='utf-8')[-800:]}")


@contextmanager
def timed(path: Path) -> Iterator[None]:
    """Adds the seconds inside to the JSON file; also on SIGTERM."""
    before_s = json.loads(path.read_text(encoding="utf-8"))["wall_s"] if path.exists() else 0.0
    start_s = time.perf_counter()
    handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        write_file(path, json_text({"wall_s": before_s + time.perf_counter() - start_s}))
