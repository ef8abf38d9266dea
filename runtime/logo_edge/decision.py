"""From logits to a decision, by the calibration of a bundle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from logo_edge.bundle.calibration import Calibration, Familiarity, Mode, Scaling
from logo_edge.errors import BundleError
from logo_edge.probabilities import TINY, binary_entropy, entropy, log_odds, log_softmax, sigmoid, softmax
from logo_edge.results import Classification, Rejection


@dataclass(frozen=True)
class DecisionRule:
    """How a classifier decides:

    `threshold` is the lowest confidence for a label; None: the mode's. `coverage` is that of prediction sets.
    """

    labels: tuple[str, ...]
    calibration: Calibration
    mode: Mode
    threshold: float | None
    coverage: float | None


def decide(
    rule: DecisionRule, logits: np.ndarray, epistemic: np.ndarray | None, blank: np.ndarray
) -> list[Classification]:
    """The decision for each row of an artifact's own (B, K) logits; `epistemic` (B,) nats, `blank` (B,) bool."""
    probabilities, scores = calibrated_probabilities(logits, rule.calibration), logo_score(logits)
    measure = binary_entropy if rule.calibration.multi_label else entropy
    entropies, known = measure(probabilities), [None] * len(logits)
    if epistemic is not None:
        epistemic = np.maximum(epistemic, 0.0)
        entropies, known = np.maximum(entropies - epistemic, 0.0), epistemic.tolist()
    logos = is_logo(scores, rule.calibration.familiarity)
    columns = (probabilities, entropies, scores, logos, blank)
    return [
        _decide_one(rule, *row, epistemic=own)
        for *row, own in zip(*(column.tolist() for column in columns), known, strict=True)
    ]


def _decide_one(
    rule: DecisionRule,
    probabilities: list[float],
    aleatoric: float,
    score: float,
    is_logo: bool,
    blank: bool,
    *,
    epistemic: float | None,
) -> Classification:
    calibration, confidence = rule.calibration, max(probabilities)
    best_guess = rule.labels[probabilities.index(confidence)]
    by_label = dict(zip(rule.labels, probabilities, strict=True))
    unfit = Rejection.BLANK if blank else None if is_logo else Rejection.NOT_A_LOGO
    reason = None if rule.mode == Mode.BEST_GUESS else unfit
    labels = () if reason else confident_labels(calibration, by_label, best_guess, rule.mode, rule.threshold)
    if reason is None and not labels:
        reason = Rejection.NO_LABEL if calibration.multi_label else Rejection.LOW_CONFIDENCE
    return Classification(
        label=labels[0] if labels else None,
        best_guess=best_guess,
        confidence=confidence,
        probabilities=by_label,
        aleatoric=aleatoric,
        epistemic=epistemic,
        prediction_set=None if rule.coverage is None else prediction_set(calibration, by_label, rule.coverage),
        logo_score=score,
        is_logo=is_logo,
        high_confidence=not unfit and bool(confident_labels(calibration, by_label, best_guess, Mode.STRICT)),
        low_confidence=bool(unfit) or not confident_labels(calibration, by_label, best_guess, Mode.BALANCED),
        reason=reason,
        labels=labels if calibration.multi_label else None,
    )


def confident_labels(
    calibration: Calibration,
    probabilities: dict[str, float],
    best_guess: str,
    mode: Mode,
    threshold: float | None = None,
) -> tuple[str, ...]:
    """The labels that `mode` gives to an image that is a logo: the best guess or none; multi-label, any number.

    The most probable is first. `threshold` replaces the mode's; NaN reaches none.
    """
    if calibration.label_thresholds is None:
        lowest = calibration.abstain_below[mode] if threshold is None else threshold
        return (best_guess,) if probabilities[best_guess] >= lowest else ()
    by_label = calibration.label_thresholds[mode] if threshold is None else dict.fromkeys(probabilities, threshold)
    ordered = sorted(probabilities, key=probabilities.get, reverse=True)
    return tuple(label for label in ordered if probabilities[label] >= by_label[label])


def calibrated_logits(
    logits: np.ndarray, temperature: float, scaling: Scaling | None = None, *, multi_label: bool = False
) -> np.ndarray:
    """(B, K) float64 whose softmax are the calibrated probabilities, from an artifact's own (B, K) logits.

    With `multi_label`, their sigmoid are the probabilities.
    """
    scaled = logits.astype(np.float64) / temperature
    if scaling is None:
        return scaled
    return (scaled if multi_label else log_softmax(scaled)) @ scaling.arrays[0].T + scaling.arrays[1]


def calibrated_probabilities(logits: np.ndarray, calibration: Calibration) -> np.ndarray:
    """(B, K) calibrated probabilities, from an artifact's own (B, K) logits."""
    multi_label = calibration.multi_label
    calibrated = calibrated_logits(logits, calibration.temperature, calibration.scaling, multi_label=multi_label)
    return sigmoid(calibrated) if multi_label else softmax(calibrated)


def logo_score(logits: np.ndarray) -> np.ndarray:
    """(B,) log-odds in nats that the image is a logo: log sum exp of an artifact's own (B, K) logits.

    These are the log-odds of a network that learned images that are no logos as one more class, whose logit is 0
    (outlier exposure: Hendrycks et al. 2019, arXiv:1812.04606). For other networks the score is low on images unlike
    the training images; it is their negative free energy (Liu et al. 2020, arXiv:2010.03759). For multi-label networks
    it is low on images without a label too.
    """
    with np.errstate(invalid="ignore"):
        return np.logaddexp.reduce(logits.astype(np.float64), axis=-1)


