"""Charts in the styles of spreadsheets and dashboards."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from logo_edge_train.data.outliers.drawing import Random, colour_of, pick
from logo_edge_train.data.outliers.fitted.text import DARK, LIGHT, WORDS, latin, words, write


def draw_chart(random: Random, index: int) -> Image.Image:
    """A chart as in spreadsheets and dashboards: bars, lines, areas, rings, points, boxes, candles, heat map, tiles."""
    width, height = pick(random, ((720, 480), (640, 640), (900, 420)))
    dark = random.random() < 0.2
    paper, ink, grid = (
        (pick(random, DARK), (210, 210, 215), (70, 72, 80))
        if dark
        else (pick(random, LIGHT), (60, 60, 66), (222, 222, 226))
    )
    chart = Image.new("RGB", (width, height), paper)
    pen, font = ImageDraw.Draw(chart), latin(random, int(random.integers(13, 20)), ("inter", "lora", "ibm-plex-mono"))
    left, top, right, bottom = (
        70,
        60 if random.random() < 0.7 else 20,
        width - int(pick(random, (30, 150))),
        height - 60,
    )
    if top == 60:
        pen.text(
            (pick(random, (left, width / 3)), 16),
            words(random, 4).title(),
            font=latin(random, 24, ("inter", "lora")),
            fill=ink,
        )
    series, count = int(random.integers(1, 5)), int(random.integers(4, 13))
    colours = [colour_of(random, 30, 240) for _ in range(max(series, 8))]
    kind = index % 9
    if kind not in (3, 7, 8):
        for at in range(6):
            y = bottom + (top - bottom) * at / 5
            if random.random() < 0.9:
                pen.line((left, y, right, y), fill=grid)
            pen.text((left - 8, y), str(at * int(pick(random, (5, 20, 100)))), font=font, fill=ink, anchor="rm")
        for at in range(count):
            text = pick(random, WORDS)[:4]
            pen.text((left + (at + 0.5) * (right - left) / count, bottom + 10), text, font=font, fill=ink, anchor="ma")
        pen.line((left, bottom, right, bottom), fill=ink, width=2)
    values = random.uniform(0.08, 0.95, (series, count))
    x = left + (np.arange(count) + 0.5) * (right - left) / count
    across = (right - left) / count
    tall = bottom - top
    if kind == 0:
        bar = across * 0.8 / series
        for row in range(series):
            for at in range(count):
                start = x[at] - across * 0.4 + row * bar
                pen.rectangle((start, bottom - values[row, at] * tall, start + bar * 0.9, bottom), fill=colours[row])
    elif kind == 1:
        smooth = random.normal(0, 0.1, (series, count)).cumsum(1) + 0.5
        for row in range(series):
            points = [(a, bottom - min(max(b, 0), 1) * tall) for a, b in zip(x, smooth[row], strict=True)]
            pen.line(points, fill=colours[row], width=int(random.integers(2, 6)), joint="curve")
            for a, b in points if random.random() < 0.5 else ():
                pen.ellipse((a - 6, b - 6, a + 6, b + 6), fill=colours[row])
    elif kind == 2:
        shares = values / series
        floor = np.zeros(count)
        for row in range(series):
            ceiling = floor + shares[row]
            points = [
                *zip(x, bottom - ceiling * tall, strict=True),
                *zip(x[::-1], bottom - floor[::-1] * tall, strict=True),
            ]
            pen.polygon(points, fill=colours[row])
            floor = ceiling
    elif kind == 3:
        middle, radius, start = ((left + right) / 2, (top + bottom) / 2), min(right - left, tall) / 2, -90.0
        shares = random.uniform(0.2, 1, count)
        for at, share in enumerate(shares / shares.sum()):
            box = (middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius)
            pen.pieslice(box, start, start + 360 * share, fill=colours[at % 8], outline=paper, width=3)
            angle = math.radians(start + 180 * share)
            point = (middle[0] + radius * 1.12 * math.cos(angle), middle[1] + radius * 1.12 * math.sin(angle))
            pen.text(point, f"{share:.0%}", font=font, fill=ink, anchor="mm")
            start += 360 * share
        hole = radius * 0.6
        if random.random() < 0.6:
            pen.ellipse((middle[0] - hole, middle[1] - hole, middle[0] + hole, middle[1] + hole), fill=paper)
    elif kind == 4:
        for row in range(series):
            spots = random.normal(random.uniform(0.3, 0.7, 2), 0.12, (60, 2)).clip(0, 1)
            for a, b in spots:
                size, u, v = random.uniform(3, 10), left + a * (right - left), bottom - b * tall
                pen.ellipse(
                    (u - size, v - size, u + size, v + size),
                    outline=colours[row],
                    width=2,
                    fill=colours[row] if row % 2 else None,
                )
    elif kind == 5:
        for at in range(count):
            low, q1, q2, q3, high = np.sort(random.uniform(0.02, 0.98, 5)) * tall
            pen.line((x[at], bottom - low, x[at], bottom - high), fill=ink, width=2)
            pen.rectangle(
                (x[at] - across * 0.3, bottom - q3, x[at] + across * 0.3, bottom - q1), fill=colours[0], outline=ink
            )
            pen.line((x[at] - across * 0.3, bottom - q2, x[at] + across * 0.3, bottom - q2), fill=ink, width=3)
    elif kind == 6:
        level = 0.5
        for u in np.arange(left + 8, right, 12):
            start, level = level, float(np.clip(level + random.normal(0, 0.06), 0.05, 0.95))
            low, high = sorted((start, level))
            paint = (38, 166, 154) if level > start else (239, 83, 80)
            pen.line((u, bottom - (high + 0.04) * tall, u, bottom - (low - 0.04) * tall), fill=paint, width=2)
            pen.rectangle((u - 4, bottom - high * tall, u + 4, bottom - low * tall), fill=paint)
    elif kind == 7:
        rows, columns = int(random.integers(5, 14)), int(random.integers(6, 20))
        ends, cells = np.array([colour_of(random), colour_of(random)]), random.random((rows, columns))
        for row in range(rows):
            for column in range(columns):
                u, v = left + column * (right - left) / columns, top + row * tall / rows
                paint = tuple((ends[0] + cells[row, column] * (ends[1] - ends[0])).astype(int))
                pen.rectangle((u, v, u + (right - left) / columns - 2, v + tall / rows - 2), fill=paint)
    else:
        for at in range(int(random.integers(2, 7))):
            u, v = 24 + (at % 3) * (width - 36) / 3, 60 + (at // 3) * (height - 70) / 2
            box = (u, v, u + (width - 36) / 3 - 14, v + (height - 70) / 2 - 14)
            pen.rounded_rectangle(box, 10, outline=grid, width=2)
            pen.text((u + 14, v + 12), words(random, 2), font=font, fill=ink)
            pen.text(
                (u + 14, v + 40), f"{random.uniform(1, 999):,.1f}", font=latin(random, 34, ("inter",)), fill=colours[at]
            )
            line = [
                (u + 14 + 12 * step, box[3] - 14 - 40 * random.random()) for step in range(int((box[2] - u - 20) / 12))
            ]
            pen.line(line, fill=colours[at], width=3)
    if right < width - 100 and kind != 8:
        for row in range(series):
            pen.rectangle((right + 14, top + row * 30, right + 32, top + row * 30 + 18), fill=colours[row])
            write(pen, (right + 38, top + row * 30), 100, pick(random, WORDS), font, ink)
    return chart
