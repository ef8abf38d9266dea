"""The common part of all peers: logos as files, an environment of their own, the command line.

A peer is a script with `NAME`, `train(data, work, epochs)` and `systems(work, threads)`. It may have `starts(work)`,
commands whose process start is timed, and `extra(work, preset, threads)`, measured after the others because it cannot
be interleaved. Its subjects are in subjects/ and run in the peer's own Python.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from PIL import Image

from logo_edge.errors import LogoEdgeError
from logo_edge_bench.bench import PRESETS, read_images, run_bench, write_result
from logo_edge_bench.page import write_report
from logo_edge_bench.result_tables import markdown_of
from logo_edge_bench.systems import System, bundle_systems, reference_system
from logo_edge_train.data.icons import LABELS
from logo_edge_train.data.manifest import LogoRow, Manifest, read_manifest

WORK = Path("runs/peers")
SUBJECTS = Path(__file__).with_name("subjects")
SPLITS = ("train", "val")  # for training and choices; test is for `measure` alone
SIDE_PX = 192


@dataclass(frozen=True)
class Data:
    """Class folders `root/SPLIT/LABEL/*.png` of logos on white, SIDE_PX in the longer side, and the labels in order.

    `digest` identifies the manifest: training on another one does not count.
    """

    root: Path
    labels: tuple[str, ...]
    digest: str = ""

    def files(self, split: str) -> tuple[list[Path], list[int]]:
        """The files of a split and their labels' indices."""
        paths = sorted((self.root / split).glob("*/*.png"))
        return paths, [self.labels.index(path.parent.name) for path in paths]


def read_data(limit: int | None = None, manifest: Path = LABELS, work: Path = WORK) -> Data:
    """The project's train and val logos, written once for a manifest; `limit` of each class go to their own folder."""
    logos, digest = read_manifest(manifest), hashlib.sha256(manifest.read_bytes()).hexdigest()[:16]
    root = work / ("data" if limit is None else f"data-{limit}")
    if not _contains(root / "done", digest):
        shutil.rmtree(root, ignore_errors=True)
        for split in SPLITS:
            for index, row in enumerate(chosen_rows(logos, split, limit)):
                write_flat(logos.image_path(row), root / split / row.label / f"{index:05d}.png")
        (root / "done").write_text(digest, encoding="utf-8")
    return Data(root, logos.classes, digest)


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


def own_python(work: Path, packages: list[str], *, share: bool) -> str:
    """The Python of a peer's own environment, created on the first call and again for other packages.

    With `share` it also sees the packages of this environment (PyTorch, NumPy), so that gigabytes are not installed
    twice; its packages are never visible here.
    """
    folder = work / "environment"
    python = folder / "bin" / "python"
    if not _contains(folder / "done", " ".join(packages)):
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        if share:
            site = next(folder.glob("lib/python*/site-packages"))
            ours = next(path for path in sys.path if path.endswith("site-packages"))
            (site / "zz_shared.pth").write_text(f"{ours}\n", encoding="utf-8")
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True
        )
        (folder / "done").write_text(" ".join(packages), encoding="utf-8")
    return str(python.absolute())


def finished(work: Path, key: dict) -> bool:
    """Whether `finish` was called in this folder with the same key.

    Another key means other settings: the folder counts as untrained until training with them is finished.
    """
    path = work / "done.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) == key:
        return True
    path.unlink(missing_ok=True)
    return False


def finish(work: Path, key: dict) -> None:
    (work / "done.json").write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")


def need(path: Path, script: str) -> str:
    """The path as text. Raises LogoEdgeError where it does not exist."""
    if not path.exists():
        raise LogoEdgeError(f"{path}: not found; run first: python benchmarks/peers/{script}.py train")
    return str(path.absolute())


def main(*peers: ModuleType, about: str | None = None) -> None:
    """`train` or `measure` of one peer, or of several in one run."""
    parser = argparse.ArgumentParser(
        description=about or peers[0].__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", choices=["train", "measure"], help="train resumes where it was interrupted")
    parser.add_argument("--epochs", type=int, default=None, help="left out: the peer's own number")
    parser.add_argument(
        "--limit", type=int, default=None, help="logos of each class and split; for a quick test, kept apart"
    )
    parser.add_argument("--work", type=Path, default=WORK, help="folder of checkpoints and environments")
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
            for one in peers:
                data = read_data(arguments.limit, work=arguments.work)
                one.train(data, _folder(one, arguments), arguments.epochs)
        else:
            result = measure(peers, arguments)
            print(markdown_of(result))
            if arguments.report:
                print(f"wrote {write_report([result], arguments.report)}")
    except LogoEdgeError as error:
        sys.exit(f"{parser.prog}: {error}")


def measure(peers: tuple[ModuleType, ...], arguments: argparse.Namespace) -> dict:
    """One run of the yardstick, the default bundle and the peers, all by turns, then the `extra` of the peers.

    The result is written to --out before and after each `extra`; the reason of a failure is in `not_measured`.
    """
    systems: list[System] = [reference_system(None), *bundle_systems([None], threads=[arguments.threads])]
    starts: dict[str, tuple[str, ...]] = {}
    for one in peers:
        systems += one.systems(_folder(one, arguments), arguments.threads)
        starts |= one.starts(_folder(one, arguments)) if hasattr(one, "starts") else {}
    logos, preset = read_manifest(LABELS), PRESETS[arguments.preset]
    logos = replace(logos, rows=tuple(chosen_rows(logos, arguments.split, arguments.limit)))
    with tempfile.TemporaryDirectory() as folder:
        images = read_images(logos, arguments.split, logos.classes, Path(folder), preset.size_px)
        result = run_bench(systems, images, preset, starts=starts, say=lambda line: print(line, file=sys.stderr))
    _keep(result, arguments.out)
    for one in peers:
        if hasattr(one, "extra"):
            try:
                result |= one.extra(_folder(one, arguments), preset, arguments.threads)
            except LogoEdgeError as error:
                result["not_measured"][one.NAME] = str(error)
            _keep(result, arguments.out)
    return result


def _keep(result: dict, out: Path | None) -> None:
    if out:
        write_result(result, out)


def _folder(peer: ModuleType, arguments: argparse.Namespace) -> Path:
    """The peer's folder under runs/peers; runs with --limit have their own."""
    name = peer.NAME if arguments.limit is None else f"{peer.NAME}-{arguments.limit}"
    folder = arguments.work / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
