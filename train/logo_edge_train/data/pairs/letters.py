"""Pairs of which one member has lettering as its larger part and the other does not."""

from __future__ import annotations

from logo_edge_train.data.pairs.colours import Random, main_colour
from logo_edge_train.data.pairs.fonts import glyphs
from logo_edge_train.data.pairs.marks import FULL, Layer, Mark, ellipse, join, rectangle, shrink
from logo_edge_train.data.pairs.parts import Members, Sources, badge, initials, lettered, pictogram, word


def draw_initials(random: Random, sources: Sources) -> Members:
    """Two or three letters, and one of them, on the same badge or without one."""
    holder, count = badge(random, none=0.25), int(random.integers(2, 4))
    font, text = sources.font(random, scripts=False), initials(random, count)
    align = (float(random.integers(2)), 1.0) if holder.corners and random.random() < 0.3 else (0.5, 0.5)
    degrees = random.uniform(8, 14) if random.random() < 0.15 else 0.0
    spacing = float(random.choice([-0.04, 0.0, 0.04]))
    many, one = (join([mark.slanted(degrees) for mark in glyphs(font, part, spacing)]) for part in (text, text[0]))
    return (holder.draw(many.into(holder.room, align)), holder.draw(one.into(holder.room, align))), (True, True)


def draw_initials_icon(random: Random, sources: Sources) -> Members:
    """Letters, and a pictogram, on the same badge or without one."""
    holder = badge(random, none=0.25)
    text = lettered(random, sources)
    icon = sources.icon(random, "line" if random.random() < 0.6 else "solid")
    return (holder.draw(text.into(holder.room)), holder.draw(icon.into(holder.room))), (True, True)


def draw_initials_size(random: Random, sources: Sources) -> Members:
    """The same letters on the same badge, over more and over less than half of its inner width."""
    holder = badge(random)
    text = lettered(random, sources, 2)
    shares = random.uniform(0.9, 1.05), random.uniform(0.3, 0.38)
    large, small = (holder.draw(text.into(shrink(holder.room, share))) for share in shares)
    return (large, small), (True, False)


def draw_word(random: Random, sources: Sources) -> Members:
    """A word, and its first letter."""
    letters = word(random, sources, scripts=False)
    paint = main_colour(random)
    second = main_colour(random) if random.random() < 0.2 else paint
    at = int(random.integers(1, len(letters)))
    left, top, *sides = join(letters).box
    scale = 960 / max(sides)

    def placed(mark: Mark) -> Mark:
        x, y, width, height = mark.box
        return mark.into((20 + scale * (x - left), 20 + scale * (y - top), scale * width, scale * height))

    layers = [(placed(join(letters[:at])), paint), (placed(join(letters[at:])), second)]
    return (layers, [(letters[0].into(FULL), paint)]), (True, True)


def draw_word_bars(random: Random, sources: Sources) -> Members:
    """A word, and bars or discs in the positions of its letters."""
    letters, paint = word(random, sources, scripts=False)[:8], main_colour(random)
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
    name, icon = join(word(random, sources)), pictogram(random, sources, 0.7)
    paint, second, stacked = main_colour(random), main_colour(random), random.random() < 0.4
    aspect = name.box[2] / name.box[3]
    if stacked:
        large, small = random.uniform(1.1, 2.2), random.uniform(0.3, 0.45)  # the word's width over the icon's

        def lay(width: float) -> list[Layer]:
            high = width / aspect
            unit = 960 / max(1.15 + high, width)
            return [
                (icon.into((500 - unit / 2, 20, unit, unit)), second),
                (name.into((500 - unit * width / 2, 20 + 1.15 * unit, unit * width, unit * high)), paint),
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
