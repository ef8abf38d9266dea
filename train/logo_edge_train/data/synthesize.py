"""Draws logos with labels that are known by construction, as PNGs with a manifest (`logo-edge data synthesize`).

The sources are fonts and pictograms that `drawing/package-lock.json` pins, and icons of unlabelled.csv. No icon is of a
held-out group or looks like a held-out logo. Drawn logos are for training only.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from logo_edge.cache import cache_folder
from logo_edge.errors import DatasetError
from logo_edge.files import changing
from logo_edge_train.data import icons as fetch
from logo_edge_train.data import pairs, pictograms
from logo_edge_train.data.icons import (
    DRAWING,
    INSTALLED,
    LABELS,
    UNLABELLED,
    fetch_logos,
    icon_svg,
    install_icon_sets,
    install_packages,
    locked_versions,
    render_svg,
)
from logo_edge_train.data.lookalikes import find_lookalikes
from logo_edge_train.data.manifest import FILES, LogoRow, Manifest, read_manifest, renders_folder, write_manifest
from logo_edge_train.data.pairs.kinds import KINDS, draw_pair
from logo_edge_train.data.pairs.parts import Sources
from logo_edge_train.data.pictograms import pictogram_pools, read_sets
from logo_edge_train.data.pool import unlabelled_rows
from logo_edge_train.data.processes import map_in_processes
from logo_edge_train.keys import Identity, identify, refuse_other, source_hash, versions
from logo_edge_train.organize.describe import plot_files
from logo_edge_train.runs import write_json

DRAWN = "drawn"  # the package of drawn rows that join training; their version is the key of the set
MANIFEST, RECORD = "manifest.csv", "drawn.json"
DRAWER = Path(pairs.__file__).parent
DRAWN_WITH = ("fonttools", "numpy", "opencv-python-headless", "resvg-py", "scipy")
BRANDS = "@iconify-json/simple-icons"
LEAST_WEIGHT = 200  # of a font; thinner strokes vanish at thumbnail size


def synthesize(folder: Path, *, pairs: int, seed: int) -> Manifest:
    """The manifest of `pairs` drawn pairs in `folder`, which are drawn now unless they are there.

    The same seed draws the same bytes; a smaller number of pairs gives the first of them. The folder appears complete
    or not at all. Raises RunError if it holds drawn logos of other settings, DatasetError if it holds other files.
    """
    identity = drawing_identity(pairs, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with changing(folder):
        if (folder / RECORD).exists():
            refuse_other(folder, "drawn logos", json.loads((folder / RECORD).read_text()), identity, finished=True)
            return read_manifest(folder / MANIFEST)
        if folder.exists() and any(folder.iterdir()):
            raise DatasetError(f"{folder} holds other files; expected a new or empty folder for the drawn logos")
        sources, part = sources_file(), folder.parent / f".{folder.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            jobs = [(sources, part, seed, index) for index in range(pairs)]
            rows = [row for both in map_in_processes(draw_files, jobs, title="Drawing logos") for row in both]
            write_manifest(part / MANIFEST, rows)
            write_json(part / RECORD, asdict(identity))
            if folder.exists():
                folder.rmdir()
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return read_manifest(folder / MANIFEST)


def draw_files(job: tuple[Path, Path, int, int]) -> tuple[LogoRow, LogoRow]:
    """Draws pair `index` of the seed into a folder, with the sources of a file; returns its two rows."""
    sources, folder, seed, index = job
    random = np.random.default_rng((seed, index))
    weights = np.array([kind.weight for kind in KINDS.values()], float)
    pair = draw_pair(random, _read_sources(sources), str(random.choice(list(KINDS), p=weights / weights.sum())))
    rows = []
    for document, label, sure in zip(pair.documents, KINDS[pair.kind].labels, pair.sure, strict=True):
        name = f"{index:06d}-{pair.kind}-{label}.png"
        (folder / name).write_bytes(render_svg(document))
        rows.append(LogoRow(FILES, "", name, f"drawn-{seed}-{index}", label, (), sure, "train"))
    return rows[0], rows[1]


@lru_cache(maxsize=1)
def _read_sources(path: Path) -> Sources:
    held = json.loads(path.read_text(encoding="utf-8"))
    return Sources(held["pools"], tuple(held["fonts"]))


def drawn_rows(pairs: int, seed: int) -> list[LogoRow]:
    """The logos of that many drawn pairs, for training; new ones are drawn into the cache."""
    if not pairs:
        return []
    key = drawing_identity(pairs, seed).key[:16]
    manifest = synthesize(renders_folder() / DRAWN / key, pairs=pairs, seed=seed)
    return [replace(row, package=DRAWN, version=key, icon=row.icon.removesuffix(".png")) for row in manifest.rows]


def drawing_identity(pairs: int, seed: int) -> Identity:
    """Everything that drawn logos depend on: number, seed, the drawing code, its sources and the held-out rows."""
    inputs = {"drawer": source_hash(DRAWER), "renderer": Path(fetch.__file__), **_source_inputs()}
    return identify(inputs, {"pairs": pairs, "seed": seed}, versions(DRAWN_WITH))


def _source_inputs() -> dict[str, Path]:
    locks = DRAWING / "package-lock.json"
    code = {"sources": Path(__file__), "pictograms": Path(pictograms.__file__)}
    return {**code, "locks": locks, "labels": LABELS, "unlabelled": UNLABELLED}


def sources_file() -> Path:
    """The JSON file in the cache with the icons and fonts to draw with, chosen once for each labels.csv."""
    path = cache_folder() / f"drawing-{identify(_source_inputs(), {}, {}).key[:16]}.json"
    if not path.exists():
        sources = choose_sources(read_manifest(LABELS))
        write_json(path, asdict(sources))
    return path


def choose_sources(manifest: Manifest) -> Sources:
    """The icons and fonts that logos may be drawn with, without held-out groups and look-alikes of held-out logos.

    Raises DatasetError if npm fails or a font's package has no file of the Latin alphabet.
    """
    pools, brands = pictogram_pools(manifest), [row for row in unlabelled_rows(manifest) if row.package == BRANDS]
    fetch_logos([Manifest(tuple(brands), Path())])
    alike = find_lookalikes(manifest, brands)
    pools["brand"] = [row for row in brands if row not in alike]
    files = install_icon_sets(sorted({(row.package, row.version) for row in brands}))
    sets = read_sets() | {package: json.loads(file.read_text(encoding="utf-8")) for package, file in files.items()}
    return Sources(
        {name: {row.icon: icon_svg(sets[row.package], row.icon) for row in rows} for name, rows in pools.items()},
        find_fonts(install_packages(DRAWING, INSTALLED[DRAWING])),
    )


def find_fonts(modules: Path) -> tuple[str, ...]:
    """The upright Latin files of every pinned font. Raises DatasetError if a package has none."""
    fonts = []
    for package in sorted(locked_versions(DRAWING)):
        if package.startswith("@fontsource/"):
            folder, family = modules / package / "files", package.split("/")[1]
            files = sorted(folder.glob(f"{family}-latin-[0-9]*-normal.woff"))
            upright = [file for file in files if int(file.name.split("-")[-2]) >= LEAST_WEIGHT]
            if not upright:
                raise DatasetError(
                    f"{folder} has no file {family}-latin-WEIGHT-normal.woff; expected the font of the lock file. "
                    f"Delete {modules.parent}, and run it again"
                )
            fonts += map(str, upright)
    return tuple(fonts)


def plot_pairs(manifest: Manifest, path: Path, *, per_kind: int = 12) -> None:
    """Writes a sheet for a person to check: the first pairs of every kind, one member above the other."""
    lines = {f"{name}: {label}": [] for name, kind in KINDS.items() for label in kind.labels}
    for row in manifest.rows:
        name, label = row.icon.split("-", 1)[1].removesuffix(".png").rsplit("-", 1)
        lines[f"{name}: {label}"].append(manifest.folder / row.icon)
    plot_files({name: files[:per_kind] for name, files in lines.items() if files}, path)
