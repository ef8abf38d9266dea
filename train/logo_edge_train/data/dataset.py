"""Labelled images of a manifest -> tensors: uint8 views, soft labels, weights."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from logo_edge.errors import DatasetError
from logo_edge.images.load import load_reduced
from logo_edge.preprocess import CROP, InputContract, preprocess
from logo_edge_train.data.augment import INTENSITIES, Intensity, Mixing, make_augmentation, mix_pair, weaken
from logo_edge_train.data.images import KEPT_SCALE, StoredImages, each_image, longer_side, shrink, stored_pixels
from logo_edge_train.data.manifest import NOT_A_LOGO, LogoRow, Manifest, targets_of
from logo_edge_train.recipe import AugmentConfig

SPARE_SCALE = 2  # least sides at which JPEGs are decoded for views, in sizes that are kept: these are scaled down again


class LogoDataset(Dataset):
    """Images as (pixels, target, weight, position).

    pixels: (S, S, channels) uint8, preprocessed by the contract; target: (K,) float32 summing to 1, or all 0 without a
    label; weight: float32 scalar. If some rows are NOT_A_LOGO, targets are (K + 1,), the last class for those. `panel`
    holds (N, K) probabilities: they enter the targets of labelled images with the weight `panel_share`, and are the
    targets of unlabelled images. Of a multi-label manifest, targets are 1 for each label of the image, else 0; NaN if
    unknown.

    With `augment`, item `epoch * len(rows) + i` is a random view of image i that depends on (seed, epoch, i) alone, so
    that an interrupted run sees the same views again; without, item i has the exact preprocessing of the runtime.
    `intensity` sets the strength of each image's views. A mixture of two images' views has the mixture of both targets
    and weights.
    """

    def __init__(
        self,
        manifest: Manifest,
        rows: list[LogoRow],
        classes: tuple[str, ...],
        *,
        contract: InputContract,
        augment: AugmentConfig | None = None,
        use_votes: bool = False,
        class_weight_power: float = 0.0,
        seed: int = 0,
        intensity: Intensity | None = None,
        panel: np.ndarray | None = None,
        panel_share: float = 0.0,
    ):
        multi_label = manifest.multi_label
        if any(row.label == NOT_A_LOGO for row in rows) and not multi_label:
            classes = (*classes, NOT_A_LOGO)
        self.rows, self.classes, self.seed, self.intensity = rows, classes, seed, intensity
        self.contract = contract
        self.augmentation = make_augmentation(augment, self.contract) if augment else None
        self.weakened = (
            [make_augmentation(weaken(augment, level / INTENSITIES), self.contract) for level in range(INTENSITIES)]
            if intensity
            else []
        )
        mixes = augment and augment.p_mixup + augment.p_cutmix
        self.mixing = Mixing(augment, [row.label for row in rows]) if mixes else None
        soft = multi_hot if multi_label else partial(soft_label, use_votes=use_votes)
        self.targets = np.stack([soft(row, classes) for row in rows]).astype(np.float32)  # (N, K)
        if panel is not None:
            width, known = panel.shape[1], self.targets.sum(1, keepdims=True) > 0
            is_logo = self.targets[:, width:].sum(1, keepdims=True) == 0
            share = np.where(is_logo, np.where(known, panel_share, 1.0), 0.0)
            self.targets *= (1 - share).astype(np.float32)
            self.targets[:, :width] += (share * panel).astype(np.float32)
        if multi_label:  # thresholds by label handle rare labels, and weights would bias the probabilities
            self.weights = np.ones(len(rows))
        else:
            weights = class_weights(rows, classes, class_weight_power)
            self.weights = self.targets @ weights + (self.targets.sum(1) == 0)
        kept_px = max(round(contract.size_px * KEPT_SCALE), contract.least_px)

        def keep(image: Image.Image) -> Image.Image:
            return shrink(image, longer_side(image.size, kept_px, contract))

        least_px = SPARE_SCALE * kept_px
        load = partial(load_for_views, least_px=least_px, least_shorter_px=least_px if contract.fit == CROP else 1)
        self.images = (
            StoredImages(each_image(manifest, rows, keep, load=load))
            if augment
            else stored_pixels(rows, manifest, contract)
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        epoch, index = divmod(position, len(self.rows))
        pixels = self._view(epoch, index) if self.augmentation else self.images[index]
        target, weight = self.targets[index], self.weights[index]
        if self.mixing:
            random = np.random.default_rng((self.seed, epoch, index, 1))
            if drawn := self.mixing.draw(index, random):
                kind, partner, share = drawn
                pixels, share = mix_pair(kind, pixels, self._view(epoch, partner), share, random)
                target = (share * target + (1 - share) * self.targets[partner]).astype(np.float32)
                weight = share * weight + (1 - share) * self.weights[partner]
        return (
            torch.from_numpy(np.array(pixels)),
            torch.from_numpy(target),
            torch.tensor(weight, dtype=torch.float32),
            position,
        )

    def picture(self, position: int) -> np.ndarray:
        """The picture from which the view at this position is preprocessed, (H, W, 3) uint8. Needs `augment`."""
        epoch, index = divmod(position, len(self.rows))
        image = self.images[index]
        strength = self.intensity.strength(epoch, index) if self.intensity else 1.0
        level = round(strength * INTENSITIES)
        augmentation = self.weakened[level] if level < INTENSITIES else self.augmentation
        seed = np.random.SeedSequence((self.seed, epoch, index)).generate_state(1)[0]
        return augmentation.draw_picture(image.convert("RGBa") if image.mode != "RGBa" else image, int(seed))

    def _view(self, epoch: int, index: int) -> np.ndarray:
        """The random view of image `index` in an epoch, (S, S, channels) uint8."""
        return preprocess(self.picture(epoch * len(self.rows) + index), self.contract)

    @property
    def hard_targets(self) -> np.ndarray:
        """`targets_of` the rows."""
        return targets_of(self.rows, self.classes)

    @property
    def sure(self) -> np.ndarray:
        return np.array([row.sure for row in self.rows], bool)


def load_for_views(path: Path, *, least_px: int, least_shorter_px: int) -> Image.Image:
    """The image of a file; a JPEG at the smallest scale, of 1/2, 1/4 and 1/8, with at least these sides in pixels.

    So a photograph is decoded in a part of the time, and is never in memory at full size.
    """
    decoded, _ = load_reduced(path, least_px, least_shorter_px=least_shorter_px)
    return Image.fromarray(decoded) if isinstance(decoded, np.ndarray) else decoded


def soft_label(row: LogoRow, classes: tuple[str, ...], use_votes: bool) -> np.ndarray:
    """(K,) float64: the shares of the annotators' votes, or 1 for the label; zeros without a label."""
    target = np.zeros(len(classes))
    votes = row.votes if use_votes and row.votes else (row.label,) if row.label else ()
    for vote in votes:
        if vote in classes:
            target[classes.index(vote)] += 1 / len(votes)
    return target / target.sum() if target.sum() else target


