"""Finds images that are copies: one drawing or photograph in other sizes, formats, margins or compression.

Images of one scene are no copies, though photographs of one machine part differ less than copies of logos. So the limit
of a class is halved until its own images no longer form one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from logo_edge.likeness.parts import ink_box
from logo_edge_train.data.lookalikes import FEW_COPIES, LEAST_DISTANCE, MAX_GROUP_SHARE
from logo_edge_train.organize.features import lay_out

SIDE_PX = 32
HASH_BITS = 64
MAX_HASH_DISTANCE = 8  # of 64 bits; 94 % of such pairs of the labelled logos are one brand, a third of those at 10 bits
MAX_ASPECT_CHANGE = 0.1  # relative
MAX_DISTANCE = 0.35  # root mean square, in standard deviations of an image: a correlation of 0.94
BLOCK = 1024  # rows of the distance matrix at a time


@dataclass(frozen=True)
class Look:
    """The compared features of an image; `square` is (SIDE_PX, SIDE_PX) float32 of mean 0 and deviation 1."""

    square: np.ndarray
    hash: int
    aspect_ratio: float


@dataclass(frozen=True)
class Groups:
    """For each image the index of the first image of its group; for each class its limit, usually MAX_DISTANCE."""

    firsts: list[int]
    limits: dict[str, float]


def look_at(image: Image.Image) -> Look:
    """The look of an image, which hardly depends on its size, margins, format and compression.

    The logo on its background, cut to its ink, is scaled to 32 x 32 grey levels.
    """
    pixels, ink = lay_out(image)
    box = ink_box(ink)
    grey = cv2.cvtColor(np.ascontiguousarray(pixels[box]), cv2.COLOR_RGB2GRAY).astype(np.float32)
    square = cv2.resize(grey, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    aspect_ratio = (box[1].stop - box[1].start) / (box[0].stop - box[0].start)
    return Look((square - square.mean()) / max(float(square.std()), 1.0), perceptual_hash(square), aspect_ratio)


def perceptual_hash(square: np.ndarray) -> int:
    """64 bits: whether each of the 64 lowest frequencies of the cosine transform is above their median.

    The mean is left out. Zauner 2010, "Implementation and benchmarking of perceptual image hash functions". Scaling to
    a square loses the aspect ratio, which is compared separately: letterboxed, all wordmarks would look alike.
    """
    down, across = np.indices(square.shape)
    lowest_first = np.lexsort((across.ravel(), (down + across).ravel()))[1 : HASH_BITS + 1]
    frequencies = cv2.dct(np.float32(square)).ravel()[lowest_first]  # (64,)
    return int.from_bytes(np.packbits(frequencies > np.median(frequencies)).tobytes(), "big")


def group_copies(
    looks: Sequence[Look], classes: Sequence[str], digests: Sequence[str], *, exact: bool = False
) -> Groups:
    """The groups of images that a chain of copies connects; with `exact`, only equal files are copies.

    `digests` are the files' hashes: equal files are always copies. Other images are copies if the differences of their
    shapes, hashes and looks are below the limits; the limit for looks is the smaller of their two classes' limits.
    """
    first_of = {}
    equal = [(first_of.setdefault(digest, index), index) for index, digest in enumerate(digests)]
    if exact or not looks:
        return Groups(_connect(len(digests), equal).tolist(), dict.fromkeys(sorted(set(classes)), 0.0))
    pairs, distances = _near_pairs(looks)
    names, codes = np.unique(np.array(classes, object).astype(str), return_inverse=True)
    limit = np.full(len(names), MAX_DISTANCE)  # of each class
    while True:
        firsts = _connect(len(looks), [*equal, *pairs[distances <= limit[codes[pairs]].min(1)].tolist()])
        crowded = [
            code
            for code in np.flatnonzero(limit > LEAST_DISTANCE)
            if _falls_together(firsts[codes == code])
            and not _in_a_gap(distances[(codes[pairs] == code).any(1)], limit[code], firsts[codes == code])
        ]
        if not crowded:
            return Groups(firsts.tolist(), dict(zip(names.tolist(), limit.tolist(), strict=True)))
        limit[crowded] /= 2


def _falls_together(firsts: np.ndarray) -> bool:
    """Whether one group holds too many images of a class; `firsts` are its images' groups."""
    return np.unique(firsts, return_counts=True)[1].max() > max(FEW_COPIES, MAX_GROUP_SHARE * len(firsts))


def _in_a_gap(distances: np.ndarray, limit: float, firsts: np.ndarray) -> bool:
    """Whether a limit separates copies: few pairs lie just above it, and at most half of the images are copies."""
    below, close = int((distances <= limit).sum()), int((distances <= 2 * limit).sum())
    counts = np.unique(firsts, return_counts=True)[1]
    return 2 * int(counts[counts > 1].sum()) <= len(firsts) and 2 * (close - below) <= below


def _near_pairs(looks: Sequence[Look]) -> tuple[np.ndarray, np.ndarray]:
    """(P, 2) indices of pairs up to twice as distant as copies may be, and the (P,) distances of their looks."""
    squares = np.stack([look.square.ravel() for look in looks])  # (N, 1024)
    raw = b"".join(look.hash.to_bytes(HASH_BITS // 8, "big") for look in looks)
    signs = np.unpackbits(np.frombuffer(raw, np.uint8)).reshape(-1, HASH_BITS).astype(np.float32) * 2 - 1  # (N, 64)
    logs = np.log(np.array([look.aspect_ratio for look in looks]))
    lengths = (squares**2).sum(1, dtype=np.float64)
    pairs, distances = [np.empty((0, 2), int)], [np.empty(0)]
    for start in range(0, len(looks), BLOCK):
        block = slice(start, start + BLOCK)
        near = (HASH_BITS - signs[block] @ signs.T) / 2 <= MAX_HASH_DISTANCE  # (B, N)
        near &= np.abs(logs[block, None] - logs) <= np.log1p(MAX_ASPECT_CHANGE)
        distance = (lengths[block, None] + lengths - 2.0 * (squares[block] @ squares.T)) / squares.shape[1]  # squared
        near &= distance <= (2 * MAX_DISTANCE) ** 2
        one, other = np.nonzero(np.triu(near, k=start + 1))
        pairs.append(np.stack([one + start, other], 1))
        distances.append(np.sqrt(np.maximum(distance[one, other], 0)))
    return np.concatenate(pairs), np.concatenate(distances)


def _connect(count: int, pairs: Sequence[Sequence[int]]) -> np.ndarray:
    """(N,) for each of `count` indices, the least index that is connected by pairs."""
    one, other = np.array(pairs, int).reshape(-1, 2).T
    _, groups = connected_components(coo_array((np.ones(len(one)), (one, other)), (count, count)), directed=False)
    _, firsts = np.unique(groups, return_index=True)
    return firsts[groups]
