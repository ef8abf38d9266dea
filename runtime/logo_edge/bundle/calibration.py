"""The calibration in a bundle.

Fitted on the artifact's own logits on the calib split by `logo_edge_compress.calibrate`, applied by
`logo_edge.decision`.
"""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from logo_edge.bundle.fields import is_finite, is_number, parse_table, typed


class Mode(str, enum.Enum):
    """How confident a classifier must be to give a label."""

    __str__ = str.__str__  # enum.StrEnum, which Python 3.10 lacks

    BEST_GUESS = "best-guess"  # gives a label always; of several labels, those that are more probable than not
    BALANCED = "balanced"
    STRICT = "strict"


@dataclass(frozen=True)
class Scaling:
    """An affine map of log-probabilities: `weight` (K, K), `bias` (K,). `method` is vector or dirichlet.

    Kull et al. 2019, arXiv:1910.12656. In a multi-label bundle it maps the logits themselves.
    """

    method: str
    weight: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """`weight` and `bias`, float64."""
        return np.array(self.weight), np.array(self.bias)


@dataclass(frozen=True)
class Conformal:
    """The thresholds of prediction sets that hold the true label with P >= `level`.

    A set holds all labels whose probability reaches the threshold. `threshold` is marginal, over all images; `by_class`
    has one for each label and holds for the images of each class. A threshold is None where the calib set is too small,
    and `refused` says which images were too few. Vovk et al. 2005; Sadinle et al. 2019, arXiv:1609.00451.

    In a multi-label bundle, the expected share of an image's labels that its set misses is at most 1 - `level`; by
    class, the share of the images with the label that miss it. Conformal risk control: Angelopoulos et al. 2022,
    arXiv:2208.02814.
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

    `scaling` is set where it was better than temperature alone; `conformal` is sorted by level. `label_thresholds` is
    set if the bundle is multi-label, where an image may have several labels or none: the lowest probability, 0 to 1, at
    which each mode gives each label. `abstain_below` is then the least of them.
    """

    temperature: float
    abstain_below: dict[Mode, float]
    scaling: Scaling | None = None
    conformal: tuple[Conformal, ...] = ()
    familiarity: Familiarity | None = None
    label_thresholds: dict[Mode, dict[str, float]] | None = None

    @property
    def multi_label(self) -> bool:
        return self.label_thresholds is not None


def parse_calibration(table: dict) -> Calibration:
    """The calibration in bundle.json. Raises TypeError, ValueError or KeyError, which name the field."""
    modes = typed(table, "abstain_below", dict)
    if set(modes) != set(Mode) or not all(map(is_number, modes.values())):
        raise ValueError(f"calibration.abstain_below is {modes}; expected a number for each of {', '.join(Mode)}")
    scaling, familiarity = table.get("scaling"), table.get("familiarity")
    conformal, by_label = typed(table, "conformal", list), table.get("label_thresholds")
    if by_label is not None and not (isinstance(by_label, dict) and set(by_label) == set(Mode)):
        raise ValueError(f"calibration.label_thresholds: expected a table for each of {', '.join(Mode)}")
    parts = {
        "abstain_below": {mode: modes[mode] for mode in Mode},
        "scaling": None if scaling is None else _parse_scaling(scaling),
        "conformal": tuple(parse_table(Conformal, "calibration.conformal", level) for level in conformal),
        "familiarity": None
        if familiarity is None
        else parse_table(Familiarity, "calibration.familiarity", familiarity),
        "label_thresholds": by_label and {mode: by_label[mode] for mode in Mode},
    }
    return parse_table(Calibration, "calibration", {**table, **parts})


def calibration_table(calibration: Calibration) -> dict:
    """The calibration as bundle.json holds it: `label_thresholds` only if the bundle is multi-label."""
    table = asdict(calibration)
    return table if calibration.multi_label else {key: table[key] for key in table if key != "label_thresholds"}


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
        "calibration.label_thresholds: expected from 0 to 1 for each mode and label, none below the mode before": (
            _fits_label_thresholds(calibration.label_thresholds, labels)
        ),
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


def _fits_label_thresholds(thresholds: dict | None, labels: tuple[str, ...]) -> bool:
    if thresholds is None:
        return True
    tables = [thresholds[mode] for mode in Mode]
    if not all(isinstance(table, dict) and set(table) == set(labels) for table in tables):
        return False
    by_label = [[table[label] for table in tables] for label in labels]
    return all(
        all(is_number(value) and 0 <= value <= 1 for value in values) and values == sorted(values)
        for values in by_label
    )


def _fits_conformal(level: Conformal, labels: tuple[str, ...]) -> bool:
    by_class = {} if level.by_class is None else level.by_class
    if not isinstance(by_class, dict) or (by_class and set(by_class) != set(labels)):
        return False
    thresholds = [value for value in (level.threshold, *by_class.values()) if value is not None]
    return 0 < level.level < 1 and all(is_number(value) and 0 <= value <= 1 for value in thresholds)
