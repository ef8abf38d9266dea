"""The common part of all peers: logos as files, environments from committed locks, the command line.

A peer is a script with `NAME`, `train(data, work, epochs)` and `systems(work, threads)`. It may have `starts(work)`,
commands whose process start is timed, and `extra(work, preset, threads)`, measured after the others because it cannot
be interleaved. Its subjects are in subjects/; its packages are locked in locks/NAME.txt, and run by inside/NAME.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType

from PIL import Image

from logo_edge.bundle.record import DEFAULT_BUNDLE, Bundle, read_bundle
from logo_edge.errors import LogoEdgeError
from logo_edge_bench.bench import PRESETS, Images, read_images, run_bench, write_result
from logo_edge_bench.page import write_report
from logo_edge_bench.result_tables import markdown_of
from logo_edge_bench.systems import System, bundle_systems, reference_system
from logo_edge_compress.convert import environments
from logo_edge_train.data.icons import LABELS
from logo_edge_train.data.manifest import LogoRow, Manifest, read_manifest
from logo_edge_train.data.pool import pool_rows
from logo_edge_train.runs import Run, read_run

WORK = Path("runs/peers")
HERE = Path(__file__).parent
SUBJECTS, LOCKS, INSIDE = HERE / "subjects", HERE / "locks", HERE / "inside"
SPLITS = ("train", "val")  # for training and choices; test is for `measure` alone
SIDE_PX = 192
LIMIT_S = 7 * 24 * 3600.0  # for one training
NO_WEIGHTS = "from scratch: its pretrained weights cannot be fetched here"
IMAGENET = "ImageNet-1k (weights)"
FAILED = "failed.txt"  # in a peer's folder: why it could not be trained


@dataclass(frozen=True)
class Data:
    """Class folders `root/SPLIT/LABEL/*.png` of logos on white, SIDE_PX in the longer side, and the labels in order.

    `digest` identifies the manifest: training on another one does not count. `size_px` is the input size of the bundle
    that the peers are compared with; `run` has its teachers, if one was given.
    """

    root: Path
    labels: tuple[str, ...]
    digest: str = ""
    size_px: int = 96
    run: Run | None = None
    limit: int | None = None
    manifest: Manifest | None = None

    def files(self, split: str) -> tuple[list[Path], list[int]]:
        """The files of a split and their labels' indices."""
        paths = sorted((self.root / split).glob("*/*.png"))
        return paths, [self.labels.index(path.parent.name) for path in paths]

    def key(self, **settings) -> dict:
        """What a training depends on, for `finished`."""
        return {"images": len(self.files("train")[0]), "labels": self.digest, "size_px": self.size_px, **settings}

    def pool(self) -> Path:
        """A folder of the train split and the unlabelled pool, without labels and look-alikes of held-out logos."""
        folder = self.root / "pool"
        if not _contains(folder / "done", self.digest):
            shutil.rmtree(folder, ignore_errors=True)
            count = self.limit * len(self.labels) if self.limit else 0
            for index, row in enumerate(pool_rows(self.manifest, use_unlabelled=True, max_images=count)):
                write_flat(self.manifest.image_path(row), folder / "images" / f"{index:05d}.png")
            (folder / "done").write_text(self.digest, encoding="utf-8")
        return folder / "images"


def read_data(
    limit: int | None = None,
    manifest: Path = LABELS,
    work: Path = WORK,
    *,
    bundle: Path | None = None,
    run: Run | None = None,
) -> Data:
    """The manifest's train and val logos, written once for it; `limit` of each class go to their own folder."""
    logos, digest = read_manifest(manifest), hashlib.sha256(manifest.read_bytes()).hexdigest()[:16]
    root = work / ("data" if limit is None else f"data-{limit}")
    if not _contains(root / "done", digest):
        shutil.rmtree(root, ignore_errors=True)
        for split in SPLITS:
            for index, row in enumerate(chosen_rows(logos, split, limit)):
                write_flat(logos.image_path(row), root / split / row.label / f"{index:05d}.png")
        (root / "done").write_text(digest, encoding="utf-8")
    size_px = read_bundle(bundle or DEFAULT_BUNDLE).input.size_px
    return Data(root, logos.classes, digest, size_px, run, limit, logos)


def _contains(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


def chosen_rows(logos: Manifest, split: str, limit: int | None) -> list[LogoRow]:
    """The split's rows, or the first `limit` of each class."""
    rows = logos.split(split)
    if limit is None:
        return rows
    return [row for label in logos.classes for row in [row for row in rows if row.label == label][:limit]]


def write_flat(source: Path | str, target: Path) -> None:
    """The logo on white as an RGB PNG, for tools without transparency."""
    image = Image.open(source, formats=("PNG", "JPEG", "WEBP")).convert("RGBA")
    image.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image)
    target.parent.mkdir(parents=True, exist_ok=True)
    flat.save(target)


