"""Pairs of drawn logos: only the thing that decides the label differs between the two members of a pair.

The labels follow from how a logo is drawn, by the rules of docs/data.md; KINDS is the table of all pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from logo_edge.errors import DatasetError
from logo_edge_train.data.marks import (
    CANVAS,
    FULL,
    INK_BLACK,
    WHITE,
    Box,
    Layer,
    Mark,
    Random,
    around,
    clipped,
    colour,
    coloured,
    cut,
    distance,
    document,
    draw_fade,
    ellipse,
    fade_colours,
    family_of,
    flattened,
    flood,
    glyphs,
    identifier,
    ink_box,
    ink_of,
    join,
    mark_of,
    merged,
    mix,
    oklab,
    path,
    pixels_of,
    rectangle,
    shrink,
    silhouette,
    thick,
    tiles,
)
from logo_edge_train.organize.features import measure_logo

SCRIPTS = ("great-vibes", "lobster", "pacifico")  # fonts whose capitals do not stand in a row
PLAIN, SOFT = (0.2, 0.45), (0.07, 0.1)  # distance in Oklab of the two ends of a fade: seen at once, seen on comparing
PLAINLY = 0.25  # of a mark's ink, from which a fade is a gradient to everybody; the guide's limit is 0.15
FEW_REGIONS, FEW_COLOURS = 10, 5
FILLED = 1.2  # least ink of a silhouette, in that of its picture
SIGNS = "#+!?123456789"
CONSONANTS = "b br c ch cl d dr f fl g gr h j k l m n p pl pr qu r s sh sk st t tr v w z".split()
VOWELS, ENDINGS = "a e i o u ai ea ee io oo y".split(), "_ _ _ l m n r s t x nd rk st sh".split()
BADGES = ("disc", "square", "rounded", "squircle", "hexagon", "octagon", "diamond", "shield", "drop")


@dataclass(frozen=True)
class Sources:
    """What is drawn with: pools of icons, name -> (SVG body, ink box), and font files.

    Pools: `solid` and `line` are one-colour pictograms of few parts, `brand` flat icons of any kind, `figure` one-colour
    pictures of many parts, `shaded` icons with gradients.
    """

    pools: dict[str, dict[str, str]]
    fonts: tuple[str, ...]

    def icon(self, random: Random, pool: str) -> Mark:
        """A random icon of a pool. Raises DatasetError where the pool is unknown or empty."""
        icons = self.pools.get(pool)
        if not icons:
            known = ", ".join(f"{name} ({len(held)})" for name, held in self.pools.items())
            raise DatasetError(f"no icon in pool {pool!r}; expected one of {known}")
        return mark_of(icons[str(random.choice(list(icons)))])

    def font(self, random: Random, *, scripts: bool = True) -> str:
        """The file of a random font; without `scripts`, one whose capitals can stand in a row."""
        fonts = [font for font in self.fonts if scripts or not any(name in font for name in SCRIPTS)]
        if not fonts:
            raise DatasetError(
                f"no font to letter with among {len(self.fonts)}; expected at least one that is no script"
            )
        families = sorted({family_of(font) for font in fonts})
        family = str(random.choice(families))
        return str(random.choice([font for font in fonts if family_of(font) == family]))


@dataclass(frozen=True)
class Pair:
    """Two documents whose labels are those of their kind in KINDS; `sure` as in a manifest."""

    kind: str
    documents: tuple[str, str]
    sure: tuple[bool, bool]


def draw_pair(random: Random, sources: Sources, kind: str) -> Pair:
    """A random pair of the kind. Raises DatasetError for an unknown kind, an empty pool or a missing glyph."""
    if kind not in KINDS:
        raise DatasetError(f"no kind {kind!r} of drawn logos; expected one of {', '.join(KINDS)}")
    members, sure = KINDS[kind].draw(random, sources)
    margin = float(random.choice([0.0, 0.0, random.uniform(0.01, 0.06)]))
    return Pair(kind, (document(members[0], margin), document(members[1], margin)), sure)


def main_colour(random: Random) -> str:
    """A colour that a mark has: near black now and then, else one that is seen on white."""
    if random.random() < 0.2:
        return INK_BLACK
    return colour(random.uniform(0.38, 0.68), random.uniform(0.06, 0.22), random.uniform(0, 360))


def palette(random: Random, count: int) -> list[str]:
    """Colours of distinct hues, in random order, that are all seen on white."""
    start, spread = random.uniform(0, 360), random.uniform(0.85, 1.0)
    hues = start + 360 * spread * np.arange(count) / count
    colours = [colour(random.choice([0.45, 0.6, 0.74]), random.uniform(0.1, 0.2), hue) for hue in hues]
    return [colours[at] for at in random.permutation(count)]


def readable_on(paint: str, random: Random) -> str:
    """White or a dark colour, whichever is seen on the paint."""
    dark = str(random.choice([INK_BLACK, colour(0.3, 0.08, random.uniform(0, 360))]))
    return WHITE if oklab(paint)[0] < 0.72 else dark


def name_of(random: Random, syllables: tuple[int, int] = (2, 4)) -> str:
    """A made-up name that can be spoken, such as Brekona."""
    parts = [
        random.choice(CONSONANTS) + random.choice(VOWELS) + random.choice(ENDINGS).replace("_", "")
        for _ in range(random.integers(*syllables))
    ]
    return "".join(parts)[:11].capitalize()


def initials(random: Random, count: int) -> str:
    """Letters that stand for a name; two may be a letter and a sign that are read together."""
    letters = "".join(chr(65 + code) for code in random.integers(0, 26, count))
    if count == 2 and random.random() < 0.2:
        letters = letters[0] + str(random.choice(list(SIGNS)))
    return letters[0] + letters[1:].lower() if random.random() < 0.3 else letters


def word(random: Random, sources: Sources) -> tuple[str, list[Mark]]:
    """The font of a wordmark, and a mark for each of its letters."""
    font = sources.font(random)
    script = any(name in font for name in SCRIPTS)
    text = name_of(random)
    style = "title" if script else str(random.choice(["title", "lower", "upper"], p=[0.4, 0.25, 0.35]))
    text = {"title": text, "lower": text.lower(), "upper": text.upper()}[style]
    if not script and random.random() < 0.12:
        text += " " + str(random.choice(["lab", "go", "one", "co", "hub", "box", "ai"]))
    spacing = 0.0 if script else float(random.choice([-0.02, 0.0, 0.03, 0.12], p=[0.2, 0.5, 0.2, 0.1]))
    letters = glyphs(font, text, spacing)
    if random.random() < 0.12:
        degrees = random.uniform(8, 16)
        letters = [letter.slanted(degrees) for letter in letters]
    return font, letters


def wordmark(random: Random, sources: Sources) -> Mark:
    """A word, with a line or a box around it now and then, as wide as the canvas."""
    whole, style = join(word(random, sources)[1]).into((20, 20, 960, 960)), random.random()
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


def letter(random: Random, sources: Sources) -> Mark:
    return join(glyphs(sources.font(random, scripts=False), initials(random, 1)))


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
        petal = ellipse(500, 260, random.uniform(70, 150), 240).markup
        mark = Mark(
            "".join(f'<g transform="rotate({360 * at / count:.5g} 500 500)">{petal}</g>' for at in range(count)), FULL
        )
    elif kind == 5:
        high = random.uniform(120, 200)
        bars = [
            rectangle((150 + 250 * at, 900 - (at + 2) * high, 190, (at + 2) * high), radius=random.choice([0, 30]))
            for at in range(3)
        ]
        mark = join(bars)
    elif kind == 6:
        angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
        radius = 380 + sum(random.uniform(-70, 70) * np.cos(k * angles + random.uniform(0, 6)) for k in (2, 3))
        mark = path(np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None] + 500)
    elif kind == 7:
        chevron = np.array([[100, 0], [500, 320], [900, 0], [900, 180], [500, 500], [100, 180]])
        mark = join([path(np.add(chevron, (0, shift))) for shift in (80, 400)[: random.integers(1, 3)]])
    elif kind == 8:
        turns = np.linspace(0, random.uniform(3, 5) * np.pi, 120)
        mark = path(
            np.stack([np.cos(turns), np.sin(turns)], 1) * (60 + 26 * turns)[:, None] + 500,
            closed=False,
            stroke=random.uniform(60, 100),
        )
    else:
        mark = cut(
            rectangle((40, 40, 920, 920), radius=random.choice([0, 120, 260])),
            path(around(3, 300, random.choice([-90, 0]))),
        )
    return Mark(mark.markup, ink_box(coloured(mark, WHITE))).into(FULL)


def badge_shape(random: Random) -> tuple[Mark, Box]:
    """A plain badge, and the box within it that glyphs are fitted into."""
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
    """A badge without its glyph: `draw` gives the layers with a glyph on it, `room` is the box for glyphs."""

    draw: Callable[[Mark], list[Layer]]
    room: Box
    corners: bool  # whether glyphs may stand in them


def badge(random: Random, *, none: float = 0.0, fades: bool = False) -> Badge:
    """A badge of a random style, for `fades` one of a large dark ground; with the probability `none` it is left out, and the glyph stands alone."""
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
        ring = cut(shape, inner)
        return Badge(
            lambda glyph: [(ring, paint), (glyph, paint if style < 0.68 else second)], shrink(room, 0.86), corners
        )
    if style < 0.87:
        edge = second if random.random() < 0.6 else mix(paint, "#000000", 0.35)
        return Badge(lambda glyph: [(shape, edge), (inner, paint), (glyph, light)], shrink(room, 0.84), corners)
    pale = colour(0.88, 0.05, random.uniform(0, 360))  # on white, not on dark grey, as the other member
    return Badge(lambda glyph: [(shape, pale), (glyph, paint)], room, corners)


Members = tuple[tuple[Sequence[Layer], Sequence[Layer]], tuple[bool, bool]]
"""The layers of both members, in the order of their kind's labels, and whether these are sure."""


