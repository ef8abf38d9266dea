"""The images that a quantization is fitted on: refused before the work starts where they would mislead it.

Ranges that are fitted on few images clip others, a missing class is clipped most, and images of val, calib or test
would make the figures of these splits too good.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from logo_edge.errors import DatasetError
from logo_edge_train.data.manifest import FILES, LogoRow, Manifest
from logo_edge_train.data.pool import stratified_sample
from logo_edge_train.keys import data_hash, file_hash, row_hashes

LEAST_FITTING = 16  # images
SPLIT = "train"


def fitting_rows(manifest: Manifest, count: int) -> list[LogoRow]:
    """About `count` rows of the train split, the same share of each class; all if `count` is 0."""
    return stratified_sample(manifest.split(SPLIT), count, seed=1)


def check_fitting(manifest: Manifest, rows: Sequence[LogoRow], where: object) -> None:
    """Raises DatasetError where `rows` are too few, miss a class, or are those or the same images of another split."""
    held_out = {_content(manifest, row) for row in manifest.split("val", "calib", "test")}
    refuse_fitting(
        len(rows),
        sorted({*manifest.classes} - {label for row in rows for label in row.every_label}),
        [row.icon for row in rows if row.split != SPLIT or _content(manifest, row) in held_out],
        where,
    )


def check_files(fitting: Sequence[Path], verifying: Sequence[Path], where: object) -> None:
    """As `check_fitting`, of image files without classes: Raises DatasetError where a file is among both."""
    held_out = set(map(file_hash, verifying))
    refuse_fitting(len(fitting), [], [path.name for path in fitting if file_hash(path) in held_out], where)


def refuse_fitting(images: int, missing: Sequence[str], held_out: Sequence[str], where: object) -> None:
    """Raises DatasetError, with every reason, unless there are enough images, of all classes and of train alone."""
    reasons = []
    if images < LEAST_FITTING:
        reasons.append(f"{images} images to fit on; expected at least {LEAST_FITTING}")
    if missing:
        reasons.append(f"no image of {', '.join(missing)} to fit on; expected every class")
    if held_out:
        reasons.append(
            f"{len(held_out)} images to fit on that others verify or report on, such as {held_out[0]}; expected those "
            "of train alone"
        )
    if reasons:
        raise DatasetError(
            f"{where}: INT8 has {'; '.join(reasons)}. Add images to the train split, or remove the copies from it"
        )


def describe_fitting(manifest: Manifest, rows: Sequence[LogoRow]) -> dict:
    """Split, number, numbers by class and the digest of the rows, for a record; the digest covers image files too."""
    return {
        "split": SPLIT,
        "images": len(rows),
        "by_class": dict(sorted(Counter(label for row in rows for label in row.every_label).items())),
        "rows_sha256": data_hash(row_hashes(manifest, rows)),
    }


def _content(manifest: Manifest, row: LogoRow) -> str:
    """What the row shows: the icon of a package, or the bytes of an image file."""
    return file_hash(manifest.image_path(row)) if row.package == FILES else f"{row.package}/{row.icon}"
