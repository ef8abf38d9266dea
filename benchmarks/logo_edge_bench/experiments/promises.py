"""How well the rules of a bundle's calibration keep their promises, on simulated logos whose probabilities are known.

    python -m logo_edge_bench.experiments promises

Temperature alone is right for these logits, so a scaling can only lose. Errors, coverage and NLL are expectations over
a large population, which no calibration sees.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np

from logo_edge.decision import calibrated_logits
from logo_edge.probabilities import softmax
from logo_edge_compress.calibrate import (
    abstention_threshold,
    choose_method,
    compare_methods,
    conformal_threshold,
    fit_scaling,
)
from logo_edge_train.promises import LEVELS
from logo_edge_train.recipe import CalibrateConfig
from logo_edge_train.temperature import fit_temperature

TEMPERATURE, SPREAD = 1.5, 7.0
OFFSETS = (-3.0, -1.0, 3.0, 0.0)  # of the classes: they are unequally frequent
SIZES = (100, 345, 696, 1000)  # logos of a calib; 345 and 696: that of round 1, and of all rounds
CALIB, POPULATION = 696, 20_000


def measure(
    *,
    sets: Annotated[int, "simulated calibs for scalings and prediction sets"] = 40,
    mode_sets: Annotated[int, "simulated calibs of each size for the modes"] = 300,
) -> dict:
    random = np.random.default_rng(0)
    population, truth, _ = draw(random, POPULATION)
    calibs = [draw(random, CALIB) for _ in range(sets)]
    config = CalibrateConfig()
    return {
        "calib": CALIB,
        "class_shares": truth.mean(0).tolist(),
        "accuracy": float(truth.max(1).mean()),
        "scaling": compare_rules(calibs, population, truth),
        "coverage": compare_thresholds(calibs, population, truth),
        "modes": {
            "sets": mode_sets,
            "at_risk": {
                str(risk): {str(size): count_broken(random, truth, size, risk, mode_sets) for size in SIZES}
                for risk in (config.target_risk, config.strict_risk)
            },
        },
    }


def draw(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, K) logits, the (N, K) true probabilities of their labels, and (N,) targets drawn from them."""
    scores = random.normal(0, SPREAD, (count, len(OFFSETS))) + OFFSETS
    truth = softmax(scores)
    return TEMPERATURE * scores, truth, (truth.cumsum(1) < random.random((count, 1))).sum(1)


def compare_rules(calibs: list, population: np.ndarray, truth: np.ndarray) -> dict:
    """How often a scaling is chosen, and the NLL above that of temperature alone, of our rule and of the lowest NLL."""
    lost: dict[str, list[float]] = {"rule": [], "lowest NLL": []}
    for logits, _, targets in calibs:
        results = compare_methods(logits, targets)
        chosen = {"rule": choose_method(results), "lowest NLL": min(results, key=lambda result: result.nll)}
        least = expected_nll(population, truth, logits, targets, results[0])
        for rule, result in chosen.items():
            lost[rule].append(expected_nll(population, truth, logits, targets, result) - least)
    return {
        rule: {"sets": len(losses), "chosen": sum(map(bool, losses)), "lost_nats": float(np.mean(losses))}
        for rule, losses in lost.items()
    }


def expected_nll(population: np.ndarray, truth: np.ndarray, logits: np.ndarray, targets: np.ndarray, result) -> float:
    fitted = calibrate(logits, targets, result)(population)
    return float(-(truth * np.log(np.maximum(fitted, 1e-12))).sum(1).mean())


def calibrate(logits: np.ndarray, targets: np.ndarray, result):
    """(N, K) logits -> probabilities, by the method of `result` fitted to these logits."""
    temperature = fit_temperature(logits, targets)
    scaling = fit_scaling(logits, targets, temperature, result.method, result.penalty) if result.penalty else None
    return lambda others: softmax(calibrated_logits(others, temperature, scaling))


def compare_thresholds(calibs: list, population: np.ndarray, truth: np.ndarray) -> dict:
    """The mean coverage and size of the prediction sets, by the logos from whose probabilities thresholds come."""
    found: dict[str, list[list[list[float]]]] = {
        "the logos of the fit": [],
        "cross-fitting": [],
        "one half of calib": [],
    }
    for logits, _, targets in calibs:
        result = choose_method(compare_methods(logits, targets))
        fitted, half = calibrate(logits, targets, result), slice(0, len(targets) // 2)
        first = choose_method(compare_methods(logits[half], targets[half]))
        fitted_half, rest = calibrate(logits[half], targets[half], first), slice(len(targets) // 2, None)
        sources = {
            "the logos of the fit": (fitted, fitted(logits), targets),
            "cross-fitting": (fitted, result.held_out, targets),
            "one half of calib": (fitted_half, fitted_half(logits[rest]), targets[rest]),
        }
        for name, (model, probabilities, own) in sources.items():
            sets = [model(population) >= conformal_threshold(probabilities, own, level) for level in LEVELS[:3]]
            found[name].append(
                [[float((truth * labels).sum(1).mean()), float(labels.sum(1).mean())] for labels in sets]
            )
    return {
        name: {
            str(level): {
                "coverage": float(np.mean([values[at][0] for values in each])),
                "standard_error": float(np.std([values[at][0] for values in each], ddof=1) / np.sqrt(len(each))),
                "labels": float(np.mean([values[at][1] for values in each])),
            }
            for at, level in enumerate(LEVELS[:3])
        }
        for name, each in found.items()
    }


def count_broken(random: np.random.Generator, truth: np.ndarray, size: int, risk: float, sets: int) -> dict[str, int]:
    """In how many sets the mode has a threshold, and with how many of these the expected error is above the risk."""
    confidence, thresholds = truth.max(1), []
    for _ in range(sets):
        _, own, targets = draw(random, size)
        thresholds.append(abstention_threshold(own.max(1), own.argmax(1) == targets, risk))
    promised = [threshold for threshold in thresholds if threshold is not None]
    broken = sum((1 - confidence[confidence >= threshold]).mean() > risk for threshold in promised)
    return {"promised": len(promised), "broken": int(broken)}
