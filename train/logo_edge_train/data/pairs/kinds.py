"""KINDS, the table of all pairs, and random pairs of a kind. Labels follow the rules of docs/make/data.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from logo_edge.errors import DatasetError
from logo_edge_train.data.pairs import fades, intricate, letters
from logo_edge_train.data.pairs.colours import Random
from logo_edge_train.data.pairs.marks import document
from logo_edge_train.data.pairs.parts import Members, Sources


@dataclass(frozen=True)
class Pair:
    """Two SVG documents with the labels of their kind in KINDS; `sure` as in a manifest."""

    kind: str
    documents: tuple[str, str]
    sure: tuple[bool, bool]


def draw_pair(random: Random, sources: Sources, kind: str) -> Pair:
    """A random pair of the kind. Raises DatasetError for an unknown kind, an empty pool or a missing glyph."""
    if kind not in KINDS:
        raise DatasetError(f"no kind {kind!r} of drawn logos; expected one of {', '.join(KINDS)}")
    members, sure = KINDS[kind].draw(random, sources)
    margin = float(random.choice([0.0, 0.0, random.uniform(0.01, 0.06)]))
    return Pair(kind, (document(members[0], margin), document(members[1], margin)), sure)


@dataclass(frozen=True)
class Kind:
    """How a kind of pair is drawn, the labels of its two members, its frequency, and how the members may differ.

    `differs` is "colour" if both members cover the same pixels, else "drawing".
    """

    draw: Callable[[Random, Sources], Members]
    labels: tuple[str, str]
    weight: int
    differs: str = "drawing"


KINDS: dict[str, Kind] = {
    "fade-simple": Kind(fades.draw_fade_simple, ("gradient", "simple"), 5, "colour"),
    "fade-bands": Kind(fades.draw_fade_bands, ("gradient", "simple"), 3, "colour"),
    "fade-glyph": Kind(fades.draw_fade_glyph, ("gradient", "simple"), 1, "colour"),
    "fade-edge": Kind(fades.draw_fade_edge, ("gradient", "simple"), 2, "colour"),
    "fade-icon": Kind(fades.draw_fade_icon, ("gradient", "simple"), 2, "colour"),
    "fade-text": Kind(fades.draw_fade_text, ("gradient", "text"), 3, "colour"),
    "fade-lockup": Kind(fades.draw_fade_lockup, ("gradient", "text"), 2, "colour"),
    "fade-complex": Kind(fades.draw_fade_complex, ("gradient", "complex"), 2, "colour"),
    "glow": Kind(fades.draw_glow, ("gradient", "simple"), 1),
    "initials": Kind(letters.draw_initials, ("text", "simple"), 4),
    "initials-icon": Kind(letters.draw_initials_icon, ("text", "simple"), 3),
    "initials-size": Kind(letters.draw_initials_size, ("text", "simple"), 1),
    "word": Kind(letters.draw_word, ("text", "simple"), 2),
    "word-bars": Kind(letters.draw_word_bars, ("text", "simple"), 1),
    "lockup": Kind(letters.draw_lockup, ("text", "simple"), 3),
    "mosaic": Kind(intricate.draw_mosaic, ("complex", "simple"), 2),
    "figure": Kind(intricate.draw_figure, ("complex", "simple"), 4),
    "mascot": Kind(intricate.draw_mascot, ("complex", "simple"), 3),
    "crest": Kind(intricate.draw_crest, ("complex", "simple"), 2),
    "linework": Kind(intricate.draw_linework, ("complex", "simple"), 2),
    "collage": Kind(intricate.draw_collage, ("complex", "simple"), 1),
    "palette": Kind(intricate.draw_palette, ("complex", "simple"), 1, "colour"),
}
