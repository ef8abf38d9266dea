"""The row of one image, and tables of rows: CSV, JSON lines, Parquet, and a picture sheet in HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from logo_edge.errors import ImageError, MissingExtraError
from logo_edge.names import csv_line, join_names, shown
from logo_edge.results import Classification, Match

ROW_GROUP = 10_000  # rows of a Parquet file that are in memory at a time
COLUMNS = (
    "path",
    "label",
    "best_guess",
    "confidence",
    "prediction_set",
    "aleatoric",
    "epistemic",
    "logo_score",
    "is_logo",
    "high_confidence",
    "low_confidence",
    "reason",
    "error",
)
MATCH_COLUMNS = {  # -> field of a Match
    "enrolled": "label",
    "enrolled_best_guess": "best_guess",
    "enrolled_similarity": "similarity",
    "enrolled_confidence": "confidence",
}
NUMBERS = ("confidence", "aleatoric", "epistemic", "logo_score", "enrolled_similarity", "enrolled_confidence")
TRUTHS = ("is_logo", "high_confidence", "low_confidence")
LISTS = ("labels", "prediction_set")


@dataclass(frozen=True)
class Table:
    """What is written: (name in the file system, record of `record_of`) pairs, and the settings that they share."""

    rows: Iterable[tuple[str, dict]]
    columns: list[str]
    settings: dict


def record_of(name: str, result: Classification | ImageError) -> dict:
    """The row of one image: its path and every field of its classification, or its path and the error."""
    if isinstance(result, ImageError):
        return {"path": shown(name), "error": shown(str(result))}
    return {
        "path": shown(name),
        "label": result.label,
        **({} if result.labels is None else {"labels": list(result.labels)}),
        "best_guess": result.best_guess,
        "confidence": rounded(result.confidence),
        "probabilities": {label: rounded(value) for label, value in result.probabilities.items()},
        "prediction_set": None if result.prediction_set is None else list(result.prediction_set),
        "aleatoric": rounded(result.aleatoric),
        "epistemic": rounded(result.epistemic),
        "logo_score": rounded(result.logo_score),
        "is_logo": result.is_logo,
        "high_confidence": result.high_confidence,
        "low_confidence": result.low_confidence,
        "reason": result.reason,
        **({} if result.enrolled is None else {"enrolled": _match(result.enrolled)}),
    }


def _match(match: Match) -> dict:
    return vars(match) | {name: rounded(getattr(match, name)) for name in ("similarity", "confidence")}


def rounded(value: float | None) -> float | None:
    """The number with six decimals; None for a number that is not finite, since JSON has none."""
    return round(value, 6) if value is not None and math.isfinite(value) else None


def columns_of(labels: tuple[str, ...], *, enrolled: bool = False, multi_label: bool = False) -> list[str]:
    """The columns of a table; with `enrolled`, those of a `Match` too; with `multi_label`, `labels` too."""
    columns = [*COLUMNS[:2], "labels", *COLUMNS[2:]] if multi_label else COLUMNS
    return [*columns, *(MATCH_COLUMNS if enrolled else ()), *(f"probability_{label}" for label in labels)]


def _flat(record: dict, columns: list[str]) -> dict:
    """The row with one value for each column, None if missing; each probability has its own column."""
    match = record.get("enrolled", {})
    row = record | {column: match.get(key) for column, key in MATCH_COLUMNS.items()}
    row |= {f"probability_{label}": value for label, value in record.get("probabilities", {}).items()}
    return {name: row.get(name) for name in columns}


def _write_jsonl(table: Table, path: Path) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for _, record in table.rows:
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def _write_csv(table: Table, path: Path) -> None:
    r"""Booleans are 1 or 0, a missing value is empty; LISTS are joined by `|`, escaped as `\|` and `\\`."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(csv_line(table.columns))
        for _, record in table.rows:
            row = _flat(record, table.columns)
            row |= {name: join_names(row[name]) for name in LISTS if row.get(name) is not None}
            file.write(csv_line(int(value) if isinstance(value, bool) else value for value in row.values()))


def _write_parquet(table: Table, path: Path) -> None:
    pyarrow = import_pyarrow()
    schema = table_schema(table.columns)
    from pyarrow import parquet

    records = (_flat(record, table.columns) for _, record in table.rows)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := list(islice(records, ROW_GROUP)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))


def _write_html(table: Table, path: Path) -> None:
    from logo_edge.tables.sheet import sheet_of  # which most starts do not need

    path.write_text(sheet_of(table.rows, table.settings), encoding="utf-8")


WRITERS = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet, ".html": _write_html}  # by suffix


def table_schema(columns: list[str]):
    """The Arrow schema of a table with the columns of `columns_of`."""
    pyarrow = import_pyarrow()
    text, number = pyarrow.string(), pyarrow.float32()
    types = dict.fromkeys(TRUTHS, pyarrow.bool_()) | dict.fromkeys(NUMBERS, number)
    types |= dict.fromkeys(LISTS, pyarrow.list_(text))
    types |= {name: number for name in columns if name.startswith("probability_")}
    return pyarrow.schema([(name, types.get(name, text)) for name in columns])


def import_pyarrow():
    """The module pyarrow. Raises MissingExtraError without the extra `parquet`."""
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError("parquet", "pyarrow") from error
    return pyarrow
