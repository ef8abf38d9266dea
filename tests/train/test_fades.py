"""What fades and what does not: a gradient beside the same drawing flat, in hard bands, and blurred at its rim."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from logo_edge_train.review.fades import SLOPES, measure_fades

COUNTS = len(SLOPES) + 3  # features of one reach
FAINT = slice(COUNTS, COUNTS + len(SLOPES) - 1)  # shares that fade over 16 px


def measure(tmp_path, levels: np.ndarray) -> np.ndarray:
    picture = np.zeros((200, 200, 4), np.uint8)
    picture[20:180, 20:180, 0] = levels
    picture[20:180, 20:180, 3] = 255
    Image.fromarray(picture).save(tmp_path / "logo.png")
    return measure_fades(tmp_path / "logo.png")


def test_a_fade_is_told_from_a_flat_plate_and_from_hard_bands(tmp_path):
    ramp = np.linspace(40, 220, 160)
    fade = measure(tmp_path, np.tile(ramp, (160, 1)))
    flat = measure(tmp_path, np.full((160, 160), 130))
    bands = measure(tmp_path, np.tile(np.repeat(ramp[::20], 20), (160, 1)))
    assert (fade[FAINT] ** 2).sum() > 0.7
    assert (flat[FAINT] ** 2).sum() < 0.02
    assert (bands[FAINT] ** 2).sum() < 0.05
    assert fade[COUNTS + len(SLOPES) + 1] == pytest.approx(0.9 * 180 / 255, abs=0.12), "its tonal range"
    assert len(fade) == len(flat) == 4 * COUNTS + 2 * 7 + 1


def test_a_faint_fade_over_the_whole_mark_is_seen(tmp_path):
    faint = measure(tmp_path, np.tile(np.linspace(100, 140, 160), (160, 1)))
    assert (faint[FAINT] ** 2).sum() > 0.5


def test_an_empty_picture_has_finite_measures(tmp_path):
    Image.new("RGBA", (50, 50)).save(tmp_path / "empty.png")
    assert np.isfinite(measure_fades(tmp_path / "empty.png")).all()
