"""Kills verbs at random moments, runs them again to the end, and compares the result with an undisturbed run's.

    python -m logo_edge_bench.experiments kills --verb classify --kills 30     # of each format of its table
    python -m logo_edge_bench.experiments kills --kills 30                     # of all verbs: 210 together

A trial begins with a fresh folder and kills one to three runs of the command, each with SIGKILL to its process group:
half of them after a random time, half at a random file system event (a file opened for writing, renamed, removed),
which hits the moments between two events. After each kill no file that a user sees may be half-written; the run after
the last kill must end like the undisturbed run, with its result. The moments follow from --seed and the trial's number.
Figures are written trial by trial, so the same command resumes after an interruption.
"""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image

from logo_edge.bundle.record import DEFAULT_BUNDLE, RECORD, read_bundle
from logo_edge.classifier import Classifier
from logo_edge.errors import RecipeError
from logo_edge.likeness.enroll import open_enrolment
from logo_edge_bench.experiments.record import Out, read_record, write_record
from logo_edge_train.data.manifest import FILES, LogoRow, write_manifest
from logo_edge_train.keys import file_hash
from logo_edge_train.provenance import provenance

IMAGES = 1500  # of a table by classify
BROKEN = 5  # of these files
MOST_KILLS = 3  # in one trial
LABELS = ("complex", "gradient", "simple", "text")
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree")
HOOKED = """import os, signal, sys
folder, at, seen = os.environ["KILL_FOLDER"], int(os.environ["KILL_AT"]), 0
def hook(event, arguments):
    global seen
    if event not in {events!r} or not arguments or not isinstance(arguments[0], (str, os.PathLike)):
        return
    if not os.path.join(folder, arguments[0]).startswith(folder):
        return
    if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
        return
    seen += 1
    if seen == at:
        os.killpg(0, signal.SIGKILL)
sys.addaudithook(hook)
import atexit
if at == 0:
    atexit.register(lambda: open(os.environ["KILL_COUNT"], "w").write(str(seen)))
from logo_edge.cli.main import main
sys.argv[0] = "logo-edge"
main()
""".replace("{events!r}", repr(EVENTS))


@dataclass(frozen=True)
class Verb:
    """A verb: its initial folder, its command there, its result as comparable values, and the check after each kill."""

    prepare: Callable[[Path], None]
    command: list[str]
    result: Callable[[Path], dict]
    check: Callable[[Path], None]


def measure(
    *,
    verb: Annotated[Sequence[str], "the beginnings of names of verbs; default: all"] = ("",),
    kills: Annotated[int, "of each verb, at least"] = 30,
    seed: int = 0,
    out: Out,
) -> None:
    chosen = [name for name in VERBS if name.startswith(tuple(verb))]
    if not chosen:
        raise RecipeError(f"--verb {' '.join(verb)}: expected one of {', '.join(VERBS)}")
    for name in chosen:
        done = read_record(out, {}).get(name, {"kills": 0, "trials": 0, "seed": seed})
        with tempfile.TemporaryDirectory(prefix=f"kills-{name}-") as folder:
            for figures in kill_often(name, Path(folder), kills, done):
                write_record(out, read_record(out, {}) | {name: figures})
                counts = f"{figures['kills']} kills in {figures['trials']} trials"
                print(f"{name}: {counts}, every result that of an undisturbed run")


