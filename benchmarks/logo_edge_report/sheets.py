"""Image sheets: many thumbnails in one WebP data URI, each shown through its own window beside its text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from logo_edge.pages import image_uri
from logo_edge.preprocess import InputContract, preprocess
from logo_edge_report.page import THUMBNAIL_PX, Cell, Sheet

COLUMNS = 8  # of tiles in the sheet's image


def make_sheet(pictures: Sequence[Sequence[np.ndarray]], texts: Sequence[str], notes: Sequence[str]) -> Sheet:
    """A sheet with one cell per entry of `pictures`: one or more (96, 96, 3) uint8 tiles side by side."""
    tiles = [tile for cell in pictures for tile in cell]
    columns = min(COLUMNS, max(1, len(tiles)))
    rows = -(-len(tiles) // columns)
    paper = np.full((max(1, rows) * THUMBNAIL_PX, columns * THUMBNAIL_PX, 3), 255, np.uint8)
    cells, position = [], 0
    for cell, text, note in zip(pictures, texts, notes, strict=True):
        tiles_at = [divmod(position + offset, columns)[::-1] for offset in range(len(cell))]
        for (column, row), tile in zip(tiles_at, cell, strict=True):
            top, left = row * THUMBNAIL_PX, column * THUMBNAIL_PX
            paper[top : top + THUMBNAIL_PX, left : left + THUMBNAIL_PX] = tile
        cells.append(Cell(tuple(tiles_at), text, note))
        position += len(cell)
    return Sheet(image_uri(paper), columns, max(1, rows), tuple(cells))


def thumbnail(image: Image.Image) -> np.ndarray:
    """(96, 96, 3) uint8: the image, letterboxed on the runtime's background."""
    return preprocess(image, InputContract(THUMBNAIL_PX))
