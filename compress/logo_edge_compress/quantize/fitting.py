"""The images that a quantization is fitted on: refused before the work starts where they would mislead it.

Ranges that are fitted on few images clip others, and a missing class is clipped most. Copies of images of val, calib
and test would make the figures of these splits too good: they are left out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from logo_edge.errors import DatasetError
from logo_edge_train.data.manifest import LogoRow, Manifest
from logo_edge_train.data.pool import stratified_sample
from logo_edge_train.keys import data_hash, file_hash, row_hashes

LEAST_FITTING = 16  # images
SPLIT = "train"


def fitting_rows(manifest: Manifest, count: int) -> list[LogoRow]:
    """About `count` rows of the train split, the same share of each class; all if `count` is 0. Without those whose
    images other splits hold too."""
    rows = stratified_sample(manifest.split(SPLIT), count, seed=1)
    held_out = manifest.image_paths(manifest.split("val", "calib", "test"))
    copied = find_copies(manifest.image_paths(rows), held_out)
    return [row for row in rows if manifest.image_path(row) not in copied]


def find_copies(paths: Sequence[Path], held_out: Sequence[Path]) -> set[Path]:
    """Those of `paths` with the bytes of a file of `held_out`. Only files whose size occurs on both sides are read."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in held_out:
        by_size[path.stat().st_size].append(path)
    sized = [(path, size) for path in paths if (size := path.stat().st_size) in by_size]
    hashes = {size: set(map(file_hash, by_size[size])) for _, size in sized}
    return {path for path, size in sized if file_hash(path) in hashes[size]}


def check_fitting(manifest: Manifest, rows: Sequence[LogoRow], where: object) -> None:
    """Raises DatasetError where `rows`, which are `fitting_rows`, are too few or miss a class."""
    refuse_fitting(len(rows), sorted({*manifest.classes} - {label for row in rows for label in row.every_label}), where)


def refuse_fitting(images: int, missing: Sequence[str], where: object) -> None:
    """Raises DatasetError, with every reason, unless there are enough images, of all classes."""
    reasons = []
    if images < LEAST_FITTING:
        reasons.append(f"{images} images to fit on; expected at least {LEAST_FITTING}")
    if missing:
        reasons.append(f"no image of {', '.join(missing)} to fit on; expected every class")
    if reasons:
        raise DatasetError(
            f"{where}: INT8 has {'; '.join(reasons)}. Add images to the train split; copies of images of other splits "
            "do not count"
        )


def describe_fitting(manifest: Manifest, rows: Sequence[LogoRow]) -> dict:
    """Split, number, numbers by class and the digest of the rows, for a record; the digest covers image files too."""
    return {
        "split": SPLIT,
        "images": len(rows),
        "by_class": dict(sorted(Counter(label for row in rows for label in row.every_label).items())),
        "rows_sha256": data_hash(row_hashes(manifest, rows)),
    }
