"""Pictures by index: what every family of outliers is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

LONGEST_PX, LEAST_PX = 336, 128  # of the long side of a kept picture, unless it is smaller already
SHRUNK = 0.5  # share of the pictures whose long side is drawn between the two
Random = np.random.Generator
Draw = Callable[[Random, int], Image.Image]  # (stream of the picture, its index) -> picture


@dataclass(frozen=True)
class Family:
    """Pictures of one kind: how one is drawn, and how many there are. Near families look much like logos."""

    draw: Draw
    count: int = 300
    near: bool = False
    fetched: bool = False  # needs the packages of `packages`


def draw_picture(draw: Draw, seed: int, index: int) -> Image.Image:
    """Picture `index` of a seed, RGB or RGBA, its long side at most LONGEST_PX. It depends on nothing else.

    Half of the pictures are shrunk further, so that no size means a logo; none is enlarged.
    """
    random = np.random.default_rng((seed, index))
    picture = draw(random, index)
    random = np.random.default_rng((seed, index, 1))
    longest = LONGEST_PX if random.random() >= SHRUNK else int(random.integers(LEAST_PX, LONGEST_PX + 1))
    if max(picture.size) > longest:
        scale = longest / max(picture.size)
        size = tuple(max(1, round(side * scale)) for side in picture.size)
        picture = (
            picture.convert("RGBa")
            .resize(size, Image.Resampling.LANCZOS)
            .convert("RGBA")  # clear pixels lend no colour
            if picture.mode == "RGBA"
            else picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        )
    return picture if picture.mode == "RGBA" else picture.convert("RGB")


def draw_pictures(draw: Draw, count: int, seed: int = 0) -> Iterator[Image.Image]:
    """Yields the first so many pictures of a seed."""
    for index in range(count):
        yield draw_picture(draw, seed, index)


def colour_of(random: Random, low: int = 0, high: int = 256) -> tuple[int, int, int]:
    """An RGB colour, each channel of low to high - 1."""
    red, green, blue = (int(value) for value in random.integers(low, high, 3))
    return red, green, blue


def pick(random: Random, items):
    """One of a sequence, as it is."""
    return items[int(random.integers(len(items)))]
