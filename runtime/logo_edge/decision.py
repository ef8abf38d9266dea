"""From logits to a decision: what a bundle's calibration holds, and the few lines of NumPy that apply it.

Fitted by `logo_edge_compress.calibrate`, on the artifact's own logits on the calib split.
"""

from __future__ import annotations

import numpy as np

from logo_edge.bundle.calibration import Calibration, Familiarity, Mode, Scaling
from logo_edge.errors import BundleError
from logo_edge.probabilities import TINY, log_odds, log_softmax


def is_blank(pixels: np.ndarray) -> np.ndarray:
    """(B,) whether nothing is in the picture: all pixels of (B, S, S, C) uint8, as the model sees it, have one colour.

    The first three channels hold it. Modes but best-guess then give no label. A difference of one step in one channel of one pixel is something.
    """
    values = pixels[..., :3].reshape(len(pixels), -1)
    return (values[:, 3:] == values[:, :-3]).all(axis=1)


def spread(pixels: np.ndarray) -> np.ndarray:
    """(B,) the largest difference of two pixels within a colour of (B, S, S, C) uint8; 0 where it is blank."""
    return np.ptp(pixels[..., :3].reshape(len(pixels), -1, 3), axis=1).max(axis=1)


def calibrated_logits(logits: np.ndarray, temperature: float, scaling: Scaling | None = None) -> np.ndarray:
    """(B, K) float64 whose softmax are the calibrated probabilities, from an artifact's own (B, K) logits."""
    scaled = logits.astype(np.float64) / temperature
    if scaling is None:
        return scaled
    return log_softmax(scaled) @ np.array(scaling.weight).T + np.array(scaling.bias)


def logo_score(logits: np.ndarray) -> np.ndarray:
    """(B,) log-odds in nats that the picture is a logo, log sum exp of an artifact's own (B, K) logits.

    A network that learned from pictures that are no logos, as a further class whose logit is 0, gives these log-odds
    (outlier exposure: Hendrycks et al. 2019, arXiv:1812.04606). The form is that of the negative free energy, Liu et al.
    2020, arXiv:2010.03759: of any other network it is low for pictures unlike those that it learned from.
    """
    with np.errstate(invalid="ignore"):
        return np.logaddexp.reduce(logits.astype(np.float64), axis=-1)


def is_logo(logo_scores: np.ndarray, familiarity: Familiarity | None) -> np.ndarray:
    """(B,) whether (B,) logo scores reach the threshold; all do where there is none."""
    return np.full(logo_scores.shape, True) if familiarity is None else logo_scores >= familiarity.threshold


def is_answered(calibration: Calibration, mode: Mode, confidence: np.ndarray, logo_scores: np.ndarray) -> np.ndarray:
    """(B,) whether `mode` gives a label to pictures in which something is, of (B,) confidence and logo scores."""
    sure = confidence >= calibration.abstain_below[mode]
    return sure if mode == Mode.BEST_GUESS else sure & is_logo(logo_scores, calibration.familiarity)


def may_change(
    calibration: Calibration,
    probabilities: np.ndarray,
    logo_scores: np.ndarray,
    threshold: float,
    coverage: float | None,
    shift: float,
) -> np.ndarray:
    """(B,) whether label, best guess, what the modes say, the labels of the prediction set or `is_logo` could be others if
    each logit were up to `shift` greater or less.

    `probabilities` (B, K) are the calibrated ones. A softmax's log-odds move by at most what two of its logits move apart,
    so that distances to the thresholds are taken there; a logo score moves by at most `shift`.
    """
    classes = probabilities.shape[1]
    weight = np.eye(classes) if calibration.scaling is None else np.array(calibration.scaling.weight)
    apart = weight[:, None] - weight  # (K, K, K); what it weighs moves by a logit's shift and by log sum exp's
    reach = shift / calibration.temperature * (np.abs(apart).sum(axis=2) + np.abs(apart.sum(axis=2))).max()
    odds, ordered = log_odds(probabilities), np.sort(probabilities, axis=1)
    thresholds = log_odds(np.array([threshold, *calibration.abstain_below.values()]))
    close = (np.abs(odds.max(axis=1)[:, None] - thresholds) <= reach).any(axis=1)
    close |= np.log(ordered[:, -1]) - np.log(np.maximum(ordered[:, -2], TINY)) <= reach
    for entry in calibration.conformal:
        if entry.level == coverage and entry.threshold is not None:
            close |= (np.abs(odds - log_odds(entry.threshold)) <= reach).any(axis=1)
    if calibration.familiarity is not None:
        close |= np.abs(logo_scores - calibration.familiarity.threshold) <= shift
    return close


def prediction_set(
    calibration: Calibration, probabilities: dict[str, float], level: float, *, by_class: bool = False
) -> tuple[str, ...]:
    """The labels that hold the true one with P >= `level`, the likeliest first; it may be empty, or hold all.

    `probabilities`: those of a `Classification`. With `by_class` the promise holds for the logos of every class by
    themselves, and the set is larger. Raises BundleError where the bundle has no threshold at the level, with the reason.
    """
    entry = next((entry for entry in calibration.conformal if entry.level == level), None)
    if entry is None:
        levels = ", ".join(f"{entry.level:g}" for entry in calibration.conformal) or "none"
        raise BundleError(f"no prediction sets at level {level:g}; the bundle holds these: {levels}")
    if (entry.by_class if by_class else entry.threshold) is None:
        raise BundleError(
            f"no prediction sets{' by class' if by_class else ''} at level {level:g}: {entry.refused}. Ask for a lower level"
            f"{', or for sets over all classes,' if by_class and entry.threshold is not None else ''} or calibrate on more logos"
        )
    thresholds = entry.by_class if by_class else dict.fromkeys(probabilities, entry.threshold)
    ordered = sorted(probabilities, key=probabilities.get, reverse=True)
    return tuple(label for label in ordered if probabilities[label] >= thresholds[label])
