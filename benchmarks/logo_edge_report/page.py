"""The HTML page of a report: sections of figures, rendered into one file that loads nothing from outside."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from logo_edge.errors import MissingExtraError

try:
    from jinja2 import Environment, StrictUndefined
except ImportError as error:
    raise MissingExtraError("report", "jinja2") from error

THUMBNAIL_PX = 96
WIDE_LETTERS = 42  # a table with longer rows takes the whole width


@dataclass(frozen=True)
class Cell:
    """One logo of a sheet: where its tiles stand in the image, (column, row) each, and what is said of it."""

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
    """One picture; `label` is read aloud in its place, `heading` stands above it where a figure has several."""

    label: str
    svg: str = ""
    sheet: Sheet | None = None
    heading: str = ""


@dataclass(frozen=True)
class Table:
    """Its first column names the row; the others are aligned to the right."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def letters(self) -> int:
        """The length of a row, each column as long as its longest cell."""
        return sum(max(map(len, column)) for column in zip(self.head, *self.rows, strict=True))


@dataclass(frozen=True)
class Exhibit:
    """One figure of the page: panels or a table, and the caption that says what to see."""

    title: str
    caption: str
    panels: tuple[Panel, ...] = ()
    table: Table | None = None

    @property
    def is_wide(self) -> bool:
        """Whether it needs the page's whole width: a sheet, many panels or a table of long rows."""
        wide_table = self.table is not None and self.table.letters > WIDE_LETTERS
        return wide_table or len(self.panels) > 2 or any(panel.sheet for panel in self.panels)


@dataclass(frozen=True)
class Section:
    anchor: str
    title: str
    exhibits: tuple[Exhibit, ...]


def render_page(sections: list[Section], **words) -> str:
    """A page of these sections that needs nothing beside it; whatever comes from the run is escaped.

    `words`: title, about, lead, description, making (name -> value), recipe, command, files.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files("logo_edge_report").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(sections=sections, tile_px=THUMBNAIL_PX, **words)
