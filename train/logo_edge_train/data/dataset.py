"""Labelled logos of a manifest -> tensors: uint8 views, soft labels, weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from logo_edge.errors import DatasetError
from logo_edge.images.load import load_image
from logo_edge.preprocess import InputContract, letterboxed_size, preprocess
from logo_edge_train.data.augment import INTENSITIES, Intensity, LogoAugmentation, Mixing, mix_views, weaken
from logo_edge_train.data.icons import UNLABELLED, renders_folder
from logo_edge_train.data.lookalikes import nearest_limit
from logo_edge_train.data.manifest import FILES, LogoRow, Manifest, read_manifest, targets_of
from logo_edge_train.keys import data_hash, row_hashes
from logo_edge_train.organize.features import LogoMeasurements, map_over_images, measure_file
from logo_edge_train.parallel import count_cores
from logo_edge_train.recipe import AugmentConfig
from logo_edge_train.runs import write_json

LOOKALIKE = 0.97
READERS = 4  # images at full size in memory at a time: a few hundred MB at most
KEPT_SCALE = 1.5  # longer side of the images held in memory, in input sizes
NOT_A_LOGO = "not a logo"  # the label of pictures that are none: a further class, whose logit is the constant 0

Read = TypeVar("Read")


class LogoDataset(Dataset):
    """Logos as (pixels, target, weight, position).

    pixels: (S, S, channels) uint8, as the contract has it; target: (K,) float32 summing to 1, or all 0 without a label;
    weight: float32 scalar. Where some rows are NOT_A_LOGO, targets are (K + 1,), the last for those. `panel` are (N, K)
    probabilities of the rows, which have a share of `panel_share` in the targets of logos that are labelled, and stand for
    those of logos that are not.

    With `augment`, item `epoch * len(rows) + i` is a random view of logo i that depends on (seed, epoch, i) alone, so
    that an interrupted run sees the same views again; without, item i has the exact preprocessing of the runtime. With
    an `intensity` the views of a logo are as strong as it says. A view that `augment` mixes with another logo's has the
    mixture of both targets and weights.
    """

    def __init__(
        self,
        manifest: Manifest,
        rows: list[LogoRow],
        classes: tuple[str, ...],
        renders: Path,
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
        if any(row.label == NOT_A_LOGO for row in rows):
            classes = (*classes, NOT_A_LOGO)
        self.rows, self.classes, self.seed, self.intensity = rows, classes, seed, intensity
        self.contract = contract
        self.augmentation = LogoAugmentation(augment, self.contract) if augment else None
        self.weakened = (
            [LogoAugmentation(weaken(augment, level / INTENSITIES), self.contract) for level in range(INTENSITIES)]
            if intensity
            else []
        )
        mixes = augment and augment.p_mixup + augment.p_cutmix
        self.mixing = Mixing(augment, [row.label for row in rows]) if mixes else None
        self.targets = np.stack([soft_label(row, classes, use_votes) for row in rows]).astype(np.float32)  # (N, K)
        if panel is not None:
            width, known = panel.shape[1], self.targets.sum(1, keepdims=True) > 0
            is_logo = self.targets[:, width:].sum(1, keepdims=True) == 0
            share = np.where(is_logo, np.where(known, panel_share, 1.0), 0.0)
            self.targets *= (1 - share).astype(np.float32)
            self.targets[:, :width] += (share * panel).astype(np.float32)
        self.weights = self.targets @ class_weights(rows, classes, class_weight_power) + (self.targets.sum(1) == 0)
        read = (
            partial(shrink, longest_px=max(round(contract.size_px * KEPT_SCALE), contract.least_px))
            if augment
            else partial(preprocess, contract=self.contract)
        )
        self.images = map_images(manifest, rows, renders, read)

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
                pixels, share = mix_views(kind, pixels, self._view(epoch, partner), share, random)
                target = (share * target + (1 - share) * self.targets[partner]).astype(np.float32)
                weight = share * weight + (1 - share) * self.weights[partner]
        return (
            torch.from_numpy(np.array(pixels)),
            torch.from_numpy(target),
            torch.tensor(weight, dtype=torch.float32),
            position,
        )

    def picture(self, position: int) -> np.ndarray:
        """The picture that the view at this position is made of, (H, H, 3) uint8; of a dataset with `augment`."""
        epoch, index = divmod(position, len(self.rows))
        image = self.images[index]
        strength = self.intensity.strength(epoch, index) if self.intensity else 1.0
        level = round(strength * INTENSITIES)
        augmentation = self.weakened[level] if level < INTENSITIES else self.augmentation
        seed = np.random.SeedSequence((self.seed, epoch, index)).generate_state(1)[0]
        return augmentation.draw_picture(image.convert("RGBa") if image.mode != "RGBa" else image, int(seed))

    def _view(self, epoch: int, index: int) -> np.ndarray:
        """The random view of logo `index` in an epoch, (S, S, channels) uint8."""
        return preprocess(self.picture(epoch * len(self.rows) + index), self.contract)

    @property
    def hard_targets(self) -> np.ndarray:
        """(N,) integers: the index of each row's label."""
        return targets_of(self.rows, self.classes)

    @property
    def sure(self) -> np.ndarray:
        return np.array([row.sure for row in self.rows], bool)


