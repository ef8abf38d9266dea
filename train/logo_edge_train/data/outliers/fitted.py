"""Drawn families that networks may learn from: documents, screens, charts and plans, drawn at two to three times the kept size."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from logo_edge_train.data.outliers.drawing import Random, colour_of, pick
from logo_edge_train.data.outliers.packages import draw_scene, find_font, letters_of

LATIN = ("inter", "lora", "merriweather", "noto-serif", "ibm-plex-mono", "jetbrains-mono")
MONO = ("ibm-plex-mono", "jetbrains-mono")
SCRIPTS = (
    ("noto-serif", "cyrillic"),
    ("noto-serif", "greek"),
    ("noto-sans-devanagari", "devanagari"),
    ("noto-sans-jp", "119"),
    ("noto-sans-jp", "110"),
    ("lora", "cyrillic"),
)
WORDS = (
    "account amount and are average before between bericht cable carbon carton chaque city clause client cold comme committee "
    "contract copper dans date delivery der die digital dinner distance east engine evening every field figure final für garden "
    "glass hour hundred index invoice item january kilometer la large le les letter library light line list luna market méthode "
    "member model month mountain nicht north number october office onder order para paper percent por power price produkt que "
    "rain rapport result river road sample season section series service signal société soil south station steel storm street "
    "student summer sur system table target temperature the total town train transport und valley value version village volume "
    "water weather week west winter with wood work year zeit zone"
).split()
KEYWORDS = (
    "def return if else for while import class fn let const match async await struct use pub static void int".split()
)
NAMES = (
    "value index count self node items path config buffer result key data offset user size total request limit".split()
)
LIGHT = ((255, 255, 255), (255, 255, 255), (255, 255, 255), (250, 248, 240), (243, 244, 246))
DARK = ((24, 26, 31), (40, 42, 54), (0, 43, 54), (12, 12, 12))


@lru_cache(maxsize=256)
def font_of(path: str, size: int) -> ImageFont.FreeTypeFont:
    engine = ImageFont.Layout.BASIC if "-latin-" in path else None  # other scripts need shaping
    return ImageFont.truetype(path, size, layout_engine=engine)


def latin(random: Random, size: int, families=LATIN) -> ImageFont.FreeTypeFont:
    """A font of the Latin alphabet, regular or bold."""
    return font_of(find_font(pick(random, families), "latin", int(pick(random, (400, 400, 700)))), size)


def words(random: Random, count: int, letters: str = "") -> str:
    """So many words, of the letters where a script's are given."""
    if letters:
        return " ".join(
            "".join(letters[at] for at in random.integers(len(letters), size=int(random.integers(2, 9))))
            for _ in range(count)
        )
    return " ".join(WORDS[at] for at in random.integers(len(WORDS), size=count))


def write(pen: ImageDraw.ImageDraw, at: tuple[float, float], width: float, text: str, font, fill) -> None:
    """One line of the text, cut to the width."""
    length = font.getlength(text)
    pen.text(at, text[: int(len(text) * max(width, 0) / length)] if length > width else text, font=font, fill=fill)


def write_lines(
    pen, box, random: Random, font, fill, *, letters: str = "", leading: float = 1.4, raggedness: float = 0.12
):
    """Paragraphs of running text inside the box (left, top, right, bottom)."""
    left, top, right, bottom = box
    step, size = font.size * leading, font.size
    y, in_paragraph = top, int(random.integers(3, 9))
    while y + size < bottom:
        width = (right - left) * (1 - raggedness * random.random() if in_paragraph else random.uniform(0.2, 0.8))
        write(pen, (left, y), width, words(random, max(2, int(width / size / 2.2)), letters), font, fill)
        y += step if in_paragraph else step * 1.7
        in_paragraph = in_paragraph - 1 if in_paragraph else int(random.integers(2, 9))


def draw_page(random: Random, index: int) -> Image.Image:
    """A page of running text: many fonts and scripts, one to three columns, headings, figures, portrait or a part of it."""
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
                page.paste(
                    draw_scene(random, int(random.integers(1000))).resize((box[2] - box[0], box[3] - box[1])), box[:2]
                )
            else:
                pen.rectangle(box, outline=ink, fill=colour_of(random, 190))
            start = box[3] + size
        bottom = height - margin if random.random() < 0.8 else height * random.uniform(0.5, 0.9)
        write_lines(pen, (left, start, left + column, bottom), random, font, ink, letters=letters, leading=leading)
    return page


