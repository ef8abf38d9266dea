"""Pairs of which one member has many parts or colours and the other has few."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations, cycle

import numpy as np

from logo_edge.errors import DatasetError
from logo_edge_train.data.pairs.colours import (
    INK_BLACK,
    WHITE,
    Random,
    colour,
    main_colour,
    mix,
    oklab,
    palette,
    readable_on,
)
from logo_edge_train.data.pairs.fonts import glyphs
from logo_edge_train.data.pairs.marks import (
    CANVAS,
    FULL,
    Layer,
    Mark,
    around,
    clipped,
    cut,
    ellipse,
    ink_of,
    join,
    merged,
    path,
    polar,
    rectangle,
    shrink,
    silhouette,
    thick,
    tiles,
    turned,
)
from logo_edge_train.data.pairs.parts import Members, Sources, badge, badge_shape, name_of, petals, solid

FILLED = 1.2  # least ink of a silhouette, relative to its picture


def draw_mosaic(random: Random, sources: Sources) -> Members:
    """An outline in many tiles of many colours, and in few of few."""
    outline = badge_shape(random)[0] if random.random() < 0.5 else sources.icon(random, "solid").into(FULL)
    form, hues = str(random.choice(["voronoi", "triangles", "squares"])), palette(random, int(random.integers(6, 11)))
    hues = [mix(hue, WHITE, share) for hue in hues for share in (0.0, 0.35)]
    many = tiles(random, int(random.integers(36, 90)), form)
    gaps = random.random() < 0.4

    def paved(cells: list[np.ndarray], tones: list[str]) -> list[Layer]:
        chosen = [str(random.choice(tones)) for _ in cells]
        if gaps:  # gaps between the tiles
            cells = [cell.mean(0) + 0.86 * (cell - cell.mean(0)) for cell in cells]
        return [merged([(path(cell), tone) for cell, tone in zip(cells, chosen, strict=True)], outline)]

    half = random.uniform(350, 650)
    along = np.array([[-500, -500], [half, -500], [CANVAS - half, 1500], [-500, 1500]])
    other = np.array([[half, -500], [1500, -500], [1500, 1500], [CANVAS - half, 1500]])
    return (paved(many, hues), paved([along, other], [hues[0], hues[2]])), (True, True)


def draw_figure(random: Random, sources: Sources) -> Members:
    """A picture of many parts in one colour, and its filled silhouette."""
    for _ in range(50):
        picture = sources.icon(random, "figure").into(FULL)
        outline = silhouette(picture)
        if ink_of(outline).sum() <= FILLED * ink_of(picture).sum():
            continue
        if random.random() < 0.7:
            paint = main_colour(random)
            return ([(picture, paint)], [(outline, paint)]), (True, True)
        holder = badge(random)
        return (holder.draw(picture.into(holder.room)), holder.draw(outline.into(holder.room))), (True, True)
    raise DatasetError("of 50 icons of pool 'figure' none differs from its silhouette; expected pictures of many parts")


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
        across = [500 - wide - 90, 500 - 0.7 * wide, 500 + 0.7 * wide, 500 + wide + 90, 500]
        down = [middle + 0.45 * high, middle - 60, middle - 60, middle + 0.45 * high, middle + 1.12 * high]
        head = join([head, path(np.stack([across, down], 1))])
    spread, length = random.uniform(0.55, 0.8) * wide, random.uniform(230, 340)

    def both(part: Callable[[int], Mark]) -> Mark:
        return join([part(-1), part(1)])

    def ear(side: int, size: float) -> Mark:
        x, y = 500 + side * spread, middle - 0.72 * high
        if animal == 0:  # a cat or a fox
            corners = np.array([[x - side * 140, y + 10], [x + side * 90, y - length], [x + side * 130, y + 130]])
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
    smile = np.linspace(0, 110, 12), low + 20 + 55 * np.sin(np.linspace(0, np.pi, 12))
    mouth = both(lambda side: path(np.stack([500 + side * smile[0], smile[1]], 1), closed=False, stroke=16))

    def eyes(share: float, move: tuple[float, float] = (0, 0), down: float | None = None) -> Mark:
        radii = share * eye, (down or share) * eye
        return both(lambda side: ellipse(500 + side * apart + move[0], level + move[1], *radii))

    features: list[Layer] = [
        (inner, skin),
        (eyes(1.55, down=1.5), pale if random.random() < 0.5 else dark),
        (muzzle, pale),
        (mouth, line),
        (snout, line),
        (eyes(1), WHITE),
        (eyes(0.68), iris),
        (eyes(0.38), line),
        (eyes(0.2, (-18, -20)), WHITE),
        (both(lambda side: ellipse(500 + side * 0.68 * wide, low - 30, 52, 34)), skin),
    ]
    if random.random() < 0.6:
        top, end = middle - high * 0.97, middle - high * 0.55
        stripes = [path([[500 + x - 24, top], [500 + x + 24, top], [500 + x * 0.8, end]]) for x in (-110, 0, 110)]
        features.append((clipped(join(stripes), head), dark))
    if random.random() < 0.5:
        whisker = partial(path, closed=False, stroke=10)
        features += [
            (both(lambda side: whisker([[500 + side * 150, low + 10], [500 + side * 330, low - 20]])), line),
            (both(lambda side: whisker([[500 + side * 150, low + 40], [500 + side * 330, low + 60]])), line),
        ]
    if random.random() < 0.6:
        features.append((ellipse(500, low + 78, 44, 36), accent))
    if random.random() < 0.5:
        loops = both(lambda side: path([[500, 950], [500 + side * 170, 880], [500 + side * 170, 1000]]))
        features.append((join([loops, ellipse(500, 945, 40)]).into((330, 860, 340, 130)), accent))
    body = join([ears, head])
    rim = [(thick(body, 24), line)] if random.random() < 0.4 else []
    full = [*rim, (ears, dark if random.random() < 0.4 else fur), (head, fur), *features]
    holes = [eyes(0.8)] if random.random() < 0.5 else []
    return (full, [(cut(body, *holes), fur if random.random() < 0.6 else INK_BLACK)]), (True, True)


def draw_crest(random: Random, sources: Sources) -> Members:
    """Arms with quarters, charges, a border, a ribbon and leaves, and the same shield with one charge."""
    down = np.linspace(0, 1, 30)
    right = np.stack([790 - 290 * down ** random.uniform(1.8, 2.8), 420 + 380 * down], 1)
    outline = path(np.concatenate([[[210, 180], [790, 180]], right, right[::-1] * [-1, 1] + [1000, 0]]))
    inner = outline.into((245, 212, 510, 540))
    hues = palette(random, 7)
    quarters = (
        [rectangle((500, 0, 500, 490)), rectangle((0, 490, 500, 510))],
        [rectangle((0, 0, CANVAS, 400))],
        [path([[150, 150], [330, 150], [880, 800], [700, 800]])],
    )[random.integers(3)]
    charges = [sources.icon(random, "solid") for _ in range(4)]
    rooms = [(300, 250, 150, 180), (550, 250, 150, 180), (320, 510, 140, 140), (540, 510, 140, 140)]
    layers: list[Layer] = [(outline, hues[0]), (inner, mix(hues[1], WHITE, 0.75))]
    layers += [(clipped(part, inner), hues[2 + at]) for at, part in enumerate(quarters)]
    gold = colour(0.78, 0.15, 85)
    paints = (hues[4], gold, hues[5], INK_BLACK)
    layers += [(charge.into(room), paint) for charge, room, paint in zip(charges, rooms, paints, strict=True)]
    leaves = []
    for side in (-1, 1):
        for at in range(int(random.integers(5, 9))):
            angle = np.radians(100 - 17 * at)
            x, y = 500 + side * 440 * np.sin(angle * 0.9 + 0.25), 520 + 400 * np.cos(angle)
            leaf = turned(ellipse(x, y, 22, 62).markup, side * (30 - 12 * at), x, y)
            leaves.append(Mark(leaf, (x - 60, y - 62, 120, 124)))
    if random.random() < 0.7:
        layers.append((join(leaves), colour(0.5, 0.13, 145)))
    ribbon = np.linspace(0, 1, 20)
    curve = np.stack([150 + 700 * ribbon, 850 + 60 * np.sin(np.pi * ribbon)], 1)
    end = np.array([[80, 800], [230, 830], [230, 930], [80, 930], [120, 865]])
    layers.append((join([path(end), path(end * [-1, 1] + [1000, 0])]), mix(hues[6], "#000000", 0.3)))
    layers.append((path(np.concatenate([curve - (0, 55), np.add(curve[::-1], (0, 45))])), hues[6]))
    letters = glyphs(sources.font(random, scripts=False), name_of(random, (2, 3)).upper(), 0.1)
    layers += [
        (join(letters).into((300, 878, 400, 36)), WHITE),
        (path([[360, 160], [340, 40], [430, 100], [500, 20], [570, 100], [660, 40], [640, 160]]), gold),
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
        lines = []
        for turn in [angle, angle + random.uniform(60, 90)][: random.integers(1, 3)]:
            for at in range(count):
                x, bend = -300 + 1600 * at / count, random.uniform(-6, 6)
                width = 1600 / count * (0.25 + 0.2 * np.sin(0.35 * at + bend / 20))
                wave = np.stack([x + 14 * np.sin(np.linspace(0, 9, 24) + at / 3), np.linspace(-300, 1300, 24)], 1)
                lines.append(turned(path(wave, closed=False, stroke=width).markup, turn))
        rim = f'<g stroke="currentColor" stroke-width="26">{outline.markup}</g>'
        hatched = Mark(clipped(Mark("".join(lines), FULL), outline).markup, outline.box)
        edge = cut(Mark(rim, outline.box), outline)
        return ([(join([hatched, edge]), paint)], [(outline, paint)]), (True, True)
    if style < 0.75:
        angles, turns = np.linspace(0, 2 * np.pi, 400), int(random.integers(7, 14))
        inner, strands = random.uniform(0.35, 0.6), int(random.integers(9, 18))

        def ring(shift: float, wave: int, width: float) -> Mark:
            radius = 460 * (inner + (1 - inner) * (0.5 + 0.5 * np.sin(wave * angles + shift)))
            return path(polar(angles, radius), stroke=width)

        net = join([ring(2 * np.pi * at / strands, turns, random.uniform(7, 11)) for at in range(strands)])
        return ([(net, paint)], [(ring(0.0, turns // 2 + 1, 60), paint)]), (True, True)
    from scipy.spatial import Delaunay

    def network(count: int, node: float, width: float) -> Mark:
        rim = max(3, count // 4)
        points = np.concatenate([around(rim, 440), random.uniform(180, 820, (count - rim, 2))])
        edges = {tuple(sorted(edge)) for three in Delaunay(points).simplices for edge in combinations(three, 2)}
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
        room = shrink((70 + step * column, 70 + step * row, step, step), random.uniform(0.7, 0.9))
        layers.append((icon.into(room), hues[at % 8]))
    return (layers, [(shape, base), (icons[0].into((220, 220, 560, 560)), hues[0])]), (True, True)


def draw_palette(random: Random, sources: Sources) -> Members:
    """Petals, wedges or bars, each in its own colour, and in one or two colours."""
    count, form = int(random.integers(7, 12)), random.integers(3)
    hues = palette(random, count)
    two = [hues[0], hues[0] if count % 2 else mix(hues[0], WHITE, 0.5)]
    slim = random.uniform(0.75, 1.0)
    if form == 0:
        marks = petals(ellipse(500, 250, 190 * slim * np.sin(np.pi / count) * 2, 230), count)
    elif form == 1:
        hole = ellipse(500, 500, random.uniform(60, 260))
        rim, span = around(24 * count), round(24 * slim) + 1
        marks = [cut(path([(500, 500), *rim[24 * at : 24 * at + span]]), hole) for at in range(count)]
    else:
        step, heights = 940 / count, random.uniform(400, 940, count)
        boxes = [(30 + step * at, 970 - high, slim * step, high) for at, high in enumerate(heights)]
        marks = [rectangle(box, radius=slim * step * random.choice([0, 0.5])) for box in boxes]
    return (list(zip(marks, hues, strict=True)), list(zip(marks, cycle(two)))), (False, True)