def multi_hot(row: LogoRow, classes: tuple[str, ...]) -> np.ndarray:
    """(K,) float64 of a multi-label manifest: 1 for each label of the image, else 0; NaN if its labels are unknown."""
    if row.labels is None and row.label != NOT_A_LOGO:
        return np.full(len(classes), np.nan)
    return np.array([float(label in (row.labels or ())) for label in classes])


def class_weights(rows: list[LogoRow], classes: tuple[str, ...], power: float) -> np.ndarray:
    """(K,) float64: each class's count to the power -p, scaled so that the mean over the rows is 1."""
    counts = Counter(row.label for row in rows if row.label)
    if not counts:
        return np.ones(len(classes))
    weights = np.array([max(1, counts[name]) ** -power for name in classes])
    return (
        weights
        * sum(counts.values())
        / sum(counts[name] * weight for name, weight in zip(classes, weights, strict=True))
    )


def check_classes(rows: list[LogoRow], classes: tuple[str, ...], split: str, note: str = "") -> None:
    """Raises DatasetError if a split is empty or lacks a class; `note` follows the split's name in the message."""
    if not rows:
        raise DatasetError(f"split {split!r}{note} is empty; expected images of each class, {', '.join(classes)}")
    missing = sorted(set(classes) - {label for row in rows for label in row.every_label})
    if missing:
        raise DatasetError(
            f"split {split!r}{note} has no image of class {', '.join(missing)}; expected all of {', '.join(classes)}"
        )
