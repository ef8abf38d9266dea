"""Merges a person's corrections into a manifest (`logo-edge data apply`): all of them or, if one is invalid, none."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from logo_edge.errors import DatasetError
from logo_edge.files import changing, write_file
from logo_edge.names import csv_line, join_names, shown
from logo_edge_train.csv_table import CsvTable
from logo_edge_train.data.manifest import LogoRow, Manifest, read_one_label
from logo_edge_train.data.pool import unlabelled_rows

COLUMNS = ("package", "version", "icon", "label", "corrected", "sure")
NAMED = 5  # problems that a message lists in full
HELD_OUT = ("calib", "test")
WRITTEN = ("label", "votes", "sure", "split")  # what a correction changes

Name = tuple[str, str, str]  # package, version, icon


@dataclass(frozen=True)
class Correction:
    """The new label of an image, whether it is sure (None: unchanged), and the label before."""

    line: int
    before: str
    label: str
    sure: bool | None


def apply_corrections(path: Path, manifest_path: Path) -> dict:
    """Merges the corrections of the CSV at `path` into the manifest, in one step; a second time they only confirm.

    A corrected label replaces all votes. An image without a label becomes a row of train; one of unlabelled.csv is
    added. Other columns and rows stay. Returns {manifest, changed, labelled, confirmed, changes}: the numbers of
    changed labels, of first labels and of confirmed labels; `changes` counts each `label -> label`. Raises
    DatasetError, and changes nothing, if the file is no such CSV, or a correction names an unknown image, a row of
    calib or test, an outdated label, an unknown class, or an unlabelled image whose group is in another split than
    train.
    """
    corrections = read_corrections(path)
    try:
        with changing(manifest_path):
            return _merge(corrections, path, manifest_path)
    except OSError as error:
        raise DatasetError(
            f"{shown(str(manifest_path))}: {error.strerror}; expected a manifest that can be written"
        ) from error


def _merge(corrections: dict[Name, Correction], path: Path, manifest_path: Path) -> dict:
    manifest = read_one_label(manifest_path)
    rows = {name_of(row): row for row in manifest.rows}
    added = {name_of(row): row for row in unlabelled_rows(manifest)}
    check_corrections(corrections, {**added, **rows}, manifest, path, f"{manifest_path}, which stays as it was")
    with manifest_path.open(newline="", encoding="utf-8-sig") as file:
        reader = CsvTable(file)
        columns, raw = list(reader.fieldnames), list(reader)
    columns += [name for name in WRITTEN if name not in columns]
    cells = [{**_cells(row), **line} for row, line in zip(manifest.rows, raw, strict=True)]
    cells += [_cells(added[name]) for name in corrections if name not in rows]
    changes, counts = Counter(), {"changed": 0, "labelled": 0, "confirmed": 0}
    for line in cells:
        correction = corrections.get((line["package"], line["version"], line["icon"]))
        if correction is None:
            continue
        before = line["label"]
        counts["confirmed" if before == correction.label else "changed" if before else "labelled"] += 1
        if before != correction.label:
            line |= {"label": correction.label, "votes": join_names([correction.label])}
            changes[f"{before or 'no label'} -> {correction.label}"] += 1
        if not before:
            line["split"] = "train"
        if correction.sure is not None:
            line["sure"] = str(int(correction.sure))
    lines = [columns, *([line.get(name) for name in columns] for line in cells)]
    write_file(manifest_path, "".join(map(csv_line, lines)))
    return {"manifest": shown(str(manifest_path)), **counts, "changes": dict(changes.most_common())}


def name_of(row: LogoRow) -> Name:
    """What identifies the row's image in a CSV of corrections."""
    return row.package, row.version, row.icon


