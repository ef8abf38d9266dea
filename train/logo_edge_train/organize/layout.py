"""Reads the label and the split of each image from its folders, and refuses ambiguous layouts.

Class folders lie directly in the folder, in split folders (`train/cat`), or hold split folders themselves
(`cat/train`). Names are compared stripped, in Unicode NFC and without case.
"""

from __future__ import annotations

from pathlib import Path

from logo_edge.errors import DatasetError
from logo_edge.names import alike, shown
from logo_edge.tables.find import walk_images
from logo_edge_train.organize.placed_images import (
    NOT_UTF8,
    SPLIT_NAMES,
    PlacedImage,
    SkippedFile,
    listed,
    with_clean_labels,
)

CONTAINERS = frozenset(
    ("images", "image", "imgs", "img", "data", "dataset")
)  # hold classes, and are not classes themselves


def read_layout(folder: Path, *, split_folders: bool | None = None) -> tuple[list[PlacedImage], list[SkippedFile]]:
    """The images below a folder with their labels and splits, and the other files there with the reason.

    `split_folders`: whether folders named train, val, calib or test are splits; None: if all first-level folders, or
    all folders within classes, have such names. Raises DatasetError, with the remedy, for an ambiguous layout: split
    folders beside class folders, a folder between that holds the class folders, names that look the same.
    """
    left_out: list[tuple[str, str]] = []
    paths = [Path(path) for path in walk_images(folder, left_out)]
    parts = {path: path.relative_to(folder).parts[:-1] for path in paths if is_utf8(path.relative_to(folder))}
    skipped = [SkippedFile(path, NOT_UTF8) for path in paths if path not in parts]
    skipped += [SkippedFile(Path(path), reason) for path, reason in left_out]
    firsts = sorted({where[0] for where in parts.values() if where})
    splits = [name for name in firsts if alike(name) in SPLIT_NAMES]
    if split_folders is not False:
        if len(splits) > 1 and splits == firsts and all(len(where) > 1 for where in parts.values()):
            placed = [PlacedImage(p, where[1], SPLIT_NAMES[alike(where[0])]) for p, where in parts.items()]
            return with_clean_labels(folder, placed), skipped
        seconds = {alike(where[1]) if len(where) > 1 else "" for where in parts.values()}
        if len(seconds) > 1 and seconds <= SPLIT_NAMES.keys() and not splits:
            placed = [PlacedImage(p, where[0], SPLIT_NAMES[alike(where[1])]) for p, where in parts.items()]
            return with_clean_labels(folder, placed), skipped
        if split_folders:
            raise DatasetError(
                f"{shown(str(folder))}: found {listed(firsts) or 'no folders'}; expected split folders alone (train, "
                "val, calib, test), each with class folders, or such split folders in every class folder"
            )
        if splits and firsts != splits[:1]:
            raise DatasetError(
                f"{shown(str(folder))}: {listed(splits)} are named like splits, but not all images lie in class "
                f"folders of splits (found {listed(firsts)}). Put every image into SPLIT/CLASS/, or say "
                "--no-split-folders where these are classes"
            )
    if containers := [name for name in firsts if alike(name) in CONTAINERS]:
        name = containers[0]
        raise DatasetError(
            f"{shown(str(folder))}: {listed([name])} would be a class. Where it holds the class folders, give "
            f"{shown(str(folder / name))}; where it is a class, rename it"
        )
    if len(firsts) == 1 and all(parts.values()) and any(len(where) > 1 for where in parts.values()):
        name = firsts[0]
        inner = sorted({where[1] for where in parts.values() if len(where) > 1})
        raise DatasetError(
            f"{shown(str(folder))}: its only folder, {listed([name])}, holds the folders {listed(inner)}. Where "
            f"those are the classes, give {shown(str(folder / name))}; else add a second class folder beside it"
        )
    placed = [PlacedImage(path, where[0] if where else "") for path, where in parts.items()]
    return with_clean_labels(folder, placed), skipped


def is_utf8(path: Path) -> bool:
    """Whether the path is valid Unicode."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
