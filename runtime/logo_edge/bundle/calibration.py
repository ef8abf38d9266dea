"""The calibration in a bundle.

Fitted on the artifact's own logits on the calib split by `logo_edge_compress.calibrate`, applied by
`logo_edge.decision`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from logo_edge.bundle.fields import is_finite, is_number, parse_table, typed


class Mode(str, enum.Enum):
    """How confident a classifier must be to give a label."""

    __str__ = str.__str__  # enum.StrEnum, which Python 3.10 lacks

    BEST_GUESS = "best-guess"  # gives a label always
    BALANCED = "balanced"
    STRICT = "strict"


@dataclass(frozen=True)
class Scaling:
    """An affine map of log-probabilities: `weight` (K, K), `bias` (K,). `method` is vector or dirichlet.

    Kull et al. 2019, arXiv:1910.12656.
    """

    method: str
    weight: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]


@dataclass(frozen=True)
class Conformal:
    """The thresholds of prediction sets that hold the true label with P >= `level`.

    A set holds all labels whose probability reaches the threshold. `threshold` is marginal, over all logos; `by_class`
    has one for each label and holds for the logos of each class. A threshold is None where the calib set is too small,
    and `refused` says which logos were too few. Vovk et al. 2005; Sadinle et al. 2019, arXiv:1609.00451.
    """

    level: float
    threshold: float | None
    by_class: dict[str, float] | None
    refused: str = ""


@dataclass(frozen=True)
class Familiarity:
    """An image is taken for no logo below the logo score `threshold`; at most `false_positive_rate` of logos are."""

    threshold: float
    false_positive_rate: float


@dataclass(frozen=True)
class Calibration:
    """temperature > 0; `abstain_below` is the lowest confidence, 0 to 1, at which each mode gives a label.

    `scaling` is set where it was better than temperature alone; `conformal` is sorted by level.
    """

    temperature: float
    abstain_below: dict[Mode, float]
    scaling: Scaling | None = None
    conformal: tuple[Conformal, ...] = ()
    familiarity: Familiarity | None = None


def parse_calibration(table: dict) -> Calibration:
    """The calibration in bundle.json. Raises TypeError, ValueError or KeyError, which name the field."""
    modes = typed(table, "abstain_below", dict)
    if set(modes) != set(Mode) or not all(map(is_number, modes.values())):
        raise ValueError(f"calibration.abstain_below is {modes}; expected a number for each of {', '.join(Mode)}")
    scaling, familiarity = table.get("scaling"), table.get("familiarity")
    conformal = typed(table, "conformal", list)
    parts = {
        "abstain_below": {mode: modes[mode] for mode in Mode},
        "scaling": None if scaling is None else _parse_scaling(scaling),
        "conformal": tuple(parse_table(Conformal, "calibration.conformal", level) for level in conformal),
        "familiarity": None
        if familiarity is None
        else parse_table(Familiarity, "calibration.familiarity", familiarity),
    }
    return parse_table(Calibration, "calibration", {**table, **parts})


def problems_of_calibration(calibration: Calibration, labels: tuple[str, ...]) -> list[str]:
    """What is expected of the values and does not hold."""
    lowest, count = calibration.abstain_below, len(labels)
    expectations = {
        "calibration: expected a temperature above 0": calibration.temperature > 0,
        "calibration.abstain_below: expected 0 for best-guess, and from 0 to 1 for each mode after it, none below the "
        "one before": 0 == lowest[Mode.BEST_GUESS] <= lowest[Mode.BALANCED] <= lowest[Mode.STRICT] <= 1,
        f"calibration.scaling: expected a weight of {count} x {count} finite numbers and a bias of {count}": (
            _fits_scaling(calibration.scaling, count)
        ),
        "calibration.conformal: expected levels between 0 and 1 and thresholds from 0 to 1, by class for each "
        "label": all(_fits_conformal(level, labels) for level in calibration.conformal),
    }
    return [expected for expected, holds in expectations.items() if not holds]


def _parse_scaling(table: Any) -> Scaling:
    scaling = parse_table(Scaling, "calibration.scaling", table)
    rows = [*scaling.weight, scaling.bias] if isinstance(scaling.weight, list) else [None]
    if not all(isinstance(row, list) and all(map(is_number, row)) for row in rows):
        raise ValueError("calibration.scaling: expected a weight, rows of numbers, and a bias of numbers")
    return Scaling(scaling.method, tuple(map(tuple, scaling.weight)), tuple(scaling.bias))


def _fits_scaling(scaling: Scaling | None, classes: int) -> bool:
    if scaling is None:
        return True
    rows = [*scaling.weight, scaling.bias]
    return len(rows) == classes + 1 and all(len(row) == classes and all(map(is_finite, row)) for row in rows)


def _fits_conformal(level: Conformal, labels: tuple[str, ...]) -> bool:
    by_class = {} if level.by_class is None else level.by_class
    if not isinstance(by_class, dict) or (by_class and set(by_class) != set(labels)):
        return False
    thresholds = [value for value in (level.threshold, *by_class.values()) if value is not None]
    return 0 < level.level < 1 and all(is_number(value) and 0 <= value <= 1 for value in thresholds)