def repaint(layers: Sequence[Layer], at: int, paint: str) -> list[Layer]:
    return [(mark, paint if index == at else old) for index, (mark, old) in enumerate(layers)]


def fade_pair(random: Random, layers: Sequence[Layer], at: int, *, plain: float = 0.8, bands: bool = False) -> Members:
    """The layers with layer `at` in a fade over about half of it or more, and in a flat colour or hard bands.

    Without `bands` a share 1 - `plain` of the fades is soft. Unsure are soft fades and those over less than PLAINLY of the ink.
    """
    apart = PLAIN if random.random() < plain else SOFT
    seen, share = ink_of(layers[at][0]), random.uniform(0.45, 1.0)
    for mark, _ in layers[at + 1 :]:
        seen &= ~ink_of(mark)
    fades = share * seen.sum() / ink_of(join([mark for mark, _ in layers])).sum()
    forms = ("linear", "radial", "sheen") if bands else ("linear", "linear", "radial", "radial", "sheen", "mesh")
    ends = fade_colours(random, apart, [paint for index, (_, paint) in enumerate(layers) if index != at])
    fade = draw_fade(random, seen, ends, share, forms)
    smooth, other = repaint(layers, at, fade.smooth), repaint(layers, at, fade.banded if bands else fade.flat)
    return (smooth, other), (bool(apart == PLAIN and fades > PLAINLY), True)


