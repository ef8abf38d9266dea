"""Reads CSV files that people and other programs write, and refuses what would be misread without a word."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable

from logo_edge.names import alike


class CsvTable(csv.DictReader):
    """`csv.DictReader` that raises csv.Error for a quote that never ends, cells beyond the header, and equal columns.

    An open quote would swallow all rows up to the next one, a comma without quotes would cut a label.
    """

    def __init__(self, lines: Iterable[str], *, delimiter: str = ","):
        super().__init__(lines, delimiter=delimiter, strict=True)
        counts = Counter(alike(name) for name in self.fieldnames or () if name)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise csv.Error(f"column {twice[0]!r} is there {counts[twice[0]]} times")

    def __next__(self) -> dict[str, str | None]:
        row = super().__next__()
        if any(further := row.pop(None, ())):
            raise csv.Error(
                f"line {self.line_num}: {len(further)} more cells than columns; a cell that holds "
                f"{self.reader.dialect.delimiter!r} needs quotes"
            )
        return row
