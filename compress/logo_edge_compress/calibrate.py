"""What a bundle says of its own logits, fitted last, on the exported artifact's logits on the calib split alone.

Temperature, and a vector or Dirichlet scaling where cross-validation within calib shows that it wins; conformal
thresholds; one abstention threshold for each mode; the energy below which an input is unlike the logos.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from logo_edge.decision import (
    Calibration,
    Conformal,
    Familiarity,
    Mode,
    Scaling,
    calibrated_logits,
    energy,
    log_softmax,
)
from logo_edge.metrics import fit_temperature, softmax

LEVELS = (0.80, 0.90, 0.95, 0.99)
FALSE_POSITIVE_RATE = 0.05  # the share of logos that may be called unfamiliar
FOLDS, REPEATS = 5, 4
PENALTIES = (0.01, 0.1, 1.0)  # of what leaves the identity, per logo; the grid of the cross-validation
STEPS = 200  # of Newton's method at most; some ten do
DIGITS = 6


@dataclass(frozen=True)
class Candidate:
    """One way to calibrate, by cross-validation within calib: `nll` in nats, `gain` is what temperature's exceeds it by.

    `gain_error` is the standard error of the mean gain over the logos.
    """

    method: str
    penalty: float | None
    nll: float
    gain: float = 0.0
    gain_error: float = 0.0

    @property
    def wins(self) -> bool:
        """Better than temperature alone by more than chance may make it, one standard error (Breiman et al. 1984)."""
        return self.gain > self.gain_error


def fit_calibration(
    logits: np.ndarray, targets: np.ndarray, labels: tuple[str, ...], *, risks: dict[Mode, float],
    false_positive_rate: float = FALSE_POSITIVE_RATE,
) -> Calibration:  # fmt: skip
    """All that a bundle holds of its calibration, from (N, K) logits and (N,) integer targets of the calib split.

    `risks`: for each mode that may abstain, the share of its answers that may be wrong.
    """
    temperature = round(fit_temperature(logits, targets), DIGITS)
    chosen = choose_method(compare_methods(logits, targets))
    scaling = fit_scaling(logits, targets, temperature, chosen.method, chosen.penalty) if chosen.penalty else None
    probabilities = softmax(calibrated_logits(logits, temperature, scaling))
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == targets
    thresholds = {mode: round(abstention_threshold(confidence, correct, risk), DIGITS) for mode, risk in risks.items()}
    return Calibration(
        temperature, {Mode.BEST_GUESS: 0.0, **thresholds}, scaling,
        tuple(fit_conformal(probabilities, targets, labels, level) for level in LEVELS),
        fit_familiarity(logits, false_positive_rate),
    )  # fmt: skip


def compare_methods(logits: np.ndarray, targets: np.ndarray, *, seed: int = 0) -> list[Candidate]:
    """Temperature first, then each scaling and penalty, on the same stratified folds. Shapes as in `fit_calibration`.

    Each logo's loss is that of fits which have not seen it, the mean over the repeats.
    """
    methods = [("temperature", None), *((name, penalty) for name in ("vector", "dirichlet") for penalty in PENALTIES)]
    losses = np.zeros((len(methods), len(targets)))
    for repeat in range(REPEATS):
        folds = stratified_folds(targets, np.random.default_rng([seed, repeat]))
        for fold in range(FOLDS):
            held, kept = folds == fold, folds != fold
            temperature = fit_temperature(logits[kept], targets[kept])
            for row, (name, penalty) in enumerate(methods):
                scaling = fit_scaling(logits[kept], targets[kept], temperature, name, penalty) if penalty else None
                found = softmax(calibrated_logits(logits[held], temperature, scaling))
                losses[row, held] -= np.log(np.maximum(found[np.arange(held.sum()), targets[held]], 1e-12)) / REPEATS
    gains = losses[0] - losses
    return [
        Candidate(name, penalty, float(losses[row].mean()), float(gains[row].mean()),
                  float(gains[row].std(ddof=1) / math.sqrt(len(targets))))
        for row, (name, penalty) in enumerate(methods)
    ]  # fmt: skip


def choose_method(candidates: list[Candidate]) -> Candidate:
    """The candidate of least held-out NLL among those that win over temperature, the first of them; else temperature."""
    return min((entry for entry in candidates if entry.wins), key=lambda entry: entry.nll, default=candidates[0])


def stratified_folds(targets: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(N,) integers from 0 to FOLDS - 1, such that the folds hold each class in equal numbers but for one."""
    folds = np.empty(len(targets), int)
    order = np.lexsort((random.random(len(targets)), targets))
    folds[order] = np.arange(len(targets)) % FOLDS
    return folds