def own_python(name: str) -> str:
    """The Python of the environment `name`, made at the first use from locks/NAME.txt. Raises ExportError."""
    return str(environments.open_environment(name, lock=LOCKS / f"{name}.txt"))


def run_inside(name: str, arguments: dict, work: Path) -> dict:
    """The record of inside/NAME.py, run on the arguments in its environment; it prints to work/.NAME.log.

    Raises ExportError, with its last lines.
    """
    print(f"{name}: running, its output goes to {work / f'.{name}.log'}", flush=True)
    return environments.run_converter(
        name, arguments, work.absolute(), limit_s=LIMIT_S, script=INSIDE / f"{name}.py", lock=LOCKS / f"{name}.txt"
    )


@contextmanager
def timing(work: Path) -> Iterator[None]:
    """Adds the seconds of the block to work/seconds.json; after a call that was killed they are a lower bound."""
    path = work / "seconds.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"seconds": 0.0, "killed": False}
    kept["killed"] |= kept.get("running", False)
    path.write_text(json.dumps(kept | {"running": True}), encoding="utf-8")
    start = time.perf_counter()
    try:
        yield
    finally:
        kept["seconds"] = round(kept["seconds"] + time.perf_counter() - start, 1)
        path.write_text(json.dumps(kept | {"running": False}), encoding="utf-8")


def finished(work: Path, key: dict) -> bool:
    """Whether `finish` was called in this folder with the same key; what was begun with another one is deleted."""
    path, begun = work / "done.json", work / "begun.json"
    if begun.exists() and settings_of(work) != key:
        shutil.rmtree(work)
        work.mkdir()
    begun.write_text(json.dumps(key) + "\n", encoding="utf-8")
    if path.exists():
        print(f"{work.name}: done before")
    return path.exists()


