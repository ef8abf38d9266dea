"""The parts that drawn logos are put together from: icons and fonts, words and initials, plain figures and badges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from logo_edge.errors import DatasetError
from logo_edge_train.data.pairs.colours import (
    INK_BLACK,
    WHITE,
    Random,
    colour,
    distance,
    main_colour,
    mix,
    oklab,
    readable_on,
)
from logo_edge_train.data.pairs.fonts import family_of, glyphs, is_script
from logo_edge_train.data.pairs.marks import (
    FULL,
    Box,
    Layer,
    Mark,
    around,
    coloured,
    cut,
    ellipse,
    ink_box,
    join,
    mark_of,
    path,
    polar,
    rectangle,
    shrink,
    turned,
)

SIGNS = "#+!?123456789"
CONSONANTS = "b br c ch cl d dr f fl g gr h j k l m n p pl pr qu r s sh sk st t tr v w z".split()
VOWELS, ENDINGS = "a e i o u ai ea ee io oo y".split(), "_ _ _ l m n r s t x nd rk st sh".split()
BADGES = ("disc", "square", "rounded", "squircle", "hexagon", "octagon", "diamond", "shield", "drop")

Members = tuple[tuple[Sequence[Layer], Sequence[Layer]], tuple[bool, bool]]
"""The layers of both members, in the order of their kind's labels, and whether these labels are sure."""


@dataclass(frozen=True)
class Sources:
    """The sources of drawn logos: pools of icons, {pool: {name: SVG document}}, and font files.

    Pools: `solid` and `line` are one-colour pictograms of few parts, `brand` flat icons of any kind, `figure`
    one-colour pictures of many parts, `shaded` icons with gradients.
    """

    pools: dict[str, dict[str, str]]
    fonts: tuple[str, ...]

    def icon(self, random: Random, pool: str) -> Mark:
        """A random icon of a pool. Raises DatasetError if the pool is unknown or empty."""
        icons = self.pools.get(pool)
        if not icons:
            known = ", ".join(f"{name} ({len(held)})" for name, held in self.pools.items())
            raise DatasetError(f"no icon in pool {pool!r}; expected one of {known}")
        return mark_of(icons[str(random.choice(list(icons)))])

    def font(self, random: Random, *, scripts: bool = True) -> str:
        """The file of a random font; without `scripts`, one whose capitals can be set side by side."""
        fonts = [font for font in self.fonts if scripts or not is_script(font)]
        if not fonts:
            raise DatasetError(
                f"no font to letter with among {len(self.fonts)}; expected at least one that is no script"
            )
        family = str(random.choice(sorted(set(map(family_of, fonts)))))
        return str(random.choice([font for font in fonts if family_of(font) == family]))


def name_of(random: Random, syllables: tuple[int, int] = (2, 4)) -> str:
    """An invented, pronounceable name such as Brekona."""
    parts = [
        random.choice(CONSONANTS) + random.choice(VOWELS) + random.choice(ENDINGS).replace("_", "")
        for _ in range(random.integers(*syllables))
    ]
    return "".join(parts)[:11].capitalize()


def initials(random: Random, count: int) -> str:
    """Initials of a name; two may be a letter and a sign."""
    letters = "".join(chr(65 + code) for code in random.integers(0, 26, count))
    if count == 2 and random.random() < 0.2:
        letters = letters[0] + str(random.choice(list(SIGNS)))
    return letters[0] + letters[1:].lower() if random.random() < 0.3 else letters


def word(random: Random, sources: Sources, *, scripts: bool = True) -> list[Mark]:
    """A mark for each letter of a word; without `scripts`, letters that do not join."""
    font, text = sources.font(random), name_of(random)
    script = is_script(font)
    style = "title" if script else str(random.choice(["title", "lower", "upper"], p=[0.4, 0.25, 0.35]))
    text = {"title": text, "lower": text.lower(), "upper": text.upper()}[style]
    if not script and random.random() < 0.12:
        text += " " + str(random.choice(["lab", "go", "one", "co", "hub", "box", "ai"]))
    spacing = 0.0 if script else float(random.choice([-0.02, 0.0, 0.03, 0.12], p=[0.2, 0.5, 0.2, 0.1]))
    letters = glyphs(font, text, spacing)
    if random.random() < 0.12:
        degrees = random.uniform(8, 16)
        letters = [letter.slanted(degrees) for letter in letters]
    return letters if scripts or not script else word(random, sources, scripts=False)


