"""Images of a manifest's rows and of files: decoded a few at a time, shrunk, or preprocessed as in the runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from logo_edge.images.load import load_image
from logo_edge.preprocess import CROP, InputContract, letterboxed_size, preprocess
from logo_edge_train.data.manifest import LogoRow, Manifest
from logo_edge_train.parallel import count_cores

READERS = 4  # images at full size in memory at a time: a few hundred MB at most
KEPT_SCALE = 1.5  # longer side of the images held in memory, in input sizes

Read = TypeVar("Read")


def map_images(manifest: Manifest, rows: list[LogoRow], function: Callable[[Image.Image], Read]) -> list[Read]:
    """`function` of each row's image, in order; at most READERS decoded images are in memory at a time.

    Raises DatasetError if images are missing, ImageError if one cannot be read.
    """
    paths = manifest.image_paths(rows)
    with ThreadPoolExecutor(min(READERS, count_cores())) as pool:
        return list(pool.map(lambda path: function(load_image(path)), paths))


def pixels_of(rows: list[LogoRow], manifest: Manifest, contract: InputContract) -> np.ndarray:
    """(N, S, S, channels) uint8: the rows' images, preprocessed as in the runtime."""
    return np.stack(map_images(manifest, rows, partial(preprocess, contract=contract)))


def shrink(image: Image.Image, longest_px: int) -> Image.Image:
    """The image, scaled down if its longer side is above `longest_px`."""
    if max(image.size) <= longest_px:
        return image
    return image.resize(letterboxed_size(image.size, longest_px), Image.Resampling.BILINEAR, reducing_gap=3.0)


def longer_side(size: tuple[float, float], side_px: int, contract: InputContract) -> int:
    """The longer side in pixels of an image of that size that gives the contract's square a side of `side_px`."""
    return round(side_px * max(size) / min(size)) if contract.fit == CROP else side_px


class ImageFiles(Sequence):
    """The images of files, decoded at each access: memory holds only what the caller holds."""

    def __init__(self, paths: Sequence[str | Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):
        return (
            [load_image(path) for path in self.paths[index]]
            if isinstance(index, slice)
            else load_image(self.paths[index])
        )
