"""The comparison of distillations: one pass is measured like an ensemble."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from logo_edge.probabilities import entropy, softmax
from logo_edge_bench.experiments import distillation, uncertainty
from logo_edge_train.uncertainty import decompose

LOGOS, CLASSES = 120, 4


@pytest.fixture(scope="module")
def members() -> dict[str, np.ndarray]:
    """Three members' logits: they agree on logos and not on noise."""
    random, right = np.random.default_rng(0), 3 * np.eye(CLASSES)[np.arange(LOGOS) % CLASSES]
    logits = {split: right + random.normal(0, 1, (3, LOGOS, CLASSES)) for split in ("calib", "val")}
    return {**logits, **{family: random.normal(0, 4, (3, 40, CLASSES)) for family in uncertainty.FAMILIES}}


@pytest.fixture(scope="module")
def pictures():
    targets = np.arange(LOGOS) % CLASSES
    return SimpleNamespace(
        targets=lambda split: targets,
        disagreement=lambda split: np.arange(LOGOS, dtype=float),
        families=uncertainty.FAMILIES,
    )


def test_a_student_with_the_ensemble_s_outputs_has_its_figures(members, pictures):
    ensemble = uncertainty.measure_method(uncertainty.Method(members), pictures, ("val",))
    said = {
        name: {"logits": np.log(softmax(part).mean(0)), "epistemic": decompose(part).epistemic}
        for name, part in members.items()
    }
    student = distillation.measure_one_pass(said, pictures, ("val",))
    assert student["chosen"] == ensemble["chosen"]
    for name in ("total", "aleatoric", "epistemic"):
        auroc, wanted = (figures["val"]["uncertainty"][name]["auroc"] for figures in (student, ensemble))
        assert auroc == pytest.approx(wanted, abs=1e-6), name
    assert student["val"]["nll"]["value"] == pytest.approx(ensemble["val"]["nll"]["value"], abs=1e-6)
    assert ensemble["val"]["uncertainty"]["epistemic"]["auroc"]["noise"] > 0.7


def test_a_student_without_the_output_has_nothing_epistemic(members, pictures):
    said = {name: {"logits": part[0]} for name, part in members.items()}
    figures = distillation.measure_one_pass(said, pictures, ("val",))["val"]["uncertainty"]
    assert set(figures["epistemic"]["auroc"].values()) == {0.5}
    assert figures["total"]["mean"] == pytest.approx(entropy(softmax(members["val"][0])).mean())
    assert figures["total"]["mean"] == pytest.approx(figures["aleatoric"]["mean"])


def test_every_variant_holds_only_its_changes():
    keys = {key for settings in distillation.VARIANTS.values() for key in settings}
    assert keys == {"epistemic", "teachers_per_batch"}
    assert {settings["epistemic"] for settings in distillation.VARIANTS.values()} == {"off", "dirichlet", "dispersion"}
