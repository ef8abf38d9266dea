"""Tables and lines for the terminal. Names of classes, files and runs are printed literally, not as markup or emoji."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from logo_edge.names import printable

PACE_S = 300  # by whose pace bars promise an end: an image or a step may take seconds


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


@contextmanager
def stage_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yields `tick(done, total)`, which shows a bar on stderr while the block runs; nothing but on a terminal."""
    console = Console(stderr=True)
    with Progress(
        transient=True, console=console, disable=not console.is_terminal, speed_estimate_period=PACE_S
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


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
