"""The manifest of a labelled set: one row per image, read and written as CSV.

The columns are those of the project's own labels.csv: `package` and `version` (the npm icon set, or the word `files`
for images beside the manifest), `icon` (the key in the set, or the image's path from the manifest's folder), `group`
(rows that stay in one split: a brand, near-duplicates), `label`, `votes` (the annotators' labels, separated by `|`; one
within a label, or a backslash, is written after a backslash), `sure` (1 or 0), `split` (train, val, calib or test) and
`round` (of labelling: a number from 1; reports give figures by round, so that they stay comparable when images are
added).

A multi-label manifest has the column `labels` in place of `label`: all labels of the image, separated and escaped like
votes; empty if it has none of them. All its rows are labelled.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from logo_edge.cache import cache_folder
from logo_edge.errors import DatasetError
from logo_edge.files import write_file
from logo_edge.names import alike, csv_line, join_names, split_names
from logo_edge_train.csv_table import CsvTable

SPLITS = ("train", "val", "calib", "test")
FILES = "files"
RENDER_PX = 256  # longer side of a rendered icon
NOT_A_LOGO = "not a logo"  # label of outliers: a further class, whose logit is the constant 0; multi-label: no label
NO_LABELS = "(none)"  # `LogoRow.label` of an image without labels in a multi-label manifest


@dataclass(frozen=True)
class LogoRow:
    """One image of a manifest; `label` is empty if unknown.

    `labels` is None except in a multi-label manifest, where `label` names their combination.
    """

    package: str
    version: str
    icon: str
    group: str = ""
    label: str = ""
    votes: tuple[str, ...] = ()
    sure: bool = True
    split: str = "train"
    round: int = 1
    labels: tuple[str, ...] | None = None

    @property
    def every_label(self) -> tuple[str, ...]:
        """Its label or, multi-label, its labels; empty if unknown or none."""
        return self.labels if self.labels is not None else (self.label,) if self.label else ()

    def with_labels(self, labels: Iterable[str]) -> LogoRow:
        """The row of a multi-label manifest that has these labels."""
        labels = tuple(sorted(set(labels)))
        return replace(self, labels=labels, label=join_names(labels) or NO_LABELS)

    def without_labels(self) -> LogoRow:
        """A row with this image alone, for results that do not depend on its labels or split."""
        return LogoRow(self.package, self.version, self.icon)


def renders_folder() -> Path:
    """Where the cache keeps the rendered icons."""
    return cache_folder() / f"renders-{RENDER_PX}px"


@dataclass(frozen=True)
class Manifest:
    """The rows of a CSV file, and where their images lie.

    Images of `files` rows lie in `folder`, those of icon sets in `renders`: None means the cache's `renders_folder()`.
    """

    rows: tuple[LogoRow, ...]
    folder: Path
    renders: Path | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes in alphabetical order."""
        return tuple(sorted({label for row in self.rows for label in row.every_label}))

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels or none."""
        return any(row.labels is not None for row in self.rows)

    def split(self, *names: str) -> list[LogoRow]:
        """The labelled rows of these splits, in order."""
        return [row for row in self.rows if row.split in names and row.label]

    @property
    def unlabelled(self) -> list[LogoRow]:
        """The rows without a label."""
        return [row for row in self.rows if not row.label]

    def image_path(self, row: LogoRow) -> Path:
        """Where the row's image lies: in `folder` or below `renders`."""
        if row.package == FILES:
            return self.folder / row.icon
        return (self.renders or renders_folder()) / row.package / row.version / f"{row.icon}.png"

    def image_paths(self, rows: Sequence[LogoRow]) -> list[Path]:
        """Where each row's image lies. Raises DatasetError if images are missing."""
        paths = [self.image_path(row) for row in rows]
        missing = [(row, path) for row, path in zip(rows, paths, strict=True) if not path.exists()]
        if missing:
            row, path = missing[0]
            remedy = (
                "Put them back, or take their rows out of the manifest (`logo-edge data organize` writes a new one)"
                if row.package == FILES
                else "`logo-edge data fetch` renders them"
            )
            raise DatasetError(
                f"{len(missing)} of {len(rows)} images of the manifest are missing, first {path}. {remedy}"
            )
        return paths


