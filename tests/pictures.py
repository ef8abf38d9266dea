"""The image that most runtime tests classify, and a small labelled set to train on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

Colour = tuple[int, int, int]
RED_AND_BLUE: dict[str, Colour] = {"red": (220, 30, 30), "blue": (30, 30, 220)}
COLOURS: dict[str, Colour] = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}
MUTED: dict[str, Colour] = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
EIGHT_EACH = {"train": 8, "val": 8, "calib": 8}


def marked(colour: str | tuple[int, int, int], size: tuple[int, int] = (20, 20)) -> Image.Image:
    """An image of one colour with a corner that is one step off, so that it is not blank at any scale."""
    image = Image.new("RGB", size, colour)
    red, green, blue = image.getpixel((0, 0))
    image.paste((red + 1 if red < 255 else 254, green, blue), (0, 0, -(-size[0] // 4), -(-size[1] // 4)))
    return image


def write_squares(
    folder: Path,
    colours: Mapping[str, Colour] = RED_AND_BLUE,
    counts: Mapping[str, int | Mapping[str, int]] = EIGHT_EACH,
    *,
    framed: bool = False,
) -> Path:
    """The manifest of distinct squares in the folder; `counts` are by split, or by split and label.

    They are mosaics of two shades or, with `framed`, of one colour in a frame of noise.
    """
    from logo_edge_train.data.manifest import FILES, LogoRow, write_manifest  # absent where only the runtime is tested

    random, rows = np.random.default_rng(0), []
    for label, colour in colours.items():
        for split, count in counts.items():
            for index in range(count if isinstance(count, int) else count[label]):
                if framed:
                    pixels = random.integers(0, 255, (40, 40, 4), dtype=np.uint8)
                    pixels[8:32, 8:32, :3] = colour
                else:
                    shade = np.kron(random.choice([0.1, 1.0], (5, 5, 1)), np.ones((8, 8, 1)))  # (40, 40, 1)
                    pixels = (np.array(colour) * shade).astype(np.uint8)
                name = f"{label}-{split}-{index}.png"
                Image.fromarray(pixels).save(folder / name)
                rows.append(LogoRow(FILES, "", name, name, label, (label,), True, split))
    write_manifest(folder / "manifest.csv", rows)
    return folder / "manifest.csv"
