"""Views of a logo that share little except one of its aspects: the positive pairs of pretraining.

| aspect | kept | destroyed, the more the greater the strength |
| --- | --- | --- |
| geometric | where the ink is: layout, proportions, angle | colours, up to their negative; the background |
| colour | colours, their shares and transitions; background | position, size, angle, mirroring, order of the parts |
| text | strokes and edges: their widths, rhythm and angle | colours, the background; position and number of parts |
| shape | the contour of the ink | colours, transitions, inner edges; the background; some of position, size and angle |

Unlike SimCLR (Chen et al. 2020, arXiv:2002.05709), views are not cropped, since a part of a logo is often of another
kind. The second view may be of another logo, with nearly the same statistics of the aspect: this keeps the aspect and
changes everything else more than any distortion does (Dwibedi et al. 2021, arXiv:2104.14548, use learned features).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from random import Random
from typing import NamedTuple

import albumentations as A
import cv2
import numpy as np
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from torch.nn import functional
from torch.utils.data import Dataset

from logo_edge.preprocess import InputContract, letterboxed_size
from logo_edge_train.data.augment import lay_on_background, recolour
from logo_edge_train.data.images import StoredImages, each_image, shrink
from logo_edge_train.data.manifest import LogoRow, Manifest
from logo_edge_train.models.extractors import measure_colour, measure_shape, measure_text, soft_ink
from logo_edge_train.recipe import ASPECTS

LEVELS = 50  # of strength; each has its own transforms, built once
NEIGHBOUR_PX = 96  # side of the pictures by which neighbours are found, whatever the network sees
LAYOUT = 16  # cells a side
FAR = 3.0  # standard deviations at which a statistic is clipped
BATCH = 64


class Pair(NamedTuple):
    """The sources of the two views of a logo: (h, w, 4) uint8 premultiplied each, and a seed."""

    ink: np.ndarray
    partners: tuple[np.ndarray, ...]  # for each of ASPECTS, itself or a neighbour
    seed: int


class InkDataset(Dataset):
    """Logos as Pairs, longer side `size_px`.

    The partners and the seed of item `epoch * len(rows) + i` depend on (seed, epoch, i) alone, so that an interrupted
    run sees the same views again. No label is read. An opaque image is all ink. `neighbours` (4, N, k): for each of
    ASPECTS and each row, the indices of rows that may replace it in its second view, beside itself; k may be 0.
    """

    def __init__(self, manifest: Manifest, rows: list[LogoRow], *, size_px: int, seed: int, neighbours: np.ndarray):
        self.seed, self.neighbours = seed, neighbours
        self.inks = StoredImages(each_image(manifest, rows, partial(_ink_of, size_px=size_px)))

    def __len__(self) -> int:
        return len(self.inks)

    def __getitem__(self, position: int) -> Pair:
        epoch, index = divmod(position, len(self.inks))
        seed, *drawn = np.random.SeedSequence((self.seed, epoch, index)).generate_state(1 + len(ASPECTS))
        candidates = (np.append(near[index], index) for near in self.neighbours)
        partners = (near[int(draw) % len(near)] for near, draw in zip(candidates, drawn, strict=True))
        return Pair(self.inks[index], tuple(self.inks[partner] for partner in partners), int(seed))


def _ink_of(image: Image.Image, size_px: int) -> np.ndarray:
    """(h, w, 4) uint8, premultiplied, longer side `size_px`."""
    image = shrink(image, size_px).convert("RGBA").convert("RGBa")
    return np.asarray(image.resize(letterboxed_size(image.size, size_px)))


def find_neighbours(pixels: np.ndarray, count: int) -> np.ndarray:
    """(4, N, k) int: for each of ASPECTS and each of N logos, the indices of the nearest others, the nearest first.

    pixels: (N, NEIGHBOUR_PX, NEIGHBOUR_PX, 3) uint8; k is `count`, at most N - 1. The distance is Euclidean, of
    standardised statistics (models/extractors.py), for geometry of the ink's layout.
    """
    count = min(count, len(pixels) - 1)
    if count < 1:
        return np.empty((len(ASPECTS), len(pixels), 0), np.int64)
    batches = [_measure(torch.from_numpy(pixels[start : start + BATCH])) for start in range(0, len(pixels), BATCH)]
    neighbours = []
    for aspect in ASPECTS:
        statistics = (
            StandardScaler().fit_transform(np.concatenate([batch[aspect] for batch in batches])).clip(-FAR, FAR)
        )
        search = NearestNeighbors(n_neighbors=count).fit(statistics)
        neighbours.append(search.kneighbors(return_distance=False))  # without the logos themselves
    return np.stack(neighbours)


@torch.no_grad()
def _measure(pixels: torch.Tensor) -> dict[str, np.ndarray]:
    """The statistics (B, F) of each aspect, of (B, S, S, 3) uint8."""
    colours = pixels.permute(0, 3, 1, 2) / 255
    ink = soft_ink(colours)
    measured = {
        "geometric": functional.adaptive_avg_pool2d(ink, LAYOUT).flatten(1),
        "colour": measure_colour(colours, ink),
        "text": measure_text(colours, ink),
        "shape": measure_shape(colours, ink),
    }
    return {aspect: statistics.numpy() for aspect, statistics in measured.items()}


class AspectViews:
    """Draws pairs of views; the (4,) `strengths`, in the order of ASPECTS, may change during an epoch."""

    def __init__(self, contract: InputContract, strengths: torch.Tensor):
        self.contract, self.strengths = contract, strengths

    def collate(self, items: Sequence[Pair]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The logos' first and second views, (B, S, S, 3) uint8 each, and (B,) their aspects: 0, 1, 2, 3, 0, ...

        A logo is drawn for one aspect per epoch, at the cost of SimCLR; all four would cost four times as much. Every
        batch, and every part of it, trains all four heads, and batch normalisation sees the views of all.
        """
        aspects = np.arange(len(items)) % len(ASPECTS)
        views = [
            [
                self.draw(ASPECTS[aspect], ink, (pair.seed, which))
                for which, ink in enumerate((pair.ink, pair.partners[aspect]))
            ]
            for aspect, pair in zip(aspects, items, strict=True)
        ]
        first, second = torch.from_numpy(np.array(views)).unbind(1)  # (B, 2, S, S, 3)
        return first, second, torch.from_numpy(aspects)

    def draw(self, aspect: str, ink: np.ndarray, seed: int | tuple[int, ...]) -> np.ndarray:
        """One view of the aspect, (S, S, 3) uint8, the same for the same seed and strength."""
        random = np.random.default_rng(seed)
        policy = make_policy(aspect, round(float(self.strengths[ASPECTS.index(aspect)]) * LEVELS) / LEVELS)
        square = _apply(policy.on_ink, _centre(ink, self.contract.size_px), random)
        if policy.fill:
            square = _fill(square, random.uniform(policy.fill / 2, policy.fill), random)
        if policy.on_colours:
            square = recolour(square, lambda straight: _apply(policy.on_colours, straight, random))
        return lay_on_background(square, self.contract, random, policy.p_background)


