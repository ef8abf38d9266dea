"""Finds images that are copies: one drawing or photograph in other sizes, formats, margins or compression.

Images of one scene are no copies, though photographs of one machine part differ less than copies of logos. So the limit
of a class is halved until its own images no longer form one group. A drawing in other colours is a copy where it has
the same label or none: the task ignores the colours. With another label it is not, as two flags of one layout are not.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from logo_edge.likeness.parts import ink_box
from logo_edge_train.data.lookalikes import FEW_COPIES, LEAST_DISTANCE, MAX_GROUP_SHARE
from logo_edge_train.organize.features import lay_out

SIDE_PX, COLOUR_PX = 32, 8
HASH_BITS = 64
MAX_HASH_DISTANCE = 8  # of 64 bits; 94 % of such pairs of the labelled logos are one brand, a third of those at 10 bits
MAX_ASPECT_CHANGE = 0.1  # relative
MAX_DISTANCE = 0.35  # root mean square, in standard deviations of an image: a correlation of 0.94
MAX_COLOUR_DISTANCE = 12.0  # root mean square; small JPEGs differ by up to 9, flags of Italy and Ireland by 20
LIMITS = [2 * MAX_DISTANCE * 0.5**step for step in range(11, -1, -1)]  # from below LEAST_DISTANCE: pairs are counted
BLOCK, CELLS = 1024, 2**21  # rows and cells of the distance matrix at a time
MOST_PAIRS = 2**20  # in memory before they are thinned


@dataclass(frozen=True)
class Look:
    """The compared features of an image: `square` is (SIDE_PX, SIDE_PX) float32 of mean 0 and deviation 1, `colours`
    (COLOUR_PX, COLOUR_PX, 2) float32, the a and b of CIE Lab.
    """

    square: np.ndarray
    hash: int
    aspect_ratio: float
    colours: np.ndarray


@dataclass(frozen=True)
class Groups:
    """For each image the index of the first image of its group; for each class its limit, usually MAX_DISTANCE."""

    firsts: list[int]
    limits: dict[str, float]


def look_at(image: Image.Image) -> Look:
    """The look of an image, which hardly depends on its size, margins, format and compression.

    The image on its background, cut to its ink, is scaled to 32 x 32 grey levels, and to 8 x 8 colours.
    """
    pixels, ink = lay_out(image)
    box = ink_box(ink)
    inside = np.ascontiguousarray(pixels[box])
    small = cv2.resize(inside, (COLOUR_PX, COLOUR_PX), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    colours = cv2.cvtColor(small, cv2.COLOR_RGB2Lab)[:, :, 1:]
    grey = cv2.cvtColor(inside, cv2.COLOR_RGB2GRAY).astype(np.float32)
    square = cv2.resize(grey, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    aspect_ratio = (box[1].stop - box[1].start) / (box[0].stop - box[0].start)
    normal = (square - square.mean()) / max(float(square.std()), 1.0)
    return Look(normal, perceptual_hash(square), aspect_ratio, colours)


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
    looks: Sequence[Look],
    classes: Sequence[str],
    digests: Sequence[str],
    given: Sequence[str] = (),
    *,
    labels: Sequence[Hashable] | None = None,
    exact: bool = False,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Groups:
    """The groups of images that a chain of copies connects; with `exact`, only equal files are copies.

    Images with the same name in `given` are connected too; an empty name connects none.
    `digests` are the files' hashes: equal files are always copies. Other images are copies if the differences of their
    shapes, hashes and looks are below the limits; the limit for looks is the smaller of their two classes' limits. The
    colours of images with different `labels` are compared too; these are the classes if left out, and "" is unknown.
    `tick` is told how many pairs of how many are compared.
    """
    equal, named = _pairs_of_equal(digests), _pairs_of_equal(given)
    if exact or not looks:
        return Groups(_connect(len(digests), [*equal, *named]).tolist(), dict.fromkeys(sorted(set(classes)), 0.0))
    names, codes = np.unique(np.array(classes, object).astype(str), return_inverse=True)
    near = _NearPairs(codes, len(names))
    every = len(looks) * (len(looks) + 1) // 2
    for done, pairs, distances in _compare(looks, classes if labels is None else labels):
        near.add(pairs, distances)
        tick(every - (len(looks) - done) * (len(looks) - done + 1) // 2, every)
    limit = np.full(len(names), MAX_DISTANCE)  # of each class
    while True:
        firsts = _connect(len(looks), [*equal, *near.pairs[near.distances <= limit[codes[near.pairs]].min(1)].tolist()])
        crowded = [
            code
            for code in np.flatnonzero(limit > LEAST_DISTANCE)
            if _falls_together(firsts[codes == code])
            and not _in_a_gap(near.count(code, limit[code]), near.count(code, 2 * limit[code]), firsts[codes == code])
        ]
        if not crowded:
            firsts = _connect(len(looks), [*enumerate(firsts.tolist()), *named])  # named ones count for no limit
            return Groups(firsts.tolist(), dict(zip(names.tolist(), limit.tolist(), strict=True)))
        limit[crowded] /= 2


def _pairs_of_equal(names: Sequence[str]) -> list[tuple[int, int]]:
    """The index of the first of each name and of each with that name; an empty name has no pair."""
    first_of: dict[str, int] = {}
    return [(first_of.setdefault(name, index), index) for index, name in enumerate(names) if name]


class _NearPairs:
    """Pairs of indices (P, 2) with the (P,) distances of their looks: all, or enough of them to connect the same.

    Pictures of one scene are nearly all near each other. So of every two classes, only the pairs of a minimum spanning
    forest are kept: at any limit it connects the same images. The other pairs are counted.
    """

    def __init__(self, codes: np.ndarray, classes: int):
        self.codes = codes
        self.pairs, self.distances = np.empty((0, 2), int), np.empty(0)
        self.counts = np.zeros((classes, len(LIMITS)), np.int64)  # of pairs with an image of the class

    def add(self, pairs: np.ndarray, distances: np.ndarray) -> None:
        one, other = self.codes[pairs].T
        levels = np.searchsorted(LIMITS[:-1], distances)  # of the least limit that is not below
        for codes, own in ((one, levels), (other[one != other], levels[one != other])):
            counts = np.bincount(codes * len(LIMITS) + own, minlength=self.counts.size)
            self.counts += counts.reshape(self.counts.shape)
        self.pairs = np.concatenate([self.pairs, pairs])
        self.distances = np.concatenate([self.distances, distances])
        if len(self.pairs) > MOST_PAIRS:
            self._keep_forest()

    def count(self, code: int, limit: float) -> int:
        """The pairs with an image of the class whose distance is up to one of LIMITS."""
        return int(self.counts[code, : LIMITS.index(limit) + 1].sum())

    def _keep_forest(self) -> None:
        count, codes = len(self.codes), np.sort(self.codes[self.pairs], 1)
        both = codes[:, 0] * len(self.counts) + codes[:, 1]
        nodes, ends = np.unique(both[:, None] * count + self.pairs, return_inverse=True)  # an image, once for each two
        weights = np.maximum(self.distances, np.finfo(float).tiny)  # 0 would be no edge
        graph = coo_array((weights, ends.reshape(-1, 2).T), (len(nodes), len(nodes)))
        forest = minimum_spanning_tree(graph).tocoo()
        self.pairs = np.stack([nodes[forest.row], nodes[forest.col]], 1) % count
        self.distances = forest.data


def _falls_together(firsts: np.ndarray) -> bool:
    """Whether one group holds too many images of a class; `firsts` are its images' groups."""
    return np.unique(firsts, return_counts=True)[1].max() > max(FEW_COPIES, MAX_GROUP_SHARE * len(firsts))


