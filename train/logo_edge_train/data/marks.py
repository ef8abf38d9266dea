"""What drawn logos are made of, as SVG: marks, colours, fades and lettering.

A mark is drawn on a canvas of CANVAS units and cut to its ink at the end. Distances of colours are in Oklab (Ottosson
2020, "A perceptual color space for image processing").
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from logo_edge.errors import DatasetError
from logo_edge_train.data.icons import CURRENT_COLOUR, render_svg

CANVAS = 1000
EDGE = 30  # units around the canvas that strokes may reach
INK_PX = 160  # side at which ink is measured
SILHOUETTE_PX = 640
WHITE, INK_BLACK = "#ffffff", CURRENT_COLOUR
CONTRAST = 0.2  # of lightness in Oklab, from which a glyph is read on its badge
BAND_STEP = 0.08  # least distance in Oklab between hard bands side by side

Random = np.random.Generator
Box = tuple[float, float, float, float]  # left, top, width, height
FULL: Box = (0, 0, CANVAS, CANVAS)
AREA = f'x="{-EDGE}" y="{-EDGE}" width="{CANVAS + 2 * EDGE}" height="{CANVAS + 2 * EDGE}"'


@dataclass(frozen=True)
class Mark:
    """SVG markup without colour of its own, and the box of its ink."""

    markup: str
    box: Box

    def into(self, box: Box, align: tuple[float, float] = (0.5, 0.5)) -> Mark:
        """The mark as large as the box holds it, its aspect kept; `align` shares the room that is left."""
        left, top, width, height = self.box
        scale = min(box[2] / width, box[3] / height)
        x = box[0] + align[0] * (box[2] - scale * width)
        y = box[1] + align[1] * (box[3] - scale * height)
        move = f"translate({x - scale * left:.6g} {y - scale * top:.6g}) scale({scale:.6g})"
        return Mark(f'<g transform="{move}">{self.markup}</g>', (x, y, scale * width, scale * height))

    def slanted(self, degrees: float) -> Mark:
        left, top, width, height = self.box
        shift = np.tan(np.radians(degrees))
        markup = f'<g transform="skewX({-degrees:.6g})">{self.markup}</g>'
        return Mark(markup, (left - shift * (top + height), top, width + shift * height, height))


Layer = tuple[Mark, str]  # with a colour, #rrggbb, or the markup that is seen through the mark


def colour(lightness: float, chroma: float, hue: float) -> str:
    """#rrggbb of an OKLCH colour, hue in degrees, with as much of its chroma as sRGB holds."""
    for keep in np.linspace(1, 0, 11):
        a, b = keep * chroma * np.cos(np.radians(hue)), keep * chroma * np.sin(np.radians(hue))
        cone = np.array(
            [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
        )
        rgb = (
            np.array(
                [
                    [4.0767416621, -3.3077115913, 0.2309699292],
                    [-1.2684380046, 2.6097574011, -0.3413193965],
                    [-0.0041960863, -0.7034186147, 1.7076147010],
                ]
            )
            @ (cone @ [lightness, a, b]) ** 3
        )
        if rgb.min() > -0.002 and rgb.max() < 1.002:
            break
    rgb = np.clip(rgb, 0, 1)
    levels = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{round(255 * float(level)):02x}" for level in levels)


def oklab(text: str) -> np.ndarray:
    """(3,) Oklab coordinates of #rrggbb."""
    levels = np.array([int(text[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    rgb = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    cone = (
        np.array(
            [
                [0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005],
            ]
        )
        @ rgb
    )
    return np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    ) @ np.cbrt(cone)


def distance(one: str, other: str) -> float:
    return float(np.linalg.norm(oklab(one) - oklab(other)))


def fade_colours(random: Random, apart: tuple[float, float], others: Sequence[str] = ()) -> tuple[str, str]:
    """The two ends of a fade, whose distance in Oklab lies within `apart`; both are seen beside the `others` if need be."""
    for attempt in range(4000):
        hue, first = random.uniform(0, 360), random.uniform(0.35, 0.75)
        turn = random.choice([0, 20, 60, 110, 180]) * random.choice([-1, 1]) if apart[1] > 0.2 else 0
        second = np.clip(first + random.uniform(-0.45, 0.45), 0.3, 0.8)
        chroma = random.choice([0.02, 0.14, 0.2], p=[0.15, 0.45, 0.4])
        ends = colour(first, chroma, hue), colour(second, chroma, hue + turn)
        seen = attempt > 2000 or all(
            abs(oklab(end)[0] - oklab(other)[0]) > CONTRAST for end in ends for other in others
        )
        if seen and apart[0] <= distance(*ends) <= apart[1]:
            return ends
    raise AssertionError(f"no colours {apart} apart")


def mix(one: str, other: str, share: float) -> str:
    levels = [round((1 - share) * int(one[at : at + 2], 16) + share * int(other[at : at + 2], 16)) for at in (1, 3, 5)]
    return "#" + "".join(f"{level:02x}" for level in levels)


def identifier(text: str) -> str:
    return f"i{zlib.crc32(text.encode()):08x}"


def flood(paint: str) -> str:
    """The whole canvas in one colour or with `url(#...)`."""
    return f'<rect {AREA} fill="{paint}"/>'


def mask(markup: str, content: str) -> str:
    """The content where the markup is white."""
    name = identifier(markup)
    return f'<mask id="{name}" maskUnits="userSpaceOnUse" {AREA}>{markup}</mask><g mask="url(#{name})">{content}</g>'


def coloured(mark: Mark, paint: str) -> str:
    """The mark's markup in a colour, or with the markup `paint` seen through it."""
    if paint.startswith("#"):
        return f'<g fill="{paint}" color="{paint}">{mark.markup}</g>'
    return mask(coloured(mark, WHITE), paint)


def cut(mark: Mark, *holes: Mark) -> Mark:
    """The mark with holes in it."""
    content = flood(WHITE) + "".join(coloured(hole, "#000000") for hole in holes)
    return Mark(mask(content, mark.markup), mark.box)


def clipped(mark: Mark, outline: Mark) -> Mark:
    """The part of the mark that lies within the outline."""
    return Mark(mask(coloured(outline, WHITE), mark.markup), outline.box)


def join(marks: Sequence[Mark]) -> Mark:
    """The marks as one."""
    left, top = (min(mark.box[axis] for mark in marks) for axis in (0, 1))
    right, bottom = (max(mark.box[axis] + mark.box[axis + 2] for mark in marks) for axis in (0, 1))
    return Mark("".join(mark.markup for mark in marks), (left, top, right - left, bottom - top))


def merged(layers: Sequence[Layer], outline: Mark) -> Layer:
    """The layers seen through the outline, as one layer: no seam shows between cells."""
    content = "".join(
        f'<g fill="{paint}" stroke="{paint}" color="{paint}" stroke-width="2">{mark.markup}</g>'
        for mark, paint in layers
    )
    return outline, content


def thick(mark: Mark, width: float) -> Mark:
    """The mark with a rim around it."""
    left, top, wide, high = mark.box
    style = f'stroke="currentColor" stroke-width="{2 * width:.4g}" stroke-linejoin="round"'
    return Mark(f"<g {style}>{mark.markup}</g>", (left - width, top - width, wide + 2 * width, high + 2 * width))


def shrink(box: Box, share: float) -> Box:
    """The box with its sides at this share, around its centre."""
    left, top, width, height = box
    return left + (1 - share) / 2 * width, top + (1 - share) / 2 * height, share * width, share * height


def path(points: np.ndarray, *, closed: bool = True, stroke: float = 0.0) -> Mark:
    """A polygon of (N, 2) points, or, with a stroke's width, a line."""
    points = np.asarray(points, float)
    data = "M" + "L".join(f"{x:.5g} {y:.5g}" for x, y in points) + ("Z" if closed else "")
    style = (
        f'fill="none" stroke="currentColor" stroke-width="{stroke:.4g}" stroke-linecap="round" stroke-linejoin="round"'
    )
    low, high = points.min(0) - stroke / 2, points.max(0) + stroke / 2
    return Mark(f'<path d="{data}" {style if stroke else ""}/>', (*low, *(high - low)))


def ellipse(x: float, y: float, across: float, down: float | None = None, *, stroke: float = 0.0) -> Mark:
    """An ellipse around (x, y) with these radii, or its outline."""
    down = across if down is None else down
    style = f'fill="none" stroke="currentColor" stroke-width="{stroke:.4g}"' if stroke else ""
    markup = f'<ellipse cx="{x:.5g}" cy="{y:.5g}" rx="{across:.5g}" ry="{down:.5g}" {style}/>'
    return Mark(markup, (x - across - stroke / 2, y - down - stroke / 2, 2 * across + stroke, 2 * down + stroke))


def rectangle(box: Box, *, radius: float = 0.0, stroke: float = 0.0) -> Mark:
    left, top, width, height = box
    style = f'fill="none" stroke="currentColor" stroke-width="{stroke:.4g}"' if stroke else ""
    shape = f'x="{left:.5g}" y="{top:.5g}" width="{width:.5g}" height="{height:.5g}" rx="{radius:.5g}"'
    return Mark(f"<rect {shape} {style}/>", (left - stroke / 2, top - stroke / 2, width + stroke, height + stroke))


def around(
    count: int, radius: float = 480, turn: float = -90.0, centre: tuple[float, float] = (500, 500)
) -> np.ndarray:
    """(N, 2) points on a circle, the first at the angle `turn` in degrees."""
    angles = np.radians(turn + 360 * np.arange(count) / count)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radius + centre


def tiles(random: Random, count: int, form: str) -> list[np.ndarray]:
    """About `count` polygons, (N, 2) each, that cover the canvas."""
    from scipy.spatial import Delaunay, Voronoi

    side = max(2, round(np.sqrt(count / (2 if form == "triangles" else 1))))
    step = CANVAS / side
    grid = np.stack(np.meshgrid(np.arange(-1, side + 1), np.arange(-1, side + 1)), -1).reshape(-1, 2) * step + step / 2
    if form == "squares":
        corner = step / 2 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        return [point + corner for point in grid]
    points = grid + random.uniform(-0.42, 0.42, grid.shape) * step
    if form == "triangles":
        return [points[corners] for corners in Delaunay(points).simplices]
    cells = Voronoi(np.concatenate([points, around(24, 3 * CANVAS)]))
    return [
        cells.vertices[region]
        for at in range(len(points))
        if -1 not in (region := cells.regions[cells.point_region[at]]) and region
    ]


def mark_of(svg: str) -> Mark:
    """An icon as a mark: its markup takes the colour that it gets."""
    left, top, width, height = map(float, re.search(r'viewBox="([^"]*)"', svg).group(1).split())
    body = svg[svg.index(">") + 1 : svg.rindex("</svg>")].replace(CURRENT_COLOUR, "currentColor")
    side = max(width, height)
    whole = Mark(body, (left, top, side, side)).into(FULL, (0, 0))
    return Mark(whole.markup, ink_box(whole.markup))


def flattened(markup: str) -> str:
    """The markup with every gradient's mean colour in its place; filters are left out."""
    for name, body in re.findall(
        r'<(?:linear|radial)Gradient id="([^"]+)"[^>]*?(?:/>|>(.*?)</(?:linear|radial)Gradient>)', markup
    ):
        stops = [
            (re.search(r'stop-color="(#[0-9a-fA-F]{3,6})"', stop), re.search(r'stop-opacity="([\d.]+)"', stop))
            for stop in re.findall(r"<stop[^>]*>", body)
        ]
        tones = [_six(found.group(1)) for found, _ in stops if found]
        if not tones:
            continue
        opacity = np.mean([float(faint.group(1)) if faint else 1.0 for _, faint in stops])
        mean = tones[0]
        for at, tone in enumerate(tones[1:], start=2):
            mean = mix(mean, tone, 1 / at)
        plain = f'fill="{mean}"' if opacity == 1 else 'fill="none"'
        markup = markup.replace(f'fill="url(#{name})"', plain)
    return re.sub(r'filter="url\([^)]*\)"', "", markup)


def _six(text: str) -> str:
    return text if len(text) == 7 else "#" + "".join(2 * digit for digit in text[1:4])


def pixels_of(markup: str, side_px: int = INK_PX) -> np.ndarray:
    """(S, S, 4) uint8: the canvas with the markup."""
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="{CANVAS}" height="{CANVAS}" viewBox="0 0 {CANVAS} {CANVAS}">{markup}</svg>'
    with Image.open(io.BytesIO(render_svg(svg, longest_px=side_px)), formats=("PNG",)) as image:
        return np.asarray(image.convert("RGBA"))


@lru_cache(maxsize=256)
def ink_box(markup: str) -> Box:
    """The box of what the markup covers of the canvas; all of the canvas where it covers nothing."""
    covered = pixels_of(markup)[:, :, 3] > 8
    if not covered.any():
        return FULL
    rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
    unit = CANVAS / INK_PX
    box = columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]
    return tuple(float(unit * value) for value in box)


def ink_of(mark: Mark) -> np.ndarray:
    """(S, S) bool: the canvas that the mark covers."""
    return pixels_of(coloured(mark, "#000000"))[:, :, 3] > 127


def silhouette(mark: Mark) -> Mark:
    """The outer outline of the mark's largest parts, its holes filled."""
    alpha = pixels_of(coloured(mark, WHITE), SILHOUETTE_PX)[:, :, 3]
    side = max(3, SILHOUETTE_PX // 16) | 1
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    framed = cv2.copyMakeBorder((alpha > 127).astype(np.uint8), side, side, side, side, cv2.BORDER_CONSTANT, value=0)
    closed = cv2.morphologyEx(framed, cv2.MORPH_CLOSE, brush)
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outlines = sorted(outlines, key=cv2.contourArea, reverse=True)
    kept = [outline for outline in outlines[:4] if cv2.contourArea(outline) > 0.1 * cv2.contourArea(outlines[0])]
    unit = CANVAS / SILHOUETTE_PX
    parts = []
    for outline in kept:
        points = outline[:, 0].astype(float)  # (N, 2)
        smooth = sum(np.roll(points, shift, 0) for shift in range(-3, 4)) / 7
        parts.append(path(((smooth - side) * unit)[::2]))
    return join(parts)


def document(layers: Sequence[Layer], margin: float = 0.0) -> str:
    """The layers as an SVG document, cut to their ink with a margin in shares of the longer side."""
    markup = "".join(coloured(mark, paint) for mark, paint in layers)
    left, top, width, height = ink_box(markup)
    room = margin * max(width, height)
    box = left - room, top - room, width + 2 * room, height + 2 * room
    size = " ".join(f"{value:.5g}" for value in box)
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{box[2]:.5g}" height="{box[3]:.5g}" viewBox="{size}">{markup}</svg>'


@dataclass(frozen=True)
class Fade:
    """A transition over a share of an ink: `smooth` and `banded` are what is seen through the mark, `flat` a colour of it."""

    smooth: str
    banded: str
    flat: str


def draw_fade(
    random: Random,
    ink: np.ndarray,
    ends: tuple[str, str],
    share: float,
    forms: Sequence[str] = ("linear", "radial", "sheen", "mesh"),
) -> Fade:
    """A fade between two colours over exactly `share` of the ink, from one end of it on; the rest has the far colour.

    The form is one of `linear`, `radial`, `sheen` (light on metal: there and back), and `mesh` (soft blots of colours,
    whose share is not exact). The bands are the same colours at the same places, in hard steps.
    """
    form = str(random.choice(list(forms)))
    rows, columns = np.nonzero(ink)
    points = (np.stack([columns, rows], 1) + 0.5) * CANVAS / len(ink)  # (N, 2)
    if form == "mesh":
        return _mesh(random, points, ends)
    low, high = (0.0, share) if random.random() < 0.5 else (1.0 - share, 1.0)
    tones = ends
    if form == "sheen":
        tones = (ends[0], ends[1], ends[0]) if random.random() < 0.6 else (*ends, *ends)
    most = max(2, int(distance(*ends) / BAND_STEP))
    bands = int(random.integers(2, most + 1)) if form != "sheen" else 2 * len(tones) - 1
    if form == "radial":
        centre = points[random.integers(len(points))] if random.random() < 0.5 else points.mean(0)
        begin, end = np.quantile(np.linalg.norm(points - centre, axis=1), [low, high])
        geometry = f'<radialGradient {{}} cx="{centre[0]:.5g}" cy="{centre[1]:.5g}" r="{end:.5g}"'
        offset, kind = begin / end, "radialGradient"
    else:
        angle = np.radians(random.choice([0, 90, 45, 135, random.uniform(0, 180)]))
        along = np.array([np.cos(angle), np.sin(angle)])
        (x1, y1), (x2, y2) = (along * value for value in np.quantile(points @ along, [low, high]))
        geometry = f'<linearGradient {{}} x1="{x1:.5g}" y1="{y1:.5g}" x2="{x2:.5g}" y2="{y2:.5g}"'
        offset, kind = 0.0, "linearGradient"
    scale = len(tones) - 1
    smooth = [(at / scale, tone) for at, tone in enumerate(tones)]
    banded = []
    for at in range(bands):
        middle = scale * at / max(bands - 1, 1)
        lower = min(int(middle), scale - 1)
        tone = mix(tones[lower], tones[lower + 1], middle - lower)
        banded += [(at / bands, tone), ((at + 1) / bands, tone)]

    def flooded(stops: list[tuple[float, str]]) -> str:
        body = "".join(f'<stop offset="{offset + (1 - offset) * at:.6g}" stop-color="{tone}"/>' for at, tone in stops)
        name = identifier(geometry + body)
        return (
            f'{geometry.format(f"id={chr(34)}{name}{chr(34)}")} gradientUnits="userSpaceOnUse">{body}</{kind}>'
            + flood(f"url(#{name})")
        )

    return Fade(flooded(smooth), flooded(banded), flood(str(random.choice([*ends, mix(*ends, 0.5)]))))


def _mesh(random: Random, points: np.ndarray, ends: tuple[str, str]) -> Fade:
    smooth = banded = flood(ends[0])
    extent = np.ptp(points, axis=0).max()
    third = colour(0.65, 0.17, random.uniform(0, 360))
    for at in range(int(random.integers(2, 5))):
        centre, tone = points[random.integers(len(points))], (ends[1], third)[at % 2]
        radius = extent * random.uniform(0.4, 0.75)
        name = identifier(f"{centre}{radius}{tone}")
        smooth += (
            f'<radialGradient id="{name}" gradientUnits="userSpaceOnUse" cx="{centre[0]:.5g}" cy="{centre[1]:.5g}" r="{radius:.5g}">'
            f'<stop offset="0" stop-color="{tone}"/><stop offset="1" stop-color="{tone}" stop-opacity="0"/></radialGradient>'
        ) + flood(f"url(#{name})")
        banded += f'<circle cx="{centre[0]:.5g}" cy="{centre[1]:.5g}" r="{radius / 2:.5g}" fill="{tone}"/>'
    return Fade(smooth, banded, flood(ends[0]))


@lru_cache(maxsize=32)
def _open_font(file: str):
    from fontTools.ttLib import TTFont, TTLibError

    try:
        font = TTFont(file)
        return font.getGlyphSet(), font.getBestCmap()
    except (OSError, TTLibError) as error:
        raise DatasetError(
            f"font {file}: {error}; expected a TrueType, OpenType or WOFF file. Delete its package's folder, and run it again"
        ) from error


def family_of(font: str) -> str:
    """`montserrat` of .../montserrat-latin-700-normal.woff."""
    return Path(font).name.split("-latin-")[0]


def glyphs(font: str, text: str, spacing: float = 0.0) -> list[Mark]:
    """A mark for each letter but blanks, side by side on one line, 1000 units an em or as the font has it; `spacing` in ems.

    Raises DatasetError where the font cannot be read or lacks a letter.
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