def plain_layers(random: Random, sources: Sources) -> tuple[list[Layer], int]:
    """A simple logo, and which of its layers is the main one."""
    if random.random() < 0.45:
        return [(solid(random, sources), main_colour(random))], 0
    holder = badge(random, fades=True)
    glyph = (
        sources.icon(random, "solid" if random.random() < 0.7 else "line")
        if random.random() < 0.7
        else letter(random, sources)
    )
    layers = holder.draw(glyph.into(shrink(holder.room, random.uniform(0.75, 1.05))))
    return layers, max(len(layers) - 2, 0)


def draw_fade_simple(random: Random, sources: Sources) -> Members:
    layers, at = plain_layers(random, sources)
    return fade_pair(random, layers, at)


def draw_fade_bands(random: Random, sources: Sources) -> Members:
    layers, at = plain_layers(random, sources)
    return fade_pair(random, layers, at, plain=1.0, bands=True)


def draw_fade_glyph(random: Random, sources: Sources) -> Members:
    """A glyph on a flat badge, all of which fades: the guide calls it a gradient, unsure where it is small."""
    shape, room = badge_shape(random)
    glyph = solid(random, sources).into(room)
    base = str(random.choice([INK_BLACK, colour(0.88, 0.03, random.uniform(0, 360))]))
    return fade_pair(random, [(shape, base), (glyph, WHITE)], 1, plain=1.0)


def draw_fade_text(random: Random, sources: Sources) -> Members:
    if random.random() < 0.5:
        return fade_pair(random, [(wordmark(random, sources), INK_BLACK)], 0)
    holder = badge(random, fades=True)
    letters = join(glyphs(sources.font(random, scripts=False), initials(random, int(random.integers(2, 4)))))
    layers = holder.draw(letters.into(holder.room))
    return fade_pair(random, layers, max(len(layers) - 2, 0))


def draw_fade_lockup(random: Random, sources: Sources) -> Members:
    """An icon that fades, or is flat, beside a flat word that is the larger part."""
    name, icon = wordmark(random, sources), sources.icon(random, "brand" if random.random() < 0.7 else "solid")
    aspect = name.box[2] / name.box[3]
    high = min(960 / (aspect * 0.6 + 1.2), 500)
    icon = icon.into((20, 400, high, high))
    name = name.into((20 + 1.2 * high, 400 + 0.2 * high, 2000, 0.6 * high), (0, 0.5))
    share = ink_of(icon).sum() / ink_of(join([icon, name])).sum()
    if name.box[2] < 1.1 * high or share < 0.2:
        return draw_fade_lockup(random, sources)
    return fade_pair(random, [(name, main_colour(random)), (icon, WHITE)], 1, plain=1.0)


def draw_fade_complex(random: Random, sources: Sources) -> Members:
    """A silhouette in a smooth fade, and in many hard facets of the same colours."""
    outline = solid(random, sources) if random.random() < 0.5 else badge_shape(random)[0]
    ends = fade_colours(random, (0.3, PLAIN[1]))
    fade = draw_fade(random, ink_of(outline), ends, 1.0, ("linear", "radial"))
    cells = tiles(random, int(random.integers(45, 110)), str(random.choice(["triangles", "voronoi", "squares"])))
    where = np.array([cell.mean(0) for cell in cells])
    tone = (where - where.min(0)).sum(1) / np.ptp(where, axis=0).sum() + random.normal(0, 0.28, len(cells))
    tones = [mix(*ends, float(share)) for share in np.clip(tone, 0, 1)]
    facets = [(path(cell), paint) for cell, paint in zip(cells, tones, strict=True)]
    ground = flood(mix(*ends, 0.5))  # under the seams
    return ([(outline, fade.smooth)], [(outline, ground + merged(facets, outline)[1])]), (True, True)


