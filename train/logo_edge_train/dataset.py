"""Labelled logos of a manifest -> tensors: uint8 views, soft labels, weights."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from logo_edge.errors import DatasetError
from logo_edge.images import load_image
from logo_edge.manifest import LogoRow, Manifest, read_manifest, targets_of
from logo_edge.preprocess import InputContract, letterboxed_size, preprocess
from logo_edge_train.augment import INTENSITIES, Intensity, LogoAugmentation, Mixing, mix_views, weaken
from logo_edge_train.fetch import LABELS, UNLABELLED, renders_folder
from logo_edge_train.measure import LogoMeasurements, map_over_images, measure_file
from logo_edge_train.recipe import AugmentConfig
from logo_edge_train.runs import file_hash, write_json

LOOKALIKE = 0.97
KEPT_SCALE = 1.5  # longer side of the images held in memory, in input sizes


class LogoDataset(Dataset):
    """Logos as (pixels, target, weight, position).

    pixels: (S, S, 3) uint8; target: (K,) float32 summing to 1, or all 0 without a label; weight: float32 scalar.

    With `augment`, item `epoch * len(rows) + i` is a random view of logo i that depends on (seed, epoch, i) alone, so
    that an interrupted run sees the same views again; without, item i has the exact preprocessing of the runtime. With
    an `intensity` the views of a logo are as strong as it says. A view that `augment` mixes with another logo's has the
    mixture of both targets and weights.
    """

    def __init__(
        self, manifest: Manifest, rows: list[LogoRow], classes: tuple[str, ...], renders: Path, *, size_px: int,
        augment: AugmentConfig | None = None, use_votes: bool = False, class_weight_power: float = 0.0, seed: int = 0,
        intensity: Intensity | None = None,
    ):  # fmt: skip
        self.rows, self.classes, self.seed, self.intensity = rows, classes, seed, intensity
        self.contract = InputContract(size_px)
        self.augmentation = LogoAugmentation(augment, self.contract) if augment else None
        self.weakened = [
            LogoAugmentation(weaken(augment, level / INTENSITIES), self.contract) for level in range(INTENSITIES)
        ] if intensity else []  # fmt: skip
        mixes = augment and augment.p_mixup + augment.p_cutmix
        self.mixing = Mixing(augment, [row.label for row in rows]) if mixes else None
        self.targets = np.stack([soft_label(row, classes, use_votes) for row in rows]).astype(np.float32)  # (N, K)
        self.weights = self.targets @ class_weights(rows, classes, class_weight_power) + (self.targets.sum(1) == 0)
        kept_px = round(size_px * KEPT_SCALE) if augment else 0
        images = load_images(manifest, rows, renders, kept_px=kept_px)
        self.images = images if augment else [preprocess(image, self.contract) for image in images]

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
            torch.from_numpy(np.array(pixels)), torch.from_numpy(target), torch.tensor(weight, dtype=torch.float32), position,
        )  # fmt: skip

    def _view(self, epoch: int, index: int) -> np.ndarray:
        """The random view of logo `index` in an epoch, (S, S, 3) uint8."""
        image = self.images[index]
        strength = self.intensity.strength(epoch, index) if self.intensity else 1.0
        level = round(strength * INTENSITIES)
        draw = self.weakened[level] if level < INTENSITIES else self.augmentation
        seed = np.random.SeedSequence((self.seed, epoch, index)).generate_state(1)[0]
        return draw(image.convert("RGBa") if image.mode != "RGBa" else image, int(seed))

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
        paths = [manifest.image_path(row, renders) for row in rows]
        measured = map_over_images(measure_file, paths, title="Measuring train")
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
    """The rows whose drawing is nearly that of a val, calib or test logo; whoever learns from `rows` must leave them out.

    Nearly: the correlation of their 32 px thumbnails, as the runtime would letterbox them, is above LOOKALIKE.
    """
    held_out = manifest.split("val", "calib", "test")
    if not rows or not held_out:
        return set()
    close = thumbnails(manifest, rows, renders) @ thumbnails(manifest, held_out, renders).T > LOOKALIKE
    return {row for row, found in zip(rows, close.any(axis=1), strict=True) if found}


def pool_rows(manifest: Manifest, path: Path, *, use_unlabelled: bool, max_images: int) -> list[LogoRow]:
    """The train split and, if wanted, every logo that may be used without a label; no look-alike of a held-out logo.

    Without a label: the rows of the manifest at `path` that have none, and unlabelled.csv where it is the project's own.
    """
    rows = manifest.split("train")
    if use_unlabelled:
        rows = rows + manifest.unlabelled
        if path.name == LABELS.name and file_hash(path) == file_hash(LABELS):
            rows = rows + list(read_manifest(UNLABELLED).rows)
    left_out = find_lookalikes(manifest, rows, renders_folder())
    return stratified_sample([row for row in rows if row not in left_out], max_images)


def thumbnails(manifest: Manifest, rows: list[LogoRow], renders: Path) -> np.ndarray:
    """(N, 32 * 32 * 3) float32 of mean 0 and length 1: their dot products are correlations."""
    pixels = [preprocess(image, InputContract(32)) for image in load_images(manifest, rows, renders)]
    flat = np.stack(pixels).reshape(len(rows), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def pixels_of(rows: list[LogoRow], manifest: Manifest, size_px: int) -> np.ndarray:
    """(N, S, S, 3) uint8: the rows as the runtime would preprocess them."""
    images = load_images(manifest, rows, renders_folder())
    return np.stack([preprocess(image, InputContract(size_px)) for image in images])


def load_images(manifest: Manifest, rows: list[LogoRow], renders: Path, *, kept_px: int = 0) -> list[Image.Image]:
    """Each row's image in memory, as it is or, with `kept_px`, its longer side at most that."""

    def load(row: LogoRow) -> Image.Image:
        path = manifest.image_path(row, renders)
        if not path.exists():
            raise DatasetError(
                f"{path} is missing; run `logo-edge data fetch` (or mend the manifest's row {row.icon!r})"
            )
        image = load_image(path)
        if kept_px and max(image.size) > kept_px:
            image = image.resize(letterboxed_size(image.size, kept_px), Image.Resampling.BILINEAR, reducing_gap=3.0)
        return image

    with ThreadPoolExecutor() as pool:
        return list(pool.map(load, rows))