def lettered(random: Random, sources: Sources, count: int | None = None) -> Mark:
    """`count` initials in a random font, by default two or three."""
    font = sources.font(random, scripts=False)
    return join(glyphs(font, initials(random, count or int(random.integers(2, 4)))))


def letter(random: Random, sources: Sources) -> Mark:
    """A random letter."""
    return lettered(random, sources, 1)


def pictogram(random: Random, sources: Sources, solid: float) -> Mark:
    """A pictogram, filled with the probability `solid`, else drawn in lines."""
    return sources.icon(random, "solid" if random.random() < solid else "line")


def wordmark(random: Random, sources: Sources) -> Mark:
    """A word as wide as the canvas, sometimes with a line below or a box around it."""
    whole, style = join(word(random, sources)).into((20, 20, 960, 960)), random.random()
    if style > 0.2:
        return whole
    left, top, width, height = whole.box
    if style < 0.08:
        return join([whole, rectangle((left, top + 1.2 * height, width, 0.12 * height))])
    room = random.uniform(0.35, 0.6) * height
    whole = whole.into((20 + 1.3 * room, top, 960 - 2.6 * room, height))
    left, top, width, height = whole.box
    frame = left - 1.3 * room, top - room, width + 2.6 * room, height + 2 * room
    radius = float(random.choice([0, 0.2, 0.5])) * frame[3]
    if random.random() < 0.6:
        return cut(rectangle(frame, radius=radius), whole)
    line = 0.1 * height
    return join([rectangle(shrink(frame, 1 - line / frame[2]), radius=radius, stroke=line), whole])


def solid(random: Random, sources: Sources) -> Mark:
    """A flat mark of few parts in one colour: a pictogram, a plain figure or one letter."""
    choice = random.random()
    if choice < 0.5:
        return sources.icon(random, "solid").into(FULL)
    return letter(random, sources).into(FULL) if choice < 0.65 else geometric(random)


def geometric(random: Random) -> Mark:
    """A plain geometric figure of few parts."""
    kind, count = random.integers(10), int(random.integers(3, 8))
    centre = ellipse(500, 500, 480)
    if kind == 0:
        mark = cut(centre, ellipse(500, 500, random.uniform(150, 330)))
    elif kind == 1:
        mark = cut(centre, ellipse(500 + random.uniform(120, 260), random.uniform(350, 500), random.uniform(300, 420)))
    elif kind == 2:
        mark = path(around(count + (count == 4), turn=random.choice([-90, 0, 45])))
        if random.random() < 0.5:
            mark = cut(mark, ellipse(500, 500, random.uniform(100, 190)))
    elif kind == 3:
        inner, outer = around(count, random.uniform(170, 300), -90 + 180 / count), around(count)
        mark = path(np.stack([outer, inner], 1).reshape(-1, 2))
    elif kind == 4:
        mark = join(petals(ellipse(500, 260, random.uniform(70, 150), 240), count))
    elif kind == 5:
        high = random.uniform(120, 200)
        boxes = [(150 + 250 * at, 900 - (at + 2) * high, 190, (at + 2) * high) for at in range(3)]
        mark = join([rectangle(box, radius=random.choice([0, 30])) for box in boxes])
    elif kind == 6:
        angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
        radius = 380 + sum(random.uniform(-70, 70) * np.cos(k * angles + random.uniform(0, 6)) for k in (2, 3))
        mark = path(polar(angles, radius))
    elif kind == 7:
        chevron = np.array([[100, 0], [500, 320], [900, 0], [900, 180], [500, 500], [100, 180]])
        mark = join([path(np.add(chevron, (0, shift))) for shift in (80, 400)[: random.integers(1, 3)]])
    elif kind == 8:
        turns = np.linspace(0, random.uniform(3, 5) * np.pi, 120)
        mark = path(polar(turns, 60 + 26 * turns), closed=False, stroke=random.uniform(60, 100))
    else:
        square = rectangle((40, 40, 920, 920), radius=random.choice([0, 120, 260]))
        mark = cut(square, path(around(3, 300, random.choice([-90, 0]))))
    return Mark(mark.markup, ink_box(coloured(mark, WHITE))).into(FULL)