def draw_fade_edge(random: Random, sources: Sources) -> Members:
    """The same fade, just over and just under 15 % of the mark."""
    mark, ends = solid(random, sources), fade_colours(random, PLAIN)
    ink, seed = ink_of(mark), int(random.integers(2**32))
    over, under = (
        draw_fade(np.random.default_rng(seed), ink, ends, share, ("linear", "radial")).smooth
        for share in (random.uniform(0.18, 0.25), random.uniform(0.05, 0.11))
    )
    return ([(mark, over)], [(mark, under)]), (False, False)


def draw_fade_icon(random: Random, sources: Sources) -> Members:
    """An icon whose gradients are replaced by their mean colours."""
    for _ in range(50):
        shaded = sources.icon(random, "shaded").into(FULL)
        flat = flattened(shaded.markup)
        if flat == shaded.markup or "url(#" in flat.split("<defs>")[0]:
            continue
        one, other = pixels_of(shaded.markup).astype(int), pixels_of(flat).astype(int)
        share = (np.abs(one - other).max(2) > 8).sum() / max((one[:, :, 3] > 127).sum(), 1)
        kept = (np.abs(one - other)[:, :, 3] > 8).mean() < 0.001
        seen = measure_logo(Image.fromarray(other.astype(np.uint8)))
        if (
            kept
            and share > 0.35
            and seen.complexity <= FEW_REGIONS
            and seen.n_colours <= FEW_COLOURS
            and seen.gradient_share < 0.02
        ):
            return ([(shaded, WHITE)], [(Mark(flat, shaded.box), WHITE)]), (True, True)
    raise DatasetError(
        "of 50 icons of pool 'shaded' none has gradients over a flat drawing of few parts; expected some"
    )


def draw_glow(random: Random, sources: Sources) -> Members:
    """A mark on a disc that glows out, and on a hard disc."""
    tone, centre = colour(random.uniform(0.6, 0.8), 0.16, random.uniform(0, 360)), ellipse(500, 500, 490)
    name = identifier(tone)
    faint = f'<stop offset="{random.uniform(0.25, 0.5):.4g}" stop-color="{tone}"/><stop offset="1" stop-color="{tone}" stop-opacity="0"/>'
    glow = (
        f'<radialGradient id="{name}" gradientUnits="userSpaceOnUse" cx="500" cy="500" r="490">{faint}</radialGradient>'
        + flood(f"url(#{name})")
    )
    mark = solid(random, sources).into((290, 290, 420, 420))
    paint = str(random.choice([INK_BLACK, mix(tone, "#000000", 0.6)]))
    return ([(centre, glow), (mark, paint)], [(centre, flood(tone)), (mark, paint)]), (True, True)


def draw_initials(random: Random, sources: Sources) -> Members:
    """Two or three letters, and one of them, on the same badge or on none."""
    holder, count = badge(random, none=0.25), int(random.integers(2, 4))
    font, text = sources.font(random, scripts=False), initials(random, count)
    align = (float(random.integers(2)), 1.0) if holder.corners and random.random() < 0.3 else (0.5, 0.5)
    degrees = random.uniform(8, 14) if random.random() < 0.15 else 0.0
    spacing = float(random.choice([-0.04, 0.0, 0.04]))
    many, one = (join([mark.slanted(degrees) for mark in glyphs(font, part, spacing)]) for part in (text, text[0]))
    return (holder.draw(many.into(holder.room, align)), holder.draw(one.into(holder.room, align))), (True, True)


def draw_initials_icon(random: Random, sources: Sources) -> Members:
    """Letters, and a pictogram, on the same badge or on none."""
    holder = badge(random, none=0.25)
    text = join(glyphs(sources.font(random, scripts=False), initials(random, int(random.integers(2, 4)))))
    icon = sources.icon(random, "line" if random.random() < 0.6 else "solid")
    return (holder.draw(text.into(holder.room)), holder.draw(icon.into(holder.room))), (True, True)


def draw_initials_size(random: Random, sources: Sources) -> Members:
    """The same letters on the same badge, over more and over less than half of its inner width."""
    holder = badge(random)
    text = join(glyphs(sources.font(random, scripts=False), initials(random, 2)))
    large, small = (
        text.into(shrink(holder.room, share)) for share in (random.uniform(0.9, 1.05), random.uniform(0.3, 0.38))
    )
    return (holder.draw(large), holder.draw(small)), (True, False)


def draw_word(random: Random, sources: Sources) -> Members:
    """A word, and its first letter."""
    font, letters = word(random, sources)
    while any(name in font for name in SCRIPTS):
        font, letters = word(random, sources)
    paint = main_colour(random)
    second = main_colour(random) if random.random() < 0.2 else paint
    at = int(random.integers(1, len(letters)))
    whole = join(letters)
    scale = 960 / max(whole.box[2:])

    def placed(mark: Mark) -> Mark:
        left, top, width, height = mark.box
        return mark.into(
            (20 + scale * (left - whole.box[0]), 20 + scale * (top - whole.box[1]), scale * width, scale * height)
        )

    layers = [(placed(join(letters[:at])), paint), (placed(join(letters[at:])), second)]
    return (layers, [(letters[0].into(FULL), paint)]), (True, True)


