"""Large JPEGs are decoded at reduced scale with the same decisions as in full: real logos, every bundle."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from logo_edge import Classification, Classifier
from logo_edge.bundle.calibration import Calibration, Familiarity, Mode
from logo_edge.classifier import REDUCED_SHIFT
from logo_edge.decision import logo_score, may_change
from logo_edge_train.data.icons import fetch_logos
from logo_edge_train.data.manifest import renders_folder

ROOT = Path(__file__).resolve().parents[2]
GUARDED = ("label", "best_guess", "reason", "prediction_set", "is_logo", "high_confidence", "low_confidence")


def said(result: Classification) -> dict:
    """The guarded parts of a decision; the order of the prediction set is not one."""
    return {name: getattr(result, name) for name in GUARDED} | {"prediction_set": frozenset(result.prediction_set)}


@pytest.mark.parametrize(
    ("confidence", "close"), [(0.5, True), (0.7, False), (0.9, True), (0.98, False), (0.999, True)]
)
def test_images_near_any_threshold_of_the_modes_or_the_chosen_one_are_decoded_whole(confidence, close):
    calibration = Calibration(1.0, {Mode.BEST_GUESS: 0.0, Mode.BALANCED: 0.5, Mode.STRICT: 0.9})
    probabilities = np.array([[confidence, (1 - confidence) / 2, (1 - confidence) / 2]])
    assert may_change(calibration, probabilities, np.zeros(1), 0.999, None, REDUCED_SHIFT).tolist() == [close]


def test_images_whose_logo_score_is_near_its_threshold_are_decoded_whole():
    calibration = Calibration(1.0, dict.fromkeys(Mode, 0.0), familiarity=Familiarity(2.0, 0.05))
    scores, sure = np.array([1.7, 1.8, 2.2, 2.3]), np.tile([0.99, 0.01], (4, 1))
    close = may_change(calibration, sure, scores, 0.0, None, REDUCED_SHIFT)
    assert close.tolist() == [False, True, True, False]


@pytest.mark.parametrize("bundle", [None, ROOT / "runtime" / "bundles" / "robust"])
def test_where_nothing_may_change_no_shift_of_the_logits_changes_anything_and_elsewhere_some_do(bundle):
    classifier, generator = Classifier.load(bundle), np.random.default_rng(0)
    logits = generator.normal(size=(20_000, len(classifier.labels))) * 3
    shifted = logits + generator.choice([-REDUCED_SHIFT, REDUCED_SHIFT], logits.shape)
    close = may_change(
        classifier.bundle.calibration,
        classifier.calibrated(logits),
        logo_score(logits),
        classifier.threshold,
        classifier.coverage,
        REDUCED_SHIFT,
    )
    before, after = map(classifier.decide, (logits, shifted))
    same = [said(one) == said(other) for one, other in zip(before, after, strict=True)]
    assert not close.all()
    assert all(np.array(same) | close)
    assert not all(same)


@pytest.fixture(scope="module")
def photographed() -> list[tuple[Path, bytes]]:
    """Every 400th logo on white as a JPEG of 1500 to 3200 px, in every quality, subsampling and scan order."""
    fetch_logos()
    jpegs, generator = [], np.random.default_rng(0)
    for index, path in enumerate(sorted(renders_folder().rglob("*.png"))[11::400]):
        image = Image.open(path, formats=("PNG",)).convert("RGBA")
        flat = Image.new("RGBA", image.size, "white")
        flat.alpha_composite(image)
        longer = int(generator.integers(1500, 3200))
        flat = flat.convert("RGB").resize((longer, longer * (3 + index % 4) // 6))
        file = io.BytesIO()
        flat.save(file, "JPEG", quality=(50, 75, 90)[index % 3], subsampling=index % 3, progressive=index % 2 == 0)
        jpegs.append((path, file.getvalue()))
    assert len(jpegs) >= 25
    return jpegs


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("bundle", [None, ROOT / "runtime" / "bundles" / "robust"])
def test_decoding_a_jpeg_at_a_lower_scale_changes_no_decision(bundle, photographed):
    classifier, reduced = Classifier.load(bundle), 0
    for path, data in photographed:
        whole = classifier.decide(classifier.logits(classifier.read_pixels(data)[None]))[0]
        classification = classifier.classify(data)
        reduced += classification != whole
        for name in GUARDED:
            assert getattr(classification, name) == getattr(whole, name), (path, name)
    assert reduced >= len(photographed) // 5  # the others were near a threshold, and decoded whole
