"""Diagrams and maps."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from logo_edge_train.data.outliers.drawing import Random, colour_of, pick
from logo_edge_train.data.outliers.fitted.text import LIGHT, WORDS, latin, words, write_lines


def draw_diagram(random: Random, index: int) -> Image.Image:
    """A flow chart, a graph of nodes, a circuit, a sheet of music, a floor plan, or bar and matrix codes."""
    kind = index % 6
    width, height = pick(random, ((720, 560), (560, 720), (800, 480)))
    paper, ink = pick(random, LIGHT), colour_of(random, 0, 90)
    sheet = Image.new("RGB", (width, height), paper)
    pen, font = ImageDraw.Draw(sheet), latin(random, int(random.integers(13, 19)), ("inter", "lora", "ibm-plex-mono"))
    if kind == 0:
        columns, rows = int(random.integers(2, 5)), int(random.integers(3, 6))
        fills = [colour_of(random, 170) if random.random() < 0.7 else paper for _ in range(3)]
        boxes = {}
        across, down = width / columns * 0.36, height / rows * 0.28
        for row, column in np.ndindex(rows, columns):
            if random.random() < 0.75:
                boxes[row, column] = ((column + 0.5) * width / columns, (row + 0.5) * height / rows)
        for (row, column), (x, y) in boxes.items():
            for other in ((row + 1, column), (row, column + 1), (row + 1, column + 1)):
                if other in boxes and random.random() < 0.7:
                    u, v = boxes[other]
                    pen.line((x, y, x, v, u, v) if random.random() < 0.6 else (x, y, u, v), fill=ink, width=2)
                    pen.regular_polygon((u, v - down - 6, 7), 3, rotation=180, fill=ink)
        for x, y in boxes.values():
            shape, fill = int(random.integers(3)), pick(random, fills)
            if shape == 0:
                pen.polygon(((x, y - down), (x + across, y), (x, y + down), (x - across, y)), fill=fill, outline=ink)
            else:
                box, radius = (x - across, y - down, x + across, y + down), 2 if shape == 1 else down
                pen.rounded_rectangle(box, radius, fill=fill, outline=ink, width=2)
            pen.text((x, y), pick(random, WORDS), font=font, fill=ink, anchor="mm")
    elif kind == 1:
        spots = random.uniform(0.06, 0.94, (int(random.integers(8, 40)), 2)) * (width, height)
        for spot in spots:
            for other in np.argsort(((spots - spot) ** 2).sum(1))[1 : 1 + int(random.integers(1, 4))]:
                pen.line((*spot, *spots[other]), fill=ink, width=int(random.integers(1, 4)))
        for x, y in spots:
            size = random.uniform(6, 24)
            pen.circle((x, y), size, colour_of(random, 60), ink, 2)
            if random.random() < 0.6:
                pen.text((x + size + 2, y), pick(random, WORDS), font=font, fill=ink, anchor="lm")
    elif kind == 2:
        step = 24
        for _ in range(int(random.integers(14, 40))):
            x, y = int(random.integers(width // step)) * step, int(random.integers(height // step)) * step
            path = [(x, y)]
            for turn in range(int(random.integers(2, 6))):
                length = int(random.integers(-8, 9)) * step
                x, y = (x + length, y) if turn % 2 else (x, y + length)
                path.append((x, y))
            pen.line(path, fill=ink, width=2)
            pen.circle((x, y), 5, ink if random.random() < 0.5 else paper, ink)
            if random.random() < 0.4:
                pen.rectangle((x - 14, y - 28, x + 14, y + 28), fill=paper, outline=ink, width=2)
                pen.text((x + 20, y - 10), f"R{int(random.integers(99))}", font=font, fill=ink)
    elif kind == 3:
        gap = int(random.integers(8, 13))
        for top in range(50, height - 6 * gap, int(gap * random.uniform(8, 12))):
            for line in range(5):
                pen.line((30, top + line * gap, width - 30, top + line * gap), fill=ink)
            for x in range(30, width - 20, int(random.integers(120, 220))):
                pen.line((x, top, x, top + 4 * gap), fill=ink, width=2)
            x = 80.0
            while x < width - 60:
                y, up = top + gap * random.integers(-2, 11) / 2, 1 if random.random() < 0.5 else -1
                head, fill = (x - gap * 0.65, y - gap / 2, x + gap * 0.65, y + gap / 2), random.random() < 0.8
                pen.ellipse(head, fill=ink if fill else None, outline=ink, width=2)
                stem = x + up * gap * 0.6
                pen.line((stem, y, stem, y - up * gap * 3.3), fill=ink, width=2)
                x += gap * random.uniform(1.8, 5)
    elif kind == 4:
        pen.rectangle((40, 40, width - 40, height - 40), outline=ink, width=8)
        for _ in range(int(random.integers(4, 10))):
            x, y = int(random.integers(60, width - 160)), int(random.integers(60, height - 140))
            box = (x, y, x + int(random.integers(80, 300)), y + int(random.integers(70, 220)))
            pen.rectangle(box, outline=ink, width=5)
            pen.rectangle((box[0] + 20, box[1] - 3, box[0] + 60, box[1] + 6), fill=paper)
            pen.arc((box[0] + 20, box[1] - 40, box[0] + 100, box[1] + 40), 90, 180, fill=ink, width=2)
            pen.text((x + 16, y + 20), f"{pick(random, WORDS)} {random.uniform(5, 40):.1f} m²", font=font, fill=ink)
        for x in range(40, width - 40, 60):
            pen.line((x, 18, x, 30), fill=ink)
    else:
        for _ in range(int(random.integers(1, 4))):
            x, y = int(random.integers(20, width // 2)), int(random.integers(20, height // 2))
            size = int(random.integers(140, 260))
            if random.random() < 0.5:
                cells = int(pick(random, (21, 25, 29, 33)))
                dots = random.random((cells, cells)) < 0.5
                for row, column in ((0, 0), (0, cells - 7), (cells - 7, 0)):
                    dots[row : row + 7, column : column + 7] = True
                    dots[row + 1 : row + 6, column + 1 : column + 6] = False
                    dots[row + 2 : row + 5, column + 2 : column + 5] = True
                code = Image.fromarray(np.where(dots, 0, 255).astype(np.uint8)).convert("RGB")
                sheet.paste(code.resize((size, size), Image.Resampling.NEAREST), (x, y))
            else:
                u = x
                while u < x + size * 1.4:
                    bar = int(random.integers(2, 7))
                    pen.rectangle((u, y, u + bar, y + size * 0.5), fill=ink)
                    u += bar + int(random.integers(2, 7))
                pen.text((x, y + size * 0.5 + 4), "".join(map(str, random.integers(0, 10, 13))), font=font, fill=ink)
        write_lines(pen, (30, height * 0.75, width - 30, height - 20), random, font, ink)
    return sheet


def draw_map(random: Random, index: int) -> Image.Image:
    """A map: land, water and parks, roads of several classes and their names; or borders of regions."""
    width, height = pick(random, ((720, 560), (640, 640)))
    land, water, park, road = pick(
        random,
        (
            ((242, 239, 233), (170, 211, 223), (200, 230, 180), (255, 255, 255)),
            ((38, 42, 51), (22, 27, 38), (45, 60, 50), (92, 98, 112)),
            ((250, 246, 225), (150, 200, 240), (190, 220, 170), (240, 190, 90)),
        ),
    )
    sheet = Image.new("RGB", (width, height), land)
    pen, font = ImageDraw.Draw(sheet), latin(random, int(random.integers(12, 18)), ("inter", "lora"))
    spots = random.uniform(-0.1, 1.1, (int(random.integers(25, 90)), 2)) * (width, height)
    if index % 3 == 0:
        across, down = np.meshgrid(np.arange(0, width, 4), np.arange(0, height, 4))
        bend = 18 * np.sin(across / random.uniform(20, 60)) + 14 * np.sin(down / random.uniform(15, 50))
        nearest = ((across + bend - spots[:, :1, None]) ** 2 + (down + bend - spots[:, 1:, None]) ** 2).argmin(0)
        palette = random.integers(150, 250, (len(spots), 3))
        palette[random.random(len(spots)) < 0.25] = water
        sheet = Image.fromarray(palette[nearest].astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
        borders = (nearest != np.roll(nearest, 1, 0)) | (nearest != np.roll(nearest, 1, 1))
        edges = Image.fromarray(borders.astype(np.uint8) * 255)
        sheet.paste((90, 80, 90), (0, 0), edges.resize((width, height), Image.Resampling.NEAREST))
        pen = ImageDraw.Draw(sheet)
    else:
        for paint in (park, park, water):
            (x, y), size = random.uniform(0, 1, 2) * (width, height), random.uniform(60, 220)
            radii = size * random.uniform(0.5, 1.2, 13)
            rim = zip(radii, np.linspace(0, 2 * math.pi, 14)[:-1], strict=True)
            pen.polygon([(x + r * math.cos(a), y + r * math.sin(a)) for r, a in rim], fill=paint)
        walk = random.normal(0, 40, (14, 2)).cumsum(0)
        walk += np.stack([np.full(14, width * random.random()), np.linspace(0, height, 14)], 1)
        pen.line([tuple(point) for point in walk], fill=water, width=int(random.integers(10, 40)), joint="curve")
        for size, casing in ((4, 6), (4, 6), (9, 12)):
            turn, step = random.uniform(0, math.pi), random.uniform(45, 120) * (1 + (size > 4))
            for offset in np.arange(-1000, 1500, step):
                for angle in (turn, turn + math.pi / 2):
                    if random.random() < 0.75:
                        cosine, sine = math.cos(angle), math.sin(angle)
                        x, y = width / 2 + offset * cosine, height / 2 + offset * sine
                        ends = [
                            (x + t * sine + random.normal(0, 6), y - t * cosine + random.normal(0, 6))
                            for t in (-900, -200, 200, 900)
                        ]
                        pen.line(ends, fill=tuple(int(channel * 0.85) for channel in road), width=casing)
                        pen.line(ends, fill=road, width=size)
    ink = (240, 240, 240) if sum(land) < 300 else (70, 70, 80)
    for x, y in spots[: int(random.integers(5, 25))]:
        pen.text((x, y), words(random, int(random.integers(1, 3))).title(), font=font, fill=ink)
        if random.random() < 0.3:
            pen.ellipse((x - 10, y, x - 2, y + 8), fill=(214, 60, 50))
    return sheet