def fit_scaling(
    logits: np.ndarray, targets: np.ndarray, temperature: float, method: str, penalty: float
) -> Scaling:  # fmt: skip
    """The affine map of the log-probabilities at `temperature` of least penalised NLL.

    `vector` fits K factors and K offsets (Guo et al. 2017), `dirichlet` a whole matrix (Kull et al. 2019,
    arXiv:1910.12656). The penalty is on the squares of what leaves the identity, so that a large one gives temperature
    scaling back; Kull et al. leave the diagonal free, which a few dozen logos of a class do not support. The loss is
    convex: Newton's method, its step halved until the loss falls.
    """
    inputs = log_softmax(calibrated_logits(logits, temperature))
    count, classes = inputs.shape
    one_hot = np.eye(classes)[targets]
    identity = np.eye(classes, classes + 1)  # the offsets last
    free = np.ones_like(identity, bool)
    if method == "vector":
        free[:, :-1] = np.eye(classes, dtype=bool)
    free, start = free.ravel(), identity.ravel()
    extended = np.hstack([inputs, np.ones((count, 1))])  # (N, K + 1)

    def loss(values: np.ndarray) -> float:
        found = softmax(extended @ values.reshape(identity.shape).T)
        likelihood = -np.log(np.maximum(found[np.arange(count), targets], 1e-300)).mean()
        return float(likelihood + penalty / 2 * ((values - start) ** 2).sum())

    values, reached = start.copy(), loss(start)
    for _ in range(STEPS):
        found = softmax(extended @ values.reshape(identity.shape).T)  # (N, K)
        gradient = ((found - one_hot).T @ extended / count).ravel() + penalty * (values - start)
        spread = found[:, :, None] * (np.eye(classes) - found[:, None, :])  # (N, K, K)
        hessian = np.einsum("nij,na,nb->iajb", spread, extended, extended, optimize=True) / count
        hessian = hessian.reshape(len(values), len(values)) + penalty * np.eye(len(values))
        step = np.zeros_like(values)
        step[free] = np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        share = 1.0
        while (tried := loss(values - share * step)) > reached and share > 1e-6:
            share /= 2
        if reached - tried < 1e-12:
            break
        values, reached = values - share * step, tried
    fitted = values.reshape(identity.shape).round(DIGITS)
    return Scaling(method, tuple(map(tuple, fitted[:, :-1].tolist())), tuple(fitted[:, -1].tolist()))


def least_count(level: float) -> int:
    """How many calibration logos a conformal threshold at `level` needs: the least n with ceil((n + 1) level) <= n."""
    count = 1
    while conformal_rank(count, level) > count:
        count += 1
    return count


def conformal_rank(count: int, level: float) -> int:
    """ceil((count + 1) level), the finite-sample corrected rank; rounding of `level` does not lift it by one."""
    return math.ceil(round((count + 1) * level, 9))


def conformal_threshold(probabilities: np.ndarray, targets: np.ndarray, level: float) -> float | None:
    """The least probability that a label needs to join a prediction set which holds the target with P >= level.

    Split conformal with the score 1 - p(target) and its `conformal_rank`. Vovk et al. 2005; Sadinle et al. 2019,
    arXiv:1609.00451. None where there are fewer than `least_count(level)` targets.
    """
    scores = np.sort(1 - probabilities[np.arange(len(targets)), targets])
    rank = conformal_rank(len(scores), level)
    return float(1 - scores[rank - 1]) if rank <= len(scores) else None


def fit_conformal(probabilities: np.ndarray, targets: np.ndarray, labels: tuple[str, ...], level: float) -> Conformal:
    """The marginal threshold and those of each class at one level; refused is what has too few logos.

    Sets by class promise something of every class, so that one class which is too small refuses them all.
    """
    marginal = conformal_threshold(probabilities, targets, level)
    by_class = {
        label: conformal_threshold(probabilities[targets == k], targets[targets == k], level)
        for k, label in enumerate(labels)
    }
    found = {**({"all classes together": len(targets)} if marginal is None else {}),
             **{label: int((targets == k).sum()) for k, label in enumerate(labels) if by_class[label] is None}}  # fmt: skip
    refused = ", ".join(f"{name}: {count} logos of calib, {least_count(level)} needed" for name, count in found.items())
    complete = {label: _below(value) for label, value in by_class.items() if value is not None}
    return Conformal(level, None if marginal is None else _below(marginal),
                     complete if len(complete) == len(labels) else None, refused)  # fmt: skip


def fit_familiarity(logits: np.ndarray, false_positive_rate: float) -> Familiarity | None:
    """The energy that a new logo falls below with P <= the rate: the floor((n + 1) rate)-th smallest of n calib logos.

    A conformal test of one class; None where n is too small for the rate. logits: (N, K), before temperature.
    """
    rank = math.floor(round((len(logits) + 1) * false_positive_rate, 9))
    if rank < 1:
        return None
    return Familiarity(_below(float(np.sort(energy(logits))[rank - 1])), false_positive_rate)


def abstention_threshold(confidence: np.ndarray, correct: np.ndarray, target_risk: float) -> float:
    """The least confidence such that, of all logos at or above it, at most `target_risk` are wrong.

    confidence: (N,), correct: (N,) bool. 0 where everything may be answered; 1 where no threshold suffices.
    Selective classification: Geifman and El-Yaniv 2017, arXiv:1705.08500.
    """
    order = np.argsort(-confidence, kind="stable")
    risk = np.cumsum(~correct[order]) / np.arange(1, len(order) + 1)
    allowed = np.flatnonzero(risk <= target_risk)
    if not len(allowed):
        return 1.0
    last = int(allowed[-1])
    if last == len(order) - 1:
        return 0.0
    return float((confidence[order[last]] + confidence[order[last + 1]]) / 2)


def _below(threshold: float) -> float:
    """Rounded down, so that rounding excludes nothing that the threshold itself lets in."""
    return math.floor(threshold * 10**DIGITS) / 10**DIGITS
