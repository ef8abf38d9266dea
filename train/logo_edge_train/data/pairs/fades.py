"""Pairs of which one member has a gradient and the other does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from logo_edge.errors import DatasetError
from logo_edge_train.data.pairs.colours import (
    INK_BLACK,
    WHITE,
    Random,
    colour,
    distance,
    fade_colours,
    main_colour,
    mix,
)
from logo_edge_train.data.pairs.marks import (
    CANVAS,
    FULL,
    Layer,
    Mark,
    ellipse,
    flattened,
    flood,
    gradient,
    ink_of,
    join,
    merged,
    path,
    pixels_of,
    shrink,
    tiles,
)
from logo_edge_train.data.pairs.parts import (
    Members,
    Sources,
    badge,
    badge_shape,
    letter,
    lettered,
    pictogram,
    solid,
    wordmark,
)
from logo_edge_train.organize.features import measure_logo

PLAIN, SOFT = (0.2, 0.45), (0.07, 0.1)  # distances in Oklab of a fade's ends: obvious, visible only in comparison
PLAINLY = 0.25  # share of a mark's ink from which everybody calls a fade a gradient; the guide's limit is 0.15
FEW_REGIONS, FEW_COLOURS = 10, 5
BAND_STEP = 0.08  # least distance in Oklab between hard bands side by side


@dataclass(frozen=True)
class Fade:
    """Markup of a transition over a share of an ink: `smooth`, in hard bands (`banded`), or in one colour (`flat`)."""

    smooth: str
    banded: str
    flat: str


def draw_fade(random: Random, ink: np.ndarray, ends: tuple[str, str], share: float, forms: Sequence[str]) -> Fade:
    """A fade between two colours over exactly `share` of the ink, from one of its ends; the rest has the far colour.

    Its form is one of `forms`: `linear`, `radial`, `sheen` (there and back, like light on metal), and `mesh` (soft
    spots, whose share is not exact). The bands have the same colours at the same positions, in hard steps.
    """
    form = str(random.choice(list(forms)))
    rows, columns = np.nonzero(ink)
    points = (np.stack([columns, rows], 1) + 0.5) * CANVAS / len(ink)  # (N, 2)
    if form == "mesh":
        return _mesh(random, points, ends)
    low, high = (0.0, share) if random.random() < 0.5 else (1.0 - share, 1.0)
    if form == "sheen":
        tones = (*ends, ends[0]) if random.random() < 0.6 else (*ends, *ends)
        bands = 2 * len(tones) - 1
    else:
        tones, bands = ends, int(random.integers(2, max(2, int(distance(*ends) / BAND_STEP)) + 1))
    if form == "radial":
        centre = points[random.integers(len(points))] if random.random() < 0.5 else points.mean(0)
        begin, end = np.quantile(np.linalg.norm(points - centre, axis=1), [low, high])
        shape, offset, geometry = "radial", begin / end, _circle(centre, end)
    else:
        angle = np.radians(random.choice([0, 90, 45, 135, random.uniform(0, 180)]))
        along = np.array([np.cos(angle), np.sin(angle)])
        (x1, y1), (x2, y2) = (along * value for value in np.quantile(points @ along, [low, high]))
        shape, offset, geometry = "linear", 0.0, f'x1="{x1:.5g}" y1="{y1:.5g}" x2="{x2:.5g}" y2="{y2:.5g}"'
    scale = len(tones) - 1
    smooth = [(at / scale, tone) for at, tone in enumerate(tones)]
    banded = []
    for at in range(bands):
        middle = scale * at / (bands - 1)
        lower = min(int(middle), scale - 1)
        tone = mix(tones[lower], tones[lower + 1], middle - lower)
        banded += [(at / bands, tone), ((at + 1) / bands, tone)]
    drawn = (
        gradient(shape, geometry, [(offset + (1 - offset) * at, tone, 1) for at, tone in stops])
        for stops in (smooth, banded)
    )
    return Fade(*drawn, flood(str(random.choice([*ends, mix(*ends, 0.5)]))))


def _mesh(random: Random, points: np.ndarray, ends: tuple[str, str]) -> Fade:
    smooth = banded = flood(ends[0])
    extent = np.ptp(points, axis=0).max()
    third = colour(0.65, 0.17, random.uniform(0, 360))
    for at in range(int(random.integers(2, 5))):
        centre, tone = points[random.integers(len(points))], (ends[1], third)[at % 2]
        radius = extent * random.uniform(0.4, 0.75)
        smooth += gradient("radial", _circle(centre, radius), [(0, tone, 1), (1, tone, 0)])
        banded += f'<circle {_circle(centre, radius / 2)} fill="{tone}"/>'
    return Fade(smooth, banded, flood(ends[0]))


def _circle(centre: Sequence[float], radius: float) -> str:
    return f'cx="{centre[0]:.5g}" cy="{centre[1]:.5g}" r="{radius:.5g}"'


def fade_pair(random: Random, layers: Sequence[Layer], at: int, *, plain: float = 0.8, bands: bool = False) -> Members:
    """The layers with layer `at` in a fade over about half of it or more, and with it in a flat colour or hard bands.

    Without `bands`, a share 1 - `plain` of the fades is soft. Soft fades, and fades over less than PLAINLY of the ink,
    are not sure.
    """
    apart = PLAIN if random.random() < plain else SOFT
    seen, share = ink_of(layers[at][0]), random.uniform(0.45, 1.0)
    for mark, _ in layers[at + 1 :]:
        seen &= ~ink_of(mark)
    fades = share * seen.sum() / ink_of(join([mark for mark, _ in layers])).sum()
    forms = ("linear", "radial", "sheen") if bands else ("linear", "linear", "radial", "radial", "sheen", "mesh")
    ends = fade_colours(random, apart, [paint for index, (_, paint) in enumerate(layers) if index != at])
    fade = draw_fade(random, seen, ends, share, forms)
    smooth, other = (
        [*layers[:at], (layers[at][0], paint), *layers[at + 1 :]]
        for paint in (fade.smooth, fade.banded if bands else fade.flat)
    )
    return (smooth, other), (bool(apart == PLAIN and fades > PLAINLY), True)


def plain_layers(random: Random, sources: Sources) -> tuple[list[Layer], int]:
    """A simple logo, and which of its layers is the main one."""
    if random.random() < 0.45:
        return [(solid(random, sources), main_colour(random))], 0
    holder = badge(random, fades=True)
    glyph = pictogram(random, sources, 0.7) if random.random() < 0.7 else letter(random, sources)
    layers = holder.draw(glyph.into(shrink(holder.room, random.uniform(0.75, 1.05))))
    return layers, max(len(layers) - 2, 0)


def draw_fade_simple(random: Random, sources: Sources) -> Members:
    return fade_pair(random, *plain_layers(random, sources))


def draw_fade_bands(random: Random, sources: Sources) -> Members:
    return fade_pair(random, *plain_layers(random, sources), plain=1.0, bands=True)


def draw_fade_glyph(random: Random, sources: Sources) -> Members:
    """A flat badge whose whole glyph fades: the guide calls it a gradient, not sure if it is small."""
    shape, room = badge_shape(random)
    glyph = solid(random, sources).into(room)
    base = str(random.choice([INK_BLACK, colour(0.88, 0.03, random.uniform(0, 360))]))
    return fade_pair(random, [(shape, base), (glyph, WHITE)], 1, plain=1.0)


def draw_fade_text(random: Random, sources: Sources) -> Members:
    if random.random() < 0.5:
        return fade_pair(random, [(wordmark(random, sources), INK_BLACK)], 0)
    holder = badge(random, fades=True)
    letters = lettered(random, sources)
    layers = holder.draw(letters.into(holder.room))
    return fade_pair(random, layers, max(len(layers) - 2, 0))


def draw_fade_lockup(random: Random, sources: Sources) -> Members:
    """An icon that fades, or is flat, beside a flat word that is the larger part."""
    name, icon = wordmark(random, sources), sources.icon(random, "brand" if random.random() < 0.7 else "solid")
    aspect = name.box[2] / name.box[3]
    high = min(960 / (aspect * 0.6 + 1.2), 500)
    icon = icon.into((20, 400, high, high))
    name = name.into((20 + 1.2 * high, 400 + 0.2 * high, 2000, 0.6 * high), (0, 0.5))
    share = ink_of(icon).sum() / ink_of(join([icon, name])).sum()
    if name.box[2] < 1.1 * high or share < 0.2:
        return draw_fade_lockup(random, sources)
    return fade_pair(random, [(name, main_colour(random)), (icon, WHITE)], 1, plain=1.0)


def draw_fade_complex(random: Random, sources: Sources) -> Members:
    """A silhouette in a smooth fade, and in many hard facets of the same colours."""
    outline = solid(random, sources) if random.random() < 0.5 else badge_shape(random)[0]
    ends = fade_colours(random, (0.3, PLAIN[1]))
    fade = draw_fade(random, ink_of(outline), ends, 1.0, ("linear", "radial"))
    cells = tiles(random, int(random.integers(45, 110)), str(random.choice(["triangles", "voronoi", "squares"])))
    where = np.array([cell.mean(0) for cell in cells])
    tone = (where - where.min(0)).sum(1) / np.ptp(where, axis=0).sum() + random.normal(0, 0.28, len(cells))
    tones = [mix(*ends, float(share)) for share in np.clip(tone, 0, 1)]
    facets = [(path(cell), paint) for cell, paint in zip(cells, tones, strict=True)]
    ground = flood(mix(*ends, 0.5))  # under the seams
    return ([(outline, fade.smooth)], [(outline, ground + merged(facets, outline)[1])]), (True, True)


def draw_fade_edge(random: Random, sources: Sources) -> Members:
    """The same fade, just over and just under 15 % of the mark."""
    mark, ends = solid(random, sources), fade_colours(random, PLAIN)
    ink, seed = ink_of(mark), int(random.integers(2**32))
    over, under = (
        draw_fade(np.random.default_rng(seed), ink, ends, share, ("linear", "radial")).smooth
        for share in (random.uniform(0.18, 0.25), random.uniform(0.05, 0.11))
    )
    return ([(mark, over)], [(mark, under)]), (False, False)


def draw_fade_icon(random: Random, sources: Sources) -> Members:
    """An icon whose gradients are replaced by their mean colours."""
    for _ in range(50):
        shaded = sources.icon(random, "shaded").into(FULL)
        flat = flattened(shaded.markup)
        if flat == shaded.markup or "url(#" in flat.split("<defs>")[0]:
            continue
        one, other = pixels_of(shaded.markup), pixels_of(flat)
        changed = cv2.absdiff(one, other) > 8  # (S, S, 4)
        share = changed.any(2).sum() / max((one[:, :, 3] > 127).sum(), 1)
        seen = measure_logo(Image.fromarray(other))
        few = seen.complexity <= FEW_REGIONS and seen.n_colours <= FEW_COLOURS and seen.gradient_share < 0.02
        if changed[:, :, 3].mean() < 0.001 and share > 0.35 and few:
            return ([(shaded, WHITE)], [(Mark(flat, shaded.box), WHITE)]), (True, True)
    raise DatasetError(
        "of 50 icons of pool 'shaded' none has gradients over a flat drawing of few parts; expected some"
    )


def draw_glow(random: Random, sources: Sources) -> Members:
    """A mark on a disc that glows out, and on a hard disc."""
    tone, centre = colour(random.uniform(0.6, 0.8), 0.16, random.uniform(0, 360)), ellipse(500, 500, 490)
    stops = [(round(random.uniform(0.25, 0.5), 4), tone, 1), (1, tone, 0)]
    glow = gradient("radial", _circle((500, 500), 490), stops)
    mark = solid(random, sources).into((290, 290, 420, 420))
    paint = str(random.choice([INK_BLACK, mix(tone, "#000000", 0.6)]))
    return ([(centre, glow), (mark, paint)], [(centre, flood(tone)), (mark, paint)]), (True, True)
