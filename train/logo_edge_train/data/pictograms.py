"""Pictograms without a brand, of the sets that `drawing/package-lock.json` pins.

Drawn logos are made of them, and a student may learn its teachers' answers to them. No pictogram is of a held-out group
or looks like a held-out logo.
"""

from __future__ import annotations

import json
import re
from itertools import compress
from pathlib import Path

import numpy as np

from logo_edge_train.data.icons import DRAWING, fetch_logos, install_icon_sets, locked_versions
from logo_edge_train.data.lookalikes import find_lookalikes
from logo_edge_train.data.manifest import LogoRow, Manifest
from logo_edge_train.data.pool import leave_out_groups
from logo_edge_train.data.processes import map_in_processes
from logo_edge_train.organize.features import measure_file

MARKS, FIGURES, SHADED = (f"@iconify-json/{name}" for name in ("ph", "game-icons", "fluent-color"))
LETTERED = re.compile(  # marks with letters or digits in them, many parts, or a brand
    "logo|^text|^number|^letter|^file|markdown|^dots|keyboard|numpad|barcode|qr-code|four-k|^gif|binary|article|translate|"
    "virtual|definition|captioning|prescription|^calendar$|trademark|^exam$|three-d|bluetooth|droid|btc|-eth$|finn-the"
)
MOST_PARTS, LEAST_PARTS = 4, 14  # subpaths of a simple mark, and of a figure
MANY_REGIONS = 13  # the guide: more than about 12 separate regions are complex


def read_sets() -> dict[str, dict]:
    """{package: its icons as JSON} of the three pinned sets. Raises DatasetError if npm fails."""
    locked = locked_versions(DRAWING)
    files = install_icon_sets([(package, locked[package]) for package in (MARKS, FIGURES, SHADED)], DRAWING)
    return {package: json.loads(file.read_text(encoding="utf-8")) for package, file in files.items()}


def pictogram_pools(manifest: Manifest) -> dict[str, list[LogoRow]]:
    """The rendered pictograms by kind: `solid` and `line` marks, intricate `figure`s, and `shaded` ones.

    Raises DatasetError if npm fails.
    """
    locked, sets = locked_versions(DRAWING), read_sets()

    def parts(package: str, icon: str) -> int:
        return len(re.findall("[mM]", sets[package]["icons"][icon]["body"]))

    def rows_of(package: str, icons: list[str], suffix: str) -> list[LogoRow]:
        return [LogoRow(package, locked[package], icon, icon.removesuffix(suffix)) for icon in icons]

    marks, figures, shaded = (sets[package]["icons"] for package in (MARKS, FIGURES, SHADED))
    filled = [icon for icon in marks if icon.endswith("-fill") and parts(MARKS, icon) <= MOST_PARTS]
    plain = [name for name in (icon.removesuffix("-fill") for icon in filled) if not LETTERED.search(name)]
    pools = {
        "solid": rows_of(MARKS, [f"{icon}-fill" for icon in plain], "-fill"),
        "line": rows_of(MARKS, [icon for icon in plain if icon in marks], ""),
        "figure": rows_of(FIGURES, [icon for icon in figures if parts(FIGURES, icon) >= LEAST_PARTS], ""),
        "shaded": rows_of(SHADED, [icon for icon in shaded if icon.endswith("-32")], "-32"),
    }
    drawable = leave_out_groups(manifest, [row for rows in pools.values() for row in rows])
    fetch_logos([Manifest(tuple(drawable), Path())], locks=DRAWING)
    fetch_logos([manifest])
    kept = set(drawable) - find_lookalikes(manifest, drawable)
    pools = {name: [row for row in rows if row in kept] for name, rows in pools.items()}
    seen = map_in_processes(measure_file, manifest.image_paths(pools["figure"]), title="Measuring figures")
    pools["figure"] = list(compress(pools["figure"], [measured.complexity >= MANY_REGIONS for measured in seen]))
    return pools


def pictogram_rows(manifest: Manifest, count: int, seed: int = 0) -> list[LogoRow]:
    """At most `count` rendered pictograms without a label, as many of each kind as there are, up to a quarter."""
    pools = pictogram_pools(manifest)
    return [
        pool[index]
        for pool in pools.values()
        for index in sorted(np.random.default_rng(seed).permutation(len(pool))[: count // len(pools)])
    ]