def is_logo(logo_scores: np.ndarray, familiarity: Familiarity | None) -> np.ndarray:
    """(B,) whether (B,) logo scores reach the threshold; all do where there is none."""
    return np.full(logo_scores.shape, True) if familiarity is None else logo_scores >= familiarity.threshold


def is_blank(pixels: np.ndarray) -> np.ndarray:
    """(B,) whether the image is blank: all pixels of (B, S, S, C) uint8, as the model sees them, have one RGB colour.

    One step in one channel of one pixel makes it not blank. Every mode but best-guess gives blank images no label.
    """
    colours = pixels[..., :3]
    blank = (colours[:, pixels.shape[1] // 2] == colours[:, :1, 0]).all(axis=(1, 2))  # a row: most logos are on it
    for index in np.flatnonzero(blank):
        blank[index] = (colours[index] == colours[index, 0, 0]).all()
    return blank


def spread(pixels: np.ndarray) -> np.ndarray:
    """(B,) the largest difference of two pixels in one colour channel of (B, S, S, C) uint8; 0 for a blank image."""
    return np.ptp(pixels[..., :3].reshape(len(pixels), -1, 3), axis=1).max(axis=1)


def given_labels(
    calibration: Calibration, mode: Mode, probabilities: np.ndarray, logo_scores: np.ndarray
) -> np.ndarray:
    """(B, K) whether `mode` gives each label to images that are not blank, from calibrated (B, K) probabilities.

    `logo_scores` is (B,).
    """
    if calibration.label_thresholds is None:
        highest = np.eye(probabilities.shape[1], dtype=bool)[probabilities.argmax(axis=1)]
        given = highest & (probabilities >= calibration.abstain_below[mode])
    else:
        given = probabilities >= np.array(list(calibration.label_thresholds[mode].values()))
    return given if mode == Mode.BEST_GUESS else given & is_logo(logo_scores, calibration.familiarity)[:, None]


def may_change(
    calibration: Calibration,
    probabilities: np.ndarray,
    logo_scores: np.ndarray,
    threshold: float | None,
    coverage: float | None,
    shift: float,
) -> np.ndarray:
    """(B,) whether any part of a decision could change if each logit moved by up to `shift`.

    The parts are label, best guess, the answers of the modes, the prediction set and `is_logo`. `probabilities` (B, K)
    are the calibrated ones. Distances to thresholds are measured in log-odds: those of a softmax move by at most as
    much as two of its logits move apart, that of a sigmoid by as much as its logit. A logo score moves by at most
    `shift`. A `threshold` of None is the mode's.
    """
    classes = probabilities.shape[1]
    weight = np.eye(classes) if calibration.scaling is None else calibration.scaling.arrays[0]
    odds, ordered = log_odds(probabilities), np.sort(probabilities, axis=1)
    if calibration.label_thresholds is not None:
        reach = shift / calibration.temperature * np.abs(weight).sum(axis=1).max()
        lowest = [list(by_label.values()) for by_label in calibration.label_thresholds.values()]
        thresholds = log_odds(np.array(lowest if threshold is None else [*lowest, [threshold] * classes]))
        close = (np.abs(odds[:, None] - thresholds) <= reach).any(axis=(1, 2))
        close |= np.diff(log_odds(ordered[:, -2:]))[:, 0] <= 2 * reach
    else:
        difference = weight[:, None] - weight  # (K, K, K); its inputs move by a logit's shift and that of log sum exp
        reach = np.abs(difference).sum(axis=2) + np.abs(difference.sum(axis=2))  # (K, K)
        reach = shift / calibration.temperature * reach.max()
        lowest = [*calibration.abstain_below.values(), *([] if threshold is None else [threshold])]
        close = (np.abs(odds.max(axis=1)[:, None] - log_odds(np.array(lowest))) <= reach).any(axis=1)
        close |= np.log(ordered[:, -1]) - np.log(np.maximum(ordered[:, -2], TINY)) <= reach
    for conformal in calibration.conformal:
        if conformal.level == coverage and conformal.threshold is not None:
            close |= (np.abs(odds - log_odds(conformal.threshold)) <= reach).any(axis=1)
    if calibration.familiarity is not None:
        close |= np.abs(logo_scores - calibration.familiarity.threshold) <= shift
    return close


def prediction_set(
    calibration: Calibration, probabilities: dict[str, float], level: float, *, by_class: bool = False
) -> tuple[str, ...]:
    """The labels that hold the true one with P >= `level`, the most probable first; none, some or all of them.

    Those of a multi-label bundle hold a share of at least `level` of an image's labels, in expectation.

    `probabilities` are those of a `Classification`. With `by_class` the promise holds for the images of each class, and
    sets are larger. Raises BundleError, with the reason, where the bundle has no threshold at the level.
    """
    conformal = next((conformal for conformal in calibration.conformal if conformal.level == level), None)
    if conformal is None:
        levels = ", ".join(f"{conformal.level:g}" for conformal in calibration.conformal) or "none"
        raise BundleError(f"no prediction sets at level {level:g}; the bundle holds these: {levels}")
    if (conformal.by_class if by_class else conformal.threshold) is None:
        marginal = ", or for sets over all classes," if by_class and conformal.threshold is not None else ""
        raise BundleError(
            f"no prediction sets{' by class' if by_class else ''} at level {level:g}: {conformal.refused}. "
            f"Ask for a lower level{marginal} or calibrate on more images"
        )
    thresholds = conformal.by_class if by_class else dict.fromkeys(probabilities, conformal.threshold)
    ordered = sorted(probabilities, key=probabilities.get, reverse=True)
    return tuple(label for label in ordered if probabilities[label] >= thresholds[label])
