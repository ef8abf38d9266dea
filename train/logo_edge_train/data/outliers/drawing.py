"""Families of outliers, and their pictures by index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from PIL import Image

LONGEST_PX, LEAST_PX = 336, 128  # of the long side of a kept picture; smaller pictures stay
SHRUNK = 0.5  # share of pictures whose long side is random between the two
Random = np.random.Generator
Draw = Callable[[Random, int], Image.Image]  # (stream of the picture, its index) -> picture


@dataclass(frozen=True)
class Family:
    """Pictures of one kind: the function that draws one, and their number. Near families resemble logos."""

    draw: Draw
    count: int = 300
    near: bool = False


def draw_picture(name: str, family: Family, index: int) -> Image.Image:
    """Picture `index` of the named family, RGB or RGBA, its long side at most LONGEST_PX; it depends on nothing else.

    Half of the pictures are shrunk further, so that size does not reveal a logo; none is enlarged.
    """
    seed = crc32(name.encode()), index
    picture = family.draw(np.random.default_rng(seed), index)
    random = np.random.default_rng((*seed, 1))
    longest = LONGEST_PX if random.random() >= SHRUNK else int(random.integers(LEAST_PX, LONGEST_PX + 1))
    kept, shrunk = ("RGBA", "RGBa") if picture.mode == "RGBA" else ("RGB", "RGB")  # RGBa: ink alone adds colour
    scale = longest / max(picture.size)
    if scale >= 1:
        return picture.convert(kept)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    return picture.convert(shrunk).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0).convert(kept)


def draw_pictures(name: str, family: Family) -> Iterator[Image.Image]:
    """Yields all pictures of the named family."""
    for index in range(family.count):
        yield draw_picture(name, family, index)


def colour_of(random: Random, low: int = 0, high: int = 256) -> tuple[int, int, int]:
    """An RGB colour, each channel of low to high - 1."""
    red, green, blue = (int(value) for value in random.integers(low, high, 3))
    return red, green, blue


def pick(random: Random, items):
    """A random item of a sequence, not converted to a numpy type."""
    return items[int(random.integers(len(items)))]
