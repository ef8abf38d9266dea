"""What every peer has in common: the logos as its users would have them, its own environment, its command line.

A peer is a script with `NAME`, `train(data, work, epochs)`, `systems(work, threads)` and, where it has them, `starts(work)`:
commands whose process start is timed, and `extra(work, preset, threads)`: what cannot take turns and is measured after the
others. Its subjects lie in subjects/, run by the peer's own Python.
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
SPLITS = ("train", "val")  # what a peer may learn from and choose by; test is for `measure` alone
SIDE_PX = 192


@dataclass(frozen=True)
class Data:
    """Class folders `root/SPLIT/LABEL/*.png` of logos on white, SIDE_PX in the longer side, and the labels in order.

    `digest` tells manifests apart: what was learnt from another one is not done.
    """

    root: Path
    labels: tuple[str, ...]
    digest: str = ""

    def files(self, split: str) -> tuple[list[Path], list[int]]:
        """The files of a split and their labels' indices."""
        paths = sorted((self.root / split).glob("*/*.png"))
        return paths, [self.labels.index(path.parent.name) for path in paths]


def read_data(limit: int | None = None, manifest: Path = LABELS, work: Path = WORK) -> Data:
    """The project's train and val logos, written once for a manifest; with `limit`, so many of each class, in a folder
    of their own."""
    logos, digest = read_manifest(manifest), hashlib.sha256(manifest.read_bytes()).hexdigest()[:16]
    root = work / ("data" if limit is None else f"data-{limit}")
    if not _says(root / "done", digest):
        shutil.rmtree(root, ignore_errors=True)
        for split in SPLITS:
            for index, row in enumerate(chosen_rows(logos, split, limit)):
                write_flat(logos.image_path(row), root / split / row.label / f"{index:05d}.png")
        (root / "done").write_text(digest, encoding="utf-8")
    return Data(root, logos.classes, digest)


def _says(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


def chosen_rows(logos: Manifest, split: str, limit: int | None) -> list[LogoRow]:
    """The split's rows, or the first `limit` of each class."""
    rows = logos.split(split)
    if limit is None:
        return rows
    return [row for label in logos.classes for row in [row for row in rows if row.label == label][:limit]]


def write_flat(source: Path | str, target: Path) -> None:
    """The logo on white as an RGB PNG: what a tool gets that does not know transparency."""
    image = Image.open(source, formats=("PNG", "JPEG", "WEBP")).convert("RGBA")
    image.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image)
    target.parent.mkdir(parents=True, exist_ok=True)
    flat.save(target)


def own_python(work: Path, packages: list[str], *, share: bool) -> str:
    """The Python of a peer's own environment, made on the first call and anew for other packages.

    With `share`, packages of this environment that it lacks (PyTorch, NumPy) are seen in it, so that gigabytes are not
    installed twice; what it installs is never seen here.
    """
    folder = work / "environment"
    python = folder / "bin" / "python"
    if not _says(folder / "done", " ".join(packages)):
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

    Another key means other settings, train anew: the folder counts as not trained until that is finished.
    """
    path = work / "done.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) == key:
        return True
    path.unlink(missing_ok=True)
    return False


def finish(work: Path, key: dict) -> None:
    (work / "done.json").write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")


def need(path: Path, script: str) -> str:
    """The path as text. Raises LogoEdgeError where it is not there yet."""
    if not path.exists():
        raise LogoEdgeError(f"{path}: not there yet; run first: python benchmarks/peers/{script}.py train")
    return str(path.absolute())


def main(*peers: ModuleType, about: str | None = None) -> None:
    """`train` or `measure` of one peer, or of several in one run."""
    parser = argparse.ArgumentParser(
        description=about or peers[0].__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", choices=["train", "measure"], help="train resumes where it was interrupted")
    parser.add_argument("--epochs", type=int, default=None, help="left out: the peer's own number")
    parser.add_argument(
        "--limit", type=int, default=None, help="logos of each class and split; for a quick proof, kept apart"
    )
    parser.add_argument("--work", type=Path, default=WORK, help="where checkpoints and environments lie")
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
            for entry in peers:
                data = read_data(arguments.limit, work=arguments.work)
                entry.train(data, _folder(entry, arguments), arguments.epochs)
        else:
            result = measure(peers, arguments)
            print(markdown_of(result))
            if arguments.report:
                print(f"wrote {write_report([result], arguments.report)}")
    except LogoEdgeError as error:
        sys.exit(f"{parser.prog}: {error}")


def measure(peers: tuple[ModuleType, ...], arguments: argparse.Namespace) -> dict:
    """One run of the yardstick, the default bundle and the peers, all by turns, then what the peers have besides.

    It is written to --out before the latter and after each of them; one that fails stands in `not_measured`.
    """
    systems: list[System] = [reference_system(None), *bundle_systems([None], threads=[arguments.threads])]
    starts: dict[str, tuple[str, ...]] = {}
    for entry in peers:
        systems += entry.systems(_folder(entry, arguments), arguments.threads)
        starts |= entry.starts(_folder(entry, arguments)) if hasattr(entry, "starts") else {}
    logos, preset = read_manifest(LABELS), PRESETS[arguments.preset]
    logos = replace(logos, rows=tuple(chosen_rows(logos, arguments.split, arguments.limit)))
    with tempfile.TemporaryDirectory() as folder:
        images = read_images(logos, arguments.split, logos.classes, Path(folder), preset.size_px)
        result = run_bench(systems, images, preset, starts=starts, say=lambda line: print(line, file=sys.stderr))
    _keep(result, arguments.out)
    for entry in peers:
        if hasattr(entry, "extra"):
            try:
                result |= entry.extra(_folder(entry, arguments), preset, arguments.threads)
            except LogoEdgeError as error:
                result["not_measured"][entry.NAME] = str(error)
            _keep(result, arguments.out)
    return result


def _keep(result: dict, out: Path | None) -> None:
    if out:
        write_result(result, out)


def _folder(entry: ModuleType, arguments: argparse.Namespace) -> Path:
    """The peer's folder under runs/peers; proofs on a few logos have one of their own."""
    name = entry.NAME if arguments.limit is None else f"{entry.NAME}-{arguments.limit}"
    folder = arguments.work / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
