"""What the images of a manifest show before a training: sizes, formats, copies, images unlike their class."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.neighbors import LocalOutlierFactor

from logo_edge.errors import ImageError
from logo_edge.images.headers import read_image_file
from logo_edge.images.load import load_image
from logo_edge.tables.find import walk_images
from logo_edge_train.data.manifest import FILES, LogoRow, Manifest
from logo_edge_train.data.processes import each_in_processes
from logo_edge_train.organize.duplicates import Look, group_copies, look_at
from logo_edge_train.organize.manifest_file import digest_file, skipped_file
from logo_edge_train.review.frozen_features import Features, Tick

NEIGHBOURS = 10  # of an image, within its class, whose density is compared with its own
FEW = 2 * NEIGHBOURS  # a class with fewer different images has no density to compare with
UNLIKE = 1.5  # local outlier factor; about 1 among images of even density
NOT_LISTED = "readable, but not in the manifest: left out to balance classes, or added since"


@dataclass(frozen=True)
class Seen:
    """A readable image: upright (width, height) as decoded, format, file size, and whether it has an alpha channel."""

    size_px: tuple[int, int]
    format: str
    size_bytes: int
    alpha: bool
    digest: str
    look: Look


@dataclass(frozen=True)
class Survey:
    """The readable `rows` of a manifest and, in their order, their images, groups and outlier factors.

    `groups` are (N,) indices of the first row of each row's copies. `outlier_factors` are (N,) float64: NaN for copies
    after the first, and for classes of fewer than FEW different images. `unreadable` are (file, reason).
    """

    rows: list[LogoRow]
    images: list[Seen]
    groups: np.ndarray
    outlier_factors: np.ndarray
    unreadable: list[tuple[str, str]]


def survey_images(manifest: Manifest, features: Features) -> Survey:
    """Reads every labelled image once for its size and its copies, and once for its features.

    Copies are those of `duplicates.group_copies`. An outlier factor is the local outlier factor (Breunig et al. 2000)
    among the different images of the label, by the cosine distance of the first network's frozen features. Raises
    DatasetError if images are missing.
    """
    rows = [row for row in manifest.rows if row.label]
    seen = look_at_files(manifest.image_paths(rows), features.tick)
    unreadable = [(row.icon, image) for row, image in zip(rows, seen, strict=True) if isinstance(image, str)]
    kept = [(row, image) for row, image in zip(rows, seen, strict=True) if isinstance(image, Seen)]
    rows, images = [row for row, _ in kept], [image for _, image in kept]
    labels = np.array([row.label for row in rows])
    looks, digests = [image.look for image in images], [image.digest for image in images]
    groups = np.array(group_copies(looks, labels, digests, tick=partial(features.tick, "pairs")).firsts)
    factors, firsts = np.full(len(rows), np.nan), np.flatnonzero(groups == np.arange(len(rows)))
    large = [label for label in np.unique(labels[firsts]) if (labels[firsts] == label).sum() >= FEW]
    if large:
        compared = firsts[np.isin(labels[firsts], large)]
        vectors = features.read(features.config.networks[:1], [rows[index] for index in compared])
        for label in large:
            own = labels[compared] == label
            detector = LocalOutlierFactor(NEIGHBOURS, metric="cosine").fit(vectors[own])
            factors[compared[own]] = -detector.negative_outlier_factor_
    return Survey(rows, images, groups, factors, unreadable)


def look_at_files(paths: list[Path], tick: Tick) -> list[Seen | str]:
    """`look_at_file` of every path, in several processes."""
    seen = []
    for image in each_in_processes(look_at_file, paths):
        seen.append(image)
        tick("images", len(seen), len(paths))
    return seen


def look_at_file(path: Path) -> Seen | str:
    """The image's facts, or the reason why it cannot be read. Formats without a known signature go by the suffix."""
    try:
        image, size_bytes = load_image(path), path.stat().st_size
        kind = read_image_file(path.read_bytes()).kind or path.suffix.lstrip(".").upper()
        return Seen(image.size, kind, size_bytes, image.mode == "RGBA", digest_file(path), look_at(image))
    except (ImageError, OSError) as error:
        return str(error).removeprefix(f"{path}: ")


def unused_files(manifest: Manifest, manifest_path: Path, folder: Path | None, tick: Tick) -> list[tuple[str, str]]:
    """(file, reason) of what `data organize` skipped, and of images below `folder` that the manifest does not list."""
    reasons, base = {}, f"{folder.resolve()}/" if folder else ""
    if (path := skipped_file(manifest_path)).exists():
        with path.open(newline="", encoding="utf-8") as file:
            reasons = {record["path"]: record["reason"] for record in csv.DictReader(file)}
    if folder:
        known = {manifest.image_path(row).resolve() for row in manifest.rows if row.package == FILES}
        known |= {Path(name).resolve() for name in reasons}
        others = [Path(path) for path in walk_images(base) if Path(path).resolve() not in known]
        for path, image in zip(others, look_at_files(others, tick), strict=True):
            reasons[str(path)] = image if isinstance(image, str) else NOT_LISTED
    return [(name.removeprefix(base), reason.removeprefix(f"{name}: ")) for name, reason in reasons.items()]
