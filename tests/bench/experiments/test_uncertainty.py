"""The comparison of uncertainties: figures equal torch-uncertainty's, choices depend on the named families."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch_uncertainty.metrics import AURC, BrierScore, CategoricalNLL, RiskAtxCov

from logo_edge.probabilities import softmax
from logo_edge_bench.experiments import uncertainty
from logo_edge_train.evaluate import ensemble_logits

LOGOS, CLASSES = 205, 4


@pytest.fixture(scope="module")
def pictures():
    """Targets and votes of made-up logos."""
    targets = np.arange(LOGOS) % CLASSES
    return SimpleNamespace(
        targets=lambda split: targets,
        disagreement=lambda split: np.arange(LOGOS, dtype=float),
        families=uncertainty.FAMILIES,
    )


@pytest.fixture(scope="module")
def logits(pictures) -> dict[str, np.ndarray]:
    """Three members' logits: mostly right on logos, of large disagreement on noise, flat on all other pictures."""
    random, right = np.random.default_rng(0), 2 * np.eye(CLASSES)[pictures.targets("val")]
    by_set = {split: right + random.normal(0, 2, (3, LOGOS, CLASSES)) for split in ("calib", "val")}
    by_set |= {family: random.normal(0, 0.1, (3, 60, CLASSES)) for family in uncertainty.FAMILIES}
    return {**by_set, "noise": random.normal(0, 9, (3, 60, CLASSES))}


def test_the_figures_are_torch_uncertainty_s(pictures, logits):
    record = uncertainty.measure_method(uncertainty.Method(logits), pictures, ("val",))
    probabilities = torch.from_numpy(softmax(ensemble_logits(logits["val"]), record["temperature"]))
    targets, figures = torch.from_numpy(pictures.targets("val")), record["val"]
    metrics = {
        "nll": CategoricalNLL(),
        "brier": BrierScore(CLASSES),
        "selective_error": RiskAtxCov(0.9),
        "aurc": AURC(),
    }
    for metric in metrics.values():
        metric.update(probabilities, targets)
    for name in ("nll", "brier", "selective_error"):
        assert figures[name]["value"] == pytest.approx(float(metrics[name].compute()), abs=1e-6), name
    risks = metrics["aurc"].partial_compute().numpy()  # ours is their mean, theirs the trapezoids between them
    assert figures["area_under_risk_coverage"]["value"] == pytest.approx(risks.mean())
    assert 0 < figures["selective_error"]["value"] < 1 - figures["accuracy"]["value"]
    assert figures["nll"]["value"] <= figures["nll_before"] + 0.02


def test_the_parts_of_the_uncertainty_separate_images_and_the_best_on_the_named_families_is_chosen(pictures, logits):
    record = uncertainty.measure_method(uncertainty.Method(logits), pictures, ("val",))
    apart = {name: figures["auroc"] for name, figures in record["val"]["uncertainty"].items()}
    assert apart["epistemic"]["noise"] > 0.8 > 0.5 > apart["aleatoric"]["noise"]
    assert apart["aleatoric"]["flags"] > 0.9
    means = {
        name: np.mean([by_family[family] for family in uncertainty.CHOOSE_ON]) for name, by_family in apart.items()
    }
    assert record["chosen"] == max(means, key=means.get)


def test_one_network_has_nothing_epistemic(pictures, logits):
    alone = {name: part[:1] for name, part in logits.items()}
    figures = uncertainty.measure_method(uncertainty.Method(alone), pictures, ("val",))["val"]["uncertainty"]
    assert figures["epistemic"]["mean"] == figures["epistemic"]["spearman"]["value"] == 0
    assert set(figures["epistemic"]["auroc"].values()) == {0.5}


def test_detectors_learn_from_train_and_are_scaled_on_calib():
    random, targets = np.random.default_rng(1), np.arange(90) % CLASSES

    def say(count: int, shift: float) -> dict[str, np.ndarray]:
        features = random.normal(shift, 1, (count, 6)).astype(np.float32)
        return {"features": features, "stages": np.tile(features, 2), "logits": features[None, :, :CLASSES]}

    sets = {"train": say(90, 0), "calib": say(40, 0)}
    detectors = uncertainty.fit_detectors(sets, targets, torch.nn.Linear(6, CLASSES))
    assert len(detectors) >= 10
    for name, familiarity in detectors.items():
        assert familiarity(say(30, 0)).shape == (30,), name
    distance = detectors["Mahalanobis, stages"]
    assert np.median(distance(sets["calib"])) == pytest.approx(0, abs=1e-6)
    assert distance(say(30, 6)).max() < distance(say(30, 0)).min()
