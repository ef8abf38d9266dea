"""Classical measurements of a logo (OpenCV) that distinguish flat, lettered, shaded and intricate marks."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from logo_edge.images.load import load_image
from logo_edge.likeness.parts import LONG_SIDE_PX, SAME_COLOUR, ink_box, lay_on_paper
from logo_edge_train.data.manifest import LogoRow, Manifest
from logo_edge_train.data.processes import map_in_processes
from logo_edge_train.runs import write_json

EDGE_LEVELS = 24  # smallest step between neighbours that counts as an edge
MAX_COLOURS = 12
MIN_REGION_SHARE = 0.0006  # of the square canvas; smaller specks are resampling noise
MARGIN_SHARE = 0.02  # kept around the ink when an image is cut to it


@dataclass(frozen=True)
class LogoMeasurements:
    """Measurements of one logo, cut to its ink, at a long side of LONG_SIDE_PX; shares are 0 to 1.

    The ink is every pixel that differs from the background. `aspect_ratio` and `ink_share` are of its bounding box.
    `n_colours` counts flat colours of at least 1 % of the ink; `main_colour_share` is the share of the largest;
    `tone_count` counts the distinct colours away from edges (of 4096). `gradient_share` is the part of the ink with
    a smooth transition: no edge within 5 px, yet another colour 10 px on. `complexity` counts connected regions after
    colour quantisation, holes included. `edge_density` is the part of the canvas that is an edge, `detail` the part
    of the ink in structures finer than 5 px. `letters` is the length of the likeliest row of aligned components of
    similar height, `row_width` its part of the logo's width, `row_stroke` its stroke width over its height,
    `stroke_spread` the relative spread of its strokes; `text_likeness` puts them into one number of 0 to 8.
    `runs_across` and `runs_down` count the colour changes along an average row and column. `symmetry` is the part
    of the ink that its mirror image covers.
    """

    aspect_ratio: float
    ink_share: float
    n_colours: int
    main_colour_share: float
    tone_count: int
    gradient_share: float
    complexity: int
    edge_density: float
    detail: float
    letters: int
    row_width: float
    row_stroke: float
    stroke_spread: float
    text_likeness: float
    runs_across: float
    runs_down: float
    symmetry: float


def measure_logo(image: Image.Image) -> LogoMeasurements:
    """The measurements of an RGB or RGBA image (see `images.load_image`) on its background."""
    pixels, ink = lay_out(image)
    box = ink_box(ink)
    # smooths JPEG noise, which would look like a transition, and keeps steps between flat colours
    pixels = cv2.bilateralFilter(pixels, 7, 32, 2)
    edges = _local_range(pixels) > EDGE_LEVELS  # (H, W) bool
    calm = _erode(ink, 3) & ~edges
    colours, shares = _flat_colours(pixels, calm if calm.sum() >= 50 else ink)
    layers = _quantise(pixels, colours, ink)
    regions = [_components(layer) for layer in layers]
    row = _likeliest_row([_components(ink), *regions], box[1].stop - box[1].start)
    runs_across, runs_down = _count_runs(layers, ink)
    ink_area = max(int(ink.sum()), 1)
    return LogoMeasurements(
        aspect_ratio=float((box[1].stop - box[1].start) / (box[0].stop - box[0].start)),
        ink_share=float(ink[box].mean()),
        n_colours=int((shares >= 0.01).sum()),
        main_colour_share=float(shares.max(initial=0.0)),
        tone_count=_count_tones(pixels[calm]),
        gradient_share=float(_smooth_transitions(pixels, ink, edges).sum() / ink_area),
        complexity=sum(len(region.boxes) for region in regions),
        edge_density=float(edges.mean()),
        detail=float((ink & ~_open(ink, 5)).sum() / ink_area),
        letters=row.letters,
        row_width=row.width,
        row_stroke=row.stroke,
        stroke_spread=row.stroke_spread,
        text_likeness=row.likeness,
        runs_across=runs_across,
        runs_down=runs_down,
        symmetry=float((ink[box] & ink[box][:, ::-1]).sum() / ink_area),
    )


def measure_file(path: Path) -> LogoMeasurements:
    """The measurements of an image file. Raises ImageError if it cannot be read."""
    return measure_logo(load_image(path))


def lay_out(image: Image.Image, long_side_px: int = LONG_SIDE_PX) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 RGB on the background of the preprocessing, and the (H, W) bool mask of the ink.

    Empty margins are cut off down to MARGIN_SHARE, and the longer side is `long_side_px`.
    """
    pixels, ink = lay_on_paper(image, long_side_px)
    rows, columns = ink_box(ink)
    scale = max(image.size) / long_side_px
    margin = MARGIN_SHARE * max(rows.stop - rows.start, columns.stop - columns.start) + 1
    cut = (
        max(0, int((columns.start - margin) * scale)),
        max(0, int((rows.start - margin) * scale)),
        min(image.width, int((columns.stop + margin) * scale) + 1),
        min(image.height, int((rows.stop + margin) * scale) + 1),
    )
    if cut == (0, 0, *image.size):
        return pixels, ink
    return lay_on_paper(image.crop(cut), long_side_px)


