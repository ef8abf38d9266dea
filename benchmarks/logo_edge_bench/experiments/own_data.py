"""Four data sets that are not this project's logos, made of packages that are pinned by version and hash.

| data set | class | images |
| --- | --- | --- |
| icons | the meaning, such as `camera` | icons of that meaning of 12 vendors, with transparency |
| flags | several: the colours in a country's flag | the flag as four vendors draw it |
| photographs | the photograph | tiles that share no pixel |
| pages | the kind of page | drawn pages: text, forms, tables, code, charts... |

`make_data` writes them as a user has them: folders `SPLIT/CLASS/*.png`, and for flags `labels.csv`. The same packages
give the same bytes. Copies, and the drawings of one flag, are in one split.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import cv2
import numpy as np
from PIL import Image

from logo_edge.files import json_text
from logo_edge_train.data.icons import icon_svg, install_packages, locked_versions, render_svg
from logo_edge_train.data.outliers import held_out
from logo_edge_train.data.outliers.fitted import charts, documents, plans, screens
from logo_edge_train.data.outliers.packages import INSTALLED, LOCKS, scenes, subject_of, wheel_photographs
from logo_edge_train.keys import file_hash, source_hash
from logo_edge_train.organize.duplicates import group_copies, look_at
from logo_edge_train.organize.splits import split_by_group, split_labels_by_group

SHARES = {"train": 0.5, "val": 0.12, "calib": 0.14, "test": 0.24}
ICONS = Path(__file__).with_name("own_icons")
MEANINGS = (
    "archive bell bluetooth book bookmark box briefcase bug calculator calendar camera clipboard clock cloud code "
    "compass copy credit-card crop diamond download eye filter flag folder gift globe heart home hourglass inbox key "
    "keyboard link lock map microphone moon music palette pause phone pin play printer rocket search server share "
    "shield shuffle star sun tag terminal trash trophy truck umbrella upload"
).split()
PREFIX = re.compile("^(bx|uil)-")
STYLE = re.compile(
    "-(outline|outlined|line|linear|broken|regular|light|thin|duotone|twotone|rounded|round|sharp|alt|fill|filled|bold"
    "|solid|12|16|20|24|28|32|48)$"
)
SOLID = re.compile("-(fill|filled|bold|solid)$")
FLAG_SETS = ("flag", "flagpack", "circle-flags", "cif")
HUES = {"red": (335, 20), "orange": (20, 40), "yellow": (40, 70), "green": (70, 170), "blue": (170, 270)}  # degrees
LEAST_COLOUR = 0.03  # share of a flag's pixels
READ = ("JPEG", "PNG", "WEBP")  # formats of photographs in packages
PHOTOGRAPHS, GRID, PHOTOGRAPH_PX = 24, 6, 1536
LEAST_DEVIATION, LEAST_TILES = 10, 20  # grey levels: an emptier tile could be of any photograph
PAGES = {  # class: (drawing, its indices modulo a number)
    "text": (documents.draw_page, 0, 1),
    "receipt": (documents.draw_scan, 0, 4),
    "form": (documents.draw_scan, 1, 4),
    "table": (documents.draw_scan, 2, 4),
    "letter": (documents.draw_scan, 3, 4),
    "listing": (screens.draw_code, 0, 2),
    "terminal": (screens.draw_code, 1, 2),
    "web page": (screens.draw_web_page, 0, 1),
    "chart": (charts.draw_chart, 0, 1),
    "diagram": (plans.draw_diagram, 0, 1),
    "map": (plans.draw_map, 0, 1),
    "formulas": (held_out.draw_formulas, 0, 1),
}
PAGES_OF_A_CLASS, PAGE_PX = 70, 480


@dataclass(frozen=True)
class Picture:
    """One image of a data set; `group` names those that must be in one split, by itself if empty."""

    labels: tuple[str, ...]
    name: str
    image: Image.Image
    group: str = ""
    split: str = ""


def make_data(name: str, folder: Path, limit: int | None = None) -> Path:
    """The source of the data set `name` below `folder`, for `logo-edge train --data`: a folder or a CSV.

    It is written once, whole or not at all. With a `limit`, of each class only the first pictures, and four classes.
    """
    target = folder / name
    stamp, identity = folder / f"{name}.json", {"key": data_key(), "limit": limit}
    source = target / "labels.csv" if name == "flags" else target
    if target.exists() and stamp.exists() and json.loads(stamp.read_text(encoding="utf-8")) == identity:
        return source
    part = target.with_name(f"{name}.partial")
    stamp.unlink(missing_ok=True)
    for old in (part, target):
        shutil.rmtree(old, ignore_errors=True)
    pictures = take(DATA_SETS[name](), limit) if limit else list(DATA_SETS[name]())
    rows = [("path", "labels", "split")]
    for picture in assign(pictures, several=name == "flags"):
        target_path = Path(picture.split) / ("" if name == "flags" else picture.labels[0]) / f"{picture.name}.png"
        (part / target_path).parent.mkdir(parents=True, exist_ok=True)
        picture.image.save(part / target_path)
        rows.append((target_path.as_posix(), "|".join(picture.labels), picture.split))
    if name == "flags":
        with (part / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    part.rename(target)
    stamp.write_text(json_text(identity), encoding="utf-8")
    return source


def data_key() -> str:
    """What the pictures depend on: the locked packages and the drawing code."""
    locks = [LOCKS / "package-lock.json", LOCKS / "photographs.txt", ICONS / "package-lock.json", Path(__file__)]
    return "-".join([*(file_hash(path)[:8] for path in locks), source_hash(Path(held_out.__file__).parent)[:8]])


def take(pictures: Iterator[Picture], limit: int) -> list[Picture]:
    """Of the first four combinations of labels, the first `limit` pictures each."""
    by_labels: dict[tuple[str, ...], list[Picture]] = defaultdict(list)
    for picture in pictures:
        if (picture.labels in by_labels or len(by_labels) < 4) and len(by_labels[picture.labels]) < limit:
            by_labels[picture.labels].append(picture)
        if len(by_labels) == 4 and all(len(own) == limit for own in by_labels.values()):
            break
    return [picture for own in by_labels.values() for picture in own]


def assign(pictures: list[Picture], *, several: bool) -> list[Picture]:
    """The pictures with their splits, by SHARES of each class; copies, and the pictures of a group, are in one."""
    labels, looks = ["|".join(picture.labels) for picture in pictures], [look_at(picture.image) for picture in pictures]
    digests = [hashlib.sha256(picture.image.tobytes()).hexdigest() for picture in pictures]
    groups = [
        str(first) for first in group_copies(looks, labels, digests, [picture.group for picture in pictures]).firsts
    ]
    if several:
        splits = split_labels_by_group([picture.labels for picture in pictures], groups, seed=0, shares=SHARES)
    else:
        splits = split_by_group(labels, groups, seed=0, shares=SHARES)
    return [replace(picture, split=split) for picture, split in zip(pictures, splits, strict=True)]


def draw_icons() -> Iterator[Picture]:
    """Of each vendor and meaning, the plain icon and the solid one, where there are such."""
    modules = install_packages(ICONS, ICONS.name)
    sets = {name: json.loads((modules / name / "icons.json").read_text("utf-8")) for name in locked_versions(ICONS)}
    found: dict[str, dict[tuple[str, bool], str]] = defaultdict(dict)
    for package, icon_set in sets.items():
        for icon in sorted(icon_set["icons"], key=lambda icon: (len(icon), icon)):
            if (meaning := meaning_of(icon)) in MEANINGS:
                found[meaning].setdefault((package, bool(SOLID.search(icon))), icon)
    for meaning in MEANINGS:
        for (package, _), icon in sorted(found[meaning].items()):
            yield Picture((meaning,), f"{package.rpartition('/')[2]}-{icon}", draw_icon(sets[package], icon))


def draw_icon(icon_set: dict, icon: str) -> Image.Image:
    return Image.open(io.BytesIO(render_svg(icon_svg(icon_set, icon))), formats=("PNG",))


def meaning_of(icon: str) -> str:
    """The name of an icon without the words for its style and size."""
    name = PREFIX.sub("", icon)
    while (shorter := STYLE.sub("", name)) != name:
        name = shorter
    return name


def draw_flags() -> Iterator[Picture]:
    """Every country's flag in each set; its labels are the colours that more than half of the sets show."""
    modules, sets, icons = install_packages(LOCKS, INSTALLED), {}, defaultdict(dict)
    for vendor in FLAG_SETS:
        sets[vendor] = json.loads((modules / "@iconify-json" / vendor / "icons.json").read_text("utf-8"))
        for icon in sorted(sets[vendor]["icons"]):
            country = subject_of(icon, flags=True)
            if len(country) == 2 and icon in (country, f"{country}-4x3"):
                icons[country].setdefault(vendor, icon)
    for country, own in sorted(icons.items()):
        if len(own) > 2:
            images = {vendor: draw_icon(sets[vendor], icon).convert("RGBA") for vendor, icon in own.items()}
            shown = [colours_of(image) for image in images.values()]
            names = sorted({name for names in shown for name in names})
            labels = tuple(name for name in names if sum(name in names for names in shown) > len(shown) / 2)
            for vendor, image in images.items():
                yield Picture(labels, f"{country}-{vendor}", image, group=country)


