"""Images of a manifest's rows and of files: decoded a few at a time, shrunk, or preprocessed as in the runtime."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from logo_edge.cache import cache_folder
from logo_edge.errors import DatasetError
from logo_edge.images.load import load_image, load_reduced
from logo_edge.preprocess import CROP, InputContract, letterboxed_size, preprocess
from logo_edge_train.data.manifest import LogoRow, Manifest
from logo_edge_train.parallel import count_cores

READERS = 4  # images at full size in memory at a time: a few hundred MB at most
KEPT_SCALE = 1.5  # longer side of the images held in memory, in input sizes

HELD_BYTES = 64 * 2**20  # of a StoredImages in memory; the other images lie in a file
TOLD_S = 0.5  # between two reports of images that are read

Read = TypeVar("Read")
_tell: ContextVar[Callable[[], None]] = ContextVar("tell", default=lambda: None)


@contextmanager
def telling_reads(report: Callable[[dict], None], name: str, total: int) -> Iterator[None]:
    """In the block, which reads `total` images, `report` is told how many are read: {kind: stage, ...}.

    The name is that of the fit or stage that needs them.
    """
    done, last_s, name = 0, 0.0, f"{name}: images"

    def tell() -> None:
        nonlocal done, last_s
        done += 1
        if done == total or time.monotonic() - last_s >= TOLD_S:
            last_s = time.monotonic()
            report({"kind": "stage", "name": name, "done": done, "total": total})

    token = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(token)
    if 0 < done < total:  # results of some images were in a cache
        report({"kind": "stage", "name": name, "done": done, "total": done})


def each_image(
    manifest: Manifest,
    rows: list[LogoRow],
    function: Callable[[Image.Image], Read],
    *,
    load: Callable[[Path], Image.Image | np.ndarray] | None = None,
) -> Iterator[Read]:
    """Yields `function` of each row's image, in order; at most READERS decoded images are in memory at a time.

    `load` reads a file; None: `load_image`. Raises DatasetError if images are missing, ImageError if one cannot be
    read.
    """
    paths, tell, load = manifest.image_paths(rows), _tell.get(), load or load_image
    with ThreadPoolExecutor(min(READERS, count_cores())) as pool:
        jobs = (pool.submit(lambda path: function(load(path)), path) for path in paths)
        ahead = deque(islice(jobs, READERS))  # no further: a slow caller must not fill the memory
        for _ in paths:
            result = ahead.popleft().result()
            ahead.extend(islice(jobs, 1))
            tell()
            yield result


def map_images(manifest: Manifest, rows: list[LogoRow], function: Callable[[Image.Image], Read]) -> list[Read]:
    """`each_image` as a list."""
    return list(each_image(manifest, rows, function))


def each_pixels(rows: list[LogoRow], manifest: Manifest, contract: InputContract) -> Iterator[np.ndarray]:
    """Yields (S, S, channels) uint8 of each row, preprocessed as in the runtime: without a copy as a PIL image."""
    return each_image(
        manifest, rows, partial(preprocess, contract=contract), load=lambda path: load_reduced(path, None)[0]
    )


def pixels_of(rows: list[LogoRow], manifest: Manifest, contract: InputContract) -> np.ndarray:
    """(N, S, S, channels) uint8: the rows' images, preprocessed as in the runtime."""
    return np.stack(list(each_pixels(rows, manifest, contract)))


def stored_pixels(rows: list[LogoRow], manifest: Manifest, contract: InputContract) -> StoredImages:
    """`pixels_of` any number of rows; slices are arrays."""
    return StoredImages(each_pixels(rows, manifest, contract))


class StoredImages(Sequence):
    """Images, RGB or RGBA, or uint8 arrays: the first HELD_BYTES in memory, the others as they are in a file.

    The file has no name and ends with the object; it lies in the cache folder, since /tmp may be memory. On Windows,
    which cannot read at an offset or share such a file between processes, all images are in memory. A slice of arrays
    of one shape is their stack.
    """

    def __init__(self, images: Iterable[Image.Image | np.ndarray]):
        self.held: list[Image.Image | np.ndarray] = []
        self.places: list[tuple[int, int, str, tuple[int, ...]]] = []  # offset, bytes, mode ("" of arrays), size
        self.file, offset = None, 0
        most = HELD_BYTES if hasattr(os, "preadv") else math.inf
        for image in images:
            is_array = isinstance(image, np.ndarray)
            count = image.nbytes if is_array else image.width * image.height * 4
            if self.file is None and offset + count <= most:
                self.held.append(image)
                offset += count
                continue
            if self.file is None:
                cache_folder().mkdir(parents=True, exist_ok=True)
                self.file = tempfile.TemporaryFile(dir=cache_folder(), buffering=0)  # noqa: SIM115
                offset = 0
            data = image.tobytes()
            try:
                written = self.file.write(data)
            except OSError as error:
                written, reason = 0, error.strerror
            else:
                reason = "the disk is full"
            if written != len(data):
                raise DatasetError(
                    f"{cache_folder()}: {reason}, after {offset / 1e9:.1f} GB of reduced images; expected space for "
                    "the images of a training. Free some, or set LOGO_EDGE_CACHE to a folder on another disk"
                )
            shape = image.shape if is_array else image.size
            self.places.append((offset, len(data), "" if is_array else image.mode, shape))
            offset += len(data)

    def __len__(self) -> int:
        return len(self.held) + len(self.places)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return np.stack([self[at] for at in range(*index.indices(len(self)))])
        index = range(len(self))[index]
        if index < len(self.held):
            return self.held[index]
        offset, count, mode, shape = self.places[index - len(self.held)]
        if mode:
            return Image.frombytes(mode, shape, os.pread(self.file.fileno(), count, offset))
        pixels = np.empty(shape, np.uint8)
        os.preadv(self.file.fileno(), [pixels], offset)
        return pixels

    def __getstate__(self) -> dict:  # for the processes of a data loader
        if self.file is None:
            return self.__dict__
        from multiprocessing.reduction import DupFd  # not on Windows

        return {**self.__dict__, "file": DupFd(self.file.fileno())}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ = state
        if self.file is not None:
            self.file = os.fdopen(self.file.detach(), "rb", buffering=0)


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