class _Components(NamedTuple):
    boxes: np.ndarray  # (N, 4) left, top, width, height
    strokes: np.ndarray  # (N,) mean stroke width in pixels


class _Row(NamedTuple):
    letters: int = 0
    width: float = 0.0
    stroke: float = 0.0
    stroke_spread: float = 1.0
    likeness: float = 0.0


def _erode(mask: np.ndarray, side_px: int) -> np.ndarray:
    return cv2.erode(mask.astype(np.uint8), np.ones((side_px, side_px), np.uint8)) > 0


def _dilate(mask: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((height_px, width_px), np.uint8)) > 0


def _open(mask: np.ndarray, side_px: int) -> np.ndarray:
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side_px, side_px))
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disc) > 0


def _local_range(pixels: np.ndarray) -> np.ndarray:
    """Largest minus smallest level in the 3 x 3 px around each pixel, the largest over the channels."""
    square = np.ones((3, 3), np.uint8)
    return (cv2.dilate(pixels, square) - cv2.erode(pixels, square)).max(2)


def _smooth_transitions(pixels: np.ndarray, ink: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(H, W) bool: ink without an edge within 5 px across or down, whose colour changes over 10 px."""
    reach_px, change_levels = 5, 5
    smooth = cv2.blur(pixels, (3, 3)).astype(np.int16)
    barrier = edges | ~ink
    smooth_ink = np.zeros(ink.shape, bool)
    for axis, line in ((0, (2 * reach_px + 1, 1)), (1, (1, 2 * reach_px + 1))):
        change = np.abs(np.roll(smooth, -reach_px, axis) - np.roll(smooth, reach_px, axis)).max(2)
        smooth_ink |= ~_dilate(barrier, *line) & (change >= change_levels)
    smooth_ink = cv2.morphologyEx(
        smooth_ink.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)
    )  # noise is speckled
    # dilated by the reach, which has removed the rim of every shape
    return _dilate(smooth_ink, reach_px + 1, reach_px + 1) & ink


def _count_tones(values: np.ndarray) -> int:
    tones = (values >> 4).astype(np.int32) @ np.array([256, 16, 1])
    return int((np.bincount(tones, minlength=4096) >= max(4, 0.001 * len(tones))).sum())


def _flat_colours(pixels: np.ndarray, calm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K, 3) float32 colours, most common first, at least SAME_COLOUR apart; (K,) shares of the calm pixels."""
    values = pixels[calm].astype(np.int32)
    if not len(values):
        return np.zeros((0, 3), np.float32), np.zeros(0)
    bins, which = np.unique((values >> 4) @ np.array([256, 16, 1]), return_inverse=True)
    counts = np.bincount(which, minlength=len(bins))
    means = np.stack([np.bincount(which, values[:, c], len(bins)) for c in range(3)], 1) / counts[:, None]
    order = np.argsort(-counts, kind="stable")
    centres, shares = means[order[:1]], [0]
    for at in order:
        distance = np.linalg.norm(centres - means[at], axis=1)
        if distance.min() < SAME_COLOUR:
            shares[int(distance.argmin())] += counts[at]
        else:
            centres = np.vstack([centres, means[at]])
            shares.append(counts[at])
    order = np.argsort(-np.array(shares), kind="stable")[:MAX_COLOURS]
    return centres[order].astype(np.float32), np.array(shares)[order] / len(values)


def _quantise(pixels: np.ndarray, colours: np.ndarray, ink: np.ndarray) -> list[np.ndarray]:
    """One (H, W) bool mask per flat colour (each ink pixel has the nearest) and, last, the background's."""
    if not len(colours):
        return [~ink]
    levels = pixels.astype(np.float32)
    distance = [((levels - colour) ** 2).sum(2) for colour in colours]
    nearest = np.argmin(distance, axis=0)  # (H, W)
    return [*(ink & (nearest == k) for k in range(len(colours))), ~ink]


def _components(mask: np.ndarray) -> _Components:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= MIN_REGION_SHARE * LONG_SIDE_PX**2) + 1
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    depth = cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1]
    total = np.bincount(labels.ravel(), depth.ravel(), count)
    # the mean depth of a bar is a quarter of its width
    return _Components(stats[keep, :4], 4 * total[keep] / stats[keep, cv2.CC_STAT_AREA])


