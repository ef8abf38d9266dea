"""The fixed normalisation between pixels and the planes that a backbone reads."""

from __future__ import annotations

import torch

MEAN, SCALE = 127.0, 128.0  # of the EfficientNet-Lite checkpoints: (x - 127) / 128


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """(B, S, S, C) uint8 or float of 0 to 255 -> (B, C, S, S) float in about -1 to 1."""
    return (pixels.permute(0, 3, 1, 2).float() - MEAN) / SCALE


def to_colours(planes: torch.Tensor) -> torch.Tensor:
    """(B, C, S, S) normalised planes -> the same planes in 0 to 1, as `extractors` reads them."""
    return (planes * SCALE + MEAN) / 255