def kill_often(name: str, folder: Path, kills: int, figures: dict) -> Iterator[dict]:
    """Yields the figures after each trial, up to `kills`. Raises AssertionError where a result differs."""
    verb = VERBS[name]
    start, whole = folder / "start", folder / "whole"
    start.mkdir()
    verb.prepare(start)
    began = time.monotonic()
    shutil.copytree(start, whole, symlinks=True)
    status, events, message = run_to_end(verb, whole, folder / "count")
    if status == 2:
        raise RuntimeError(f"{name} cannot run here: {message}")
    seconds = time.monotonic() - began
    expected = verb.result(whole)
    assert events, f"{name} wrote nothing"
    while figures["kills"] < kills:
        moments = random.Random(f"{name} {figures['seed']} {figures['trials']}")
        work = folder / "work"
        shutil.copytree(start, work, symlinks=True)
        killed = 0
        for _ in range(moments.randint(1, MOST_KILLS)):
            at = moments.randint(1, events) if moments.random() < 0.5 else moments.uniform(0.2, 1.0) * seconds
            killed += run_and_kill(verb, work, at)
            verb.check(work)
        again, _, message = run_to_end(verb, work, folder / "count")
        if verb.result(work) != expected or again not in (status, 2):  # 2: the table was there already
            raise AssertionError(f"{name}, trial {figures['trials']}: status {again}, or another result: {message}")
        shutil.rmtree(work)
        figures = figures | {"kills": figures["kills"] + killed, "trials": figures["trials"] + 1}
        figures["provenance"] = provenance([read_bundle(DEFAULT_BUNDLE)])
        yield figures


def run_to_end(verb: Verb, folder: Path, count: Path) -> tuple[int, int, str]:
    """The status of an undisturbed run, the number of its file system events, and its stderr."""
    count.unlink(missing_ok=True)
    process = start_process(verb, folder, at=0, count=count)
    _, error = process.communicate()
    if process.returncode not in (0, 1, 2):
        raise AssertionError(f"status {process.returncode}: {error.decode()}")
    return process.returncode, int(count.read_text()), error.decode()


def run_and_kill(verb: Verb, folder: Path, at: int | float) -> bool:
    """Kills a run at an event (int) or after seconds (float); False where it ended before."""
    process = start_process(verb, folder, at=at if isinstance(at, int) else -1)
    try:
        process.communicate(timeout=None if isinstance(at, int) else at)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return process.returncode == -signal.SIGKILL


