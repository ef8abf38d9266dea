"""Large JPEGs are decoded at a lower scale, and decided as if they had been decoded whole: real logos, every bundle."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from logo_edge import Classifier
from logo_edge_train.fetch import fetch_logos, renders_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("bundle", [None, ROOT / "bundles" / "robust"])
def test_decoding_a_jpeg_at_a_lower_scale_changes_no_decision(bundle):
    fetch_logos()
    renders = sorted(path for path in renders_folder().rglob("*.png"))[11::200]
    assert len(renders) >= 25
    classifier, generator = Classifier.load(bundle), np.random.default_rng(0)
    reduced = 0
    for index, path in enumerate(renders):
        image = Image.open(path).convert("RGBA")
        flat = Image.new("RGBA", image.size, "white")
        flat.alpha_composite(image)
        longer = int(generator.integers(700, 2400))
        flat = flat.convert("RGB").resize((longer, longer * (3 + index % 4) // 6))
        file = io.BytesIO()
        flat.save(file, "JPEG", quality=(50, 75, 90)[index % 3], subsampling=index % 3, progressive=index % 2 == 0)
        whole = classifier.decide(classifier.logits(classifier.read_pixels(file.getvalue())[None]))[0]
        found = classifier.classify(file.getvalue())
        reduced += found != whole
        for name in ("label", "best_guess", "reason", "prediction_set", "is_logo"):
            assert getattr(found, name) == getattr(whole, name), (path, name)
    assert reduced >= len(renders) // 5  # the others were near a threshold, and decoded whole