def finish(work: Path, key: dict, learned_from: str, *earlier: Path) -> None:
    """Says that the training is complete, and on which data; its minutes include those of the `earlier` folders."""
    spent = [json.loads((folder / "seconds.json").read_text(encoding="utf-8")) for folder in (work, *earlier)]
    least = ">= " if any(part["killed"] for part in spent) else ""
    minutes = f"{least}{sum(part['seconds'] for part in spent) / 60:.1f}"
    record = {"key": key, "about": {"minutes": minutes, "learned_from": learned_from}}
    (work / "done.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def about(work: Path, script: str, licence: str) -> dict[str, str]:
    """The facts of a trained peer for its rows. Raises LogoEdgeError where it is not trained."""
    path = need(work / "done.json", script)
    return {"licence": licence, **json.loads(Path(path).read_text(encoding="utf-8"))["about"]}


def settings_of(work: Path) -> dict:
    """The key that the training in this folder was begun with."""
    return json.loads((work / "begun.json").read_text(encoding="utf-8"))


def own_systems(
    name: str, licence: str, work: Path, files: dict[str, Path], threads: int, settings: dict[str, str]
) -> list[System]:
    """A row for each file, {title: path}, run by subjects/NAME_subject.py in the environment `name`.

    PEER_SHARED names the packages that it takes from ours, for subjects/shared.py.
    """
    facts = about(work, name, licence)
    models = {title: need(path, name) for title, path in files.items()}
    options = {"size_px": settings_of(work)["size_px"], "threads": threads}
    shared = os.pathsep.join(environments.shared_folders(LOCKS / f"{name}.txt"))
    return [
        System(
            title,
            str(SUBJECTS / f"{name}_subject.py"),
            {"model": model, **options},
            threads,
            kind="peer",
            python=own_python(name),
            environment={**settings, "PEER_SHARED": shared},
            about=facts,
        )
        for title, model in models.items()
    ]


def need(path: Path, script: str) -> str:
    """The path as text. Raises LogoEdgeError where it does not exist."""
    if not path.exists():
        raise LogoEdgeError(f"{path}: not found; run first: python benchmarks/peers/{script}.py train")
    return str(path.absolute())


def main(*peers: ModuleType, description: str | None = None) -> None:
    """`train` or `measure` of one peer, or of several in one run."""
    parser = argparse.ArgumentParser(
        description=description or peers[0].__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", choices=["train", "measure"], help="train resumes where it was interrupted")
    parser.add_argument("--run", type=Path, default=None, help="run of `logo-edge train`: its teachers and its labels")
    parser.add_argument("--bundle", type=Path, default=None, help="compared with; left out: the embedded default")
    parser.add_argument("--epochs", type=int, default=None, help="left out: the peer's own number")
    parser.add_argument(
        "--limit", type=int, default=None, help="logos of each class and split; for a quick test, kept apart"
    )
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--preset", choices=list(PRESETS), default="quick", help="of measure; full for figures to publish"
    )
    parser.add_argument("--split", choices=["val", "test"], default="test", help="of measure")
    parser.add_argument("--out", type=Path, default=None, help="JSON of measure")
    parser.add_argument("--report", type=Path, default=None, help="folder for the page of measure")
    arguments = parser.parse_args()
    try:
        if arguments.do == "train":
            train(peers, arguments)
        else:
            result = measure(peers, arguments)
            print(markdown_of(result))
            if arguments.report:
                print(f"wrote {write_report([result], arguments.report)}")
    except LogoEdgeError as error:
        sys.exit(f"{parser.prog}: {error}")


def train(peers: tuple[ModuleType, ...], arguments: argparse.Namespace) -> None:
    """Trains them one after the other. Raises LogoEdgeError at the end if some failed; their folders say why."""
    run = read_run(arguments.run) if arguments.run else None
    manifest = run.manifest_path if run else LABELS
    data = read_data(arguments.limit, manifest, arguments.work, bundle=arguments.bundle, run=run)
    failed = {}
    for one in peers:
        failure = _folder(one, arguments) / FAILED
        failure.unlink(missing_ok=True)
        try:
            one.train(data, failure.parent, arguments.epochs)
        except LogoEdgeError as error:
            failed[one.NAME] = str(error)
            failure.parent.mkdir(exist_ok=True)
            failure.write_text(str(error), encoding="utf-8")
            print(f"{one.NAME}: {error}", file=sys.stderr)
    if failed:
        raise LogoEdgeError("\n".join(f"{name} is not trained: {reason}" for name, reason in failed.items()))


def measure(peers: tuple[ModuleType, ...], arguments: argparse.Namespace) -> dict:
    """One run of the yardstick, the bundle and the peers, all by turns, then the `extra` of the peers.

    A bundle has a temperature; for a fair comparison of calibration, each peer gets one, fitted on calib too.

    The result is written to --out before and after each `extra`. A peer that is not trained, or fails, is left out; the
    reason is in `not_measured`.
    """
    bundle, missing = arguments.bundle, {}
    run = read_run(arguments.run) if arguments.run else None
    systems: list[System] = [reference_system(bundle), *bundle_systems([bundle], threads=[arguments.threads])]
    facts = about_bundle(read_bundle(bundle or DEFAULT_BUNDLE), run)
    systems = [replace(system, about=facts) for system in systems]
    starts: dict[str, tuple[str, ...]] = {}
    for one in peers:
        folder = _folder(one, arguments)
        try:
            systems += one.systems(folder, arguments.threads)
            starts |= one.starts(folder) if hasattr(one, "starts") else {}
        except LogoEdgeError as error:
            failure = folder / FAILED
            missing[one.NAME] = failure.read_text(encoding="utf-8") if failure.exists() else str(error)
    logos, preset = read_manifest(run.manifest_path if run else LABELS), PRESETS[arguments.preset]
    with tempfile.TemporaryDirectory() as folder:

        def read(split: str) -> Images:
            rows, target = tuple(chosen_rows(logos, split, arguments.limit)), Path(folder) / split
            target.mkdir()
            return read_images(replace(logos, rows=rows), split, logos.classes, target, preset.size_px)

        images, calib = read(arguments.split), read("calib")
        say = partial(print, file=sys.stderr)
        result = run_bench(systems, images, preset, starts=starts, calib=calib, say=say)
    result["not_measured"] |= missing
    _keep(result, arguments.out)
    for one in peers:
        if hasattr(one, "extra"):
            try:
                result |= one.extra(_folder(one, arguments), preset, arguments.threads)
            except LogoEdgeError as error:
                result["not_measured"][one.NAME] = str(error)
            _keep(result, arguments.out)
    return result


def about_bundle(bundle: Bundle, run: Run | None) -> dict[str, str]:
    """The facts of the bundle for its row; its minutes, those of the epochs of teachers and student, if of this run."""
    origin = bundle.provenance
    learned_from = f"{len(origin.get('teachers', []))} teachers, by recipe {origin.get('recipe', 'unknown')}"
    members = run.record["members"] if run else []
    if not members or origin.get("teachers") != [member["architecture"] for member in members]:
        return {"licence": "MIT", "minutes": "", "learned_from": learned_from}
    student = run.folder / "compress" / f"{origin['student']}-{bundle.input.size_px}" / "student.json"
    records = [*members, json.loads(student.read_text(encoding="utf-8"))]
    seconds = sum(epoch["seconds"] for record in records for epoch in record["history"])
    sources = [f"{len(run.read_manifest().split('train'))} labelled logos"]
    sources += ["the unlabelled pool"] * run.recipe.distill.use_unlabelled
    return {"licence": "MIT", "minutes": f"{seconds / 60:.1f}", "learned_from": "; ".join([*sources, learned_from])}


def _keep(result: dict, out: Path | None) -> None:
    if out:
        write_result(result, out)


def _folder(peer: ModuleType, arguments: argparse.Namespace) -> Path:
    """The peer's folder under runs/peers; runs with --limit have their own."""
    name = peer.NAME if arguments.limit is None else f"{peer.NAME}-{arguments.limit}"
    folder = arguments.work / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
