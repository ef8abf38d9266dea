"""Images that look like a held-out one: training leaves them out.

The search compares every image with every held-out one. Its result is kept in the cache, by the images' content.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np

from logo_edge.cache import cache_folder
from logo_edge.files import json_text, write_file
from logo_edge.preprocess import InputContract
from logo_edge_train.data.images import each_pixels
from logo_edge_train.data.manifest import FILES, NOT_A_LOGO, LogoRow, Manifest
from logo_edge_train.keys import artifact_key, file_hash, versions

LOOKALIKE = 0.97  # correlation of two thumbnails
THUMBNAIL_PX = 32
LEAST_DISTANCE = 0.001  # below it, only images of the same pixels are copies
MAX_GROUP_SHARE = 0.1  # of a class; more, and the split of 70/10/10/10 cannot be kept
FEW_COPIES = 4  # that a group may hold in any class
BLOCK = 1024  # rows whose correlations are in memory at a time
MADE_WITH = ("numpy", "opencv-python-headless", "pillow")


def find_lookalikes(manifest: Manifest, rows: list[LogoRow]) -> set[LogoRow]:
    """The rows whose image nearly equals that of a row of val, calib or test.

    The correlation of their 32 px thumbnails, letterboxed as in the runtime, is above LOOKALIKE. In a class whose
    images all look alike, the limit is higher, so that few images pass it (`nearest_limit`).
    """
    held_out = manifest.split("val", "calib", "test")
    if not rows or not held_out:
        return set()
    correlation = nearest_correlations(manifest, rows, held_out)
    distance, lookalikes = np.sqrt(np.maximum(2 - 2 * correlation, 0)), set()
    for label in {row.label for row in rows}:
        own = [index for index, row in enumerate(rows) if row.label == label]
        limit = nearest_limit(distance[own], (2 - 2 * LOOKALIKE) ** 0.5)
        lookalikes |= {rows[index] for index in own if distance[index] <= limit}
    return lookalikes


def nearest_correlations(manifest: Manifest, rows: list[LogoRow], held_out: list[LogoRow]) -> np.ndarray:
    """(N,) float32: the highest correlation of each row's thumbnail with one of the held-out rows'.

    Known ones are read from the cache. Raises DatasetError if images are missing.
    """
    learned, kept_out = ([file_hash(path) for path in manifest.image_paths(part)] for part in (rows, held_out))
    settings = {"held_out": kept_out, "thumbnail_px": THUMBNAIL_PX}
    path = cache_folder() / "lookalikes" / f"{artifact_key({}, settings, versions(MADE_WITH))[:16]}.json"
    known = _read_correlations(path)
    missing = {digest: row for digest, row in zip(learned, rows, strict=True) if digest not in known}
    if missing:
        images = each_pixels([*held_out, *missing.values()], manifest, InputContract(THUMBNAIL_PX))
        others = thumbnails(islice(images, len(held_out))).T
        blocks = (min(BLOCK, len(missing) - at) for at in range(0, len(missing), BLOCK))
        highest = np.concatenate([(thumbnails(islice(images, count)) @ others).max(1) for count in blocks])
        known |= zip(missing, highest.tolist(), strict=True)
        with suppress(OSError):  # a cache that cannot be written costs the search again
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, json_text(known))
    return np.array([known[digest] for digest in learned], np.float32)


def _read_correlations(path: Path) -> dict[str, float]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # missing or damaged: search again
        return {}


def leave_out(manifest: Manifest, rows: list[LogoRow]) -> tuple[set[LogoRow], set[LogoRow]]:
    """The `rows` that look like held-out images, in two sets: training must leave out the first and may use the second.

    The user's own labelled images stay, since the user decided on their split; reports count them.
    """
    lookalikes = find_lookalikes(manifest, rows)
    stay = {row for row in lookalikes if row.package == FILES and row.label not in ("", NOT_A_LOGO)}
    return lookalikes - stay, stay


def thumbnails(images: Iterable[np.ndarray]) -> np.ndarray:
    """(N, 32 * 32 * 3) float32 of mean 0 and length 1: their dot products are correlations."""
    pixels = np.stack([*images])
    flat = pixels.reshape(len(pixels), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return flat


def nearest_limit(nearest: np.ndarray, most: float) -> float:
    """The limit (`most`, or a half, a quarter... of it) up to which (N,) distances to the nearest image mean a copy.

    At most MAX_GROUP_SHARE of the images may have a copy; up to half of them if few distances lie just above the limit.
    """
    limit = most
    while limit > LEAST_DISTANCE:
        copies, close = int((nearest <= limit).sum()), int((nearest <= 2 * limit).sum())
        if copies <= max(FEW_COPIES, MAX_GROUP_SHARE * len(nearest)):
            break
        if copies <= len(nearest) / 2 and 2 * (close - copies) <= copies:
            break
        limit /= 2
    return limit
