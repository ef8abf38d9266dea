"""An occlusion map is hot where the evidence is, and --explain leaves it beside the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import classify
from PIL import Image

from logo_edge import Classifier
from logo_edge.explain import HEAT_MAP_PX, STEPS, explain, occlusion


@pytest.fixture(params=[False, True], ids=["colours", "details"])
def bundle(fake_bundle, request) -> Path:
    return fake_bundle(size_px=32, details=request.param)


@pytest.fixture
def logo(tmp_path) -> Path:
    """Grey, a red square at the upper left and a green one at the lower right."""
    image = Image.new("RGB", (64, 64), (128, 128, 128))
    image.paste((255, 0, 0), (8, 8, 28, 28))
    image.paste((0, 200, 0), (44, 44, 54, 54))
    path = tmp_path / "logos" / "logo.png"
    path.parent.mkdir()
    image.save(path)
    return path


def test_what_is_hidden_of_the_evidence_lowers_the_log_odds_and_what_is_hidden_of_the_rest_raises_them(bundle, logo):
    classifier = Classifier.load(bundle)
    heat = occlusion(classifier, classifier.read_pixels(logo), "red")
    assert heat.shape == (STEPS, STEPS)
    half = STEPS // 2
    assert heat[:half, :half].max() > 0.01
    assert heat[half:, half:].min() < -0.001
    assert np.unravel_index(heat.argmax(), heat.shape) < (half, half)
    assert np.abs(heat[0, -3:]).max() < 1e-3


def test_what_hides_a_part_of_the_picture_has_its_border_s_colour_and_no_details(fake_bundle, monkeypatch):
    classifier, seen = Classifier.load(fake_bundle(details=True)), []
    monkeypatch.setattr(
        classifier, "logits", lambda pixels: seen.append(pixels) or np.zeros((len(pixels), 3), np.float32)
    )
    pixels = np.full((16, 16, 7), 200, np.uint8)
    pixels[4:12, 4:12] = 30
    occlusion(classifier, pixels, "red")
    assert (seen[0][0, :2, :2] == [200, 200, 200, 0, 0, 0, 0]).all()
    assert np.array_equal(seen[0][0, 2:], pixels[2:])


def test_the_picture_is_red_for_and_blue_against(bundle, logo):
    classifier = Classifier.load(bundle)
    picture = np.asarray(explain(classifier, logo, classifier.classify(logo))).astype(int)
    side = len(picture)
    assert picture.shape == (side, side, 3)
    assert side >= HEAT_MAP_PX
    red, blue = picture[side // 4, side // 4], picture[side * 49 // 64, side * 49 // 64]
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 20


def test_explain_leaves_a_map_beside_each_image_which_is_no_image_to_classify(bundle, logo):
    for _ in range(2):
        result = classify(bundle, "--jsonl", "--explain", logo.parent)
        assert result.exit_code == 0, result.exception
        assert result.stdout.count("\n") == 1
        assert f'"explanation": "{logo}.explain.png"' in result.stdout
    assert Image.open(f"{logo}.explain.png").format == "PNG"


def test_an_unreadable_image_is_told_and_gets_no_map(bundle, logo):
    (logo.parent / "bad.png").write_bytes(b"no image")
    result = classify(bundle, "--explain", logo.parent)
    assert result.exit_code == 1
    assert "bad.png" in result.stderr
    assert sorted(path.name for path in logo.parent.glob("*.explain.png")) == ["logo.png.explain.png"]


def test_an_image_that_is_replaced_before_its_map_is_told_too(bundle, logo, monkeypatch):
    classified = Classifier.classify

    def replaced(self, source):
        result = classified(self, source)
        logo.write_bytes(b"no image")
        return result

    monkeypatch.setattr(Classifier, "classify", replaced)
    result = classify(bundle, "--jsonl", "--explain", logo)
    assert result.exit_code == 1
    assert '"error"' in result.stdout
