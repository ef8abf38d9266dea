"""The manifest of a labelled set: one row per logo, read and written as CSV.

The columns are those of the project's own labels.csv: `package` and `version` (the npm icon set, or the word `files`
for images beside the manifest), `icon` (the key in the set, or the image's path from the manifest's folder), `group`
(what may not be split: a brand, near-duplicates), `label`, `votes` (the annotators' labels, separated by `|`), `sure`
(1 or 0) and `split` (train, val, calib or test).
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from logo_edge.errors import DatasetError

SPLITS = ("train", "val", "calib", "test")
FILES = "files"


@dataclass(frozen=True)
class LogoRow:
    """One logo of a manifest; `label` is empty where it is not known."""

    package: str
    version: str
    icon: str
    group: str = ""
    label: str = ""
    votes: tuple[str, ...] = ()
    sure: bool = True
    split: str = "train"


@dataclass(frozen=True)
class Manifest:
    """The rows of a CSV file, with the folder that `files` rows are relative to."""

    rows: tuple[LogoRow, ...]
    folder: Path

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes in alphabetical order."""
        return tuple(sorted({row.label for row in self.rows if row.label}))

    def split(self, *names: str) -> list[LogoRow]:
        """The labelled rows of these splits, in order."""
        return [row for row in self.rows if row.split in names and row.label]

    @property
    def unlabelled(self) -> list[LogoRow]:
        return [row for row in self.rows if not row.label]

    def image_path(self, row: LogoRow, renders: Path) -> Path:
        """Where the row's image lies: beside the manifest, or in the folder of renders."""
        if row.package == FILES:
            return self.folder / row.icon
        return renders / row.package / row.version / f"{row.icon}.png"


def read_manifest(path: str | os.PathLike) -> Manifest:
    """The manifest at `path`. Raises DatasetError, naming the line, where a row does not fit."""
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets write a byte order mark
            reader = csv.DictReader(file)
            missing = {"package", "icon"} - set(reader.fieldnames or ())
            if missing:
                raise DatasetError(f"{path}: no column {', '.join(sorted(missing))}; expected {_columns()}")
            rows = tuple(_parse_row(path, reader.line_num, raw) for raw in reader)
    except OSError as error:
        raise DatasetError(
            f"{path}: {error.strerror}; expected a manifest CSV with the columns {_columns()}"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: not a UTF-8 CSV file ({error}); expected the columns {_columns()}") from error
    return Manifest(rows, path.parent)


def labelled_rows(manifest: Manifest, split: str, labels: tuple[str, ...], whose: str) -> list[LogoRow]:
    """The labelled rows of the split. Raises DatasetError where there is none, or a class is not among `labels`.

    `whose` labels they are stands in the message: "the bundle's".
    """
    rows = manifest.split(split)
    if not rows:
        raise DatasetError(f"split {split!r} has no labelled logos; expected a manifest with that split")
    unknown = sorted({row.label for row in rows} - set(labels))
    if unknown:
        raise DatasetError(f"the manifest's classes {', '.join(unknown)} are not {whose}: {', '.join(labels)}")
    return rows


def targets_of(rows: Iterable[LogoRow], labels: Sequence[str]) -> np.ndarray:
    """(N,) integers: the index of each row's label."""
    return np.array([labels.index(row.label) for row in rows])


def write_manifest(path: str | os.PathLike, rows: Iterable[LogoRow]) -> None:
    """Writes the rows as CSV, whole or not at all."""
    path = Path(path)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(LogoRow)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**asdict(row), "votes": "|".join(row.votes), "sure": int(row.sure)})
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(text.getvalue(), encoding="utf-8", newline="")
    os.replace(part, path)


def _parse_row(path: Path, line: int, raw: dict[str, str | None]) -> LogoRow:
    get = {key: value or "" for key, value in raw.items() if key is not None}.get
    sure, split = get("sure", "1"), get("split", "train")
    if not raw["package"] or not raw["icon"]:
        raise DatasetError(f"{path}, line {line}: package or icon is empty; each row names one image")
    if sure not in ("0", "1"):
        raise DatasetError(f"{path}, line {line}: sure is {sure!r}; expected 0 or 1")
    if split not in SPLITS:
        raise DatasetError(f"{path}, line {line}: split is {split!r}; expected one of {', '.join(SPLITS)}")
    votes = tuple(vote for vote in get("votes", "").split("|") if vote)
    return LogoRow(
        raw["package"], get("version", ""), raw["icon"], get("group") or raw["icon"], get("label", ""), votes,
        sure == "1", split,
    )  # fmt: skip


def _columns() -> str:
    return ", ".join(field.name for field in fields(LogoRow))