def soft_label(row: LogoRow, classes: tuple[str, ...], use_votes: bool) -> np.ndarray:
    """(K,) float64: the annotators' votes as shares, or the label alone; zeros where there is no label."""
    target = np.zeros(len(classes))
    votes = row.votes if use_votes and row.votes else (row.label,) if row.label else ()
    for vote in votes:
        if vote in classes:
            target[classes.index(vote)] += 1 / len(votes)
    return target / target.sum() if target.sum() else target


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
    """Raises DatasetError where a split is empty or lacks a class; `note` says what its rows are without."""
    if not rows:
        raise DatasetError(f"split {split!r}{note} is empty; expected logos of each class, {', '.join(classes)}")
    missing = sorted(set(classes) - {row.label for row in rows})
    if missing:
        raise DatasetError(
            f"split {split!r}{note} has no logo of class {', '.join(missing)}; expected all of {', '.join(classes)}"
        )


def measure_rows(manifest: Manifest, rows: list[LogoRow], renders: Path, cache: Path) -> list[LogoMeasurements]:
    """Each row's measurements: read from the JSON file `cache`, or taken now, and written there, if they are not all in it."""
    names = [f"{row.package}/{row.icon}" for row in rows]
    known = json.loads(cache.read_text(encoding="utf-8")) if cache.exists() else {}
    if not known.keys() >= set(names):
        measured = map_over_images(measure_file, manifest.image_paths(rows, renders), title="Measuring train")
        known |= {name: asdict(found) for name, found in zip(names, measured, strict=True)}
        write_json(cache, known)
    return [LogoMeasurements(**known[name]) for name in names]


def stratified_sample(rows: list[LogoRow], count: int, seed: int = 0) -> list[LogoRow]:
    """About `count` rows, at least one per label, in equal shares of every label, order kept; all when count is 0."""
    if not count or count >= len(rows):
        return rows
    order = np.random.default_rng(seed).permutation(len(rows))
    share, kept = count / len(rows), set()
    for label in sorted({row.label for row in rows}):
        members = [index for index in order if rows[index].label == label]
        kept.update(members[: max(1, round(len(members) * share))])
    return [row for index, row in enumerate(rows) if index in kept]


def find_lookalikes(manifest: Manifest, rows: list[LogoRow], renders: Path) -> set[LogoRow]:
    """The rows whose drawing is nearly that of a val, calib or test logo.

    Nearly: the correlation of their 32 px thumbnails, as the runtime would letterbox them, is above LOOKALIKE or, in a
    class whose images all look alike, above a limit at which few of them do (`lookalikes.nearest_limit`).
    """
    held_out = manifest.split("val", "calib", "test")
    if not rows or not held_out:
        return set()
    block, learned, kept = 1024, thumbnails(manifest, rows, renders), thumbnails(manifest, held_out, renders).T
    nearest_of = [(learned[start : start + block] @ kept).max(1) for start in range(0, len(learned), block)]
    correlation = np.concatenate(nearest_of)  # (N,)
    nearest, found = np.sqrt(np.maximum(2 - 2 * correlation, 0)), set()
    for label in {row.label for row in rows}:
        own = [index for index, row in enumerate(rows) if row.label == label]
        limit = nearest_limit(nearest[own], (2 - 2 * LOOKALIKE) ** 0.5)
        found |= {rows[index] for index in own if nearest[index] <= limit}
    return found


