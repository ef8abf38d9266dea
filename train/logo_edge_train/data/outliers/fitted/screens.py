"""Screens: listings and terminals, windows of programs, pages in a browser."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from logo_edge_train.data.outliers.drawing import Random, colour_of, pick
from logo_edge_train.data.outliers.fitted.text import (
    DARK,
    KEYWORDS,
    LIGHT,
    MONO,
    NAMES,
    WORDS,
    font_of,
    latin,
    words,
    write,
    write_lines,
)
from logo_edge_train.data.outliers.fitted.textures import draw_background
from logo_edge_train.data.outliers.packages import draw_any_scene, find_font


def draw_code(random: Random, index: int) -> Image.Image:
    """A listing in an editor with colours, line numbers and indents, or a terminal with a prompt and output."""
    width, height = pick(random, ((760, 560), (900, 520), (520, 680)))
    paper = pick(random, DARK) if random.random() < 0.65 else pick(random, LIGHT)
    dark = sum(paper) < 300
    ink = (215, 218, 224) if dark else (36, 41, 46)
    colours = [colour_of(random, 120, 256) if dark else colour_of(random, 0, 170) for _ in range(5)]
    window = Image.new("RGB", (width, height), paper)
    pen, font = ImageDraw.Draw(window), latin(random, int(random.integers(12, 22)), MONO)
    top = 12
    if random.random() < 0.5:
        bar = tuple(channel + 20 if dark else max(0, channel - 14) for channel in paper)
        pen.rectangle((0, 0, width, 34), fill=bar)
        for at, paint in enumerate(((255, 95, 86), (255, 189, 46), (39, 201, 63))):
            pen.circle((20 + 22 * at, 17), 6, paint)
        top = 46
    step, em, indent = font.size * 1.45, font.getlength("0"), 0
    for line, y in enumerate(np.arange(top, height * random.uniform(0.6, 1.0), step)):
        x = 14.0
        if index % 2:
            if random.random() < 0.3:
                prompt = f"{pick(random, NAMES)}@{pick(random, WORDS)}:~$ "
                pen.text((x, y), prompt, font=font, fill=colours[0])
                command = f"{pick(random, NAMES)} --{pick(random, NAMES)}"
                pen.text((x + em * len(prompt), y), command, font=font, fill=ink)
            elif random.random() < 0.4:
                row = [f"{int(value):>8}" for value in random.integers(0, 99999, 4)] + [pick(random, NAMES) + ".txt"]
                pen.text((x, y), " ".join(row), font=font, fill=ink)
            else:
                write(pen, (x, y), width - 28, f"[{line:>3}] {words(random, int(random.integers(2, 9)))}", font, ink)
            continue
        pen.text((x, y), f"{line + 1:>3}", font=font, fill=tuple((a + b) // 2 for a, b in zip(ink, paper, strict=True)))
        indent = min(5, max(0, indent + int(random.integers(-1, 2))))
        x += em * (5 + 4 * indent)
        for _ in range(int(random.integers(0, 6))):
            kind = int(random.integers(4))
            text = (
                pick(random, KEYWORDS),
                f"{pick(random, NAMES)}_{pick(random, NAMES)}({pick(random, NAMES)})",
                f'"{words(random, 2)}"',
                f"= {int(random.integers(0, 999))};",
            )[kind]
            if x + em * len(text) < width:
                pen.text((x, y), text, font=font, fill=colours[kind])
            x += em * (len(text) + 1)
    return window


def draw_window(random: Random, index: int) -> Image.Image:
    """A desktop program: menus, tool bar, tree, grid, form or chat, status bar; sometimes on a desktop."""
    width, height = pick(random, ((960, 600), (800, 600), (640, 720), (420, 320)))
    dark = random.random() < 0.35
    paper, panel, ink, line = (
        ((30, 31, 34), (43, 45, 48), (205, 208, 214), (62, 64, 68))
        if dark
        else (pick(random, LIGHT), (232, 234, 237), (32, 33, 36), (200, 203, 208))
    )
    accent, window = colour_of(random, 30, 220), Image.new("RGB", (width, height), paper)
    pen, font = ImageDraw.Draw(window), latin(random, int(random.integers(12, 18)), ("inter", "inter", "noto-serif"))
    step = int(font.size * random.uniform(1.6, 2.3))
    pen.rectangle((0, 0, width, 2 * step), fill=panel)
    pen.text((width / 2, step / 2), words(random, 3), font=font, fill=ink, anchor="mm")
    for at in range(3):
        pen.rectangle((width - 24 - 26 * at, 8, width - 12 - 26 * at, 20), outline=ink)
    x = 10.0
    for _ in range(int(random.integers(3, 9))):
        text = pick(random, WORDS).title()
        pen.text((x, step), text, font=font, fill=ink)
        x += font.getlength(text) + 18
    top, bottom, left = 2 * step, height - step, int(width * random.uniform(0, 0.3))
    if random.random() < 0.6:
        for at in range(int(random.integers(5, 16))):
            fill = colour_of(random, 60, 230) if random.random() < 0.6 else None
            pen.rounded_rectangle((10 + at * 38, top + 6, 38 + at * 38, top + 34), 4, fill=fill, outline=line)
        top += 42
    if left > 90:
        pen.rectangle((0, top, left, bottom), fill=panel)
        for at, y in enumerate(range(top + 8, bottom - step, step)):
            if at == 2:
                pen.rectangle((0, y - 4, left, y + step - 4), fill=accent)
            write(pen, (12 + 14 * int(random.integers(0, 3)), y), left - 50, words(random, 2), font, ink)
    kind = index % 4
    if kind == 0:
        columns = int(random.integers(3, 8))
        across = (width - left) / columns
        for row, y in enumerate(range(top, bottom, step)):
            pen.line((left, y, width, y), fill=line)
            for column in range(columns):
                text = words(random, 1) if column == 0 or row == 0 else f"{random.uniform(0, 9999):.2f}"
                write(pen, (left + column * across + 6, y + 3), across - 10, text, font, ink)
        for column in range(columns):
            pen.line((left + column * across, top, left + column * across, bottom), fill=line)
    elif kind == 1:
        for y in range(top + 14, bottom - 2 * step, int(step * 1.8)):
            write(pen, (left + 20, y), 140, words(random, 2), font, ink)
            pen.rounded_rectangle((left + 170, y - 5, width - 30, y + step - 5), 4, fill=panel, outline=line)
            write(pen, (left + 180, y), width - left - 230, words(random, 4), font, ink)
        for end in (width - 24, width - 124):
            pen.rounded_rectangle((end - 86, bottom - step - 8, end, bottom - 8), 5, fill=accent)
    elif kind == 2:
        for y in range(top + 12, bottom - 50, 58):
            mine, span = random.random() < 0.5, (width - left) * random.uniform(0.25, 0.6)
            start, fill, paint = (width - 20 - span, accent, (255, 255, 255)) if mine else (left + 20, panel, ink)
            pen.rounded_rectangle((start, y, start + span, y + 46), 14, fill=fill)
            for level in (y + 4, y + 24):
                write(pen, (start + 12, level), span - 24, words(random, 9), font, paint)
    else:
        picture = draw_any_scene(random)
        box = (left + 14, top + 14, width - 14, bottom - 14)
        if box[2] - box[0] > 40 and box[3] - box[1] > 40:
            window.paste(picture.resize((box[2] - box[0], box[3] - box[1])), box[:2])
    pen.rectangle((0, bottom, width, height), fill=panel)
    write(pen, (8, bottom + 3), width / 2, words(random, 6), font, ink)
    if random.random() < 0.3:
        desk = draw_background(random, index).resize((width + 220, height + 200))
        desk.paste(window, (int(random.integers(10, 200)), int(random.integers(10, 120))))
        ImageDraw.Draw(desk).rectangle((0, height + 160, width + 220, height + 200), fill=pick(random, DARK))
        return desk
    return window


def draw_web_page(random: Random, index: int) -> Image.Image:
    """A page in a browser: navigation, a large photograph or colour with a headline, cards, articles, a footer."""
    width, height = pick(random, ((960, 640), (960, 1000), (400, 800)))
    paper, ink, accent = pick(random, LIGHT), colour_of(random, 10, 70), colour_of(random, 30, 230)
    page = Image.new("RGB", (width, height), paper)
    pen = ImageDraw.Draw(page)
    font = latin(random, int(random.integers(13, 19)), ("inter", "lora", "merriweather", "noto-serif"))
    head, y = latin(random, int(font.size * random.uniform(2, 3)), ("inter", "lora", "merriweather")), 0
    if random.random() < 0.5:
        pen.rectangle((0, 0, width, 40), fill=(222, 225, 230))
        pen.rounded_rectangle((90, 8, width - 60, 32), 12, fill=(255, 255, 255))
        address = f"{pick(random, WORDS)}.example/{pick(random, WORDS)}"
        pen.text((104, 12), address, font=font_of(find_font("inter"), 15), fill=(80, 80, 80))
        y = 40
    pen.rectangle((0, y, width, y + 50), fill=accent if random.random() < 0.3 else paper)
    pen.text((24, y + 14), words(random, 1).title(), font=font, fill=ink)
    for at in range(4 if width > 500 else 1):
        pen.text((width - 90 - 90 * at, y + 14), pick(random, WORDS).title(), font=font, fill=ink)
    y += 50
    if random.random() < 0.75:
        tall = int(random.integers(140, 320))
        banner = draw_any_scene(random) if random.random() < 0.6 else draw_background(random, index)
        page.paste(banner.resize((width, tall)), (0, y))
        pen.text((width / 2, y + tall / 2), words(random, 3).title(), font=head, fill=(255, 255, 255), anchor="mm")
        pen.rounded_rectangle((width / 2 - 70, y + tall * 0.72, width / 2 + 70, y + tall * 0.72 + 36), 6, fill=accent)
        y += tall + 20
    columns = 1 if width < 500 else int(random.integers(1, 5))
    across, margin = (width - 24 * (columns + 1)) / columns, 24
    while y < height - 60:
        tall = int(random.integers(130, 260))
        for column in range(columns):
            left, inner = margin + column * (across + margin), y
            if random.random() < 0.5:
                card = (left, y, left + across, y + tall)
                pen.rounded_rectangle(card, 8, outline=(210, 212, 216), fill=(255, 255, 255))
            if random.random() < 0.55:
                page.paste(draw_any_scene(random).resize((int(across), tall // 2)), (int(left), y))
                inner += tall // 2 + 6
            write(pen, (left + 8, inner + 4), across - 16, words(random, 4).title(), font, accent)
            write_lines(pen, (left + 8, inner + font.size * 1.8, left + across - 8, y + tall), random, font, ink)
        y += tall + 22
    if random.random() < 0.5:
        pen.rectangle((0, height - 56, width, height), fill=pick(random, DARK))
        write(pen, (24, height - 40), width - 48, words(random, 12), font, (170, 170, 170))
    return page
