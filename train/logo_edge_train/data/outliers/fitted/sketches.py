"""Drawings and writing by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from logo_edge_train.data.outliers.drawing import Random, colour_of, pick
from logo_edge_train.data.outliers.fitted.text import font_of, words, write
from logo_edge_train.data.outliers.packages import find_font


def draw_sketch(random: Random, index: int) -> Image.Image:
    """A scribble, a child's drawing of a house, trees and people, handwriting, or hatched shapes in pencil."""
    width, height = pick(random, ((640, 480), (560, 560)))
    paper = pick(random, ((255, 255, 255), (252, 250, 244), (238, 232, 216)))
    sheet = Image.new("RGB", (width, height), paper)
    pen, kind = ImageDraw.Draw(sheet), index % 4

    def stroke(points, fill, size: int) -> None:
        """A line by an unsteady hand through the points, filled in between."""
        points = np.array(points, float)
        dense = np.concatenate([np.linspace(a, b, 8, endpoint=False) for a, b in pairwise(points)] + [points[-1:]])
        noise = random.normal(0, size, (2, len(dense) + 6))
        wobble = np.stack([np.convolve(row, np.ones(7) / 4, "valid") for row in noise], 1)
        pen.line([tuple(point) for point in dense + wobble], fill=fill, width=size, joint="curve")

    def ring(x: float, y: float, size: float, fill, thick: int) -> None:
        angles = np.linspace(0, 2 * math.pi + 0.3, 16)
        stroke([(x + size * math.cos(a), y + size * math.sin(a)) for a in angles], fill, thick)

    size = int(random.integers(2, 7))
    colours = [colour_of(random, 0, 200) for _ in range(5)] if random.random() < 0.7 else [(60, 60, 64)] * 5
    if kind == 0:
        for _ in range(int(random.integers(1, 6))):
            walk = random.normal(0, 60, (int(random.integers(12, 50)), 2)).cumsum(0) * 0.5
            walk = walk + random.uniform(0.25, 0.75, 2) * (width, height)
            stroke(np.abs(walk) % (width, height), pick(random, colours), size)
    elif kind == 1:
        ground = height * random.uniform(0.65, 0.85)
        stroke([(0, ground), (width / 2, ground), (width, ground)], (70, 150, 60), size)
        for _ in range(int(random.integers(1, 3))):
            x, side = random.uniform(40, width - 200), random.uniform(80, 170)
            end, eaves = x + side, ground - side
            left, right, lintel = x + side * 0.4, x + side * 0.6, ground - side * 0.4
            stroke([(x, ground), (x, eaves), (end, eaves), (end, ground), (x, ground)], colours[0], size)
            stroke([(x - 10, eaves), (x + side / 2, ground - side * 1.6), (end + 10, eaves)], colours[1], size)
            stroke([(left, ground), (left, lintel), (right, lintel), (right, ground)], colours[2], size)
        for _ in range(int(random.integers(1, 5))):
            x, tall = random.uniform(30, width - 30), random.uniform(50, 110)
            hip, arms = (x, ground - tall * 0.3), ground - tall * 0.6
            ring(x, ground - tall, tall * 0.22, colours[3], size)
            stroke([(x, ground - tall * 0.8), hip, (x - tall * 0.2, ground)], colours[3], size)
            stroke([hip, (x + tall * 0.2, ground)], colours[3], size)
            stroke([(x - tall * 0.3, arms), (x + tall * 0.3, arms)], colours[3], size)
        ring(width * random.uniform(0.1, 0.9), 70, 36, (240, 190, 30), size)
    elif kind == 2:
        font = font_of(find_font("caveat"), int(random.integers(26, 52)))
        for y in range(30, height - 50, int(font.size * 1.1)):
            start, span = (30 + random.normal(0, 4), y + random.normal(0, 3)), (width - 60) * random.uniform(0.6, 1)
            write(pen, start, span, words(random, 9), font, colours[0])
        if random.random() < 0.5:
            ring(*random.uniform(100, 380, 2), random.uniform(40, 110), colours[1], size)
    else:
        for _ in range(int(random.integers(2, 6))):
            x, y, side = *random.uniform(60, 400, 2), random.uniform(50, 140)
            if random.random() < 0.5:
                ring(x, y, side, colours[0], 2)
            else:
                left, top, right, low = x - side, y - side, x + side, y + side
                stroke([(left, top), (right, top), (right, low), (left, low), (left, top)], colours[0], 2)
            for at in np.arange(-side, side, random.uniform(6, 14)):
                ends = [(x + at - side * 0.3, y + side * 0.6), (x + at + side * 0.3, y - side * 0.6)]
                stroke(ends, (120, 120, 124), 1)
    return sheet.filter(ImageFilter.GaussianBlur(float(random.uniform(0, 1))))