def _likeliest_row(candidates: list[_Components], logo_width_px: int) -> _Row:
    """The best row of letters among the components of any one colour."""
    rows = (
        _row_around(components, seed, logo_width_px)
        for components in candidates
        for seed in range(len(components.boxes))
    )
    return max(rows, key=lambda row: row.likeness, default=_Row())


def _row_around(components: _Components, seed: int, logo_width_px: int) -> _Row:
    left, top, width, height = components.boxes.T
    tall = height[seed]
    if tall < 5:
        return _Row()
    bottom, middle = top + height, top + height / 2
    alike = (height > 0.55 * tall) & (height < 1.8 * tall) & (width < 2.5 * tall)
    alike &= (np.abs(bottom - bottom[seed]) < 0.2 * tall) | (np.abs(middle - middle[seed]) < 0.15 * tall)
    members = np.flatnonzero(alike)
    members = members[np.argsort(left[members], kind="stable")]
    gaps = left[members][1:] - (left + width)[members][:-1]
    pieces = np.split(members, np.flatnonzero(gaps > 1.2 * tall) + 1)
    members = next((piece for piece in pieces if seed in piece), members[:0])
    if len(members) < 2:
        return _Row()
    span = (left + width)[members].max() - left[members].min()
    strokes, heights = components.strokes[members], height[members]
    stroke_spread = float(strokes.std() / strokes.mean())
    evenness = np.exp(-2 * stroke_spread - 2 * heights.std() / heights.mean())
    row_width = min(float(span / logo_width_px), 1.0)
    likeness = float(min(len(members), 8) * row_width * evenness)
    return _Row(len(members), row_width, float(strokes.mean() / tall), stroke_spread, likeness)


def _count_runs(layers: list[np.ndarray], ink: np.ndarray) -> tuple[float, float]:
    """Colour changes along the average row and column with ink."""
    if not ink.any():
        return 0.0, 0.0
    labels = np.argmax(layers, axis=0)  # (H, W)
    across = (np.diff(labels, axis=1) != 0).sum(1)[ink.any(1)]
    down = (np.diff(labels, axis=0) != 0).sum(0)[ink.any(0)]
    return float(across.mean()), float(down.mean())


def measure_rows(manifest: Manifest, rows: list[LogoRow], cache: Path) -> list[LogoMeasurements]:
    """Each row's measurements, from the JSON file `cache`; if some are missing there, all are measured and written."""
    names = [f"{row.package}/{row.icon}" for row in rows]
    known = json.loads(cache.read_text(encoding="utf-8")) if cache.exists() else {}
    if not known.keys() >= set(names):
        measured = map_in_processes(measure_file, manifest.image_paths(rows), title="Measuring train")
        known |= {name: asdict(measured_row) for name, measured_row in zip(names, measured, strict=True)}
        write_json(cache, known)
    return [LogoMeasurements(**known[name]) for name in names]