def _in_a_gap(below: int, close: int, firsts: np.ndarray) -> bool:
    """Whether a limit separates copies: few pairs lie just above it, and at most half of the images are copies.

    `below` pairs are up to the limit, `close` up to twice the limit.
    """
    counts = np.unique(firsts, return_counts=True)[1]
    return 2 * int(counts[counts > 1].sum()) <= len(firsts) and 2 * (close - below) <= below


def _compare(looks: Sequence[Look], labels: Sequence[Hashable]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields how many looks are compared with all, (P, 2) indices of further pairs up to twice as distant as copies may
    be, and the (P,) distances of their looks.
    """
    squares = np.stack([look.square.ravel() for look in looks])  # (N, 1024)
    raw = b"".join(look.hash.to_bytes(HASH_BITS // 8, "big") for look in looks)
    signs = np.unpackbits(np.frombuffer(raw, np.uint8)).reshape(-1, HASH_BITS).astype(np.float32) * 2 - 1  # (N, 64)
    logs = np.log(np.array([look.aspect_ratio for look in looks]))
    lengths = (squares**2).sum(1, dtype=np.float64)
    colours = np.stack([look.colours.ravel() for look in looks])  # (N, 128)
    saturations = (colours**2).sum(1, dtype=np.float64)
    numbers: dict[Hashable, int] = {}
    codes = np.array([numbers.setdefault(label, len(numbers)) for label in labels])
    known = codes != numbers.get("", -1)
    rows = min(BLOCK, max(1, CELLS // len(looks)))
    for start in range(0, len(looks), rows):
        block, others = slice(start, start + rows), slice(start, None)
        near = (HASH_BITS - signs[block] @ signs[others].T) / 2 <= MAX_HASH_DISTANCE  # (B, N - start)
        near &= np.abs(logs[block, None] - logs[others]) <= np.log1p(MAX_ASPECT_CHANGE)
        distance = lengths[block, None] + lengths[others] - 2.0 * (squares[block] @ squares[others].T)
        distance /= squares.shape[1]  # squared
        near &= distance <= (2 * MAX_DISTANCE) ** 2
        change = saturations[block, None] + saturations[others] - 2.0 * (colours[block] @ colours[others].T)
        differ = (codes[block, None] != codes[others]) & known[block, None] & known[others]
        near &= ~differ | (change <= COLOUR_PX**2 * MAX_COLOUR_DISTANCE**2)
        one, other = np.nonzero(np.triu(near, k=1))
        pairs = np.stack([one, other], 1) + start
        yield min(start + rows, len(looks)), pairs, np.sqrt(np.maximum(distance[one, other], 0))


def _connect(count: int, pairs: Sequence[Sequence[int]]) -> np.ndarray:
    """(N,) for each of `count` indices, the least index that is connected by pairs."""
    one, other = np.array(pairs, int).reshape(-1, 2).T
    _, groups = connected_components(coo_array((np.ones(len(one)), (one, other)), (count, count)), directed=False)
    _, firsts = np.unique(groups, return_index=True)
    return firsts[groups]
