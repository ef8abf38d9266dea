"""Tables and lines whose texts are shown letter by letter: names of classes, files and runs are not markup or emoji codes."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from logo_edge.names import printable


class LiteralTable(Table):
    """A rich Table that takes every string for what it is; `[new]` or `:cat:` would be gone from a plain one."""

    def __init__(self, *headers, title: str | None = None, **options):
        super().__init__(
            *headers, title=None if title is None else Text(printable(title), style="table.title"), **options
        )

    def add_column(self, header: RenderableType = "", *arguments, **options) -> None:
        super().add_column(_literal(header), *arguments, **options)

    def add_row(self, *cells: RenderableType | None, **options) -> None:
        super().add_row(*map(_literal, cells), **options)


def literal(text: str) -> Text:
    """A text to print as it is, harmless to the terminal."""
    return Text(printable(text))


def _literal(cell):
    return literal(cell) if isinstance(cell, str) else cell
