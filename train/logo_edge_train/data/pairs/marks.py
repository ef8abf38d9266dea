"""Marks: shapes of drawn logos as SVG, on a canvas of CANVAS units that is cropped to the ink at the end."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

from logo_edge_train.data.icons import CURRENT_COLOUR, render_svg
from logo_edge_train.data.pairs.colours import WHITE, Random, mix

CANVAS = 1000
EDGE = 30  # units around the canvas that strokes may reach
INK_PX = 160  # side at which ink is measured
SILHOUETTE_PX = 640

Box = tuple[float, float, float, float]  # left, top, width, height
FULL: Box = (0, 0, CANVAS, CANVAS)
AREA = f'x="{-EDGE}" y="{-EDGE}" width="{CANVAS + 2 * EDGE}" height="{CANVAS + 2 * EDGE}"'


@dataclass(frozen=True)
class Mark:
    """SVG markup without colour of its own, and the box of its ink."""

    markup: str
    box: Box

    def into(self, box: Box, align: tuple[float, float] = (0.5, 0.5)) -> Mark:
        """The mark scaled to fit the box, its aspect kept; `align` distributes the free space, 0 to 1."""
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


Layer = tuple[Mark, str]  # with a colour, #rrggbb, or the markup that is visible through the mark


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
    """The mark's markup in a colour, or as a mask over the markup `paint`."""
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
    """The layers clipped by the outline, as one layer without seams between cells."""
    cell = '<g fill="{0}" stroke="{0}" color="{0}" stroke-width="2">{1}</g>'
    return outline, "".join(cell.format(paint, mark.markup) for mark, paint in layers)


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


def ellipse(x: float, y: float, across: float, down: float | None = None) -> Mark:
    """An ellipse around (x, y) with these radii; a disc without the second."""
    down = across if down is None else down
    markup = f'<ellipse cx="{x:.5g}" cy="{y:.5g}" rx="{across:.5g}" ry="{down:.5g}"/>'
    return Mark(markup, (x - across, y - down, 2 * across, 2 * down))


def rectangle(box: Box, *, radius: float = 0.0, stroke: float = 0.0) -> Mark:
    left, top, width, height = box
    style = f'fill="none" stroke="currentColor" stroke-width="{stroke:.4g}"' if stroke else ""
    shape = f'x="{left:.5g}" y="{top:.5g}" width="{width:.5g}" height="{height:.5g}" rx="{radius:.5g}"'
    return Mark(f"<rect {shape} {style}/>", (left - stroke / 2, top - stroke / 2, width + stroke, height + stroke))


def polar(angles: np.ndarray, radius: np.ndarray | float) -> np.ndarray:
    """(N, 2) points around the centre of the canvas, angles in radians."""
    return np.stack([np.cos(angles), np.sin(angles)], 1) * np.reshape(radius, (-1, 1)) + 500


def around(count: int, radius: float = 480, turn: float = -90.0) -> np.ndarray:
    """(N, 2) points on a circle, the first at the angle `turn` in degrees."""
    return polar(np.radians(turn + 360 * np.arange(count) / count), radius)


def turned(markup: str, degrees: float, x: float = 500, y: float = 500) -> str:
    """The markup, rotated about a point."""
    return f'<g transform="rotate({degrees:.5g} {x:.5g} {y:.5g})">{markup}</g>'


def gradient(shape: str, geometry: str, stops: Sequence[tuple[float, str, float]]) -> str:
    """The whole canvas in a `linear` or `radial` gradient; a stop is its offset, colour and opacity."""
    body = "".join(
        f'<stop offset="{at:.6g}" stop-color="{tone}" stop-opacity="{opacity}"/>' for at, tone, opacity in stops
    )
    name, shape = identifier(geometry + body), f"{shape}Gradient"
    head = f'<{shape} id="{name}" gradientUnits="userSpaceOnUse" {geometry}>'
    return f"{head}{body}</{shape}>" + flood(f"url(#{name})")


