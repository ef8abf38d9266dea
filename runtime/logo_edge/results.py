"""What a classifier says of an image."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Rejection(str, enum.Enum):
    """Why no label was given."""

    __str__ = str.__str__  # enum.StrEnum, which Python 3.10 lacks

    BLANK = "blank"  # all pixels have one colour: `decision.is_blank`
    NOT_A_LOGO = "not_a_logo"  # the logo score is below that of nearly all logos: `decision.is_logo`
    LOW_CONFIDENCE = "low_confidence"
    NO_LABEL = "no_label"  # of a multi-label bundle: no label reaches its threshold, so the image may have none


WITHHELD = {  # what people read instead of a label
    Rejection.BLANK: "blank",
    Rejection.NOT_A_LOGO: "not a logo",
    Rejection.LOW_CONFIDENCE: "unsure",
    Rejection.NO_LABEL: "no label",
}


@dataclass(frozen=True)
class Match:
    """The most similar enrolled class of one image.

    `label` is None where the similarity is below the threshold; `best_guess` is always set. `similarity` is a cosine,
    -1 to 1. `confidence`, 0 to 1, is the share of the best guess among all enrolled classes and "none of them".
    """

    label: str | None
    best_guess: str
    similarity: float
    confidence: float


@dataclass(frozen=True)
class Classification:
    """The classification of one image.

    `label` is None when the classifier abstains, and `reason` says why. `best_guess` is always set. `confidence` is
    the calibrated probability of the best guess, 0 to 1; `probabilities` has one for every class. `epistemic` is the
    disagreement of an ensemble's members, or the network's own estimate of it, in nats; None where the bundle has
    neither. `aleatoric` is the rest of the entropy of the probabilities, in nats. `prediction_set` holds the true
    label with the classifier's `coverage`, the most probable first; None where the bundle cannot promise that.
    `logo_score` is the log-odds, in nats, that the image is a logo. `is_logo` is False where the score is as low as
    that of few logos; docs/use/confidence.md says what it misses. `high_confidence`: mode strict would give the label.
    `low_confidence`: mode balanced would not. Both hold in any mode. `enrolled` is the match with the enrolled
    classes, where the classifier has an enrolment.

    A multi-label bundle gives `labels`: those that reach their thresholds, the most probable first, or none; `label` is
    the first of them. `probabilities` do not exclude each other, and entropies are sums over the labels. The
    `prediction_set` holds the labels that cannot be ruled out. `high_confidence`: mode strict would give a label.
    """

    label: str | None
    best_guess: str
    confidence: float
    probabilities: dict[str, float]
    aleatoric: float
    epistemic: float | None
    prediction_set: tuple[str, ...] | None
    logo_score: float
    is_logo: bool
    high_confidence: bool
    low_confidence: bool
    reason: Rejection | None
    enrolled: Match | None = None
    labels: tuple[str, ...] | None = None

    def top(self, count: int) -> dict[str, float]:
        """The probabilities of the `count` most probable classes, in order."""
        ordered = sorted(self.probabilities.items(), key=lambda item: -item[1])
        return dict(ordered[:count])