def check_corrections(
    corrections: Mapping[Name, Correction], known: Mapping[Name, LogoRow], manifest: Manifest, path: Path, aim: str
) -> None:
    """Raises DatasetError, which lists the first problems, if a correction of the CSV at `path` does not fit.

    `known`: the rows of the manifest and its unlabelled ones, by image. `aim` names the manifest in the message.
    """
    groups, classes, problems = rows_of_groups(manifest), manifest.classes, []
    for name, correction in corrections.items():
        if problem := find_problem(correction, known.get(name), classes, groups):
            problems.append(f"line {correction.line}, {shown(f'{name[0]}/{name[2]}')}: {problem}")
    if problems:
        more = [f"and {len(problems) - NAMED} more"] if len(problems) > NAMED else []
        raise DatasetError(
            f"{shown(str(path))}: {len(problems)} of {len(corrections)} corrections do not fit {shown(aim)}: "
            + "; ".join(problems[:NAMED] + more)
        )


def rows_of_groups(manifest: Manifest) -> dict[str, list[LogoRow]]:
    """The manifest's rows by group."""
    groups = defaultdict(list)
    for row in manifest.rows:
        groups[row.group].append(row)
    return groups


def find_problem(
    correction: Correction, row: LogoRow | None, classes: tuple[str, ...], groups: Mapping[str, list[LogoRow]]
) -> str | None:
    """The reason why the correction is invalid, as a sentence; None if it is valid.

    `row`: the image's row, if any. `groups`: see `rows_of_groups`.
    """
    if row is None:
        return "no such image in the manifest or among its unlabelled ones"
    if row.split in HELD_OUT:
        return f"it is of {row.split}, whose labels stay as they are; only those of train and val can be corrected"
    if row.label not in (correction.before, correction.label):
        now = f"is {shown(row.label)!r}" if row.label else "is empty"
        before = shown(correction.before)
        return f"it was labelled {before!r} when this was made, and its label {now} now; look at it again"
    if correction.label not in classes:
        return f"label {shown(correction.label)!r} is no class; expected one of {', '.join(map(shown, classes))}"
    if not row.label and (others := {other.split for other in groups.get(row.group, ()) if other != row} - {"train"}):
        return f"its group {shown(row.group)!r} is in {', '.join(sorted(others))}, and train may not hold a part of it"
    return None


def read_corrections(path: Path) -> dict[Name, Correction]:
    """The corrections of the CSV by image. Raises DatasetError like `parse_corrections`, and if there is none."""
    if corrections := parse_corrections(path):
        return corrections
    raise DatasetError(f"{shown(str(path))}: no line has a label in the column `corrected`; nothing to do")


def parse_corrections(path: Path) -> dict[Name, Correction]:
    """The corrections of the CSV by image, without lines whose `corrected` is empty.

    Raises DatasetError if the file is no CSV of corrections, or names an image twice.
    """
    expected = f"expected the CSV that a contact sheet gives, with the columns {', '.join(COLUMNS[:-1])}"
    corrections: dict[Name, Correction] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = CsvTable(file)
            missing = [name for name in COLUMNS[:-1] if name not in (reader.fieldnames or ())]
            if missing:
                raise DatasetError(f"{shown(str(path))}: no column {', '.join(missing)}; {expected}")
            for raw in reader:
                cell = {key: value or "" for key, value in raw.items() if key is not None}
                if not (label := cell["corrected"].strip()):
                    continue
                name, sure = (cell["package"], cell["version"], cell["icon"]), cell.get("sure", "")
                where = f"{shown(str(path))}, line {reader.line_num}"
                if sure not in ("", "0", "1"):
                    raise DatasetError(f"{where}: sure is {shown(sure)!r}; expected 0, 1 or nothing")
                if name in corrections:
                    raise DatasetError(f"{where}: {shown(name[2])} is corrected twice; expected each image once")
                corrections[name] = Correction(reader.line_num, cell["label"], label, sure == "1" if sure else None)
    except OSError as error:
        raise DatasetError(f"{shown(str(path))}: {error.strerror}; {expected}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{shown(str(path))}: not a UTF-8 CSV file ({error}); {expected}") from error
    return corrections


def _cells(row: LogoRow) -> dict[str, str]:
    return {**asdict(row), "votes": join_names(row.votes), "sure": int(row.sure)}