def tiles(random: Random, count: int, form: str) -> list[np.ndarray]:
    """About `count` polygons, (N, 2) points each, that cover the canvas."""
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
    """An icon as a mark, whose markup takes any colour."""
    left, top, width, height = map(float, re.search(r'viewBox="([^"]*)"', svg).group(1).split())
    body = svg[svg.index(">") + 1 : svg.rindex("</svg>")].replace(CURRENT_COLOUR, "currentColor")
    side = max(width, height)
    whole = Mark(body, (left, top, side, side)).into(FULL, (0, 0))
    return Mark(whole.markup, ink_box(whole.markup))


def flattened(markup: str) -> str:
    """The markup with each gradient replaced by its mean colour; filters are removed."""
    for name, body in re.findall(
        r'<(?:linear|radial)Gradient id="([^"]+)"[^>]*?(?:/>|>(.*?)</(?:linear|radial)Gradient>)', markup
    ):
        stops = [
            (re.search(r'stop-color="(#[0-9a-fA-F]{3,6})"', stop), re.search(r'stop-opacity="([\d.]+)"', stop))
            for stop in re.findall(r"<stop[^>]*>", body)
        ]
        tones = [stop.group(1) for stop, _ in stops if stop]
        if not tones:
            continue
        mean = tones[0]
        for at, tone in enumerate(tones[1:], start=2):
            mean = mix(mean, tone, 1 / at)
        opaque = all(float(faint.group(1)) == 1 for _, faint in stops if faint)
        markup = markup.replace(f'fill="url(#{name})"', f'fill="{mean if opaque else "none"}"')
    return re.sub(r'filter="url\([^)]*\)"', "", markup)


def pixels_of(markup: str, side_px: int = INK_PX) -> np.ndarray:
    """(S, S, 4) uint8: the rendered canvas."""
    size = f'width="{CANVAS}" height="{CANVAS}" viewBox="0 0 {CANVAS} {CANVAS}"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{markup}</svg>'
    with Image.open(io.BytesIO(render_svg(svg, longest_px=side_px)), formats=("PNG",)) as image:
        return np.asarray(image.convert("RGBA"))


@lru_cache(maxsize=256)
def ink_box(markup: str) -> Box:
    """The bounding box of the rendered markup; the whole canvas if nothing is drawn."""
    box = cv2.boundingRect((pixels_of(markup)[:, :, 3] > 8).astype(np.uint8))
    return tuple(CANVAS / INK_PX * value for value in box) if any(box) else FULL


def ink_of(mark: Mark) -> np.ndarray:
    """(S, S) bool: the pixels that the mark covers."""
    return pixels_of(coloured(mark, "#000000"))[:, :, 3] > 127


def silhouette(mark: Mark) -> Mark:
    """The outer outline of the mark's largest parts, with holes filled."""
    alpha = pixels_of(coloured(mark, WHITE), SILHOUETTE_PX)[:, :, 3]
    side = max(3, SILHOUETTE_PX // 16) | 1
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    framed = cv2.copyMakeBorder((alpha > 127).astype(np.uint8), side, side, side, side, cv2.BORDER_CONSTANT, value=0)
    closed = cv2.morphologyEx(framed, cv2.MORPH_CLOSE, brush)
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outlines = sorted(outlines, key=cv2.contourArea, reverse=True)
    parts = []
    for outline in outlines[:4]:
        if cv2.contourArea(outline) > 0.1 * cv2.contourArea(outlines[0]):
            points = outline[:, 0].astype(float)  # (N, 2)
            smooth = sum(np.roll(points, shift, 0) for shift in range(-3, 4)) / 7
            parts.append(path(((smooth - side) * (CANVAS / SILHOUETTE_PX))[::2]))
    return join(parts)


def document(layers: Sequence[Layer], margin: float = 0.0) -> str:
    """The layers as an SVG document, cropped to their ink with a margin in shares of the longer side."""
    markup = "".join(coloured(mark, paint) for mark, paint in layers)
    left, top, width, height = ink_box(markup)
    room = margin * max(width, height)
    box = left - room, top - room, width + 2 * room, height + 2 * room
    view = " ".join(f"{value:.5g}" for value in box)
    size = f'width="{box[2]:.5g}" height="{box[3]:.5g}" viewBox="{view}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{markup}</svg>'
