"""Pages of text, and scans of receipts, forms, calendars and letters."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from logo_edge_train.data.outliers.drawing import Random, colour_of, pick
from logo_edge_train.data.outliers.fitted.text import (
    DARK,
    LATIN,
    LIGHT,
    MONO,
    SCRIPTS,
    font_of,
    latin,
    words,
    write,
    write_lines,
)
from logo_edge_train.data.outliers.packages import draw_any_scene, find_font, letters_of


def draw_page(random: Random, index: int) -> Image.Image:
    """A page of running text in many fonts and scripts: one to three columns, headings, figures."""
    width, height = pick(random, ((620, 880), (620, 880), (880, 620), (700, 700), (640, 400)))
    paper, ink = (255, 255, 255), tuple([int(random.integers(0, 90))] * 3)
    if random.random() < 0.3:
        paper, ink = pick(random, LIGHT), colour_of(random, 0, 90)
    if random.random() < 0.1:
        paper, ink = pick(random, DARK), (225, 225, 220)
    page = Image.new("RGB", (width, height), paper)
    pen, size, letters = ImageDraw.Draw(page), int(random.integers(10, 26)), ""
    if index % 3 == 2:
        path = find_font(*pick(random, SCRIPTS))
        font, title, letters = font_of(path, size), font_of(path, int(size * 1.8)), letters_of(path)
    else:
        font, title = latin(random, size), latin(random, int(size * random.uniform(1.4, 2.6)))
    margin = int(random.uniform(0.02, 0.13) * width)
    top = margin
    if random.random() < 0.55:
        write(pen, (margin, top), width - 2 * margin, words(random, int(random.integers(2, 7)), letters), title, ink)
        top += int(title.size * 1.8)
    columns = int(pick(random, (1, 1, 2, 2, 3)))
    gap, leading = size * 1.5, random.uniform(1.15, 1.9)
    column = (width - 2 * margin - gap * (columns - 1)) / columns
    for number in range(columns):
        left, start = margin + number * (column + gap), top
        if random.random() < 0.25:
            box = (int(left), int(start), int(left + column), int(start + column * random.uniform(0.4, 0.8)))
            if random.random() < 0.5:
                page.paste(draw_any_scene(random).resize((box[2] - box[0], box[3] - box[1])), box[:2])
            else:
                pen.rectangle(box, outline=ink, fill=colour_of(random, 190))
            start = box[3] + size
        bottom = height - margin if random.random() < 0.8 else height * random.uniform(0.5, 0.9)
        write_lines(pen, (left, start, left + column, bottom), random, font, ink, letters=letters, leading=leading)
    return page


def draw_scan(random: Random, index: int) -> Image.Image:
    """A scanned receipt, form, calendar or typed letter: tilted, shaded, noisy."""
    kind = index % 4
    width, height = ((300, 760), (640, 820), (760, 600), (640, 820))[kind]
    page = Image.new("L", (width, height), int(random.integers(225, 256)))
    pen, size, ink = ImageDraw.Draw(page), int(random.integers(13, 20)), int(random.integers(10, 80))
    font = latin(random, size, MONO if kind in (0, 3) else LATIN)
    if kind == 0:
        big = latin(random, 26, MONO)
        pen.text((width / 2, 40), words(random, 1).upper(), font=big, fill=ink, anchor="mm")
        for at in (80, 100):
            pen.text((width / 2, at), words(random, 3), font=font, fill=ink, anchor="mm")
        for y in range(140, int(random.integers(400, 620)), size + 8):
            write(pen, (18, y), 180, words(random, 2), font, ink)
            pen.text((width - 18, y), f"{random.uniform(0.5, 90):.2f}", font=font, fill=ink, anchor="ra")
        pen.line((18, 630, width - 18, 630), fill=ink)
        pen.text((width - 18, 645), f"{random.uniform(20, 300):.2f}", font=big, fill=ink, anchor="ra")
        for x in range(40, width - 40, 3):
            pen.rectangle((x, 690, x + int(random.integers(0, 3)), 740), fill=ink)
    elif kind == 1:
        pen.text((40, 30), words(random, 3).title(), font=latin(random, 30), fill=ink)
        for y in range(90, 760, int(random.integers(44, 70))):
            write(pen, (40, y), 180, words(random, 2) + ":", font, ink)
            if random.random() < 0.7:
                pen.rectangle((240, y - 6, 600, y + 24), outline=ink)
                if random.random() < 0.6:
                    write(pen, (250, y - 4), 340, words(random, 3), font_of(find_font("caveat"), 28), ink)
            else:
                for x in (240, 340, 440):
                    pen.rectangle((x, y, x + 16, y + 16), outline=ink, fill=ink if random.random() < 0.3 else None)
                    write(pen, (x + 24, y), 70, words(random, 1), font, ink)
    elif kind == 2:
        columns, rows = int(random.integers(3, 9)), int(random.integers(4, 14))
        across, down = (width - 60) / columns, (height - 110) / rows
        pen.text((30, 24), words(random, 2).title(), font=latin(random, 30), fill=ink)
        calendar = random.random() < 0.4
        for row, column in np.ndindex(rows, columns):
            left, top = 30 + column * across, 80 + row * down
            pen.rectangle((left, top, left + across, top + down), outline=ink)
            if calendar:
                text = str(row * columns + column + 1)
            else:
                text = f"{random.uniform(0, 999):.1f}" if row and column else words(random, 1)
            write(pen, (left + 6, top + 6), across - 10, text, font, ink)
    else:
        write_lines(pen, (70, 80, width - 70, height * random.uniform(0.6, 0.92)), random, font, ink, leading=1.6)
        write(pen, (70, height - 60), 300, words(random, 2).title(), font_of(find_font("caveat"), 42), ink)
    across, down = np.linspace(1, random.uniform(0.7, 1), width), np.linspace(1, random.uniform(0.75, 1), height)
    pixels = np.asarray(page) * (across[None] * down[:, None]) + random.normal(0, random.uniform(0, 9), (height, width))
    tint = np.array([1, random.uniform(0.95, 1), random.uniform(0.82, 1)])
    page = Image.fromarray((pixels[..., None] * tint).clip(0, 255).astype(np.uint8))
    table, degrees = colour_of(random, 20, 140), float(random.normal(0, 2.5))
    page = page.rotate(degrees, Image.Resampling.BICUBIC, expand=random.random() < 0.6, fillcolor=table)
    return page.filter(ImageFilter.GaussianBlur(float(random.uniform(0, 1.2))))
