"""The families of outliers in three disjoint parts, and their files in the cache."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Literal

from logo_edge.cache import cache_folder
from logo_edge.errors import DatasetError
from logo_edge.files import changing, json_text, replacing, write_file
from logo_edge_train.data import icons as fetch
from logo_edge_train.data.outliers import choice, held_out
from logo_edge_train.data.outliers.drawing import Family, draw_picture
from logo_edge_train.data.outliers.fitted import charts, documents, plans, screens, sketches, textures
from logo_edge_train.data.outliers.packages import LOCKS, draw_icons, draw_photograph, draw_scene
from logo_edge_train.data.processes import map_in_processes
from logo_edge_train.keys import artifact_key, file_hash, source_hash, versions
from logo_edge_train.organize.describe import plot_files

Part = Literal["fitted", "held_out", "choice"]
HELD_OUT, CHOICE = 150, 50  # pictures of a family
RECORD = "pictures.json"  # {file name: sha256} of a family's folder
DRAWN_WITH = ("fonttools", "matplotlib", "numpy", "opencv-python-headless", "pillow", "resvg-py")


def _icons(name: str, part: Part, *, count: int, flags: bool = False) -> Family:
    return Family(draw_icons(f"@iconify-json/{name}", part, flags=flags), count, near=True)


FAMILIES: dict[Part, dict[str, Family]] = {
    "fitted": {
        "emoji-openmoji": _icons("openmoji", "fitted", count=110),
        "emoji-noto": _icons("noto", "fitted", count=110),
        "emoji-fluent": _icons("fluent-emoji-flat", "fitted", count=110),
        "emoji-emojione": _icons("emojione", "fitted", count=110),
        "flags-cif": _icons("cif", "fitted", count=60, flags=True),
        "flags-lipis": _icons("flag", "fitted", count=100, flags=True),
        "scenes": Family(draw_scene, 400),
        "pages": Family(documents.draw_page),
        "scans": Family(documents.draw_scan),
        "code": Family(screens.draw_code),
        "programs": Family(screens.draw_window),
        "web-pages": Family(screens.draw_web_page),
        "graphs": Family(charts.draw_chart),
        "diagrams": Family(plans.draw_diagram),
        "maps": Family(plans.draw_map),
        "spectra": Family(textures.draw_noise),
        "textures": Family(textures.draw_texture),
        "sketches": Family(sketches.draw_sketch),
        "backgrounds": Family(textures.draw_background),
    },
    "held_out": {
        "emoji": _icons("twemoji", "held_out", count=HELD_OUT),
        "emoji-fxemoji": _icons("fxemoji", "held_out", count=HELD_OUT),
        "flags": _icons("circle-flags", "held_out", count=HELD_OUT, flags=True),
        "flags-flagpack": _icons("flagpack", "held_out", count=130, flags=True),
        "photographs": Family(partial(draw_photograph, part="held_out"), HELD_OUT),
        "text pages": Family(held_out.draw_page, HELD_OUT),
        "formulas": Family(held_out.draw_formulas, HELD_OUT),
        "program windows": Family(held_out.draw_window, HELD_OUT),
        "charts": Family(held_out.draw_chart, HELD_OUT),
        "surfaces": Family(held_out.draw_surface, HELD_OUT),
        "noise": Family(held_out.draw_noise, HELD_OUT),
        "fractals": Family(held_out.draw_fractal, HELD_OUT),
    },
    "choice": {
        "letters": Family(choice.draw_letter, CHOICE),
        "gauges": Family(choice.draw_gauges, CHOICE),
        "ripples": Family(choice.draw_ripples, CHOICE),
        "specks": Family(choice.draw_specks, CHOICE),
    },
}


def outlier_paths(part: Part, count_per_family: int | None = None) -> dict[str, list[Path]]:
    """The pictures of each family of a part, PNGs in the cache, in order; missing or damaged ones are drawn now.

    At most `count_per_family` of each; without it, all of the family. RGB, icons RGBA, not upscaled, the long side 128
    to 336 px. Picture i is the same for any count. Raises DatasetError for an unknown part, or if a package cannot be
    fetched.
    """
    return {name: _family_paths(part, name, count_per_family) for name in families_of(part)}


def families_of(part: str) -> dict[str, Family]:
    """The families of a part. Raises DatasetError if there is no such part."""
    if part not in FAMILIES:
        raise DatasetError(f"no part {part!r} of the pictures that are no logos; expected one of {', '.join(FAMILIES)}")
    return FAMILIES[part]


def outliers_key() -> str:
    """sha256 of everything that the pictures depend on: drawing code, sources and package versions."""
    inputs = {name: LOCKS / name for name in ("package-lock.json", "photographs.txt")}
    inputs |= {"renderer": Path(fetch.__file__), "code": source_hash(Path(__file__).parent)}
    return artifact_key(inputs, {}, versions(DRAWN_WITH))


def _family_paths(part: Part, name: str, most: int | None) -> list[Path]:
    family = families_of(part)[name]
    folder = cache_folder() / "outlier-pictures" / outliers_key()[:16] / part / name.replace(" ", "-")
    paths = [folder / f"{index:04d}.png" for index in range(min(family.count, most or family.count))]
    if not _damaged(paths, folder):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    with changing(folder):  # another process may draw them
        jobs = [(part, name, path) for path in _damaged(paths, folder)]
        if jobs:
            draw_file(jobs[0])  # downloads happen here, once, before several processes start
        map_in_processes(draw_file, jobs[1:], title=f"Drawing {name}")
        kept = _read_record(folder) | {path.name: file_hash(path) for _, _, path in jobs}
        write_file(folder / RECORD, json_text(dict(sorted(kept.items()))))
    return paths


def draw_file(job: tuple[Part, str, Path]) -> None:
    """Draws one picture of a family into the file, whose name is its index."""
    part, name, path = job
    picture = draw_picture(name, FAMILIES[part][name], int(path.stem))
    with replacing(path, flush=False) as file:
        picture.save(file, format="PNG")


def _damaged(paths: list[Path], folder: Path) -> list[Path]:
    """The files that are missing or changed."""
    kept = _read_record(folder)
    return [path for path in paths if not path.exists() or kept.get(path.name) != file_hash(path)]


def _read_record(folder: Path) -> dict[str, str]:
    try:
        kept = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # missing or damaged: everything is drawn again
        return {}
    return kept if isinstance(kept, dict) else {}


def plot_outliers(paths: dict[str, list[Path]], path: str | os.PathLike, *, per_family: int = 16) -> None:
    """Writes a sheet for a person to check: the first pictures of every family."""
    plot_files({name: files[:per_family] for name, files in paths.items()}, path)
