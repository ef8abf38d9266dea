"""Markdown tables from column specifications, and the formats of their figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Cell = str | Callable[[Any], str]


def table_of(rows: Iterable[Any], *columns: tuple[str, Cell]) -> str:
    """A Markdown table with a line for each row and a (header, cell) for each column.

    A cell is a format string for rows that are dicts ("{nll:.3f}", "{test[ece]:.1%}"), or a function of the row.
    """
    cells = [cell.format_map if isinstance(cell, str) else cell for _, cell in columns]
    return markdown([header for header, _ in columns], [[cell(row) for cell in cells] for row in rows])


def named(rows: dict[str, dict]) -> list[dict]:
    """The rows of a dict, each with its key as `name`."""
    return [{"name": name, **row} for name, row in rows.items()]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def short(figure: dict) -> str:
    return f"{figure['value']:.1%}"


def share(figure: dict) -> str:
    """A share with its interval."""
    return f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})"


def interval(figure: dict | None, scale: float = 1, digits: int = 2, suffix: str = "") -> str:
    """value (low to high), each times `scale`, or nothing where it was not measured or the sample was too small."""
    if not figure:
        return ""
    value, low, high = (f"{figure[key] * scale:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value}{suffix} ({low} to {high})"
