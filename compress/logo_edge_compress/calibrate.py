"""The calibration of a bundle, fitted last, on the exported artifact's logits on the calib split only.

Temperature; a vector or Dirichlet scaling if it wins in cross-validation within calib; conformal thresholds; one
abstention threshold for each mode; the logo score below which a picture is rejected as no logo. Every threshold is
fitted to out-of-fold probabilities. Multi-label: each label has its own factor and offset, if these win, and its own
threshold for each mode; the thresholds of prediction sets control the share of missed labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import minimize
from scipy.stats import beta

from logo_edge.bundle.calibration import Calibration, Conformal, Familiarity, Mode, Scaling
from logo_edge.decision import calibrated_logits, is_logo, logo_score
from logo_edge.names import printable
from logo_edge.probabilities import log_sigmoid, log_softmax, sigmoid, softmax
from logo_edge_train.metrics import probabilities_of
from logo_edge_train.promises import CERTAINTY, LEAST_PER_CLASS, LEVELS, conformal_rank, least_answers, least_count
from logo_edge_train.recipe import CalibrateConfig
from logo_edge_train.temperature import PRIOR, fit_temperature

FOLDS, REPEATS = 5, 4
REPEATED = 1200  # images; with more, the folds vary too little to need repeats
PENALTIES = (0.01, 0.1, 1.0)  # for the distance from the identity, per image; the grid of the cross-validation
MOST_CLASSES = {"vector": 128, "dirichlet": 8}  # a step of a fit costs O(N P^2 + P^3): P = 2 K, K (K + 1)
STEPS = 200  # of Newton's method, at most; about ten are usual
DIGITS = 6
SHOWN_LABELS = 5  # in the reason why a mode is not promised


@dataclass(frozen=True)
class MethodResult:
    """A way to calibrate, cross-validated within calib: `nll` in nats; `gain`: temperature's NLL minus this one.

    `gain_error` is the standard error of the mean gain over the images. `held_out`: the (N, K) out-of-fold
    probabilities, mean over the repeats.
    """

    method: str
    penalty: float | None
    nll: float
    gain: float = 0.0
    gain_error: float = 0.0
    held_out: np.ndarray = field(default_factory=lambda: np.empty((0, 0)), repr=False, compare=False)

    @property
    def wins(self) -> bool:
        """Better than temperature alone by more than one standard error (Breiman et al. 1984)."""
        return self.gain > self.gain_error


@dataclass(frozen=True)
class Fitted:
    """A calibration and, for each mode whose risk calib cannot prove, why it is not promised."""

    calibration: Calibration
    unpromised: dict[Mode, str]


def fit_calibration(
    logits: np.ndarray, targets: np.ndarray, labels: tuple[str, ...], config: CalibrateConfig = CalibrateConfig()
) -> Fitted:
    """The calibration of a bundle, from (N, K) logits and (N,) integer targets of the calib split.

    A mode's risk is the error of its answers, so its threshold is fitted on the images that are not rejected as no
    logo. The familiarity threshold is one of calib's logo scores, chosen without the targets. So the images above it
    are a sample of all images above it, and the bounds of `highest_risk` hold. With multi-label targets, (N, K) of 0 or
    1, see `fit_label_thresholds` and `fit_label_conformal`.
    """
    multi_label = targets.ndim == 2
    chosen = choose_method(compare_methods(logits, targets))
    temperature = round(fit_temperature(logits, targets), DIGITS)
    scaling = fit_scaling(logits, targets, temperature, chosen.method, chosen.penalty) if chosen.penalty else None
    held_out = chosen.held_out
    if multi_label:
        accepted = is_logo(logo_score(logits), familiarity := fit_familiarity(logits, config.false_positive_rate))
        thresholds, unpromised = fit_label_thresholds(held_out[accepted], targets[accepted], labels, config)
        lowest = {mode: min(by_label.values()) for mode, by_label in thresholds.items()} | {Mode.BEST_GUESS: 0.0}
        conformal = tuple(fit_label_conformal(held_out, targets, labels, level) for level in LEVELS)
        return Fitted(Calibration(temperature, lowest, scaling, conformal, familiarity, thresholds), unpromised)
    if config.class_balance:
        lift = config.class_balance * class_lift(targets, len(labels))
        scaling, held_out = add_to_bias(scaling, lift), softmax(np.log(np.maximum(held_out, 1e-12)) + lift)
    familiarity = fit_familiarity(logits, config.false_positive_rate)
    accepted = is_logo(logo_score(logits), familiarity)
    confidence, correct = held_out.max(1)[accepted], (held_out.argmax(1) == targets)[accepted]
    thresholds, unpromised = {Mode.BEST_GUESS: 0.0}, {}
    for mode, risk in {Mode.BALANCED: config.target_risk, Mode.STRICT: config.strict_risk}.items():
        threshold = abstention_threshold(confidence, correct, risk)
        if threshold is None:
            threshold = cautious_threshold(confidence, correct, risk)
            unpromised[mode] = explain_risk(len(confidence), risk)
        thresholds[mode] = max(threshold, *thresholds.values())
    calibration = Calibration(
        temperature,
        thresholds,
        scaling,
        tuple(fit_conformal(held_out, targets, labels, level) for level in LEVELS),
        familiarity,
    )
    return Fitted(calibration, unpromised)


def compare_methods(logits: np.ndarray, targets: np.ndarray, *, seed: int = 0) -> list[MethodResult]:
    """Temperature first, then each scaling and penalty, on the same stratified folds. Shapes as in `fit_calibration`.

    Each image's loss is out-of-fold, mean over the repeats. If a class has fewer than LEAST_PER_CLASS images,
    temperature is the only method. Multi-label, that many images must have each label and lack it, and only vector
    scaling is tried.
    """
    classes, multi_label = logits.shape[1], targets.ndim == 2
    with_label = targets.sum(0) if multi_label else np.bincount(targets, minlength=classes)  # (K,)
    sizes = np.minimum(with_label, len(targets) - with_label) if multi_label else with_label
    enough = sizes.min() >= LEAST_PER_CLASS
    methods = [("temperature", None)]
    methods += [
        (name, penalty)
        for name, most in MOST_CLASSES.items()
        for penalty in PENALTIES
        if enough and classes <= most and not (multi_label and name == "dirichlet")
    ]
    strata = np.unique(targets, axis=0, return_inverse=True)[1].ravel() if multi_label else targets
    losses, held_out = np.zeros((len(methods), len(targets))), np.zeros((len(methods), *logits.shape))
    repeats = min(REPEATS, math.ceil(REPEATED / len(targets)))
    for repeat in range(repeats):
        folds = stratified_folds(strata, np.random.default_rng([seed, repeat]))
        for fold in range(FOLDS):
            held, rest = folds == fold, folds != fold
            temperature = fit_temperature(logits[rest], targets[rest])
            for row, (name, penalty) in enumerate(methods):
                scaling = fit_scaling(logits[rest], targets[rest], temperature, name, penalty) if penalty else None
                calibrated = calibrated_logits(logits[held], temperature, scaling, multi_label=multi_label)
                probabilities = probabilities_of(calibrated, targets)
                losses[row, held] -= _log_likelihoods(calibrated, probabilities, targets[held]) / repeats
                held_out[row, held] += probabilities / repeats
    gains = losses[0] - losses
    errors = gains.std(axis=1, ddof=1) / math.sqrt(len(targets)) if len(targets) > 1 else np.zeros(len(methods))
    return [
        MethodResult(*method, float(losses[row].mean()), float(gains[row].mean()), float(errors[row]), held_out[row])
        for row, method in enumerate(methods)
    ]


def _log_likelihoods(calibrated: np.ndarray, probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N,) nats: of each image's target or, multi-label, the sum over its labels."""
    if targets.ndim == 2:
        return log_sigmoid(np.where(targets, calibrated, -calibrated)).sum(1)
    return np.log(np.maximum(probabilities[np.arange(len(targets)), targets], 1e-12))


