"""Reads the label and the split of each image from its folders, and refuses ambiguous layouts.

Class folders lie directly in the folder, in split folders (`train/cat`), or hold split folders themselves
(`cat/train`). Names are compared stripped, in Unicode NFC and without case.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from logo_edge.errors import DatasetError
from logo_edge.names import alike, cleaned, shown
from logo_edge.tables.find import walk_images

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "calib": "calib",
    "calibration": "calib",
    "test": "test",
    "testing": "test",
}
CONTAINERS = frozenset(
    ("images", "image", "imgs", "img", "data", "dataset")
)  # hold classes, and are not classes themselves
NOT_UTF8 = "its name, or that of its folder, is not UTF-8, which a manifest holds; rename it"


@dataclass(frozen=True)
class PlacedImage:
    """An image with the label and split that its folders name; empty if they name none."""

    path: Path
    label: str = ""
    split: str = ""


def read_layout(folder: Path, *, split_folders: bool | None = None) -> tuple[list[PlacedImage], list[Path]]:
    """The images below a folder with their labels and splits, and the files whose names are not UTF-8.

    `split_folders`: whether folders named train, val, calib or test are splits; None: if all first-level folders, or
    all folders within classes, have such names. Raises DatasetError, with the remedy, for an ambiguous layout: split
    folders beside class folders, a folder between that holds the class folders, names that look the same.
    """
    paths = [Path(path) for path in walk_images(folder)]
    readable = [path for path in paths if _is_utf8(path.relative_to(folder))]
    parts = {path: path.relative_to(folder).parts[:-1] for path in readable}
    firsts = sorted({where[0] for where in parts.values() if where})
    splits = [name for name in firsts if alike(name) in SPLIT_FOLDERS]
    if split_folders is not False:
        if len(splits) > 1 and splits == firsts and all(len(where) > 1 for where in parts.values()):
            placed = [PlacedImage(p, where[1], SPLIT_FOLDERS[alike(where[0])]) for p, where in parts.items()]
            return _with_clean_labels(folder, placed), _others(paths, readable)
        seconds = {alike(where[1]) if len(where) > 1 else "" for where in parts.values()}
        if len(seconds) > 1 and seconds <= SPLIT_FOLDERS.keys() and not splits:
            placed = [PlacedImage(p, where[0], SPLIT_FOLDERS[alike(where[1])]) for p, where in parts.items()]
            return _with_clean_labels(folder, placed), _others(paths, readable)
        if split_folders:
            raise DatasetError(
                f"{shown(str(folder))}: found {_listed(firsts) or 'no folders'}; expected split folders alone (train, "
                "val, calib, test), each with class folders, or such split folders in every class folder"
            )
        if splits and firsts != splits[:1]:
            raise DatasetError(
                f"{shown(str(folder))}: {_listed(splits)} are named like splits, but not all images lie in class "
                f"folders of splits (found {_listed(firsts)}). Put every image into SPLIT/CLASS/, or say "
                "--no-split-folders where these are classes"
            )
    if containers := [name for name in firsts if alike(name) in CONTAINERS]:
        name = containers[0]
        raise DatasetError(
            f"{shown(str(folder))}: {_listed([name])} would be a class. Where it holds the class folders, give "
            f"{shown(str(folder / name))}; where it is a class, rename it"
        )
    if len(firsts) == 1 and all(parts.values()) and any(len(where) > 1 for where in parts.values()):
        name = firsts[0]
        inner = sorted({where[1] for where in parts.values() if len(where) > 1})
        raise DatasetError(
            f"{shown(str(folder))}: its only folder, {_listed([name])}, holds the folders {_listed(inner)}. Where "
            f"those are the classes, give {shown(str(folder / name))}; else add a second class folder beside it"
        )
    placed = [PlacedImage(path, where[0] if where else "") for path, where in parts.items()]
    return _with_clean_labels(folder, placed), _others(paths, readable)


def _with_clean_labels(folder: Path, placed: list[PlacedImage]) -> list[PlacedImage]:
    """The images with stripped labels in NFC. Raises DatasetError if two names look the same, or one is blank."""
    looks = defaultdict(set)
    for image in placed:
        if image.label:
            looks[alike(image.label)].add(image.label)
    if "" in looks:
        raise DatasetError(
            f"{shown(str(folder))}: a class folder's name is blank ({_listed(sorted(looks[''], key=str))}); name it"
        )
    same = [sorted(names) for _, names in sorted(looks.items()) if len(names) > 1]
    if same:
        raise DatasetError(
            f"{shown(str(folder))}: class folders whose names differ only in case, blanks at an end or Unicode form: "
            f"{'; '.join(' and '.join(map(ascii, names)) for names in same)}. Put the images of each such class into "
            "one folder"
        )
    return [PlacedImage(image.path, cleaned(image.label), image.split) for image in placed]


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _others(paths: Sequence[Path], readable: Sequence[Path]) -> list[Path]:
    kept = set(readable)
    return [path for path in paths if path not in kept]


def _listed(names: Sequence[str], most: int = 6) -> str:
    texts = [repr(shown(name)) for name in names]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
