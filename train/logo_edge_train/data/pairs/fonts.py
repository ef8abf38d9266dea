"""Letters of a font file as marks."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from logo_edge.errors import DatasetError
from logo_edge_train.data.pairs.marks import Mark

SCRIPTS = ("great-vibes", "lobster", "pacifico")


@lru_cache(maxsize=32)
def _open_font(file: str):
    from fontTools.ttLib import TTFont, TTLibError

    try:
        font = TTFont(file)
        return font.getGlyphSet(), font.getBestCmap()
    except (OSError, TTLibError) as error:
        raise DatasetError(
            f"font {file}: {error}; expected a TrueType, OpenType or WOFF file. Delete its package's folder, and run "
            "it again"
        ) from error


def is_script(font: str) -> bool:
    """Whether the capitals of the font cannot be set side by side."""
    return any(name in font for name in SCRIPTS)


def family_of(font: str) -> str:
    """`montserrat` of .../montserrat-latin-700-normal.woff."""
    return Path(font).name.split("-latin-")[0]


def glyphs(font: str, text: str, spacing: float = 0.0) -> list[Mark]:
    """A mark for each letter except blanks, side by side on one line, in font units; `spacing` in ems.

    Raises DatasetError if the font cannot be read or lacks a letter.
    """
    from fontTools.pens.boundsPen import BoundsPen
    from fontTools.pens.svgPathPen import SVGPathPen

    shapes, names = _open_font(font)
    marks, at = [], 0.0
    for letter in text:
        name = names.get(ord(letter))
        if name is None:
            raise DatasetError(
                f"font {Path(font).name} has no glyph for {letter!r}; expected a font of the Latin alphabet"
            )
        pen, bounds = SVGPathPen(shapes, ntos=lambda value: f"{value:.6g}"), BoundsPen(shapes)
        shapes[name].draw(pen)
        shapes[name].draw(bounds)
        if bounds.bounds:
            left, low, right, high = bounds.bounds
            markup = f'<path transform="matrix(1 0 0 -1 {at:.6g} 0)" d="{pen.getCommands()}"/>'
            marks.append(Mark(markup, (at + left, -high, right - left, high - low)))
        at += shapes[name].width + 1000 * spacing
    return marks