@dataclass(frozen=True)
class Policy:
    """Transforms of a view's ink and colours, the largest share of a random fill, p of a random background."""

    on_ink: tuple[A.BasicTransform, ...]
    on_colours: tuple[A.BasicTransform, ...] = ()
    fill: float = 0.0
    p_background: float = 0.0


@lru_cache(maxsize=len(ASPECTS) * (LEVELS + 1))
def make_policy(aspect: str, strength: float) -> Policy:
    """The policy of an aspect at a strength of 0 to 1; see the table above."""
    much = min(1.0, 2 * strength)
    if aspect == "geometric":
        return Policy(_moves(strength, scale=0.1, shift=0.04), _recolours(strength), p_background=0.5 * strength)
    if aspect == "colour":
        parts = tuple(A.RandomGridShuffle((n, n), p=0.4 * much) for n in (2, 3))
        return Policy((A.D4(p=much), *_moves(strength, scale=0.4, shift=0.1, rotate=45, shear=20), *parts))
    if aspect == "text":
        rolled = _moves(strength, scale=0.4, shift=0.5, border=cv2.BORDER_WRAP)
        return Policy(rolled, (A.ToGray(p=much), *_recolours(strength)), p_background=0.5 * strength)
    moves = _moves(strength, scale=0.3, shift=0.08, rotate=20, shear=10)
    return Policy(moves, _recolours(strength), fill=much, p_background=0.5 * strength)


def _moves(
    strength: float,
    *,
    scale: float,
    shift: float,
    rotate: float = 0.0,
    shear: float = 0.0,
    border: int = cv2.BORDER_CONSTANT,
) -> tuple[A.BasicTransform, ...]:
    """Shrinks, moves (in parts of the side), turns and shears (degrees); the arguments are limits at full strength."""
    shift, rotate, shear = (strength * most for most in (shift, rotate, shear))
    return (
        A.Affine(
            scale=(1 - strength * scale, 1.0),
            translate_percent={"x": (-shift, shift), "y": (-shift, shift)},
            rotate=(-rotate, rotate),
            shear=(-shear, shear),
            border_mode=border,
            keep_ratio=True,
            p=1.0,
        ),
    )


def _recolours(strength: float) -> tuple[A.BasicTransform, ...]:
    """Turns hues, shifts channels (black and grey have no hue), swaps and inverts them."""
    shift, hue = (round(strength * most) for most in (120, 90))  # OpenCV's hue has 180 steps
    return (
        A.HueSaturationValue((-hue, hue), (-shift // 2, shift // 2), (-shift // 4, shift // 4), p=0.8),
        A.RGBShift((-shift, shift), (-shift, shift), (-shift, shift), p=0.8),
        A.ChannelShuffle(p=0.5 * strength),
        A.InvertImg(p=0.5 * strength),
    )


def _apply(transforms: Sequence[A.BasicTransform], image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The image after all transforms, drawn from one stream: Compose would give them equal seeds."""
    stream = Random(int(random.integers(2**31)))
    for transform in transforms:
        transform.set_random_state(random, stream)
        image = transform(image=image)["image"]
    return image


def _centre(ink: np.ndarray, size_px: int) -> np.ndarray:
    square = np.zeros((size_px, size_px, 4), np.uint8)
    top, left = (size_px - ink.shape[0]) // 2, (size_px - ink.shape[1]) // 2
    square[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return square


def _fill(ink: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """The premultiplied ink with a share of its colours replaced by a flat colour or a ramp of two; alpha stays."""
    one, other = random.uniform(0, 255, (2, 3)).astype(np.float32)
    if random.random() < 0.5:
        other = one
    angle, across = random.uniform(0, 2 * np.pi), np.linspace(-0.5, 0.5, len(ink), dtype=np.float32)
    level = np.float32(np.cos(angle)) * across[None, :] + np.float32(np.sin(angle)) * across[:, None]  # (S, S)
    ramp = one + (level + 0.5).clip(0, 1)[:, :, None] * (other - one)  # (S, S, 3)
    mixed = np.float32(1 - share) * ink[:, :, :3] + np.float32(share / 255) * ramp * ink[:, :, 3:]
    return np.concatenate([mixed.astype(np.uint8), ink[:, :, 3:]], axis=2)
