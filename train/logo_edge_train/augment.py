"""Augmentation that keeps a logo's class: no operation adds or removes a gradient, breaks lettering or mirrors it."""

from __future__ import annotations

from collections.abc import Callable

import albumentations as A
import numpy as np
from PIL import Image

from logo_edge.preprocess import InputContract, composite, letterboxed_size, pick_background
from logo_edge_train.recipe import AugmentConfig

MAX_HIDDEN_INK = 0.02  # share of the ink that may come close to a random background colour
CLOSE_COLOUR = 110  # sum of absolute differences over R, G and B


class LogoAugmentation:
    """Random view of one logo: scale, offset, rotation, background, colour, resolution, blur, JPEG.

    Calling it with the same seed gives the same view, whatever ran before and in whatever process.
    """

    def __init__(self, config: AugmentConfig, contract: InputContract):
        self.config, self.contract = config, contract
        rotate = A.Rotate(
            limit=(-config.rotate_degrees, config.rotate_degrees), border_mode=0, fill=0, p=config.p_rotate
        )
        hue = int(config.hue_degrees / 2)  # OpenCV's hue has 180 steps
        self.on_ink = A.Compose([rotate])
        self.on_colours = A.Compose(
            [
                A.HueSaturationValue((-hue, hue), (-15, 25), (-12, 12), p=config.p_colour),
                A.RandomBrightnessContrast((-0.08, 0.08), (-0.12, 0.12), p=config.p_colour / 2),
                A.ChannelShuffle(p=config.p_colour / 4),
            ]
        )
        self.on_picture = A.Compose(
            [
                A.GaussianBlur(blur_limit=0, sigma_limit=(0.3, 0.9), p=config.p_blur),
                A.ImageCompression(quality_range=(35, 95), p=config.p_jpeg),
            ]
        )

    def __call__(self, image: Image.Image, seed: int) -> np.ndarray:
        """A view of the logo, (size_px, size_px, 3) uint8. `image` is RGBa: premultiplied."""
        random = np.random.default_rng(seed)
        for stage in (self.on_ink, self.on_colours, self.on_picture):
            stage.set_random_seed(int(random.integers(2**31)))
        ink = self._place(image, random)  # (S, S, 4) uint8, premultiplied
        ink = self.on_ink(image=ink)["image"]
        ink = recolour(ink, lambda straight: self.on_colours(image=straight)["image"])
        picture = lay_on_background(ink, self.contract, random, self.config.p_background)
        return self.on_picture(image=picture)["image"]

    def _place(self, image: Image.Image, random: np.random.Generator) -> np.ndarray:
        size = self.contract.size_px
        if random.random() < self.config.p_low_resolution:
            image = image.resize(letterboxed_size(image.size, int(random.integers(48, 97))), Image.Resampling.BILINEAR)
        side = round(size * random.uniform(self.config.scale_min, 1.0)) if random.random() < 0.75 else size
        width, height = letterboxed_size(image.size, max(1, side))
        small = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        left, top = (int(random.integers(0, free + 1)) for free in (size - width, size - height))
        if random.random() < 0.5:
            left, top = (size - width) // 2, (size - height) // 2
        square = np.zeros((size, size, 4), np.uint8)
        square[top : top + height, left : left + width] = small
        return square


def recolour(ink: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The ink, (S, S, 4) uint8 premultiplied, its straight colours (S, S, 3) changed; its alpha stays."""
    alpha = ink[:, :, 3:].astype(np.uint16)
    straight = ink[:, :, :3].astype(np.uint16) * 255 // np.maximum(alpha, 1)
    shifted = change(np.minimum(straight, 255).astype(np.uint8))
    premultiplied = (shifted.astype(np.uint16) * alpha + 127) // 255
    return np.concatenate([premultiplied.astype(np.uint8), ink[:, :, 3:]], axis=2)


def lay_on_background(
    ink: np.ndarray, contract: InputContract, random: np.random.Generator, p_random: float
) -> np.ndarray:
    """(S, S, 3) uint8: the premultiplied ink on the contract's background or, so often, on a random colour unlike its own."""
    background = pick_background(ink, contract)
    if random.random() < p_random:
        solid = ink[ink[:, :, 3] > 250][:, :3].astype(np.int16)  # (N, 3)
        for _ in range(4):
            colour = tuple(int(value) for value in random.integers(0, 256, 3))
            close = (np.abs(solid - np.array(colour, np.int16)).sum(axis=1) < CLOSE_COLOUR).mean() if len(solid) else 0
            if close < MAX_HIDDEN_INK:
                background = colour
                break
    return composite(ink, InputContract(contract.size_px, background, background))[0]