def read_manifest(path: str | os.PathLike, renders: Path | None = None) -> Manifest:
    """The manifest at `path`, the images of its icon sets in `renders`.

    Raises DatasetError, which names the line, if a row is invalid.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets write a byte order mark
            reader = CsvTable(file)
            missing = {"package", "icon"} - set(reader.fieldnames or ())
            if missing:
                raise DatasetError(
                    f"{path}: no column {', '.join(sorted(missing))}; expected {_columns()} (or, for --data, a CSV of "
                    "your own images: path, label and perhaps split and group)"
                )
            if {"label", "labels"} <= set(reader.fieldnames or ()):
                raise DatasetError(f"{path}: found the columns label and labels; expected one of them")
            rows = tuple(_parse_row(path, reader.line_num, raw) for raw in reader)
    except OSError as error:
        raise DatasetError(
            f"{path}: {error.strerror}; expected a manifest CSV with the columns {_columns()}"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: not a UTF-8 CSV file ({error}); expected the columns {_columns()}") from error
    manifest, looks = Manifest(rows, path.parent, renders), {}
    for label in manifest.classes:
        if (other := looks.setdefault(alike(label), label)) != label:
            raise DatasetError(
                f"{path}: the labels {other!a} and {label!a} differ only in case, blanks at an end or Unicode "
                "form; write one of them in all rows"
            )
    return manifest


def read_one_label(path: str | os.PathLike) -> Manifest:
    """`read_manifest` of one label an image. Raises DatasetError too where images may have several or none."""
    manifest = read_manifest(path)
    if manifest.multi_label:
        raise DatasetError(
            f"{path}: images have several labels or none, which this command cannot use; `train`, `compress`, "
            "`calibrate`, `evaluate` and `report` can. Give a manifest with one label an image"
        )
    return manifest


def labelled_rows(
    manifest: Manifest, split: str, labels: tuple[str, ...], whose: str, *, multi_label: bool = False
) -> list[LogoRow]:
    """The labelled rows of the split. Raises DatasetError if there are none, or a class is not among `labels`.

    `whose` names the owner of the labels in the message, such as "the bundle's". Raises DatasetError too if the
    manifest is multi-label and the owner is not, or the other way round.
    """
    if manifest.multi_label != multi_label:
        kinds = {True: "several labels or none", False: "one label"}
        raise DatasetError(
            f"the manifest gives {kinds[manifest.multi_label]} an image, and labels are {whose}: "
            f"{kinds[multi_label]} an image. Give a manifest of that kind"
        )
    rows = manifest.split(split)
    if not rows:
        raise DatasetError(f"split {split!r} has no labelled images; expected a manifest with that split")
    unknown = sorted({label for row in rows for label in row.every_label} - set(labels))
    if unknown:
        raise DatasetError(f"the manifest's classes {', '.join(unknown)} are not {whose}: {', '.join(labels)}")
    return rows


def targets_of(rows: Iterable[LogoRow], labels: Sequence[str]) -> np.ndarray:
    """(N,) integers: the index of each row's label; of multi-label rows (N, K), 1 for each of its labels, else 0."""
    rows = list(rows)
    if any(row.labels is not None for row in rows):
        return np.array([[int(label in row.every_label) for label in labels] for row in rows])
    return np.array([labels.index(row.label) for row in rows])


def write_manifest(path: str | os.PathLike, rows: Iterable[LogoRow]) -> None:
    """Writes the rows as CSV, in one step. Raises DatasetError if the file cannot be written."""
    path, rows = Path(path), list(rows)
    multi_label = any(row.labels is not None for row in rows)
    columns = [field.name for field in fields(LogoRow) if field.name != "labels"]
    lines = [csv_line("labels" if multi_label and name == "label" else name for name in columns)]
    for row in rows:
        cells = {**asdict(row), "votes": join_names(row.votes), "sure": int(row.sure)}
        cells |= {"label": join_names(row.every_label)} if multi_label else {}
        lines.append(csv_line(cells[name] for name in columns))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, "".join(lines))
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}; expected a folder that can be written") from error
    except UnicodeEncodeError as error:
        raise DatasetError(
            f"{path}: the name {error.object[error.start - 20 : error.end + 20]!r} is not UTF-8, which a manifest "
            "holds; rename that file or folder"
        ) from error


def _parse_row(path: Path, line: int, raw: dict[str, str | None]) -> LogoRow:
    get = {key: value or "" for key, value in raw.items() if key is not None}.get
    sure, split, labelled = get("sure", "1"), get("split", "train"), get("round", "1")
    if not raw["package"] or not raw["icon"]:
        raise DatasetError(f"{path}, line {line}: package or icon is empty; each row names one image")
    if sure not in ("0", "1"):
        raise DatasetError(f"{path}, line {line}: sure is {sure!r}; expected 0 or 1")
    if split not in SPLITS:
        raise DatasetError(f"{path}, line {line}: split is {split!r}; expected one of {', '.join(SPLITS)}")
    if not re.fullmatch("[1-9][0-9]{0,8}", labelled):
        raise DatasetError(f"{path}, line {line}: round is {labelled!r}; expected a whole number from 1")
    votes = split_names(get("votes", ""))
    row = LogoRow(
        raw["package"],
        get("version", ""),
        raw["icon"],
        get("group") or raw["icon"],
        get("label", ""),
        votes,
        sure == "1",
        split,
        int(labelled),
    )
    return row.with_labels(split_names(get("labels", ""))) if "labels" in raw else row


def _columns() -> str:
    return ", ".join(field.name for field in fields(LogoRow) if field.name != "labels")