def draw_word_bars(random: Random, sources: Sources) -> Members:
    """A word, and bars or discs where its letters stand."""
    font, letters = word(random, sources)
    while any(name in font for name in SCRIPTS):
        font, letters = word(random, sources)
    letters, paint = letters[:8], main_colour(random)
    whole, discs = join(letters), random.random() < 0.3
    bars = [
        ellipse(left + width / 2, top + height / 2, min(width, height) / 2)
        if discs
        else rectangle((left, top, 0.85 * width, height), radius=random.choice([0, 0.2, 0.5]) * width)
        for left, top, width, height in (mark.box for mark in letters)
    ]
    return ([(whole.into((20, 20, 960, 960)), paint)], [(join(bars).into((20, 20, 960, 960)), paint)]), (True, True)


def draw_lockup(random: Random, sources: Sources) -> Members:
    """An icon and a word in two proportions: the word is the larger part, or the icon is by far."""
    name, icon = join(word(random, sources)[1]), sources.icon(random, "solid" if random.random() < 0.7 else "line")
    paint, second, stacked = main_colour(random), main_colour(random), random.random() < 0.4
    aspect = name.box[2] / name.box[3]
    if stacked:
        large, small = random.uniform(1.1, 2.2), random.uniform(0.3, 0.45)  # the word's width over the icon's

        def lay(width: float) -> list[Layer]:
            high = width / aspect
            unit = 960 / max(1.15 + high, width)
            side = unit * 1.0
            return [
                (icon.into((500 - side / 2, 20, side, side)), second),
                (name.into((500 - unit * width / 2, 20 + 1.15 * side, unit * width, unit * high)), paint),
            ]
    else:
        large, small = random.uniform(1.2, 4.5), random.uniform(0.3, 0.6)
        large = min(large, 0.9 * aspect)
        if large < 1.15:
            return draw_lockup(random, sources)
        right = random.random() < 0.15

        def lay(width: float) -> list[Layer]:
            unit = 960 / (width + 1.2)
            high, at = unit * width / aspect, 20 + (unit * width + 0.2 * unit if right else 0)
            return [
                (icon.into((at, 300, unit, unit)), second),
                (name.into((20 if right else 20 + 1.2 * unit, 300 + (unit - high) / 2, unit * width, high)), paint),
            ]

    return (lay(large), lay(small)), (large > 1.3, small < 0.5)


def draw_mosaic(random: Random, sources: Sources) -> Members:
    """An outline in many tiles of many colours, and in few of few."""
    outline = badge_shape(random)[0] if random.random() < 0.5 else sources.icon(random, "solid").into(FULL)
    form, hues = str(random.choice(["voronoi", "triangles", "squares"])), palette(random, int(random.integers(6, 11)))
    hues = [mix(hue, WHITE, share) for hue in hues for share in (0.0, 0.35)]
    many = tiles(random, int(random.integers(36, 90)), form)
    gaps = random.random() < 0.4

    def paved(cells: list[np.ndarray], tones: list[str]) -> list[Layer]:
        chosen = [str(random.choice(tones)) for _ in cells]
        if gaps:  # tiles apart, with the background between them
            cells = [cell.mean(0) + 0.86 * (cell - cell.mean(0)) for cell in cells]
        return [merged([(path(cell), tone) for cell, tone in zip(cells, chosen, strict=True)], outline)]

    half = random.uniform(350, 650)
    along = np.array([[-500, -500], [half, -500], [CANVAS - half, 1500], [-500, 1500]])
    other = np.array([[half, -500], [1500, -500], [1500, 1500], [CANVAS - half, 1500]])
    return (paved(many, hues), paved([along, other], [hues[0], hues[2]])), (True, True)


def draw_figure(random: Random, sources: Sources) -> Members:
    """A picture of many parts in one colour, and its silhouette, which fills what lies between them."""
    for _ in range(50):
        picture = sources.icon(random, "figure").into(FULL)
        outline = silhouette(picture)
        if ink_of(outline).sum() > FILLED * ink_of(picture).sum():
            break
    else:
        raise DatasetError(
            "of 50 icons of pool 'figure' none differs from its silhouette; expected pictures of many parts"
        )
    if random.random() < 0.7:
        paint = main_colour(random)
        return ([(picture, paint)], [(outline, paint)]), (True, True)
    holder = badge(random)
    return (holder.draw(picture.into(holder.room)), holder.draw(outline.into(holder.room))), (True, True)


