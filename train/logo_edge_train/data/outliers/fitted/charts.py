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
    left, top = 70, 60 if random.random() < 0.7 else 20
    right, bottom = width - int(pick(random, (30, 150))), height - 60
    wide, tall = right - left, bottom - top
    if top == 60:
        spot, text = (pick(random, (left, width / 3)), 16), words(random, 4).title()
        pen.text(spot, text, font=latin(random, 24, ("inter", "lora")), fill=ink)
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
            middle = left + (at + 0.5) * wide / count
            pen.text((middle, bottom + 10), pick(random, WORDS)[:4], font=font, fill=ink, anchor="ma")
        pen.line((left, bottom, right, bottom), fill=ink, width=2)
    values = random.uniform(0.08, 0.95, (series, count))
    x, across = left + (np.arange(count) + 0.5) * wide / count, wide / count
    if kind == 0:
        bar = across * 0.8 / series
        for (row, at), value in np.ndenumerate(values):
            start = x[at] - across * 0.4 + row * bar
            pen.rectangle((start, bottom - value * tall, start + bar * 0.9, bottom), fill=colours[row])
    elif kind == 1:
        smooth = random.normal(0, 0.1, (series, count)).cumsum(1) + 0.5
        for row in range(series):
            points = [(a, bottom - min(max(b, 0), 1) * tall) for a, b in zip(x, smooth[row], strict=True)]
            pen.line(points, fill=colours[row], width=int(random.integers(2, 6)), joint="curve")
            for point in points if random.random() < 0.5 else ():
                pen.circle(point, 6, colours[row])
    elif kind == 2:
        floor = np.zeros(count)
        for row, share in enumerate(values / series):
            ceiling = floor + share
            ys = np.append(bottom - ceiling * tall, bottom - floor[::-1] * tall)
            pen.polygon([*zip(np.append(x, x[::-1]), ys, strict=True)], fill=colours[row])
            floor = ceiling
    elif kind == 3:
        middle, radius, start = ((left + right) / 2, (top + bottom) / 2), min(wide, tall) / 2, -90.0
        box = (middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius)
        shares = random.uniform(0.2, 1, count)
        for at, share in enumerate(shares / shares.sum()):
            pen.pieslice(box, start, start + 360 * share, fill=colours[at % 8], outline=paper, width=3)
            angle = math.radians(start + 180 * share)
            point = (middle[0] + radius * 1.12 * math.cos(angle), middle[1] + radius * 1.12 * math.sin(angle))
            pen.text(point, f"{share:.0%}", font=font, fill=ink, anchor="mm")
            start += 360 * share
        if random.random() < 0.6:
            pen.circle(middle, radius * 0.6, paper)
    elif kind == 4:
        for row in range(series):
            spots = random.normal(random.uniform(0.3, 0.7, 2), 0.12, (60, 2)).clip(0, 1)
            fill = colours[row] if row % 2 else None
            for a, b in spots:
                pen.circle((left + a * wide, bottom - b * tall), random.uniform(3, 10), fill, colours[row], 2)
    elif kind == 5:
        for u in x:
            low, q1, q2, q3, high = bottom - np.sort(random.uniform(0.02, 0.98, 5)) * tall
            start, end = u - across * 0.3, u + across * 0.3
            pen.line((u, low, u, high), fill=ink, width=2)
            pen.rectangle((start, q3, end, q1), fill=colours[0], outline=ink)
            pen.line((start, q2, end, q2), fill=ink, width=3)
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
        for (row, column), share in np.ndenumerate(cells):
            u, v = left + column * wide / columns, top + row * tall / rows
            paint = tuple((ends[0] + share * (ends[1] - ends[0])).astype(int))
            pen.rectangle((u, v, u + wide / columns - 2, v + tall / rows - 2), fill=paint)
    else:
        for at in range(int(random.integers(2, 7))):
            u, v = 24 + (at % 3) * (width - 36) / 3, 60 + (at // 3) * (height - 70) / 2
            end, floor = u + (width - 36) / 3 - 14, v + (height - 70) / 2 - 14
            pen.rounded_rectangle((u, v, end, floor), 10, outline=grid, width=2)
            pen.text((u + 14, v + 12), words(random, 2), font=font, fill=ink)
            text = f"{random.uniform(1, 999):,.1f}"
            pen.text((u + 14, v + 40), text, font=latin(random, 34, ("inter",)), fill=colours[at])
            steps = range(int((end - u - 20) / 12))
            line = [(u + 14 + 12 * step, floor - 14 - 40 * random.random()) for step in steps]
            pen.line(line, fill=colours[at], width=3)
    if right < width - 100 and kind != 8:
        for row in range(series):
            pen.rectangle((right + 14, top + row * 30, right + 32, top + row * 30 + 18), fill=colours[row])
            write(pen, (right + 38, top + row * 30), 100, pick(random, WORDS), font, ink)
    return chart