def draw_scan(random: Random, index: int) -> Image.Image:
    """A receipt, a form, a calendar or a typed letter as a scanner or a phone sees it: tilted, shaded, noisy."""
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
        for row in range(rows):
            for column in range(columns):
                left, top = 30 + column * across, 80 + row * down
                pen.rectangle((left, top, left + across, top + down), outline=ink)
                text = (
                    str(row * columns + column + 1)
                    if calendar
                    else (words(random, 1) if row == 0 or column == 0 else f"{random.uniform(0, 999):.1f}")
                )
                write(pen, (left + 6, top + 6), across - 10, text, font, ink)
    else:
        write_lines(pen, (70, 80, width - 70, height * random.uniform(0.6, 0.92)), random, font, ink, leading=1.6)
        write(pen, (70, height - 60), 300, words(random, 2).title(), font_of(find_font("caveat"), 42), ink)
    shade = (
        np.linspace(1, random.uniform(0.7, 1), width)[None] * np.linspace(1, random.uniform(0.75, 1), height)[:, None]
    )
    pixels = np.asarray(page) * shade + random.normal(0, random.uniform(0, 9), (height, width))
    tint = np.array([1, random.uniform(0.95, 1), random.uniform(0.82, 1)])
    page = Image.fromarray((pixels[..., None] * tint).clip(0, 255).astype(np.uint8))
    table = colour_of(random, 20, 140)
    page = page.rotate(
        float(random.normal(0, 2.5)), Image.Resampling.BICUBIC, expand=random.random() < 0.6, fillcolor=table
    )
    return page.filter(ImageFilter.GaussianBlur(float(random.uniform(0, 1.2))))