def start_process(verb: Verb, folder: Path, *, at: int, count: Path | None = None) -> subprocess.Popen:
    settings = {"KILL_FOLDER": str(folder), "KILL_AT": str(at), "KILL_COUNT": str(count)}
    return subprocess.Popen(
        [sys.executable, "-c", HOOKED, *verb.command],
        cwd=folder,
        env=os.environ | settings,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def run_undisturbed(command: list[str], folder: Path) -> None:
    subprocess.run([Path(sys.executable).with_name("logo-edge"), *command], cwd=folder, check=True, capture_output=True)


def draw_images(folder: Path, count: int, *, size_px: int = 24) -> None:
    """`count` different noisy squares."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index in range(count):
        pixels = generator.integers(0, 256, (size_px, size_px, 3), np.uint8)
        kind = index % len(LABELS)
        pixels[..., kind : kind + 1] |= 192  # the last has no colour
        Image.fromarray(pixels).save(folder / f"{index:05}.png")


def draw_manifest(folder: Path) -> None:
    """A manifest with its images: the default bundle's classes, in all splits."""
    splits = ["train"] * 96 + ["val"] * 36 + ["calib"] * 36 + ["test"] * 36
    draw_images(folder / "images", len(splits))
    rows = [
        LogoRow(FILES, "", f"images/{index:05}.png", str(index), label, (label,), True, split)
        for index, (split, label) in enumerate(zip(splits, cycle(LABELS), strict=False))
    ]
    write_manifest(folder / "manifest.csv", rows)


def classify_into(suffix: str) -> Verb:
    """`classify --out`: one row for each image, and the bytes of an undisturbed run."""
    name = f"table{suffix}"

    def prepare(folder: Path) -> None:
        draw_images(folder / "logos", IMAGES)
        for index in range(BROKEN):
            (folder / "logos" / f"broken-{index}.png").write_bytes(b"no image")

    def result(folder: Path) -> dict:
        paths = read_paths(folder / name)
        assert len(paths) == len(set(paths)) == IMAGES + BROKEN, f"{len(paths)} rows, {len(set(paths))} images"
        left = [other for other in os.listdir(folder) if other not in ("logos", name)]
        return {"rows": len(paths), "sha256": file_hash(folder / name), "left": left}

    def check(folder: Path) -> None:
        assert not (folder / name).exists() or len(read_paths(folder / name)) == IMAGES + BROKEN

    return Verb(prepare, ["classify", "logos", "--out", name, "--workers", "2"], result, check)


def read_paths(table: Path) -> list[str]:
    """The column `path` of a table in any format."""
    if table.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(table, columns=["path"])["path"].to_pylist()
    with open(table, encoding="utf-8", newline="") as file:
        return [row["path"] for row in (csv.DictReader(file) if table.suffix == ".csv" else map(json.loads, file))]


def enrol() -> Verb:
    """`enroll`: the file of classes is the old one or the new one."""

    def prepare(folder: Path) -> None:
        draw_images(folder / "brand", 12, size_px=64)
        draw_images(folder / "other", 5, size_px=48)
        run_undisturbed(["enroll", "other", "other", "--file", "enrolled.json"], folder)

    def result(folder: Path) -> dict:
        enrolment = open_enrolment(folder / "enrolled.json", read_bundle(DEFAULT_BUNDLE))
        classes = {name: len(samples) for name, samples in enrolment.classes.items()}
        return {"classes": classes, "sha256": file_hash(folder / "enrolled.json")}

    def check(folder: Path) -> None:
        assert result(folder)["classes"] in ({"other": 5}, {"other": 5, "brand": 12})

    return Verb(prepare, ["enroll", "brand", "brand", "--file", "enrolled.json"], result, check)


def recalibrate() -> Verb:
    """`calibrate`: the bundle is the old one or the new one, and it always loads."""

    def prepare(folder: Path) -> None:
        draw_manifest(folder)
        shutil.copytree(DEFAULT_BUNDLE, folder / "bundle")

    def result(folder: Path) -> dict:
        record = read_whole_bundle(folder)
        return {"calibration": record["calibration"], "files": record["files"]}

    return Verb(prepare, ["calibrate", "bundle", "--data", "manifest.csv"], result, read_whole_bundle)


def read_whole_bundle(folder: Path) -> dict:
    """The record of the bundle, which loads and agrees with its vectors."""
    Classifier.load(folder / "bundle").run_vectors()
    return json.loads((folder / "bundle" / RECORD).read_text(encoding="utf-8"))


def train() -> Verb:
    """`train`: the same networks and logits to the bit."""

    def result(folder: Path) -> dict:
        run = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))
        assert run["status"] == "finished"
        kept = sorted(path for path in (folder / "run").rglob("*") if path.suffix in (".safetensors", ".npz", ".npy"))
        return {"metrics": run["metrics"], "files": {path.name: file_hash(path) for path in kept}}

    command = ["train", "--data", "manifest.csv", "--recipe", "smoke", "--out", "run", "--set", "train.fit.epochs=3"]
    return Verb(draw_manifest, command, result, check_json)


def compress() -> Verb:
    """`compress`: the same model, chosen by size, and the same calibration."""

    def prepare(folder: Path) -> None:
        draw_manifest(folder)
        run_undisturbed(train().command, folder)

    def check(folder: Path) -> None:
        check_json(folder)
        if (folder / "bundle").exists():
            read_whole_bundle(folder)

    def result(folder: Path) -> dict:
        check_json(folder)
        record = read_whole_bundle(folder)
        return {"calibration": record["calibration"], "model": record["files"][record["model"]["file"]]}

    return Verb(prepare, ["compress", "run", "--target", "web", "--out", "bundle"], result, check)


def check_json(folder: Path) -> None:
    """Every JSON file can be read."""
    for path in folder.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))


VERBS = {
    "classify-csv": classify_into(".csv"),
    "classify-jsonl": classify_into(".jsonl"),
    "classify-parquet": classify_into(".parquet"),
    "enroll": enrol(),
    "calibrate": recalibrate(),
    "train": train(),
    "compress": compress(),
}
