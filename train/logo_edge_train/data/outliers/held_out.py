"""Drawn families for evaluation only: no network learns from them, and nothing is chosen by them.

Matplotlib draws the charts, formulas and surfaces; Pillow's own font letters pages and windows.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from logo_edge_train.data.outliers.drawing import Random, colour_of

SIZE_PX = 256
WORDS = (
    "the of a to in is on that by this with from as it or at an be are which one has not but all were when we there "
    "can more if out some time than other into only new two may first then any like over such our even most after "
    "also through years where much before right too means old same three must under last another while us off might "
    "being against"
).split()


def draw_noise(random: Random, index: int) -> Image.Image:
    """White noise, smooth noise or a grating, in turn."""
    if index % 3 == 0:
        pixels = random.integers(0, 256, (SIZE_PX, SIZE_PX, 3))
    elif index % 3 == 1:
        coarse = random.integers(0, 256, (int(random.integers(3, 12)), int(random.integers(3, 12)), 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)
    else:
        across, down = np.meshgrid(np.arange(SIZE_PX), np.arange(SIZE_PX))
        angle, period = random.uniform(0, np.pi), random.uniform(4, 40)
        wave = np.sin((across * np.cos(angle) + down * np.sin(angle)) * 2 * np.pi / period)
        ends = random.integers(0, 256, (2, 3))
        pixels = ends[0] + (wave[..., None] + 1) / 2 * (ends[1] - ends[0])
    return Image.fromarray(pixels.astype(np.uint8))


def draw_fractal(random: Random, index: int) -> Image.Image:
    """A Julia set, coloured by the steps until escape."""
    turn = random.uniform(0, 2 * np.pi)
    constant = 0.7885 * np.exp(1j * turn)
    span, middle = random.uniform(0.6, 1.5), random.uniform(-0.4, 0.4, 2)
    line = np.linspace(-span, span, SIZE_PX)
    points = (line + middle[0])[None] + 1j * (line + middle[1])[:, None]
    steps = np.zeros(points.shape)
    for step in range(48):
        inside = np.abs(points) < 2
        points[inside] = points[inside] ** 2 + constant
        steps[inside] = step
    colours = np.array([colour_of(random) for _ in range(4)], float)
    level = steps / steps.max(initial=1.0) * 3
    low = np.minimum(level.astype(int), 2)
    part = (level - low)[..., None]
    return Image.fromarray((colours[low] * (1 - part) + colours[low + 1] * part).astype(np.uint8))


def draw_page(random: Random, index: int) -> Image.Image:
    """A page of running text in one or two columns, some with a heading."""
    page = Image.new("L", (620, 877), int(random.integers(235, 256)))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(int(random.integers(11, 19)))
    columns, top = int(random.integers(1, 3)), 50
    lengths = {word + " ": font.getlength(word + " ") for word in WORDS}
    if random.random() < 0.6:
        pen.text((50, 40), " ".join(random.choice(WORDS, 4)).title(), font=ImageFont.load_default(30), fill=20)
        top = 100
    width = (520 - 20 * (columns - 1)) // columns
    for column in range(columns):
        left = 50 + column * (width + 20)
        for line in range(top, int(random.integers(600, 840)), font.size + 5):
            text, left_px = "", width - 40.0
            while left_px > 0:
                word = WORDS[random.integers(len(WORDS))] + " "
                text, left_px = text + word, left_px - lengths[word]
            if random.random() < 0.92:
                pen.text((left, line), text, font=font, fill=30)
    return page.convert("RGB")


def draw_window(random: Random, index: int) -> Image.Image:
    """The window of an invented program: a title bar, a side list, rows of text, fields and buttons."""
    dark = random.random() < 0.4
    paper, ink, line = (
        ((32, 34, 40), (225, 228, 232), (70, 74, 82)) if dark else ((250, 250, 252), (40, 42, 48), (205, 208, 214))
    )
    window = Image.new("RGB", (800, 520), paper)
    pen, font, accent = ImageDraw.Draw(window), ImageFont.load_default(15), colour_of(random, 40, 220)
    pen.rectangle((0, 0, 800, 36), fill=accent)
    pen.text((14, 9), " ".join(random.choice(WORDS, 2)).title(), font=font, fill=(255, 255, 255))
    split = int(random.integers(140, 240))
    pen.line((split, 36, split, 520), fill=line)
    for row in range(int(random.integers(6, 14))):
        pen.text((16, 54 + row * 30), str(random.choice(WORDS)), font=font, fill=ink)
    for row in range(int(random.integers(4, 12))):
        top = 54 + row * 38
        if random.random() < 0.3:
            pen.rounded_rectangle((split + 20, top, split + 260, top + 26), 5, outline=line)
        if random.random() < 0.25:
            pen.rounded_rectangle((split + 300, top, split + 390, top + 26), 5, fill=accent)
        text = " ".join(random.choice(WORDS, int(random.integers(2, 8))))
        pen.text((split + 28, top + 4), text, font=font, fill=ink)
    return window


def draw_chart(random: Random, index: int) -> Image.Image:
    """A line, bar, scatter, pie or heat-map chart, in turn."""
    from matplotlib.figure import Figure

    figure, kind = Figure(figsize=(4, 3), dpi=80), index % 5
    axes = figure.add_subplot()
    if kind == 0:
        for _ in range(int(random.integers(1, 5))):
            axes.plot(np.cumsum(random.normal(size=60)))
    elif kind == 1:
        axes.bar(range(8), random.uniform(1, 9, 8), color=f"C{index % 10}")
    elif kind == 2:
        axes.scatter(*random.normal(size=(2, 120)), s=random.uniform(5, 40, 120), alpha=0.6)
    elif kind == 3:
        axes.pie(random.uniform(1, 5, 6), labels=random.choice(WORDS, 6))
    else:
        axes.imshow(random.normal(size=(12, 16)).cumsum(0), aspect="auto")
    axes.set_title(" ".join(random.choice(WORDS, 3)))
    return _pixels_of(figure)


def draw_surface(random: Random, index: int) -> Image.Image:
    """A surface in space, contour lines, or a field of arrows, in turn."""
    from matplotlib.figure import Figure

    figure, kind = Figure(figsize=(4, 3.4), dpi=80), index % 3
    axes = figure.add_subplot(projection="3d" if kind == 0 else None)
    across, down = np.meshgrid(np.linspace(-3, 3, 40), np.linspace(-3, 3, 40))
    waves = random.uniform(0.4, 2.2, 4)
    colours = str(random.choice(["viridis", "plasma", "coolwarm", "terrain", "Greys"]))
    height = np.sin(waves[0] * across + waves[1]) * np.cos(waves[2] * down) + waves[3] * np.exp(-(across**2) - down**2)
    if kind == 0:
        axes.plot_surface(across, down, height, cmap=colours)
        axes.view_init(float(random.uniform(15, 60)), float(random.uniform(0, 360)))
    elif kind == 1:
        axes.contour(across, down, height, int(random.integers(6, 18)), cmap=colours)
    else:
        slope, rise = np.gradient(height)
        axes.quiver(*(grid[::3, ::3] for grid in (across, down, rise, slope, height)), cmap=colours)
    return _pixels_of(figure)


def draw_formulas(random: Random, index: int) -> Image.Image:
    """A page of numbered formulas between lines of text."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, float(random.uniform(3, 5.5))), dpi=90)
    rows = int(random.integers(5, 11))
    for row in range(rows):
        level = 1 - (row + 0.7) / (rows + 0.5)
        a, b, c = (str(letter) for letter in random.choice(list("abcdfghkmnpqrstuvwxyz"), 3, replace=False))
        formula = str(
            random.choice(
                [
                    rf"$\int_0^{{{int(random.integers(2, 9))}}} {a}^{{{b}}}\,d{a} = \frac{{{c} + 1}}{{{b}^2}}$",
                    rf"$\sum_{{{a}=1}}^{{n}} \sqrt{{{b}_{a} - {c}}} \leq \alpha {b}$",
                    rf"$\hat{{{a}}} = \arg\max_{{{b}}} \log p({c} \mid {b})$",
                    rf"$\partial_{a} {b} + \nabla \cdot ({c} {b}) = \lambda_{{{int(random.integers(9))}}}$",
                ]
            )
        )
        if random.random() < 0.35:
            figure.text(0.06, level, " ".join(random.choice(WORDS, 8)), fontsize=9, family="serif")
        else:
            figure.text(0.12, level, formula, fontsize=float(random.uniform(11, 15)))
            figure.text(0.9, level, f"({row + 1})", fontsize=9, family="serif")
    return _pixels_of(figure)


def _pixels_of(figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer, formats=("PNG",)).convert("RGB")
