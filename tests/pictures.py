"""The picture that most tests of the runtime classify, and a small labelled set to train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from logo_edge_train.data.manifest import FILES, LogoRow, write_manifest

RED_AND_BLUE = {"red": (220, 30, 30), "blue": (30, 30, 220)}


def marked(colour: str | tuple[int, int, int], size: tuple[int, int] = (20, 20)) -> Image.Image:
    """A picture of one colour but for a corner that is one step off, which no reduction takes away: it is not blank."""
    image = Image.new("RGB", size, colour)
    red, green, blue = image.getpixel((0, 0))
    image.paste((red + 1 if red < 255 else 254, green, blue), (0, 0, -(-size[0] // 4), -(-size[1] // 4)))
    return image


def write_squares(folder: Path, colours: dict[str, tuple[int, int, int]] = RED_AND_BLUE) -> Path:
    """The manifest of squares in the folder: 8 of each colour in train, val and calib each, no two of which look alike."""
    random, rows = np.random.default_rng(0), []
    for label, colour in colours.items():
        for split in ("train", "val", "calib"):
            for index in range(8):
                shade = np.kron(random.choice([0.1, 1.0], (5, 5, 1)), np.ones((8, 8, 1)))  # (40, 40, 1)
                name = f"{label}-{split}-{index}.png"
                Image.fromarray((np.array(colour) * shade).astype(np.uint8)).save(folder / name)
                rows.append(LogoRow(FILES, "", name, name, label, (label,), True, split))
    write_manifest(folder / "manifest.csv", rows)
    return folder / "manifest.csv"
