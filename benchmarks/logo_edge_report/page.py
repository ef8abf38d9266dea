"""The HTML page of a report: sections of figures, rendered into one file that loads nothing from outside."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from logo_edge.errors import MissingExtraError
from logo_edge.pages import page_style

try:
    from jinja2 import Environment, StrictUndefined
except ImportError as error:
    raise MissingExtraError("report", "jinja2") from error

THUMBNAIL_PX = 96
WIDE_LETTERS = 42  # a table with longer rows takes the whole width


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet: the (column, row) of each of its tiles in the sheet, and its text."""

    tiles: tuple[tuple[int, int], ...]
    text: str
    note: str = ""


@dataclass(frozen=True)
class Sheet:
    """`uri` holds columns * rows tiles of THUMBNAIL_PX square pixels."""

    uri: str
    columns: int
    rows: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Panel:
    """One picture; `label` is its text for screen readers, `heading` its title where a figure has several."""

    label: str
    svg: str = ""
    sheet: Sheet | None = None
    heading: str = ""


@dataclass(frozen=True)
class Table:
    """The first column names the row; the others are aligned to the right."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def letters(self) -> int:
        """The length of a row, with each column as long as its longest cell."""
        return sum(max(map(len, column)) for column in zip(self.head, *self.rows, strict=True))


@dataclass(frozen=True)
class Exhibit:
    """One figure of the page: panels or a table, and a caption with the finding."""

    title: str
    caption: str
    panels: tuple[Panel, ...] = ()
    table: Table | None = None

    @property
    def is_wide(self) -> bool:
        """Whether it needs the whole width: a sheet, many panels or a table with long rows."""
        wide_table = self.table is not None and self.table.letters > WIDE_LETTERS
        return wide_table or len(self.panels) > 2 or any(panel.sheet for panel in self.panels)


@dataclass(frozen=True)
class Section:
    anchor: str
    title: str
    exhibits: tuple[Exhibit, ...]


def render_page(sections: list[Section], **words) -> str:
    """A self-contained page of these sections; all text is escaped.

    `words`: title, about, lead, description, making (name -> value), recipe, command, files (with the same figures).
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files("logo_edge_report").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        sections=sections, style=page_style(), tile_px=THUMBNAIL_PX, **words
    )