def petals(petal: Mark, count: int) -> list[Mark]:
    """Copies of a petal, turned around the centre of the canvas."""
    return [Mark(turned(petal.markup, 360 * at / count), FULL) for at in range(count)]


def badge_shape(random: Random) -> tuple[Mark, Box]:
    """A plain badge, and the box in it for glyphs."""
    kind = str(random.choice(BADGES, p=[0.28, 0.15, 0.24, 0.09, 0.08, 0.04, 0.04, 0.05, 0.03]))
    if kind == "disc":
        return ellipse(500, 500, 480), (190, 190, 620, 620)
    if kind in ("square", "rounded", "squircle"):
        radius = {"square": 0, "rounded": random.uniform(60, 180), "squircle": 300}[kind]
        return rectangle((30, 30, 940, 940), radius=radius), (130, 130, 740, 740)
    if kind in ("hexagon", "octagon"):
        sides = 6 if kind == "hexagon" else 8
        return path(around(sides, turn=random.choice([-90, 0]) if sides == 6 else 22.5)), (230, 230, 540, 540)
    if kind == "diamond":
        return path(around(4)), (290, 290, 420, 420)
    if kind == "shield":
        down = np.linspace(0, 1, 30)
        right = np.stack([900 - 400 * down**2.2, 380 + 590 * down], 1)
        left = right[::-1] * [-1, 1] + [1000, 0]
        return path(np.concatenate([[[100, 60], [900, 60]], right, left])), (230, 160, 540, 520)
    return join([ellipse(500, 600, 370), path([[150, 480], [500, 20], [850, 480]])]), (260, 380, 480, 440)


@dataclass(frozen=True)
class Badge:
    """A badge without its glyph: `draw` returns the layers with a glyph on it, `room` is the box for glyphs."""

    draw: Callable[[Mark], list[Layer]]
    room: Box
    corners: bool  # whether glyphs may be placed in the corners


def badge(random: Random, *, none: float = 0.0, fades: bool = False) -> Badge:
    """A badge of a random style; `fades` asks for a large dark one. With the probability `none` there is no badge."""
    paint = main_colour(random)
    if random.random() < none:
        return Badge(lambda glyph: [(glyph, paint)], FULL, False)
    shape, room = badge_shape(random)
    corners = "<rect" in shape.markup
    light, style, second = readable_on(paint, random), random.random(), main_colour(random)
    if distance(second, paint) < 0.12:
        second = INK_BLACK if oklab(paint)[0] > 0.4 else colour(0.7, 0.15, random.uniform(0, 360))
    if style < 0.45 or (fades and style > 0.87):
        return Badge(lambda glyph: [(shape, paint), (glyph, light)], room, corners)
    if style < 0.6:
        return Badge(lambda glyph: [(cut(shape, glyph), paint)], room, corners)
    inner = shape.into((90, 90, 820, 820))
    if style < 0.75 and not fades:
        ring, tone = cut(shape, inner), paint if style < 0.68 else second
        return Badge(lambda glyph: [(ring, paint), (glyph, tone)], shrink(room, 0.86), corners)
    if style < 0.87:
        edge = second if random.random() < 0.6 else mix(paint, "#000000", 0.35)
        return Badge(lambda glyph: [(shape, edge), (inner, paint), (glyph, light)], shrink(room, 0.84), corners)
    pale = colour(0.88, 0.05, random.uniform(0, 360))  # on white, not on dark grey like the other member
    return Badge(lambda glyph: [(shape, pale), (glyph, paint)], room, corners)