def choose_method(results: list[MethodResult]) -> MethodResult:
    """The method with the lowest held-out NLL among those that win over temperature; else temperature."""
    return min((result for result in results if result.wins), key=lambda result: result.nll, default=results[0])


def stratified_folds(targets: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(N,) fold numbers from 0 to FOLDS - 1; the counts of each class in the folds differ by at most one."""
    folds = np.empty(len(targets), int)
    order = np.lexsort((random.random(len(targets)), targets))
    folds[order] = np.arange(len(targets)) % FOLDS
    return folds


def fit_scaling(logits: np.ndarray, targets: np.ndarray, temperature: float, method: str, penalty: float) -> Scaling:
    """The affine map of the log-probabilities at `temperature` with the lowest penalised NLL.

    `vector` fits K factors and K offsets (Guo et al. 2017), `dirichlet` a full matrix (Kull et al. 2019,
    arXiv:1910.12656). The penalty is the squared distance from the identity, so a large one returns temperature
    scaling; Kull et al. do not penalise the diagonal, for which a few dozen images of a class are too few. The prior of
    `fit_temperature` is added; its share vanishes with the number of images. The loss is convex: Newton's method, with
    the step halved until the loss falls. With multi-label targets, `fit_label_scaling`.
    """
    if targets.ndim == 2:
        return fit_label_scaling(logits, targets, temperature, penalty)
    inputs = log_softmax(calibrated_logits(logits, temperature))
    (count, classes), one_hot = inputs.shape, np.eye(inputs.shape[1])[targets]
    if method == "vector":
        features, start = [inputs], np.ones((1, classes))  # (N, K) each: the factor of each class is on its own input
    else:
        features, start = list(inputs.T[:, :, None]), np.eye(classes)  # (N, 1) each: of any class on every input
    features, start = [*features, np.ones((count, 1))], np.vstack([start, np.zeros(classes)])  # offsets last: (P, K)
    penalty += PRIOR / count

    def scores(values: np.ndarray) -> np.ndarray:
        return sum(feature * row for feature, row in zip(features, values, strict=True))

    def loss(values: np.ndarray) -> float:
        own = log_softmax(scores(values))[np.arange(count), targets]
        return float(penalty / 2 * ((values - start) ** 2).sum() - own.mean())

    values, reached, each = start, loss(start), np.arange(classes)
    for _ in range(STEPS):
        probabilities = softmax(scores(values))  # (N, K)
        gradient = np.array([((probabilities - one_hot) * feature).mean(0) for feature in features]) + penalty * (
            values - start
        )
        weighted = [probabilities * feature for feature in features]
        flat = np.hstack(weighted)  # (N, P K)
        hessian = penalty * np.eye(values.size) - flat.T @ flat / count
        same = np.array([[(one * feature).mean(0) for feature in features] for one in weighted])  # (P, P, K)
        hessian.reshape(*values.shape, *values.shape)[:, each, :, each] += same.transpose(2, 0, 1)
        step = np.linalg.solve(hessian, gradient.ravel()).reshape(values.shape)
        share = 1.0
        while (tried := loss(values - share * step)) > reached and share > 1e-6:
            share /= 2
        if reached - tried < 1e-12:
            break
        values, reached = values - share * step, tried
    values = values.round(DIGITS)
    weight = np.diag(values[0]) if method == "vector" else values[:-1].T
    return Scaling(method, tuple(map(tuple, weight.tolist())), tuple(values[-1].tolist()))


def fit_label_scaling(logits: np.ndarray, targets: np.ndarray, temperature: float, penalty: float) -> Scaling:
    """The factor and offset of each label's logits at `temperature` with the lowest penalised NLL.

    logits: (N, K); targets: (N, K) of 0 or 1. Platt 1999, with the penalty and the prior of `fit_scaling`. The loss is
    convex and a sum over the labels; L-BFGS minimises it for all of them at once.
    """
    inputs, signs = logits.astype(np.float64) / temperature, np.where(targets, 1.0, -1.0)
    count, labels = inputs.shape
    penalty, start = penalty + PRIOR / count, np.repeat([[1.0], [0.0]], labels, axis=1)  # (2, K)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        values = flat.reshape(2, labels)
        margins = signs * (inputs * values[0] + values[1])  # (N, K)
        slopes = -signs * sigmoid(-margins) / count
        gradient = np.stack([(slopes * inputs).sum(0), slopes.sum(0)]) + penalty * (values - start)
        distance = penalty / 2 * ((values - start) ** 2).sum()
        return float(distance - log_sigmoid(margins).sum() / count), gradient.ravel()

    values = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B").x.reshape(2, labels).round(DIGITS)
    return Scaling("vector", tuple(map(tuple, np.diag(values[0]).tolist())), tuple(values[1].tolist()))


def class_lift(targets: np.ndarray, classes: int) -> np.ndarray:
    """(K,) the negative log of each class's share of the (N,) targets, less the mean over the classes.

    Added to log-probabilities it makes all classes equally frequent: logit adjustment, Menon et al. 2021,
    arXiv:2007.07314. A class without a target counts as half a one.
    """
    lift = -np.log(np.maximum(np.bincount(targets, minlength=classes), 0.5))
    return lift - lift.mean()


def add_to_bias(scaling: Scaling | None, lift: np.ndarray) -> Scaling:
    """The scaling, or the identity, with the (K,) lift added to its offsets."""
    scaling = scaling or Scaling("vector", tuple(map(tuple, np.eye(len(lift)).tolist())), (0.0,) * len(lift))
    return replace(scaling, bias=tuple((np.array(scaling.bias) + lift).round(DIGITS).tolist()))


def conformal_threshold(probabilities: np.ndarray, targets: np.ndarray, level: float) -> float | None:
    """The lowest probability of a label in a prediction set that contains the target with P >= level.

    Split conformal prediction with the score 1 - p(target) and its `conformal_rank`. Vovk et al. 2005; Sadinle et al.
    2019, arXiv:1609.00451. None where there are fewer than `least_count(level)` targets.
    """
    scores = np.sort(1 - probabilities[np.arange(len(targets)), targets])
    rank = conformal_rank(len(scores), level)
    return float(1 - scores[rank - 1]) if rank <= len(scores) else None


def fit_conformal(probabilities: np.ndarray, targets: np.ndarray, labels: tuple[str, ...], level: float) -> Conformal:
    """The marginal threshold and those of each class at one level; `refused` names the classes with too few images.

    Sets by class make a promise for every class, so a single class that is too small refuses all of them.
    """
    marginal = conformal_threshold(probabilities, targets, level)
    by_class = {
        label: conformal_threshold(probabilities[targets == k], targets[targets == k], level)
        for k, label in enumerate(labels)
    }
    too_few = {
        **({"all classes together": len(targets)} if marginal is None else {}),
        **{label: int((targets == k).sum()) for k, label in enumerate(labels) if by_class[label] is None},
    }
    return _conformal(level, marginal, by_class, too_few)


def fit_label_thresholds(
    probabilities: np.ndarray, targets: np.ndarray, labels: tuple[str, ...], config: CalibrateConfig
) -> tuple[dict[Mode, dict[str, float]], dict[Mode, str]]:
    """For each mode, the lowest probability that gives each label, and why a mode is not promised for some.

    probabilities, targets: (N, K), out-of-fold and 0 or 1. Of the images that get a label, at most a share `risk` lacks
    it: `abstention_threshold` of each label. best-guess gives labels that are more probable than not.
    """
    thresholds, unpromised = {Mode.BEST_GUESS: {}, Mode.BALANCED: {}, Mode.STRICT: {}}, {}
    for k, label in enumerate(labels):
        own, truth, least = probabilities[:, k], targets[:, k].astype(bool), 0.0
        for mode, risk in {Mode.BALANCED: config.target_risk, Mode.STRICT: config.strict_risk}.items():
            threshold = abstention_threshold(own, truth, risk)
            if threshold is None:
                threshold = cautious_threshold(own, truth, risk)
                unpromised.setdefault(mode, []).append(f"{printable(label)}: {explain_risk(int(truth.sum()), risk)}")
            thresholds[mode][label] = least = max(threshold, least)
        thresholds[Mode.BEST_GUESS][label] = min(0.5, thresholds[Mode.BALANCED][label])
    return thresholds, {mode: _shorten(reasons) for mode, reasons in unpromised.items()}


def _shorten(reasons: list[str]) -> str:
    more = f"; and {len(reasons) - SHOWN_LABELS} more labels" if len(reasons) > SHOWN_LABELS else ""
    return "; ".join(reasons[:SHOWN_LABELS]) + more


def risk_controlled_threshold(probabilities: np.ndarray, targets: np.ndarray, level: float) -> float | None:
    """The highest probability threshold whose sets miss, in expectation, at most 1 - level of a new image's labels.

    probabilities, targets: (N, K), targets 0 or 1; an image without labels misses none. Conformal risk control of the
    false negative rate: (n mean loss + 1) / (n + 1) <= 1 - level. Angelopoulos et al. 2022, arXiv:2208.02814, theorem
    1. None where n is too small.
    """
    images, columns = np.nonzero(targets)
    own = probabilities[images, columns]  # (M,), of the labels that images have
    order = np.argsort(own)
    shares = (1 / targets.sum(1)[images])[order]
    missed = (shares.cumsum() - shares)[np.searchsorted(own[order], own[order])]  # below each threshold; equal ones too
    kept = missed <= (1 - level) * (len(targets) + 1) - 1 + 1e-9
    return float(own[order][kept].max()) if kept.any() else None


def fit_label_conformal(
    probabilities: np.ndarray, targets: np.ndarray, labels: tuple[str, ...], level: float
) -> Conformal:
    """The threshold of sets over all labels, by `risk_controlled_threshold`, and those of each label at one level.

    That of a label misses at most 1 - level of the images that have it: `conformal_threshold` of these images.
    """
    marginal = risk_controlled_threshold(probabilities, targets, level)
    by_label = {}
    for k, label in enumerate(labels):
        own = probabilities[targets[:, k] == 1, k]
        by_label[label] = conformal_threshold(own[:, None], np.zeros(len(own), int), level)
    too_few = {} if marginal is not None else {"all labels together": len(targets)}
    too_few |= {label: int(targets[:, k].sum()) for k, label in enumerate(labels) if by_label[label] is None}
    return _conformal(level, marginal, by_label, too_few)


def _conformal(level: float, marginal: float | None, by_class: dict, too_few: dict[str, int]) -> Conformal:
    refused = ", ".join(
        f"{name}: {count} images of calib, {least_count(level)} needed" for name, count in too_few.items()
    )
    complete = {label: _below(value) for label, value in by_class.items() if value is not None}
    return Conformal(
        level,
        None if marginal is None else _below(marginal),
        complete if len(complete) == len(by_class) else None,
        refused,
    )


def fit_familiarity(logits: np.ndarray, false_positive_rate: float) -> Familiarity | None:
    """The logo score that a new image is below with P <= the rate: the floor((n + 1) rate)-th smallest of n of calib.

    A one-class conformal test; None where n is too small for the rate. logits: (N, K), before temperature.
    """
    rank = math.floor(round((len(logits) + 1) * false_positive_rate, 9))
    if rank < 1:
        return None
    return Familiarity(_below(float(np.sort(logo_score(logits))[rank - 1])), false_positive_rate)


def abstention_threshold(confidence: np.ndarray, correct: np.ndarray, risk: float) -> float | None:
    """The lowest confidence above which, with CERTAINTY, at most a share `risk` of the answers is wrong.

    confidence: (N,), correct: (N,) bool. `highest_risk` of the images at or above it is at most `risk`. It lies between
    two confidences that differ in DIGITS, so equal ones are answered together. 0 where everything may be answered, None
    where no confidence is high enough. Selective classification: Geifman and El-Yaniv 2017, arXiv:1705.08500.
    """
    return _least_threshold(confidence, correct, lambda wrong, answers: highest_risk(wrong, answers) <= risk)


def cautious_threshold(confidence: np.ndarray, correct: np.ndarray, risk: float) -> float:
    """The confidence threshold of a mode where `abstention_threshold` can promise none.

    1 - risk, which keeps the risk if the confidence is calibrated; higher if more of the images above it are wrong; 1
    if no threshold helps.
    """
    usual = round(1 - risk, DIGITS)
    sure = confidence >= usual
    if not sure.any():
        return usual
    least = _least_threshold(confidence[sure], correct[sure], lambda wrong, answers: wrong <= risk * answers)
    return 1.0 if least is None else max(usual, least)


def highest_risk(wrong: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """The upper bound, with CERTAINTY, of the risk after `wrong` of `answers`. Clopper and Pearson 1934, one-sided."""
    bounds = beta.ppf(CERTAINTY, wrong + 1, np.maximum(answers - wrong, 1e-9))  # 1 where no answer is right
    return np.where(wrong == answers, 1.0, bounds)


def explain_risk(count: int, risk: float) -> str:
    """Why `count` images of calib cannot prove a risk, for a reader of the bundle."""
    if not risk:
        return f"not promised: {count} pictures; no number of them shows that nothing is ever wrong"
    if count < (least := least_answers(risk)):
        needed = f"{least:.0f} answers, none of them wrong, show a risk of {risk:.0%} or less"
        return f"not promised: {count} pictures; {needed}"
    return (
        f"not promised: {count} pictures; too many of the surest answers are wrong to show a risk of {risk:.0%} or less"
    )


def _least_threshold(confidence: np.ndarray, correct: np.ndarray, keeps: Callable) -> float | None:
    """The lowest threshold where keeps(wrong, answers) is true, halfway to the next lower confidence; or 0, or None."""
    levels, inverse = np.unique(confidence.round(DIGITS), return_inverse=True)  # in ascending order
    answers = np.bincount(inverse)[::-1].cumsum()[::-1]
    wrong = np.bincount(inverse, ~correct)[::-1].cumsum()[::-1].astype(int)
    positions = np.flatnonzero(keeps(wrong, answers))
    if not len(positions):
        return None
    return round(float(levels[positions[0]] + levels[positions[0] - 1]) / 2, DIGITS + 1) if positions[0] else 0.0


def _below(threshold: float) -> float:
    """Rounded down, so that rounding excludes nothing that the exact threshold includes."""
    return math.floor(threshold * 10**DIGITS) / 10**DIGITS
