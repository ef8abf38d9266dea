"""Which parts of an image a classification depends on: an occlusion heat map, from the model's outputs alone."""

from __future__ import annotations

import numpy as np
from PIL import Image

from logo_edge.classifier import Classifier
from logo_edge.images.load import ImageSource
from logo_edge.preprocess import border_colour
from logo_edge.probabilities import log_odds
from logo_edge.results import Classification

STEPS = 16  # positions of the patch along each side
PATCH = 1 / 8  # side of the patch, as a share of the image's
BATCH = 32
HEAT_MAP_PX = 320  # smallest side of the heat map
FOR, AGAINST = np.array([214, 39, 40]), np.array([31, 119, 180])  # colours of evidence for and against the best guess


def occlusion(classifier: Classifier, pixels: np.ndarray, label: str) -> np.ndarray:
    """(STEPS, STEPS) float64: the fall of the log-odds of `label` when a patch of background covers each position.

    pixels: (S, S, C) uint8. Zeiler and Fergus 2014, arXiv:1311.2901.
    """
    size, index = len(pixels), classifier.labels.index(label)
    side = max(1, round(size * PATCH))
    starts = np.linspace(0, size - side, STEPS).round().astype(int)
    background, images = border_colour(pixels), []
    background[3:] = 0  # no detail in it
    for top in starts:
        for left in starts:
            covered = pixels.copy()
            covered[top : top + side, left : left + side] = background
            images.append(covered)
    odds = [
        _log_odds(classifier, np.stack(images[start : start + BATCH]), index) for start in range(0, len(images), BATCH)
    ]
    fall = _log_odds(classifier, pixels[None], index)[0] - np.concatenate(odds)
    return fall.reshape(STEPS, STEPS)


def explain(classifier: Classifier, source: ImageSource, result: Classification) -> Image.Image:
    """The image as the model sees it, in grey: red where it speaks for the best guess, blue where it speaks against it.

    Colours are relative to the strongest position in this image. Raises ImageError.
    """
    pixels = classifier.read_pixels(source)
    heat = occlusion(classifier, pixels, result.best_guess)
    size = len(pixels) * -(-HEAT_MAP_PX // len(pixels))
    strongest = max(float(np.abs(heat).max()), 1e-9)
    wide = Image.fromarray((heat / strongest).astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    wide = np.clip(np.asarray(wide), -1, 1)[:, :, None]  # (P, P, 1)
    grey = np.asarray(Image.fromarray(pixels[:, :, :3]).convert("L").resize((size, size), Image.Resampling.BILINEAR))
    lighter = 70 + 0.7 * grey[:, :, None].astype(np.float64)
    share = 0.75 * np.abs(wide) ** 0.7
    return Image.fromarray(((1 - share) * lighter + share * np.where(wide > 0, FOR, AGAINST)).round().astype(np.uint8))


def _log_odds(classifier: Classifier, pixels: np.ndarray, index: int) -> np.ndarray:
    """(B,) of the calibrated probability of one class."""
    return log_odds(classifier.calibrated(classifier.logits(pixels))[:, index])
