"""A bundle and labelled images that it knows; the peers and what they learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from logo_edge import Classifier
from logo_edge_train.data.manifest import FILES, LogoRow, write_manifest

PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"


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


@pytest.fixture
def peers(monkeypatch):
    """The scripts of the peers and their subjects, to be imported."""
    monkeypatch.syspath_prepend(str(PEERS / "subjects"))
    monkeypatch.syspath_prepend(str(PEERS))


@pytest.fixture
def data(peers, tmp_path):
    """Of two classes 24 drawings in each split: red squares are simple, noise is complex."""
    import peer

    random = np.random.default_rng(0)
    for split in peer.SPLITS:
        for index in range(24):
            for label in ("complex", "simple"):
                pixels = (
                    random.integers(0, 256, (40, 60, 3), dtype=np.uint8)
                    if label == "complex"
                    else np.full((40, 60, 3), (200, 0, 0), np.uint8)
                )
                path = tmp_path / "data" / split / label / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return peer.Data(tmp_path / "data", ("complex", "simple"), size_px=64)
