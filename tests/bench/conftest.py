"""A bundle and labelled images that it knows."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from logo_edge import Classifier
from logo_edge_train.data.manifest import FILES, LogoRow, write_manifest


@pytest.fixture
def labelled(tmp_path, fake_bundle):
    """A bundle and a manifest of 12 images whose labels are the bundle's own guesses, but for two."""
    bundle = fake_bundle()
    classifier, random, rows = Classifier.load(bundle), np.random.default_rng(0), []
    for index in range(12):
        Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
        guess = classifier.classify(tmp_path / f"{index}.png").best_guess
        wrong = next(label for label in classifier.labels if label != guess)
        label = wrong if index < 2 else guess
        rows.append(LogoRow(FILES, "", f"{index}.png", str(index), label, (label,), index % 2 == 0, "test"))
    write_manifest(tmp_path / "manifest.csv", rows)
    return bundle, tmp_path / "manifest.csv"