def draw_mascot(random: Random, sources: Sources) -> Members:
    """The face of an animal with its features in many colours, and its silhouette with eyes at most."""
    hue, animal = random.uniform(0, 360), random.integers(4)
    fur = colour(random.uniform(0.5, 0.72), random.uniform(0.05, 0.16), hue)
    dark, pale = mix(fur, "#000000", random.uniform(0.3, 0.5)), mix(fur, WHITE, random.uniform(0.6, 0.8))
    skin, iris = colour(0.75, 0.1, 20), colour(random.uniform(0.5, 0.75), 0.15, random.uniform(60, 260))
    accent, line = colour(0.6, 0.2, hue + random.uniform(100, 260)), colour(0.22, 0.03, hue)
    wide, high = random.uniform(300, 370), random.uniform(270, 340)
    middle = 580.0
    head = ellipse(500, middle, wide, high)
    if random.random() < 0.4:
        cheeks = path(
            [
                [500 - wide - 90, middle + 0.45 * high],
                [500 - 0.7 * wide, middle - 60],
                [500 + 0.7 * wide, middle - 60],
                [500 + wide + 90, middle + 0.45 * high],
                [500, middle + 1.12 * high],
            ]
        )
        head = join([head, cheeks])
    spread, length = random.uniform(0.55, 0.8) * wide, random.uniform(230, 340)

    def both(part: Callable[[int], Mark]) -> Mark:
        return join([part(-1), part(1)])

    def ear(side: int, share: float) -> Mark:
        x, y, size = 500 + side * spread, middle - 0.72 * high, share
        if animal == 0:  # a cat or a fox
            tip = np.array([x + side * 90, y - length])
            corners = np.array([[x - side * 140, y + 10], tip, [x + side * 130, y + 130]])
            return path(corners.mean(0) + size * (corners - corners.mean(0)))
        if animal == 1:  # a bear
            return ellipse(x, y - 20, 130 * size)
        if animal == 2:  # a rabbit
            return ellipse(x - side * 60, y - 150 + (1 - size) * 40, 85 * size, 260 * size)
        return ellipse(x + side * 90, y + 190, 95 * size, 210 * size)  # a dog

    ears, inner = both(lambda side: ear(side, 1.0)), both(lambda side: ear(side, 0.55))
    apart, level = random.uniform(0.36, 0.48) * wide, middle - random.uniform(20, 80)
    eye = random.uniform(58, 84)
    low = middle + 0.42 * high
    muzzle = both(lambda side: ellipse(500 + side * 75, low, 125, 100))
    nose = random.choice([0, 1])
    snout = path([[440, low - 85], [560, low - 85], [500, low - 15]]) if nose else ellipse(500, low - 65, 62, 42)
    mouth = both(
        lambda side: path(
            np.stack([500 + side * np.linspace(0, 110, 12), low + 20 + 55 * np.sin(np.linspace(0, np.pi, 12))], 1),
            closed=False,
            stroke=16,
        )
    )
    features: list[Layer] = [
        (inner, skin),
        (
            both(lambda side: ellipse(500 + side * apart, level, eye * 1.55, eye * 1.5)),
            pale if random.random() < 0.5 else dark,
        ),
        (muzzle, pale),
        (mouth, line),
        (snout, line),
        (both(lambda side: ellipse(500 + side * apart, level, eye)), WHITE),
        (both(lambda side: ellipse(500 + side * apart, level, 0.68 * eye)), iris),
        (both(lambda side: ellipse(500 + side * apart, level, 0.38 * eye)), line),
        (both(lambda side: ellipse(500 + side * apart - 18, level - 20, 0.2 * eye)), WHITE),
        (both(lambda side: ellipse(500 + side * 0.68 * wide, low - 30, 52, 34)), skin),
    ]
    if random.random() < 0.6:
        stripes = [
            path(
                [
                    [500 + x - 24, middle - high * 0.97],
                    [500 + x + 24, middle - high * 0.97],
                    [500 + x * 0.8, middle - high * 0.55],
                ]
            )
            for x in (-110, 0, 110)
        ]
        features.append((clipped(join(stripes), head), dark))
    if random.random() < 0.5:
        features.append(
            (
                both(
                    lambda side: path(
                        [[500 + side * 150, low + 10], [500 + side * 330, low - 20]], closed=False, stroke=10
                    )
                ),
                line,
            )
        )
        features.append(
            (
                both(
                    lambda side: path(
                        [[500 + side * 150, low + 40], [500 + side * 330, low + 60]], closed=False, stroke=10
                    )
                ),
                line,
            )
        )
    if random.random() < 0.6:
        features.append((ellipse(500, low + 78, 44, 36), accent))
    if random.random() < 0.5:
        bow = join(
            [
                both(lambda side: path([[500, 950], [500 + side * 170, 880], [500 + side * 170, 1000]])),
                ellipse(500, 945, 40),
            ]
        )
        features.append((bow.into((330, 860, 340, 130)), accent))
    rim = random.random() < 0.4
    body = join([ears, head])
    full = [
        *([(thick(body, 24), line)] if rim else []),
        (ears, dark if random.random() < 0.4 else fur),
        (head, fur),
        *features,
    ]
    holes = [both(lambda side: ellipse(500 + side * apart, level, 0.8 * eye))] if random.random() < 0.5 else []
    plain = [(cut(body, *holes), fur if random.random() < 0.6 else INK_BLACK)]
    return (full, plain), (True, True)


