"""A small labelled set that is learned in seconds."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from logo_edge.manifest import FILES, LogoRow, write_manifest

COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}


@pytest.fixture
def colours(tmp_path):
    """A manifest of 10 images of each colour on each split; two of val carry a wrong label."""
    random, rows = np.random.default_rng(0), []
    for label, colour in COLOURS.items():
        for split in ("train", "val", "calib"):
            for index in range(10):
                shade = np.kron(random.choice([0.1, 1.0], (6, 6, 1)), np.ones((8, 8, 1)))  # no two look alike
                pixels = (np.array(colour) * shade).astype(np.uint8)
                name = f"{label}-{split}-{index}.png"
                Image.fromarray(pixels).save(tmp_path / name)
                wrong = label == "red" and split == "val" and index < 2
                said = "blue" if wrong else label
                rows.append(LogoRow(FILES, "", name, name, said, (said, label), not wrong, split))
    write_manifest(tmp_path / "manifest.csv", rows)
    return tmp_path / "manifest.csv"
