"""A review session: the images that a person looks at, and the decisions on them, saved at once."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping
from pathlib import Path

from logo_edge.errors import DatasetError
from logo_edge.names import shown
from logo_edge.pages import text_of
from logo_edge_train.csv_table import CsvTable
from logo_edge_train.data.manifest import LogoRow, Manifest, read_one_label
from logo_edge_train.data.pool import unlabelled_rows
from logo_edge_train.review.corrections import (
    Correction,
    Name,
    check_corrections,
    find_problem,
    name_of,
    rows_of_groups,
)
from logo_edge_train.review.corrections_file import CorrectionsFile
from logo_edge_train.review.sheet import fill_page, list_records

Probabilities = dict[str, float]  # class -> probability; empty if unknown


class Session:
    """The rows of a list of `data suspects` or `data next`, or all whose label may change; and decisions on them.

    Decisions that the corrections file already has are taken up. Those on other images of the manifest stay in it.
    """

    def __init__(self, manifest_path: Path, corrections_path: Path, list_path: Path | None = None):
        """Raises DatasetError if a file is not as expected, the manifest has no class, or no row can be reviewed.

        An invalid correction in the file is an error too: `data apply` would refuse the whole file.
        """
        self.manifest, self.manifest_path = read_one_label(manifest_path), manifest_path
        self.classes = self.manifest.classes
        if not self.classes:
            raise DatasetError(f"{shown(str(manifest_path))} has no label; expected at least one row for each class")
        known = {name_of(row): row for row in (*self.manifest.rows, *unlabelled_rows(self.manifest))}
        self.file = CorrectionsFile(corrections_path)
        aim = f"{manifest_path}. Correct or delete these lines, or name another folder by --out"
        check_corrections(self.file.read(), known, self.manifest, corrections_path, aim)
        correctable = find_correctable(self.manifest, known)
        listed = (
            read_list(list_path, correctable, self.classes)
            if list_path
            else [(row, {}) for row in correctable.values()]
        )
        self._source = shown(str(list_path or manifest_path))
        if not listed:
            raise DatasetError(f"{self._source} has no image of train or val; nothing to review")
        self.rows = [row for row, _ in listed]
        self._listed = list_records(
            "review",
            [
                {
                    "rank": rank,
                    "package": row.package,
                    "version": row.version,
                    "icon": row.icon,
                    "split": row.split,
                    "label": row.label,
                    "sure": int(row.sure) if row.label else "",
                    "probabilities": probabilities,
                }
                for rank, (row, probabilities) in enumerate(listed, start=1)
            ],
            self.classes,
        )

    def decisions(self) -> list[tuple[int, dict]]:
        """(position of the row, {label, sure}) of each listed row that has a decision."""
        saved = self.file.read()
        decided = ((position, saved.get(name_of(row))) for position, row in enumerate(self.rows))
        return [(position, {"label": item.label, "sure": item.sure}) for position, item in decided if item]

    def decide(self, position: int, label: str | None, sure: bool | None) -> tuple[Name, Correction | None]:
        """The change of the corrections file that this decision is; no label takes the correction away."""
        row = self.rows[position]
        return name_of(row), Correction(0, row.label, label, sure) if label else None

    def page(self) -> str:
        """The page with all rows and decisions."""
        lead = (
            f"{len(self.rows):,} images of {self._source}. Labels of calib and test take no part. An image without a "
            "label that gets one becomes a row of train."
        )
        command = f"logo-edge data apply {quoted(self.file.path)} --data {quoted(self.manifest_path)}"
        saved = f"Each decision is saved at once. At the end, run <code>{text_of(command)}</code>."
        sources = "img-src 'self' data:; connect-src 'self'"
        return fill_page(
            "Labels to review", lead, saved, {**self._listed, "decided": self.decisions()}, sources=sources
        )


def quoted(path: Path) -> str:
    return shlex.quote(str(path.resolve()))


def find_correctable(manifest: Manifest, known: Mapping[Name, LogoRow]) -> dict[Name, LogoRow]:
    """The known rows that a correction may change, in order."""
    groups, classes = rows_of_groups(manifest), manifest.classes
    return {
        name: row
        for name, row in known.items()
        if find_problem(Correction(0, row.label, classes[0], None), row, classes, groups) is None
    }


def read_list(
    path: Path, correctable: Mapping[Name, LogoRow], classes: tuple[str, ...]
) -> list[tuple[LogoRow, Probabilities]]:
    """The rows of a CSV of `data suspects` or `data next` with the probabilities of its columns `p_CLASS`.

    Raises DatasetError if the file is no such CSV, or names an image that is not `correctable`.
    """
    expected = "expected a CSV of `logo-edge data suspects` or `next`; run it again"
    listed = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for number, cells in enumerate(CsvTable(file), start=1):
                name = tuple(cells.get(column) or "" for column in ("package", "version", "icon"))
                if name not in correctable:
                    raise DatasetError(
                        f"{shown(str(path))}, row {number}: the manifest has no image {shown(name[2])!r} whose label "
                        f"may change; {expected}"
                    )
                probabilities = {label: float(cells[f"p_{label}"]) for label in classes if cells.get(f"p_{label}")}
                listed.append((correctable[name], probabilities))
    except OSError as error:
        raise DatasetError(f"{shown(str(path))}: {error.strerror}; {expected}") from error
    except (ValueError, csv.Error) as error:  # not UTF-8, or no number
        raise DatasetError(f"{shown(str(path))}: {error}; {expected}") from error
    return listed
