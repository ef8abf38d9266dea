"""The path, label, split and group of each image of any source: class folders, a label file, an export or a table."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from logo_edge.errors import DatasetError
from logo_edge.images.load import URL
from logo_edge.names import cleaned, join_names, shown
from logo_edge.tables.find import walk_images
from logo_edge_train.data.manifest import NO_LABELS
from logo_edge_train.organize.label_files import READERS, NamedLabel, read_labels
from logo_edge_train.organize.layout import is_utf8, read_layout
from logo_edge_train.organize.placed_images import (
    NOT_UTF8,
    SPLIT_NAMES,
    PlacedImage,
    SkippedFile,
    listed,
    with_clean_labels,
)
from logo_edge_train.organize.tables import SUFFIXES, extract_tables

MULTI_LABEL = ", or `logo-edge data organize --multi-label`"
OF_LABELS = ("instances_", "image_info_")  # COCO's files of labels; captions_, stuff_ and others lie beside them
IN_FOLDERS = ("labels.csv", "annotations.xml", "annotations/*.json", "*/_annotations.coco.json")
TABLES = ("data-*.arrow", "*/data-*.arrow", "*.parquet", "*/*.parquet")  # in folders without images


def read_source(
    source: Path, *, split_folders: bool | None = None, multi_label: bool = False
) -> tuple[list[PlacedImage], list[SkippedFile]]:
    """The images of a folder or label file with their labels and splits, and what is left out.

    `split_folders` is for class folders, as in `layout.read_layout`. With `multi_label`, or a CSV with the column
    labels, an image may have several labels or none. Raises DatasetError, with the remedy, if the source is missing,
    ambiguous or damaged.
    """
    files = find_label_files(source)
    if files and split_folders is not None:
        raise DatasetError(
            f"{shown(str(files[0]))} gives the splits; --split-folders is for class folders. Leave it out"
        )
    if files:
        return _read_files(source, files, multi_label)
    if multi_label:
        raise DatasetError(
            f"{shown(str(source))}: class folders give one label an image; for several, expected a CSV path,labels or "
            "an export of COCO, CVAT or Label Studio"
        )
    return read_layout(source, split_folders=split_folders)


def find_label_files(source: Path) -> list[Path]:
    """The files that give the labels: the source itself, or those that exports put into a folder; [] for class folders.

    Raises DatasetError if there is no such source, or it has another format.
    """
    if source.is_dir():
        patterns = IN_FOLDERS if next(walk_images(source), None) else (*IN_FOLDERS, *TABLES)
        return next((files for pattern in patterns if (files := _visible_files(source, pattern))), [])
    if not source.is_file() or source.suffix.lower() not in (*READERS, *SUFFIXES):
        state = "no such file or folder" if not source.exists() else f"a file with the suffix {source.suffix!r}"
        raise DatasetError(
            f"{shown(str(source))}: {state}; expected a folder with images, best in a subfolder for each class, or a "
            f"file of labels ({', '.join((*READERS, *SUFFIXES))})"
        )
    return [source]


def _visible_files(folder: Path, pattern: str) -> list[Path]:
    files = (file for file in folder.glob(pattern) if file.is_file())
    return sorted(file for file in files if not any(part[0] == "." for part in file.relative_to(folder).parts))


def _read_files(source: Path, files: list[Path], several: bool) -> tuple[list[PlacedImage], list[SkippedFile]]:
    skipped: dict[str, str] = {}
    if source.is_dir() and any(file.name.startswith(OF_LABELS[0]) for file in files):
        other = f"other annotations of images whose labels {OF_LABELS[0]}*.json give"
        skipped = {str(file): other for file in files if not file.name.startswith(OF_LABELS)}
        files = [file for file in files if str(file) not in skipped]
    split_of = {file: _split_in_name(file, source) if len(files) > 1 else "" for file in files}
    if is_table := files[0].suffix.lower() in SUFFIXES:
        labels, left_out = extract_tables(split_of)
        files, skipped = [labels], skipped | left_out
    root = source if source.is_dir() else source.parent.parent if source.parent.name == "annotations" else source.parent
    named, seen = NamedImages(root, closed=source.is_dir()), set()
    labels_of, splits_of, groups_of = defaultdict(set), defaultdict(set), defaultdict(set)
    for file in files:
        for row in read_labels(file):
            split = row.split or split_of.get(file, "")
            path, reason = named.find(row, file.parent, split)
            if reason:
                skipped[path] = reason
                continue
            several |= row.several
            seen |= {path} if row.seen else set()
            labels_of[path] |= {cleaned(row.label)} - {""}
            splits_of[path] |= {split} - {""}
            groups_of[path] |= {row.group} - {""}
    if source.is_dir() and not is_table:
        named_paths = set(map(os.path.realpath, (*labels_of, *skipped)))
        others = (path for path in walk_images(source) if os.path.realpath(path) not in named_paths)
        skipped |= dict.fromkeys(others, f"named by no row of {listed([file.name for file in files], most=2)}")
    placed = []
    for path, labels in labels_of.items():
        splits, groups = splits_of[path], groups_of[path]
        for values, kind, advice in ((labels, "labels", MULTI_LABEL), (splits, "splits", ""), (groups, "groups", "")):
            if len(values) > 1 and not (several and kind == "labels"):
                skipped[path] = f"{len(values)} {kind} ({listed(sorted(values))}); expected one{advice}"
        if path in skipped:
            continue
        image = PlacedImage(Path(path), *(next(iter(values), "") for values in (labels, splits, groups)))
        if several and (labels or path in seen):
            names = tuple(sorted(labels))
            image = replace(image, labels=names, label=join_names(names) or NO_LABELS)
        placed.append(image)
    return with_clean_labels(source, placed), [SkippedFile(Path(path), reason) for path, reason in skipped.items()]


def _split_in_name(path: Path, source: Path) -> str:
    """The split in the path of a file or folder, such as instances_train2017.json; empty if there is none."""
    words = re.findall("[a-z]+", os.path.relpath(path, source).lower())
    return next((SPLIT_NAMES[word] for word in reversed(words) if word in SPLIT_NAMES), "")


class NamedImages:
    """Finds the images that label files name, below the folder `root`.

    Of a label file in a `closed` folder, which may be somebody else's, no image elsewhere is used: a bundle shows some
    of its images to whoever has it.
    """

    def __init__(self, root: Path, *, closed: bool):
        self.root, self.closed = root, closed

    @cached_property
    def paths(self) -> dict[str, list[str]]:
        """{file name in NFC: paths of the images}."""
        paths = defaultdict(list)
        for path in walk_images(self.root):
            paths[unicodedata.normalize("NFC", os.path.basename(path))].append(path)
        return paths

    def find(self, row: NamedLabel, folder: Path, split: str) -> tuple[str, str]:
        """The image's path and "", or its name and the reason why it is not used.

        It is the file of that name from the label file's folder, or the only image below the root (or in a folder of
        the split, such as images/train2017) whose path ends so, in any Unicode form.
        """
        if not row.name.strip():
            return str(folder), "a row without the path of an image"
        if URL.match(row.name):
            return row.name, "a web address, and nothing is fetched; download the image and give its path"
        if not is_utf8(Path(row.name)):
            return row.name, NOT_UTF8
        for name in filter(None, (row.name, row.second_name)):
            if os.path.isfile(path := os.path.normpath(folder / name)):
                if self.closed and not any(Path(path).is_relative_to(own) for own in (self.root, folder)):
                    return path, f"outside the folder {self.root}; give the label file itself to use images elsewhere"
                return path, ""
        counts = []
        for name in filter(None, (row.name, row.second_name)):
            end = "/" + unicodedata.normalize("NFC", name).replace("\\", "/").lstrip("./")
            paths = self.paths.get(os.path.basename(end), [])
            paths = [path for path in paths if unicodedata.normalize("NFC", path).endswith(end)]
            if len(paths) > 1 and split:
                paths = [path for path in paths if _split_in_name(Path(path).parent, self.root) == split]
            if len(paths) == 1:
                return paths[0], ""
            counts.append(len(paths))
        return row.name, f"named by the labels, but {max(counts) or 'no'} images below {self.root} have this path"
