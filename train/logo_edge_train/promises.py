"""How many images of calib the promises of a bundle need."""

from __future__ import annotations

import math

LEVELS = (0.80, 0.90, 0.95, 0.99)  # of prediction sets
CERTAINTY = 0.95  # probability that a mode keeps its risk
LEAST_PER_CLASS = 20  # images for a scaling: ten for each of a class's two parameters (Peduzzi et al. 1996)


def least_answers(risk: float) -> float:
    """The number of answers, all of them right, that prove a risk of at most `risk`: 59 for 5 %, 99 for 3 %."""
    return math.ceil(math.log(1 - CERTAINTY) / math.log1p(-risk)) if risk else math.inf


def least_count(level: float) -> int:
    """The number of images that a conformal threshold at `level` needs: the least n with ceil((n + 1) level) <= n."""
    count = 1
    while conformal_rank(count, level) > count:
        count += 1
    return count


def conformal_rank(count: int, level: float) -> int:
    """ceil((count + 1) level), the finite-sample corrected rank; rounding of `level` does not lift it by one."""
    return math.ceil(round((count + 1) * level, 9))