def draw_crest(random: Random, sources: Sources) -> Members:
    """Arms with quarters, charges, a border, a ribbon and leaves, and the same shield with one charge."""
    down = np.linspace(0, 1, 30)
    right = np.stack([790 - 290 * down ** random.uniform(1.8, 2.8), 420 + 380 * down], 1)
    outline = path(np.concatenate([[[210, 180], [790, 180]], right, right[::-1] * [-1, 1] + [1000, 0]]))
    inner = outline.into((245, 212, 510, 540))
    hues = palette(random, 7)
    division = random.integers(3)
    quarters = {
        0: [rectangle((500, 0, 500, 490)), rectangle((0, 490, 500, 510))],
        1: [rectangle((0, 0, CANVAS, 400))],
        2: [path([[150, 150], [330, 150], [880, 800], [700, 800]])],
    }[int(division)]
    charges = [sources.icon(random, "solid") for _ in range(4)]
    rooms = [(300, 250, 150, 180), (550, 250, 150, 180), (320, 510, 140, 140), (540, 510, 140, 140)]
    layers: list[Layer] = [(outline, hues[0]), (inner, mix(hues[1], WHITE, 0.75))]
    layers += [(clipped(part, inner), hues[2 + at]) for at, part in enumerate(quarters)]
    gold = colour(0.78, 0.15, 85)
    layers += [
        (charge.into(room), (hues[4], gold, hues[5], INK_BLACK)[at])
        for at, (charge, room) in enumerate(zip(charges, rooms, strict=True))
    ]
    leaves = []
    for side in (-1, 1):
        for at in range(int(random.integers(5, 9))):
            angle = np.radians(100 - 17 * at)
            x, y = 500 + side * 440 * np.sin(angle * 0.9 + 0.25), 520 + 400 * np.cos(angle)
            leaf = ellipse(x, y, 22, 62).markup
            leaves.append(
                Mark(
                    f'<g transform="rotate({side * (30 - 12 * at):.5g} {x:.5g} {y:.5g})">{leaf}</g>',
                    (x - 60, y - 62, 120, 124),
                )
            )
    if random.random() < 0.7:
        layers.append((join(leaves), colour(0.5, 0.13, 145)))
    ribbon = np.linspace(0, 1, 20)
    curve = np.stack([150 + 700 * ribbon, 850 + 60 * np.sin(np.pi * ribbon)], 1)
    layers.append(
        (
            join(
                [
                    path([[80, 800], [230, 830], [230, 930], [80, 930], [120, 865]]),
                    path([[920, 800], [770, 830], [770, 930], [920, 930], [880, 865]]),
                ]
            ),
            mix(hues[6], "#000000", 0.3),
        )
    )
    layers.append((path(np.concatenate([curve - (0, 55), np.add(curve[::-1], (0, 45))])), hues[6]))
    letters = glyphs(sources.font(random, scripts=False), name_of(random, (2, 3)).upper(), 0.1)
    layers.append((join(letters).into((300, 878, 400, 36)), WHITE))
    crown = path([[360, 160], [340, 40], [430, 100], [500, 20], [570, 100], [660, 40], [640, 160]])
    layers.append((crown, gold))
    layers += [
        (join([ellipse(x, y, 20) for x, y in ((340, 40), (500, 22), (660, 40))]), hues[4]),
        (rectangle((360, 135, 280, 26)), hues[3]),
    ]
    simple = [(outline, hues[0]), (charges[0].into((330, 280, 340, 340)), readable_on(hues[0], random))]
    return (layers, simple), (True, True)


