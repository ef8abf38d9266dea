"""Colours of drawn logos as #rrggbb, and their distances in Oklab.

Ottosson 2020, "A perceptual color space for image processing".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL.ImageColor import getrgb

from logo_edge_train.data.icons import CURRENT_COLOUR

WHITE, INK_BLACK = "#ffffff", CURRENT_COLOUR
CONTRAST = 0.2  # of lightness in Oklab, from which a glyph is read on its badge
LAB_TO_CONES = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
CONES_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
RGB_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
CONES_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)

Random = np.random.Generator


def colour(lightness: float, chroma: float, hue: float) -> str:
    """#rrggbb of an OKLCH colour, hue in degrees; the chroma is reduced to fit sRGB."""
    for keep in np.linspace(1, 0, 11):
        a, b = keep * chroma * np.cos(np.radians(hue)), keep * chroma * np.sin(np.radians(hue))
        rgb = CONES_TO_RGB @ (LAB_TO_CONES @ [lightness, a, b]) ** 3
        if rgb.min() > -0.002 and rgb.max() < 1.002:
            break
    rgb = np.clip(rgb, 0, 1)
    levels = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)
    return "#" + bytes(round(255 * float(level)) for level in levels).hex()


def oklab(text: str) -> np.ndarray:
    """(3,) Oklab coordinates of #rrggbb."""
    levels = np.array(getrgb(text)) / 255
    rgb = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return CONES_TO_LAB @ np.cbrt(RGB_TO_CONES @ rgb)


def distance(one: str, other: str) -> float:
    """The distance of two colours in Oklab."""
    return float(np.linalg.norm(oklab(one) - oklab(other)))


def mix(one: str, other: str, share: float) -> str:
    """A linear mixture of two colours, #rgb or #rrggbb, with `share` of the other."""
    levels = zip(getrgb(one), getrgb(other), strict=True)
    return "#" + bytes(round((1 - share) * first + share * second) for first, second in levels).hex()


def fade_colours(random: Random, apart: tuple[float, float], others: Sequence[str] = ()) -> tuple[str, str]:
    """The two end colours of a fade, at a distance in Oklab within `apart`; both contrast with the `others`."""
    for attempt in range(4000):
        hue, first = random.uniform(0, 360), random.uniform(0.35, 0.75)
        turn = random.choice([0, 20, 60, 110, 180]) * random.choice([-1, 1]) if apart[1] > 0.2 else 0
        second = np.clip(first + random.uniform(-0.45, 0.45), 0.3, 0.8)
        chroma = random.choice([0.02, 0.14, 0.2], p=[0.15, 0.45, 0.4])
        ends = colour(first, chroma, hue), colour(second, chroma, hue + turn)
        contrasts = (abs(oklab(end)[0] - oklab(other)[0]) > CONTRAST for end in ends for other in others)
        if (attempt > 2000 or all(contrasts)) and apart[0] <= distance(*ends) <= apart[1]:
            return ends
    raise AssertionError(f"no colours {apart} apart")


def main_colour(random: Random) -> str:
    """The colour of a mark: sometimes near black, else one that is visible on white."""
    if random.random() < 0.2:
        return INK_BLACK
    return colour(random.uniform(0.38, 0.68), random.uniform(0.06, 0.22), random.uniform(0, 360))


def palette(random: Random, count: int) -> list[str]:
    """Colours of distinct hues in random order, all visible on white."""
    start, spread = random.uniform(0, 360), random.uniform(0.85, 1.0)
    hues = start + 360 * spread * np.arange(count) / count
    colours = [colour(random.choice([0.45, 0.6, 0.74]), random.uniform(0.1, 0.2), hue) for hue in hues]
    return [colours[at] for at in random.permutation(count)]


def readable_on(paint: str, random: Random) -> str:
    """White or a dark colour, whichever is visible on the paint."""
    dark = str(random.choice([INK_BLACK, colour(0.3, 0.08, random.uniform(0, 360))]))
    return WHITE if oklab(paint)[0] < 0.72 else dark
