"""Tables and lines for the terminal. Names of classes, files and runs are printed literally, not as markup or emoji."""

from __future__ import annotations

import math

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from logo_edge.names import printable


class LiteralTable(Table):
    """A rich Table that prints every string as it is; a plain one would drop `[new]` and replace `:cat:`."""

    def __init__(self, *headers, title: str | None = None, **options):
        super().__init__(
            *headers, title=None if title is None else Text(printable(title), style="table.title"), **options
        )

    def add_column(self, header: RenderableType = "", *arguments, **options) -> None:
        super().add_column(_literal(header), *arguments, **options)

    def add_row(self, *cells: RenderableType | None, **options) -> None:
        super().add_row(*map(_literal, cells), **options)


def figures_table(heading: str, *headings: str, no_wrap: bool = False) -> LiteralTable:
    """A table without lines: the first column is flush left, the others flush right."""
    table = LiteralTable(box=None, pad_edge=False)
    table.add_column(heading, no_wrap=no_wrap)
    for text in headings:
        table.add_column(text, justify="right", no_wrap=no_wrap)
    return table


def literal(text: str) -> Text:
    """The text as it is, without control characters."""
    return Text(printable(text))


def percent(value: float | None) -> str:
    """A share as a percentage; a dash for None, NaN and infinity."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.1%}"


def figure(value: float | None) -> str:
    """Three decimals; a dash for None, NaN and infinity."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _literal(cell):
    return literal(cell) if isinstance(cell, str) else cell
