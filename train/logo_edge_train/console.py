"""Tables and lines for the terminal. Names of classes, files and runs are printed literally, not as markup or emoji."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, ProgressColumn, Task
from rich.table import Table
from rich.text import Text

from logo_edge.names import printable
from logo_edge.pace import Pace, clock


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


class TimeLeftColumn(ProgressColumn):
    """The time left of a task by its recent pace (`Pace`), which rich takes from up to 1,000 steps of any age."""

    def __init__(self):
        super().__init__()
        self.paces: dict[int, Pace] = {}

    def render(self, task: Task) -> Text:
        if task.finished:
            return Text(clock(0), style="progress.remaining")
        if task.total is None:  # what it counts is not known yet
            return Text(clock(None), style="progress.remaining")
        pace = self.paces.setdefault(task.id, Pace())
        pace.see(task.completed, task.get_time())
        return Text(clock(pace.left_s(task.total, task.get_time())), style="progress.remaining")


@contextmanager
def stage_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yields `tick(done, total)`, which shows a bar on stderr while the block runs; nothing but on a terminal."""
    with stage_bars() as tick:
        tick(title, 0, None)
        yield partial(tick, title)


@contextmanager
def stage_bars() -> Iterator[Callable[[str, int, int | None], None]]:
    """Yields `tick(title, done, total)`, which shows a bar for each title; the rest as `stage_bar`."""
    console, tasks = Console(stderr=True), {}
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeLeftColumn())
    with Progress(*columns, transient=True, console=console, disable=not console.is_terminal) as bar:

        def tick(title: str, done: int, total: int | None) -> None:
            if title not in tasks:
                tasks[title] = bar.add_task(escape(title), total=None)
            bar.update(tasks[title], completed=done, total=total)

        yield tick


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
