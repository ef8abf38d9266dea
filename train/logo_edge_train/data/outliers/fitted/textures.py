"""Pictures without a subject: noise, surfaces of repeated parts, wallpapers."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from logo_edge_train.data.outliers.drawing import Random, colour_of, pick


def draw_noise(random: Random, index: int) -> Image.Image:
    """Noise of kinds that the held-out part lacks: spectrum, rows, blocks, sensor, salt and pepper, random walks."""
    height, width = (int(side) for side in random.integers(160, 420, 2))
    kind = index % 6
    if kind == 0:
        spectrum = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]) + 1 / max(height, width)
        planes = [
            np.fft.ifft2(np.fft.fft2(random.normal(size=(height, width))) / spectrum ** random.uniform(0.6, 2)).real
            for _ in range(1 if random.random() < 0.4 else 3)
        ]
        pixels = np.stack([(plane - plane.min()) / np.ptp(plane) * 255 for plane in (planes * 3)[:3]], -1)
    elif kind == 1:
        row = random.integers(0, 256, (height, 1, 3)).repeat(width, 1)
        pixels = row if random.random() < 0.5 else row.transpose(1, 0, 2)
        if random.random() < 0.5:
            pixels = np.stack([np.roll(line, int(random.normal(0, 9)), 0) for line in pixels])
    elif kind == 2:
        side = int(random.integers(4, 24))
        blocks = random.integers(0, 256, (height // side + 1, width // side + 1, 3 if random.random() < 0.6 else 1))
        pixels = blocks.repeat(side, 0).repeat(side, 1) * np.ones(3)
    elif kind == 3:
        pixels = np.asarray(draw_background(random, index).resize((width, height))) * random.uniform(0.1, 1)
        pixels = pixels + random.normal(0, random.uniform(10, 60), (height, width, 3))
    elif kind == 4:
        pixels = np.full((height, width, 3), random.integers(0, 256, 3), float)
        for _ in range(int(random.integers(1, 4))):
            pixels[random.random((height, width)) < random.uniform(0.02, 0.3)] = random.integers(0, 256, 3)
    else:
        pixels = np.full((height, width, 3), random.integers(0, 60, 3), float)
        for _ in range(int(random.integers(2, 6))):
            steps = random.normal(0, 2.0, (6000, 2)).cumsum(0) + random.uniform(0, 1, 2) * (height, width)
            rows, columns = steps.astype(int).T
            pixels[rows % height, columns % width] = random.integers(60, 256, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw_texture(random: Random, index: int) -> Image.Image:
    """A surface of repeated parts: bricks, planks, weave, tiles of a pattern, cells, dots, waves of lines, leaves."""
    width, height, kind = 480, 480, index % 8
    base, other = np.array(colour_of(random, 30, 230)), np.array(colour_of(random, 30, 230))
    sheet = Image.new("RGB", (width, height), tuple(int(value) for value in base))
    pen = ImageDraw.Draw(sheet)

    def shade(amount: float = 0.12) -> tuple[int, ...]:
        return tuple(int(value) for value in (other * (1 + random.normal(0, amount))).clip(0, 255))

    if kind == 0:
        across, down = int(random.integers(40, 100)), int(random.integers(18, 40))
        for row, y in enumerate(range(0, height, down)):
            for x in range(-(row % 2) * across // 2, width, across):
                pen.rectangle((x + 2, y + 2, x + across - 2, y + down - 2), fill=shade())
    elif kind == 1:
        for x in range(0, width, int(random.integers(40, 120))):
            pen.rectangle((x + 1, 0, x + 120, height), fill=shade())
            for _ in range(14):
                start, wave, sway = x + random.uniform(0, 60), random.uniform(50, 200), random.uniform(1, 6)
                pen.line([(start + sway * math.sin(y / wave * 6), y) for y in range(0, height, 8)], fill=shade(0.25))
    elif kind == 2:
        step = int(random.integers(8, 26))
        for row, y in enumerate(range(0, height, step)):
            for column, x in enumerate(range(0, width, step)):
                near, far, lies = step * 0.15, step * 0.85, (row + column) % 2
                box = (x, y + near, x + step, y + far) if lies else (x + near, y, x + far, y + step)
                pen.rectangle(box, fill=shade(0.08))
    elif kind == 3:
        step, sides = int(random.integers(30, 80)), int(pick(random, (3, 4, 6)))
        for row, y in enumerate(range(0, height + step, step)):
            for x in range(0, width + step, step):
                circle, turn = (x + (row % 2) * step / 2, y, step * 0.48), int(random.integers(2)) * 30
                pen.regular_polygon(circle, sides, rotation=turn, fill=shade(0.2))
    elif kind == 4:
        spots = random.uniform(0, 480, (int(random.integers(40, 160)), 2))
        across, down = np.meshgrid(np.arange(0, width, 3), np.arange(0, height, 3))
        away = np.sort(np.hypot(across - spots[:, :1, None], down - spots[:, 1:, None]), 0)[:2]
        level = np.clip((away[1] - away[0]) / random.uniform(6, 40), 0, 1)[..., None]
        cells = Image.fromarray((base * (1 - level) + other * level).astype(np.uint8))
        return cells.resize((width, height), Image.Resampling.BICUBIC)
    elif kind == 5:
        step = int(random.integers(14, 44))
        for row, y in enumerate(range(0, height + step, step)):
            for x in range(0, width + step, step):
                pen.circle((x + (row % 2) * step / 2, y), step * random.uniform(0.15, 0.5), shade())
    elif kind == 6:
        step, wave, sway = int(random.integers(6, 24)), random.uniform(10, 60), random.uniform(0, 26)
        for at, y in enumerate(range(-30, height + 30, step)):
            line = [(x, y + sway * math.sin(x / wave + at * 0.2)) for x in range(0, width + 8, 8)]
            pen.line(line, fill=shade(), width=max(1, step // 3))
    else:
        for _ in range(int(random.integers(120, 400))):
            x, y, turn, long = *random.uniform(0, 480, 2), random.uniform(0, 2 * math.pi), random.uniform(12, 60)
            end, low, side = x + long * math.cos(turn), y + long * math.sin(turn), long * 0.25
            middle, level = (x + end) / 2, (y + low) / 2
            u, v = -math.sin(turn) * side, math.cos(turn) * side
            pen.polygon((x, y, middle + u, level + v, end, low, middle - u, level - v), fill=shade(0.35))
    noise = random.normal(0, random.uniform(0, 14), (height, width, 1))
    sheet = Image.fromarray((np.asarray(sheet) + noise).clip(0, 255).astype(np.uint8))
    side = int(random.integers(240, 480))
    if random.random() < 0.4:
        return sheet.rotate(float(random.uniform(0, 90)), Image.Resampling.BICUBIC).crop((90, 90, 390, 390))
    return sheet.crop((0, 0, side, side))


def draw_background(random: Random, index: int) -> Image.Image:
    """A wallpaper without a subject: large fades of three colours, blurred lights, bands of hills, rays."""
    width, height = pick(random, ((480, 320), (400, 400), (320, 480)))
    kind = int(random.integers(4))
    across, down = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    ends = np.array([colour_of(random) for _ in range(3)], float)
    turn = random.uniform(0, 2 * math.pi)
    if random.random() < 0.6:
        level = ((across * math.cos(turn) + down * math.sin(turn)) / 1.5 + 1) / 2
    else:
        level = np.hypot(across - random.uniform(-1, 1), down - random.uniform(-1, 1)) / 2.5
    level = level.clip(0, 1)[..., None]
    pixels = ends[0] * (1 - level) ** 2 + 2 * ends[1] * level * (1 - level) + ends[2] * level**2
    sheet = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(sheet)
    if kind == 1:
        for _ in range(int(random.integers(8, 40))):
            spot = random.uniform(0, width), random.uniform(0, height)
            pen.circle(spot, random.uniform(6, 50), colour_of(random, 60))
        sheet = sheet.filter(ImageFilter.GaussianBlur(float(random.uniform(4, 14))))
    elif kind == 2:
        for layer in range(int(random.integers(2, 6))):
            pace, shift, high = random.uniform(0.5, 3), random.uniform(0, 6), random.uniform(8, 50)
            level = height * (0.4 + layer * 0.12)
            ridge = [(x, level + high * math.sin(x / width * 6 * pace + shift)) for x in range(0, width + 4, 4)]
            pen.polygon([(0, height), *ridge, (width, height)], fill=colour_of(random, 20, 200))
    elif kind == 3:
        (x, y), count = random.uniform(0, 1, 2) * (width, height), int(random.integers(8, 30))
        for at in range(0, count, 2):
            angles = (at / count * 2 * math.pi, (at + 1) / count * 2 * math.pi)
            edge = [(x + 900 * math.cos(angle), y + 900 * math.sin(angle)) for angle in angles]
            pen.polygon([(x, y), *edge], fill=tuple(int(value) for value in ends[1]))
    return sheet