def colours_of(image: Image.Image) -> set[str]:
    """The colours that cover at least LEAST_COLOUR of the opaque pixels of an RGBA image."""
    pixels = np.asarray(image)
    colours = pixels[pixels[:, :, 3] > 200][None, :, :3]  # (1, N, 3)
    hue, saturation, value = cv2.cvtColor(np.float32(colours / 255), cv2.COLOR_RGB2HSV)[0].T  # hue in degrees
    vivid = (saturation > 0.3) & (value > 0.25)
    shares = {
        name: (vivid & ((hue >= low) & (hue < high) if low < high else (hue >= low) | (hue < high))).mean()
        for name, (low, high) in HUES.items()
    }
    shares |= {"white": (~vivid & (value > 0.8)).mean(), "black": (value < 0.25).mean()}
    return {name for name, share in shares.items() if share >= LEAST_COLOUR}


def cut_photographs() -> Iterator[Picture]:
    """GRID x GRID tiles of the largest photographs of two Python packages and site templates, without empty tiles."""
    sizes = {path: min(Image.open(path, formats=READ).size) for path in (*wheel_photographs(), *scenes())}
    largest: dict[str, Path] = {}
    for path in sorted(sizes, key=lambda path: (-sizes[path], path.name)):
        largest.setdefault(path.stem, path)
    cut = 0
    for stem, path in largest.items():
        photograph = Image.open(path, formats=READ).convert("RGB")
        photograph.thumbnail((PHOTOGRAPH_PX, PHOTOGRAPH_PX), Image.Resampling.LANCZOS)
        width, height = photograph.width // GRID, photograph.height // GRID
        tiles = [
            Picture((stem,), f"{stem}-{row}{column}", photograph.crop((left, top, left + width, top + height)))
            for row, column in np.ndindex(GRID, GRID)
            for left, top in [(column * width, row * height)]
        ]
        tiles = [tile for tile in tiles if np.asarray(tile.image.convert("L")).std() >= LEAST_DEVIATION]
        if len(tiles) >= LEAST_TILES and cut < PHOTOGRAPHS:
            cut += 1
            yield from tiles


def draw_pages() -> Iterator[Picture]:
    """PAGES_OF_A_CLASS pages of each kind, the longer side at most PAGE_PX."""
    for label, (draw, first, every) in PAGES.items():
        for index in range(first, first + every * PAGES_OF_A_CLASS, every):
            page = draw(np.random.default_rng((crc32(label.encode()), index)), index).convert("RGB")
            page.thumbnail((PAGE_PX, PAGE_PX), Image.Resampling.LANCZOS)
            yield Picture((label,), f"{label}-{index:04d}", page)


DATA_SETS = {"icons": draw_icons, "flags": draw_flags, "photographs": cut_photographs, "pages": draw_pages}