def leave_out(manifest: Manifest, rows: list[LogoRow], renders: Path) -> tuple[set[LogoRow], set[LogoRow]]:
    """The look-alikes of held-out logos that whoever learns from `rows` must leave out, and those that stay.

    Those that stay are labelled images of the user's, whose split is the user's decision: they are counted and told.
    """
    found = find_lookalikes(manifest, rows, renders)
    stay = {row for row in found if row.package == FILES and row.label not in ("", NOT_A_LOGO)}
    return found - stay, stay


def pool_rows(manifest: Manifest, *, use_unlabelled: bool, max_images: int) -> list[LogoRow]:
    """The train split and, if wanted, the `unlabelled_rows`; no look-alike of a held-out logo."""
    rows = manifest.split("train") + (unlabelled_rows(manifest) if use_unlabelled else [])
    left_out, _ = leave_out(manifest, rows, renders_folder())
    return stratified_sample([row for row in rows if row not in left_out], max_images)


def unlabelled_rows(manifest: Manifest) -> list[LogoRow]:
    """The rows of the manifest that have no label and, of the icon sets that it names, those of unlabelled.csv.

    Of these, none that is in the manifest or of a held-out group.
    """
    rows, sets = manifest.unlabelled, {(row.package, row.version) for row in manifest.rows if row.package != FILES}
    if sets:
        pool = [row for row in read_manifest(UNLABELLED).rows if (row.package, row.version) in sets]
        rows = rows + leave_out_groups(manifest, pool)
    return rows


def leave_out_groups(manifest: Manifest, rows: list[LogoRow]) -> list[LogoRow]:
    """The rows that are neither in the manifest nor of a held-out group."""
    listed = {(row.package, row.icon) for row in manifest.rows}
    held_out = {row.group for row in manifest.split("val", "calib", "test")}
    return [row for row in rows if (row.package, row.icon) not in listed and row.group not in held_out]


def data_inputs(manifest: Manifest, *, use_unlabelled: bool) -> dict[str, str]:
    """The hashes, for an artifact_key, of the manifest's rows and, where the stage learns from it, the unlabelled pool."""
    inputs = {"data": data_hash(row_hashes(manifest, manifest.rows))}
    if use_unlabelled:
        inputs["pool"] = data_hash(row_hashes(manifest, unlabelled_rows(manifest)))
    return inputs


def thumbnails(manifest: Manifest, rows: list[LogoRow], renders: Path) -> np.ndarray:
    """(N, 32 * 32 * 3) float32 of mean 0 and length 1: their dot products are correlations."""
    pixels = map_images(manifest, rows, renders, partial(preprocess, contract=InputContract(32)))
    flat = np.stack(pixels).reshape(len(rows), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def pixels_of(rows: list[LogoRow], manifest: Manifest, contract: InputContract) -> np.ndarray:
    """(N, S, S, channels) uint8: the rows as the runtime would preprocess them."""
    return np.stack(map_images(manifest, rows, renders_folder(), partial(preprocess, contract=contract)))


def map_images(
    manifest: Manifest, rows: list[LogoRow], renders: Path, function: Callable[[Image.Image], Read]
) -> list[Read]:
    """`function` of each row's image, in order; of the images themselves at most READERS are in memory at a time.

    Raises DatasetError where images are missing, ImageError where one cannot be read.
    """
    paths = manifest.image_paths(rows, renders)
    with ThreadPoolExecutor(min(READERS, count_cores())) as pool:
        return list(pool.map(lambda path: function(load_image(path)), paths))


def shrink(image: Image.Image, longest_px: int) -> Image.Image:
    """The image, scaled down where its longer side is above `longest_px`."""
    if max(image.size) <= longest_px:
        return image
    return image.resize(letterboxed_size(image.size, longest_px), Image.Resampling.BILINEAR, reducing_gap=3.0)


class ImageFiles(Sequence):
    """The images of files, each decoded whenever it is asked for: memory holds only those that the caller holds."""

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