def draw_linework(random: Random, sources: Sources) -> Members:
    """A silhouette engraved with fine lines, or a net, and the same filled or with few lines."""
    paint, style = main_colour(random), random.random()
    if style < 0.45:
        outline = solid(random, sources)
        angle, count = random.uniform(0, 180), int(random.integers(26, 44))
        sweep = [angle, angle + random.uniform(60, 90)][: random.integers(1, 3)]
        lines = []
        for turn in sweep:
            for at in range(count):
                x, bend = -300 + 1600 * at / count, random.uniform(-6, 6)
                width = 1600 / count * (0.25 + 0.2 * np.sin(0.35 * at + bend / 20))
                wave = np.stack([x + 14 * np.sin(np.linspace(0, 9, 24) + at / 3), np.linspace(-300, 1300, 24)], 1)
                lines.append(
                    f'<g transform="rotate({turn:.5g} 500 500)">{path(wave, closed=False, stroke=width).markup}</g>'
                )
        rim = f'<g stroke="currentColor" stroke-width="26">{outline.markup}</g>'
        hatched = Mark(clipped(Mark("".join(lines), FULL), outline).markup, outline.box)
        edge = cut(Mark(rim, outline.box), outline)
        return ([(join([hatched, edge]), paint)], [(outline, paint)]), (True, True)
    if style < 0.75:
        angles, turns = np.linspace(0, 2 * np.pi, 400), int(random.integers(7, 14))
        inner, strands = random.uniform(0.35, 0.6), int(random.integers(9, 18))

        def ring(shift: float, wave: int, depth: float, width: float) -> Mark:
            radius = 460 * (inner + (1 - inner) * (0.5 + 0.5 * depth * np.sin(wave * angles + shift)))
            return path(np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None] + 500, stroke=width)

        net = join([ring(2 * np.pi * at / strands, turns, 1.0, random.uniform(7, 11)) for at in range(strands)])
        return ([(net, paint)], [(ring(0.0, turns // 2 + 1, 1.0, 60), paint)]), (True, True)
    from scipy.spatial import Delaunay

    def network(count: int, node: float, width: float) -> Mark:
        points = np.concatenate(
            [around(max(3, count // 4), 440), random.uniform(180, 820, (count - max(3, count // 4), 2))]
        )
        edges = {
            tuple(sorted(edge))
            for corners in Delaunay(points).simplices
            for edge in (corners[:2], corners[1:], corners[::2])
        }
        lines = [path(points[list(edge)], closed=False, stroke=width) for edge in sorted(edges)]
        return join([*lines, *(ellipse(x, y, node) for x, y in points)])

    return ([(network(int(random.integers(22, 34)), 26, 10), paint)], [(network(4, 90, 36), paint)]), (True, True)


def draw_collage(random: Random, sources: Sources) -> Members:
    """Many pictograms in many colours on a badge, and one of them on it."""
    side = int(random.integers(3, 5))
    shape = rectangle((20, 20, 960, 960), radius=float(random.choice([0, 90, 200])))
    icons = [sources.icon(random, "solid") for _ in range(side**2)]
    base = str(random.choice([colour(0.88, 0.03, random.uniform(0, 360)), colour(0.28, 0.05, random.uniform(0, 360))]))
    hues, step = palette(random, 8), 860 / side
    if oklab(base)[0] < 0.5:
        hues = [mix(hue, WHITE, 0.45) for hue in hues]
    layers = [(shape, base)]
    for at, icon in enumerate(icons):
        row, column = divmod(at, side)
        layers.append(
            (
                icon.into(shrink((70 + step * column, 70 + step * row, step, step), random.uniform(0.7, 0.9))),
                hues[at % 8],
            )
        )
    return (layers, [(shape, base), (icons[0].into((220, 220, 560, 560)), hues[0])]), (True, True)


def draw_palette(random: Random, sources: Sources) -> Members:
    """Petals, wedges or bars, each in a colour of its own, and in one or two."""
    count, form = int(random.integers(7, 12)), random.integers(3)
    hues = palette(random, count)
    two = [hues[0], hues[0] if count % 2 else mix(hues[0], WHITE, 0.5)]
    slim = random.uniform(0.75, 1.0)
    if form == 0:
        petal = ellipse(500, 250, 190 * slim * np.sin(np.pi / count) * 2, 230).markup
        marks = [
            Mark(f'<g transform="rotate({360 * at / count:.5g} 500 500)">{petal}</g>', FULL) for at in range(count)
        ]
    elif form == 1:
        hole = ellipse(500, 500, random.uniform(60, 260))
        marks = [
            cut(path([(500, 500), *around(24 * count, 480)[24 * at : 24 * at + round(24 * slim) + 1]]), hole)
            for at in range(count)
        ]
    else:
        step, heights = 940 / count, random.uniform(400, 940, count)
        marks = [
            rectangle(
                (30 + step * at, 970 - heights[at], slim * step, heights[at]),
                radius=slim * step * random.choice([0, 0.5]),
            )
            for at in range(count)
        ]
    return (
        [(mark, hues[at]) for at, mark in enumerate(marks)],
        [(mark, two[at % 2]) for at, mark in enumerate(marks)],
    ), (False, True)


@dataclass(frozen=True)
class Kind:
    """How a kind of pair is drawn, the labels of its two members, how often it comes, and where the members may differ.

    `differs` is "colour" where both cover the same pixels, else "drawing".
    """

    draw: Callable[[Random, Sources], Members]
    labels: tuple[str, str]
    weight: int
    differs: str = "drawing"


KINDS: dict[str, Kind] = {
    "fade-simple": Kind(draw_fade_simple, ("gradient", "simple"), 5, "colour"),
    "fade-bands": Kind(draw_fade_bands, ("gradient", "simple"), 3, "colour"),
    "fade-glyph": Kind(draw_fade_glyph, ("gradient", "simple"), 1, "colour"),
    "fade-edge": Kind(draw_fade_edge, ("gradient", "simple"), 2, "colour"),
    "fade-icon": Kind(draw_fade_icon, ("gradient", "simple"), 2, "colour"),
    "fade-text": Kind(draw_fade_text, ("gradient", "text"), 3, "colour"),
    "fade-lockup": Kind(draw_fade_lockup, ("gradient", "text"), 2, "colour"),
    "fade-complex": Kind(draw_fade_complex, ("gradient", "complex"), 2, "colour"),
    "glow": Kind(draw_glow, ("gradient", "simple"), 1),
    "initials": Kind(draw_initials, ("text", "simple"), 4),
    "initials-icon": Kind(draw_initials_icon, ("text", "simple"), 3),
    "initials-size": Kind(draw_initials_size, ("text", "simple"), 1),
    "word": Kind(draw_word, ("text", "simple"), 2),
    "word-bars": Kind(draw_word_bars, ("text", "simple"), 1),
    "lockup": Kind(draw_lockup, ("text", "simple"), 3),
    "mosaic": Kind(draw_mosaic, ("complex", "simple"), 2),
    "figure": Kind(draw_figure, ("complex", "simple"), 4),
    "mascot": Kind(draw_mascot, ("complex", "simple"), 3),
    "crest": Kind(draw_crest, ("complex", "simple"), 2),
    "linework": Kind(draw_linework, ("complex", "simple"), 2),
    "collage": Kind(draw_collage, ("complex", "simple"), 1),
    "palette": Kind(draw_palette, ("complex", "simple"), 1, "colour"),
}
