"""Augmented views: the same seed gives the same view, and what makes a class stays."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from logo_edge.preprocess import InputContract
from logo_edge_train.augment import LogoAugmentation
from logo_edge_train.recipe import AugmentConfig

CONTRACT = InputContract(96)


def badge() -> Image.Image:
    image = Image.new("RGBA", (120, 80), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((10, 10, 110, 70), fill=(40, 90, 200, 255))
    return image.convert("RGBa")


def test_the_same_seed_gives_the_same_view_whatever_ran_before():
    augmentation = LogoAugmentation(AugmentConfig(), CONTRACT)
    first = [augmentation(badge(), seed) for seed in range(30)]
    again = [LogoAugmentation(AugmentConfig(), CONTRACT)(badge(), seed) for seed in reversed(range(30))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({view.tobytes() for view in first}) == 30


def test_views_have_the_shape_and_type_of_the_input_contract():
    view = LogoAugmentation(AugmentConfig(), CONTRACT)(badge(), 0)
    assert view.shape == (96, 96, 3)
    assert view.dtype == np.uint8


def test_no_view_gives_a_flat_mark_a_gradient():
    """Without JPEG and blur, a flat badge on a flat ground has two colours and, at its edges, mixtures of the two."""
    config = AugmentConfig(p_jpeg=0.0, p_blur=0.0, p_low_resolution=0.0)
    augmentation, checked = LogoAugmentation(config, CONTRACT), 0
    for seed in range(60):
        view = augmentation(badge(), seed).astype(int)
        colours, counts = np.unique(view.reshape(-1, 3), axis=0, return_counts=True)
        two = colours[np.argsort(counts)[-2:]]  # the badge and the ground
        near = np.abs(view[:, :, None] - two).sum(3).min(2) <= 6
        assert near.mean() > 0.85, seed
        checked += 1
    assert checked == 60


def test_the_ink_stays_visible_on_random_backgrounds():
    config = AugmentConfig(p_background=1.0, p_jpeg=0.0, p_blur=0.0)
    augmentation = LogoAugmentation(config, CONTRACT)
    spreads = [np.ptp(augmentation(badge(), seed).reshape(-1, 3).astype(int), axis=0).sum() for seed in range(60)]
    assert min(spreads) > 60
