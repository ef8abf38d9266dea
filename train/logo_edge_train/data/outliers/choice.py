"""Drawn families for choices in compression, neither fitted nor used in the evaluation. OpenCV draws them."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from logo_edge_train.data.outliers.drawing import Random, colour_of

FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX)
LETTERS = list("aaabcdeeefghiiijklmnooopqrsttuuvwxyz    ")


def _text(random: Random, length: int) -> str:
    return "".join(random.choice(LETTERS, length))


def draw_letter(random: Random, index: int) -> Image.Image:
    """A page in the stroke letters of plotters."""
    paper = np.full((480, 360, 3), int(random.integers(225, 256)), np.uint8)
    font, scale, ink = FONTS[index % 4], random.uniform(0.35, 0.7), colour_of(random, 0, 90)
    for y in range(int(random.integers(30, 90)), int(random.integers(330, 470)), int(28 * scale) + 6):
        text = _text(random, int(random.integers(14, 19) / scale))
        cv2.putText(paper, text, (20, y), font, scale, ink, 1, cv2.LINE_AA)
    paper[:, 345:] = paper[0, 0]
    return Image.fromarray(paper)


def draw_gauges(random: Random, index: int) -> Image.Image:
    """A control panel: curves on grids, dials and lamps with stroke letters."""
    panel = np.full((330, 440, 3), colour_of(random, 0, 250), np.uint8)
    ink = (20, 20, 20) if panel[0, 0].mean() > 110 else (235, 235, 235)
    for row, column in np.ndindex(2, 3):
        x, y, paint = 15 + column * 142, 15 + row * 158, colour_of(random, 60, 256)
        cv2.rectangle(panel, (x, y), (x + 126, y + 130), ink, 1)
        cv2.putText(panel, _text(random, 9), (x + 4, y + 148), FONTS[1], 0.9, ink, 1, cv2.LINE_AA)
        if random.random() < 0.5:
            for at in range(1, 5):
                cv2.line(panel, (x, y + 26 * at), (x + 126, y + 26 * at), ink, 1)
            level = y + 65 + random.normal(0, 7, 40).cumsum().clip(-60, 60)
            curve = np.stack([np.linspace(x, x + 126, 40), level], 1).astype(np.int32)
            cv2.polylines(panel, [curve], False, paint, 2, cv2.LINE_AA)
        else:
            hub, turn = (x + 63, y + 75), np.radians(random.uniform(150, 390))
            tip = int(hub[0] + 44 * np.cos(turn)), int(hub[1] + 44 * np.sin(turn))
            cv2.ellipse(panel, hub, (50, 50), 0, 150, 390, ink, 2, cv2.LINE_AA)
            cv2.line(panel, hub, tip, paint, 3, cv2.LINE_AA)
    return Image.fromarray(panel)


def draw_ripples(random: Random, index: int) -> Image.Image:
    """Interference of round waves, or a chequered floor in perspective, alternately."""
    across, down = np.meshgrid(np.arange(300.0), np.arange(300.0))
    ends = np.array([colour_of(random), colour_of(random)], float)
    if index % 2:
        level = sum(
            np.sin(np.hypot(across - x, down - y) / random.uniform(3, 12))
            for x, y in random.uniform(-60, 360, (int(random.integers(2, 5)), 2))
        )
        level = (level - level.min()) / np.ptp(level)
    else:
        depth = 60 / (down + random.uniform(5, 40))
        level = ((np.floor((across - 150) * depth / random.uniform(4, 14)) + np.floor(depth * 40)) % 2).clip(0, 1)
    return Image.fromarray((ends[0] + level[..., None] * (ends[1] - ends[0])).astype(np.uint8))


def draw_specks(random: Random, index: int) -> Image.Image:
    """Cells under a microscope or stars: blurred specks over an uneven, noisy ground."""
    ground = cv2.resize(random.normal(0, 20, (4, 4, 3)).astype(np.float32), (300, 300), interpolation=cv2.INTER_CUBIC)
    picture = ground + np.array(colour_of(random, 0, 240), np.float32)
    for _ in range(int(random.integers(20, 200))):
        x, y, size = (int(value) for value in random.integers((0, 0, 1), (300, 300, 16)))
        radii, degrees = (size, max(1, int(size * random.uniform(0.5, 1)))), float(random.uniform(0, 180))
        cv2.ellipse(picture, (x, y), radii, degrees, 0, 360, colour_of(random), -1)
    blurred = cv2.GaussianBlur(picture, (0, 0), float(random.uniform(0.6, 3)))
    picture = blurred + random.normal(0, random.uniform(2, 18), picture.shape)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))
