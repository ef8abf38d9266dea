"""The ink of a drawing, and its two parts on either side of the widest gap, such as a mark and a name."""

from __future__ import annotations

import numpy as np
from PIL import Image

from logo_edge.preprocess import InputContract, composite, letterboxed_size, resize

LONG_SIDE_PX = 160
PAPER_LUMINANCE = 225.0  # an opaque image with a plain, lighter border is a logo on paper
SAME_COLOUR = 30.0  # largest distance in RGB levels between pixels of one flat colour
MIN_GAP = 0.02  # of the longer side; a narrower gap does not separate parts


def split_drawing(image: Image.Image) -> tuple[Image.Image, Image.Image, Image.Image]:
    """The image and the parts on either side of its widest gap; three times the image where there is no gap.

    A gap is an empty band across the box of the ink, either way, at least MIN_GAP of the box's longer side.
    """
    _, ink = lay_on_paper(image, max(image.size))
    down, across = ink_box(ink)
    ink, best = ink[down, across], (MIN_GAP * max(ink[down, across].shape), 0, 0, 0)
    for axis in range(2):
        used = np.flatnonzero(ink.any(1 - axis))
        gaps = np.diff(used) - 1
        if len(gaps) and gaps.max() >= best[0]:
            at = int(gaps.argmax())
            best = (gaps[at], axis, int(used[at]) + 1, int(used[at + 1]))
    _, axis, end, start = best
    if not end:
        return image, image, image
    parts = []
    for band in (slice(0, end), slice(start, None)):
        rows, columns = ink_box(ink[band] if axis == 0 else ink[:, band])
        top, left = down.start + rows.start, across.start + columns.start
        if band.start:
            top, left = (top + start, left) if axis == 0 else (top, left + start)
        parts.append(image.crop((left, top, left + columns.stop - columns.start, top + rows.stop - rows.start)))
    return image, *parts


def lay_on_paper(image: Image.Image, long_side_px: int = LONG_SIDE_PX) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 RGB on the preprocessing's background or the image's own, and the (H, W) bool mask of the ink."""
    size = letterboxed_size(image.size, long_side_px)
    if image.mode == "RGBA" and image.getextrema()[3][0] < 128:
        small = np.asarray(resize(image.convert("RGBa"), size))
        return composite(small, InputContract())[0], small[:, :, 3] > 127
    pixels = np.array(resize(image.convert("RGB"), size))
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).astype(np.float32)  # (2W + 2H, 3)
    paper = np.median(border, axis=0)
    on_paper = paper.mean() > PAPER_LUMINANCE and (np.abs(border - paper).max(1) < SAME_COLOUR).mean() > 0.7
    if not on_paper:
        return pixels, np.ones(pixels.shape[:2], bool)
    return pixels, np.abs(pixels - paper).max(2) > SAME_COLOUR


def ink_box(ink: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns that the ink spans; the whole canvas where there is none."""
    if not ink.any():
        return slice(0, ink.shape[0]), slice(0, ink.shape[1])
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