def draw_code(random: Random, index: int) -> Image.Image:
    """A listing in an editor, with colours, line numbers and indents, or a terminal with a prompt and its output."""
    width, height = pick(random, ((760, 560), (900, 520), (520, 680)))
    paper = pick(random, DARK) if random.random() < 0.65 else pick(random, LIGHT)
    dark = sum(paper) < 300
    ink = (215, 218, 224) if dark else (36, 41, 46)
    colours = [colour_of(random, 120, 256) if dark else colour_of(random, 0, 170) for _ in range(5)]
    window = Image.new("RGB", (width, height), paper)
    pen, font = ImageDraw.Draw(window), latin(random, int(random.integers(12, 22)), MONO)
    top = 12
    if random.random() < 0.5:
        pen.rectangle(
            (0, 0, width, 34), fill=tuple(max(0, channel - 14) if not dark else channel + 20 for channel in paper)
        )
        for at in range(3):
            pen.ellipse((14 + 22 * at, 11, 26 + 22 * at, 23), fill=((255, 95, 86), (255, 189, 46), (39, 201, 63))[at])
        top = 46
    step, em, indent = font.size * 1.45, font.getlength("0"), 0
    for line, y in enumerate(np.arange(top, height * random.uniform(0.6, 1.0), step)):
        x = 14.0
        if index % 2:
            if random.random() < 0.3:
                prompt = f"{pick(random, NAMES)}@{pick(random, WORDS)}:~$ "
                pen.text((x, y), prompt, font=font, fill=colours[0])
                pen.text(
                    (x + em * len(prompt), y), f"{pick(random, NAMES)} --{pick(random, NAMES)}", font=font, fill=ink
                )
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
    """A desktop program: menus, tool bar, tree, grid or form or chat, status bar; sometimes on a desktop with a task bar."""
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
            box = (10 + at * 38, top + 6, 38 + at * 38, top + 34)
            pen.rounded_rectangle(
                box, 4, fill=colour_of(random, 60, 230) if random.random() < 0.6 else None, outline=line
            )
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
        for at in range(2):
            pen.rounded_rectangle(
                (width - 110 - 100 * at, bottom - step - 8, width - 24 - 100 * at, bottom - 8), 5, fill=accent
            )
    elif kind == 2:
        for y in range(top + 12, bottom - 50, 58):
            mine, span = random.random() < 0.5, (width - left) * random.uniform(0.25, 0.6)
            start = width - 20 - span if mine else left + 20
            pen.rounded_rectangle((start, y, start + span, y + 46), 14, fill=accent if mine else panel)
            for at in range(2):
                write(
                    pen,
                    (start + 12, y + 4 + at * 20),
                    span - 24,
                    words(random, 9),
                    font,
                    (255, 255, 255) if mine else ink,
                )
    else:
        picture = draw_scene(random, int(random.integers(1000)))
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
    pen, font = (
        ImageDraw.Draw(page),
        latin(random, int(random.integers(13, 19)), ("inter", "lora", "merriweather", "noto-serif")),
    )
    head, y = latin(random, int(font.size * random.uniform(2, 3)), ("inter", "lora", "merriweather")), 0
    if random.random() < 0.5:
        pen.rectangle((0, 0, width, 40), fill=(222, 225, 230))
        pen.rounded_rectangle((90, 8, width - 60, 32), 12, fill=(255, 255, 255))
        pen.text(
            (104, 12),
            f"{pick(random, WORDS)}.example/{pick(random, WORDS)}",
            font=font_of(find_font("inter"), 15),
            fill=(80, 80, 80),
        )
        y = 40
    pen.rectangle((0, y, width, y + 50), fill=accent if random.random() < 0.3 else paper)
    pen.text((24, y + 14), words(random, 1).title(), font=font, fill=ink)
    for at in range(4 if width > 500 else 1):
        pen.text((width - 90 - 90 * at, y + 14), pick(random, WORDS).title(), font=font, fill=ink)
    y += 50
    if random.random() < 0.75:
        tall = int(random.integers(140, 320))
        banner = (
            draw_scene(random, int(random.integers(1000))) if random.random() < 0.6 else draw_background(random, index)
        )
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
                pen.rounded_rectangle(
                    (left, y, left + across, y + tall), 8, outline=(210, 212, 216), fill=(255, 255, 255)
                )
            if random.random() < 0.55:
                picture = draw_scene(random, int(random.integers(1000))).resize((int(across), tall // 2))
                page.paste(picture, (int(left), y))
                inner += tall // 2 + 6
            write(pen, (left + 8, inner + 4), across - 16, words(random, 4).title(), font, accent)
            write_lines(pen, (left + 8, inner + font.size * 1.8, left + across - 8, y + tall), random, font, ink)
        y += tall + 22
    if random.random() < 0.5:
        pen.rectangle((0, height - 56, width, height), fill=pick(random, DARK))
        write(pen, (24, height - 40), width - 48, words(random, 12), font, (170, 170, 170))
    return page


def draw_chart(random: Random, index: int) -> Image.Image:
    """A chart in a style of a spreadsheet or dashboard: bars, lines, areas, rings, points, boxes, candles, heat map, gauge."""
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


def draw_diagram(random: Random, index: int) -> Image.Image:
    """A flow chart, a graph of nodes, a circuit of right angles, a sheet of music, a floor plan, or bar and matrix codes."""
    kind = index % 6
    width, height = pick(random, ((720, 560), (560, 720), (800, 480)))
    paper, ink = pick(random, LIGHT), colour_of(random, 0, 90)
    sheet = Image.new("RGB", (width, height), paper)
    pen, font = ImageDraw.Draw(sheet), latin(random, int(random.integers(13, 19)), ("inter", "lora", "ibm-plex-mono"))
    if kind == 0:
        columns, rows = int(random.integers(2, 5)), int(random.integers(3, 6))
        fills = [colour_of(random, 170) if random.random() < 0.7 else paper for _ in range(3)]
        boxes = {}
        for row in range(rows):
            for column in range(columns):
                if random.random() < 0.75:
                    middle = ((column + 0.5) * width / columns, (row + 0.5) * height / rows)
                    boxes[row, column] = (*middle, width / columns * 0.36, height / rows * 0.28)
        for (row, column), (x, y, *_) in boxes.items():
            for other in ((row + 1, column), (row, column + 1), (row + 1, column + 1)):
                if other in boxes and random.random() < 0.7:
                    u, v, *_ = boxes[other]
                    pen.line((x, y, x, v, u, v) if random.random() < 0.6 else (x, y, u, v), fill=ink, width=2)
                    pen.regular_polygon((u, v - boxes[other][3] - 6, 7), 3, rotation=180, fill=ink)
        for x, y, across, down in boxes.values():
            shape, fill = int(random.integers(3)), pick(random, fills)
            if shape == 0:
                pen.polygon(((x, y - down), (x + across, y), (x, y + down), (x - across, y)), fill=fill, outline=ink)
            else:
                radius = 2 if shape == 1 else down
                pen.rounded_rectangle(
                    (x - across, y - down, x + across, y + down), radius, fill=fill, outline=ink, width=2
                )
            pen.text((x, y), pick(random, WORDS), font=font, fill=ink, anchor="mm")
    elif kind == 1:
        spots = random.uniform(0.06, 0.94, (int(random.integers(8, 40)), 2)) * (width, height)
        for spot in spots:
            for other in np.argsort(((spots - spot) ** 2).sum(1))[1 : 1 + int(random.integers(1, 4))]:
                pen.line((*spot, *spots[other]), fill=ink, width=int(random.integers(1, 4)))
        for x, y in spots:
            size = random.uniform(6, 24)
            pen.ellipse((x - size, y - size, x + size, y + size), fill=colour_of(random, 60), outline=ink, width=2)
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
            pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=ink if random.random() < 0.5 else paper, outline=ink)
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
                y, up = top + gap * random.integers(-2, 11) / 2, random.random() < 0.5
                pen.ellipse(
                    (x - gap * 0.65, y - gap / 2, x + gap * 0.65, y + gap / 2),
                    fill=ink if random.random() < 0.8 else None,
                    outline=ink,
                    width=2,
                )
                stem = x + gap * 0.6 if up else x - gap * 0.6
                pen.line((stem, y, stem, y - gap * 3.3 if up else y + gap * 3.3), fill=ink, width=2)
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
            x, y, size = (
                int(random.integers(20, width // 2)),
                int(random.integers(20, height // 2)),
                int(random.integers(140, 260)),
            )
            if random.random() < 0.5:
                cells = int(pick(random, (21, 25, 29, 33)))
                dots = random.random((cells, cells)) < 0.5
                for row, column in ((0, 0), (0, cells - 7), (cells - 7, 0)):
                    dots[row : row + 7, column : column + 7] = True
                    dots[row + 1 : row + 6, column + 1 : column + 6] = False
                    dots[row + 2 : row + 5, column + 2 : column + 5] = True
                code = Image.fromarray(np.where(dots, 0, 255).astype(np.uint8)).resize(
                    (size, size), Image.Resampling.NEAREST
                )
                sheet.paste(code.convert("RGB"), (x, y))
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
        edges = Image.fromarray(
            ((nearest != np.roll(nearest, 1, 0)) | (nearest != np.roll(nearest, 1, 1))).astype(np.uint8) * 255
        )
        sheet.paste((90, 80, 90), (0, 0), edges.resize((width, height), Image.Resampling.NEAREST))
        pen = ImageDraw.Draw(sheet)
    else:
        for paint in (park, park, water):
            middle, size = random.uniform(0, 1, 2) * (width, height), random.uniform(60, 220)
            angles = np.linspace(0, 2 * math.pi, 14)[:-1]
            radii = size * random.uniform(0.5, 1.2, 13)
            pen.polygon(
                [
                    (middle[0] + r * math.cos(a), middle[1] + r * math.sin(a))
                    for r, a in zip(radii, angles, strict=True)
                ],
                fill=paint,
            )
        walk = (
            random.normal(0, 40, (14, 2)).cumsum(0)
            + (width * random.random(), 0)
            + np.linspace(0, height, 14)[:, None] * (0, 1)
        )
        pen.line([tuple(point) for point in walk], fill=water, width=int(random.integers(10, 40)), joint="curve")
        for size, casing in ((4, 6), (4, 6), (9, 12)):
            turn, step = random.uniform(0, math.pi), random.uniform(45, 120) * (1 + (size > 4))
            for offset in np.arange(-1000, 1500, step):
                for angle in (turn, turn + math.pi / 2):
                    if random.random() < 0.75:
                        shift = (offset * math.cos(angle), offset * math.sin(angle))
                        ends = [
                            (
                                width / 2 + shift[0] + t * math.sin(angle) + random.normal(0, 6),
                                height / 2 + shift[1] - t * math.cos(angle) + random.normal(0, 6),
                            )
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


def draw_noise(random: Random, index: int) -> Image.Image:
    """Noise of kinds that the held-out part has not: of a spectrum, of rows, of blocks, of a sensor, salt and pepper, walks."""
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
                box = (
                    (x, y + step * 0.15, x + step, y + step * 0.85)
                    if (row + column) % 2
                    else (x + step * 0.15, y, x + step * 0.85, y + step)
                )
                pen.rectangle(box, fill=shade(0.08))
    elif kind == 3:
        step, sides = int(random.integers(30, 80)), int(pick(random, (3, 4, 6)))
        for row, y in enumerate(range(0, height + step, step)):
            for x in range(0, width + step, step):
                pen.regular_polygon(
                    (x + (row % 2) * step / 2, y, step * 0.48),
                    sides,
                    rotation=int(random.integers(2)) * 30,
                    fill=shade(0.2),
                )
    elif kind == 4:
        spots = random.uniform(0, 480, (int(random.integers(40, 160)), 2))
        across, down = np.meshgrid(np.arange(0, width, 3), np.arange(0, height, 3))
        away = np.sort(np.hypot(across - spots[:, :1, None], down - spots[:, 1:, None]), 0)[:2]
        level = np.clip((away[1] - away[0]) / random.uniform(6, 40), 0, 1)[..., None]
        return Image.fromarray((base * (1 - level) + other * level).astype(np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
    elif kind == 5:
        step = int(random.integers(14, 44))
        for row, y in enumerate(range(0, height + step, step)):
            for x in range(0, width + step, step):
                size = step * random.uniform(0.15, 0.5)
                middle = x + (row % 2) * step / 2
                pen.ellipse((middle - size, y - size, middle + size, y + size), fill=shade())
    elif kind == 6:
        step, wave, sway = int(random.integers(6, 24)), random.uniform(10, 60), random.uniform(0, 26)
        for at, y in enumerate(range(-30, height + 30, step)):
            pen.line(
                [(x, y + sway * math.sin(x / wave + at * 0.2)) for x in range(0, width + 8, 8)],
                fill=shade(),
                width=max(1, step // 3),
            )
    else:
        for _ in range(int(random.integers(120, 400))):
            x, y, turn, long = *random.uniform(0, 480, 2), random.uniform(0, 2 * math.pi), random.uniform(12, 60)
            tip, side = (x + long * math.cos(turn), y + long * math.sin(turn)), long * 0.25
            middle = ((x + tip[0]) / 2, (y + tip[1]) / 2)
            normal = (-math.sin(turn) * side, math.cos(turn) * side)
            pen.polygon(
                (
                    (x, y),
                    (middle[0] + normal[0], middle[1] + normal[1]),
                    tip,
                    (middle[0] - normal[0], middle[1] - normal[1]),
                ),
                fill=shade(0.35),
            )
    noise = random.normal(0, random.uniform(0, 14), (height, width, 1))
    sheet = Image.fromarray((np.asarray(sheet) + noise).clip(0, 255).astype(np.uint8))
    side = int(random.integers(240, 480))
    return (
        sheet.rotate(float(random.uniform(0, 90)), Image.Resampling.BICUBIC).crop((90, 90, 390, 390))
        if random.random() < 0.4
        else sheet.crop((0, 0, side, side))
    )


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
        wobble = np.stack(
            [np.convolve(random.normal(0, size, len(dense) + 6), np.ones(7) / 4, "valid") for _ in range(2)], 1
        )
        pen.line([tuple(point) for point in dense + wobble], fill=fill, width=size, joint="curve")

    def ring(x: float, y: float, size: float, fill, thick: int) -> None:
        angles = np.linspace(0, 2 * math.pi + 0.3, 16)
        stroke([(x + size * math.cos(a), y + size * math.sin(a)) for a in angles], fill, thick)

    size = int(random.integers(2, 7))
    colours = [colour_of(random, 0, 200) for _ in range(5)] if random.random() < 0.7 else [(60, 60, 64)] * 5
    if kind == 0:
        for _ in range(int(random.integers(1, 6))):
            walk = random.normal(0, 60, (int(random.integers(12, 50)), 2)).cumsum(0) * 0.5 + random.uniform(
                0.25, 0.75, 2
            ) * (width, height)
            stroke(np.abs(walk) % (width, height), pick(random, colours), size)
    elif kind == 1:
        ground = height * random.uniform(0.65, 0.85)
        stroke([(0, ground), (width / 2, ground), (width, ground)], (70, 150, 60), size)
        for _ in range(int(random.integers(1, 3))):
            x, side = random.uniform(40, width - 200), random.uniform(80, 170)
            stroke(
                [(x, ground), (x, ground - side), (x + side, ground - side), (x + side, ground), (x, ground)],
                colours[0],
                size,
            )
            stroke(
                [(x - 10, ground - side), (x + side / 2, ground - side * 1.6), (x + side + 10, ground - side)],
                colours[1],
                size,
            )
            stroke(
                [
                    (x + side * 0.4, ground),
                    (x + side * 0.4, ground - side * 0.4),
                    (x + side * 0.6, ground - side * 0.4),
                    (x + side * 0.6, ground),
                ],
                colours[2],
                size,
            )
        for _ in range(int(random.integers(1, 5))):
            x, tall = random.uniform(30, width - 30), random.uniform(50, 110)
            ring(x, ground - tall, tall * 0.22, colours[3], size)
            stroke([(x, ground - tall * 0.8), (x, ground - tall * 0.3), (x - tall * 0.2, ground)], colours[3], size)
            stroke([(x, ground - tall * 0.3), (x + tall * 0.2, ground)], colours[3], size)
            stroke([(x - tall * 0.3, ground - tall * 0.6), (x + tall * 0.3, ground - tall * 0.6)], colours[3], size)
        ring(width * random.uniform(0.1, 0.9), 70, 36, (240, 190, 30), size)
    elif kind == 2:
        font = font_of(find_font("caveat"), int(random.integers(26, 52)))
        for y in range(30, height - 50, int(font.size * 1.1)):
            write(
                pen,
                (30 + random.normal(0, 4), y + random.normal(0, 3)),
                (width - 60) * random.uniform(0.6, 1),
                words(random, 9),
                font,
                colours[0],
            )
        if random.random() < 0.5:
            ring(*random.uniform(100, 380, 2), random.uniform(40, 110), colours[1], size)
    else:
        for _ in range(int(random.integers(2, 6))):
            x, y, side = *random.uniform(60, 400, 2), random.uniform(50, 140)
            ring(x, y, side, colours[0], 2) if random.random() < 0.5 else stroke(
                [
                    (x - side, y - side),
                    (x + side, y - side),
                    (x + side, y + side),
                    (x - side, y + side),
                    (x - side, y - side),
                ],
                colours[0],
                2,
            )
            for at in np.arange(-side, side, random.uniform(6, 14)):
                stroke(
                    [(x + at - side * 0.3, y + side * 0.6), (x + at + side * 0.3, y - side * 0.6)], (120, 120, 124), 1
                )
    return sheet.filter(ImageFilter.GaussianBlur(float(random.uniform(0, 1))))


def draw_background(random: Random, index: int) -> Image.Image:
    """A wallpaper without a subject: fades of two or three colours over the whole, blurred lights, bands of hills, rays."""
    width, height = pick(random, ((480, 320), (400, 400), (320, 480)))
    kind = int(random.integers(4))
    across, down = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    ends = np.array([colour_of(random) for _ in range(3)], float)
    turn = random.uniform(0, 2 * math.pi)
    level = (
        ((across * math.cos(turn) + down * math.sin(turn)) / 1.5 + 1) / 2
        if random.random() < 0.6
        else np.hypot(across - random.uniform(-1, 1), down - random.uniform(-1, 1)) / 2.5
    )
    level = level.clip(0, 1)[..., None]
    pixels = ends[0] * (1 - level) ** 2 + 2 * ends[1] * level * (1 - level) + ends[2] * level**2
    sheet = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(sheet)
    if kind == 1:
        for _ in range(int(random.integers(8, 40))):
            x, y, size = random.uniform(0, width), random.uniform(0, height), random.uniform(6, 50)
            pen.ellipse((x - size, y - size, x + size, y + size), fill=colour_of(random, 60))
        sheet = sheet.filter(ImageFilter.GaussianBlur(float(random.uniform(4, 14))))
    elif kind == 2:
        for layer in range(int(random.integers(2, 6))):
            waves = random.uniform(0.5, 3), random.uniform(0, 6), random.uniform(8, 50)
            ridge = [
                (x, height * (0.4 + layer * 0.12) + waves[2] * math.sin(x / width * 6 * waves[0] + waves[1]))
                for x in range(0, width + 4, 4)
            ]
            pen.polygon([(0, height), *ridge, (width, height)], fill=colour_of(random, 20, 200))
    elif kind == 3:
        middle, count = random.uniform(0, 1, 2) * (width, height), int(random.integers(8, 30))
        for at in range(0, count, 2):
            edge = [
                (
                    middle[0] + 900 * math.cos((at + step) / count * 2 * math.pi),
                    middle[1] + 900 * math.sin((at + step) / count * 2 * math.pi),
                )
                for step in (0, 1)
            ]
            pen.polygon([tuple(middle), *edge], fill=tuple(int(value) for value in ends[1]))
    return sheet
