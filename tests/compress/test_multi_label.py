"""Images with several labels or none, from logits to a bundle: risk control, agreement, distillation, the card."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from logo_edge.bundle.calibration import Calibration, Mode, problems_of_calibration
from logo_edge.bundle.record import Bundle, ModelEntry
from logo_edge.decision import calibrated_probabilities, given_labels, logo_score
from logo_edge.errors import VerificationError
from logo_edge.preprocess import InputContract
from logo_edge.probabilities import sigmoid
from logo_edge_compress.calibrate import (
    choose_method,
    compare_methods,
    fit_calibration,
    fit_label_conformal,
    fit_label_scaling,
    risk_controlled_threshold,
)
from logo_edge_compress.card import model_card
from logo_edge_compress.distill.losses import distillation_objective
from logo_edge_compress.distill.soft_targets import SoftTargets
from logo_edge_compress.verify import QUANTIZED, compare_logits, verify
from logo_edge_train.metrics import summarize
from logo_edge_train.recipe import CalibrateConfig, DistillConfig
from logo_edge_train.temperature import fit_temperature

LABELS = ("cat", "dog", "bird", "rare")
OFFSETS = np.array([0.0, -0.5, 0.5, -2.5])


def draw(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(N, 4) logits, twice as large as the log-odds that (N, 4) targets of 0 or 1 are drawn by; some have no label."""
    random = np.random.default_rng(seed)
    odds = random.normal(0, 2.5, (count, 4)) + OFFSETS
    return (2 * odds).astype(np.float32), (random.random((count, 4)) < sigmoid(odds)).astype(int)


def missed_share(probabilities: np.ndarray, targets: np.ndarray, threshold: float) -> float:
    missed = (targets * (probabilities < threshold)).sum(1)
    return float((missed / np.maximum(targets.sum(1), 1)).mean())


def test_the_temperature_that_the_labels_were_drawn_by_is_found():
    logits, targets = draw(5000)
    assert fit_temperature(logits, targets) == pytest.approx(2.0, rel=0.05)


def test_labels_with_their_own_factor_and_offset_win_if_they_were_drawn_so_and_else_the_temperature_stays():
    logits, targets = draw(1500)
    bent = logits * np.array([1.0, 0.5, 2.0, 1.0], np.float32) + np.array([2, 0, -1, 1], np.float32)
    assert choose_method(compare_methods(logits, targets)).method == "temperature"
    assert choose_method(compare_methods(bent, targets)).method == "vector"
    scaling = fit_label_scaling(bent, targets, 1.0, 1e-4)
    assert np.diag(scaling.weight) == pytest.approx([0.5, 1.0, 0.25, 0.5], rel=0.25)
    assert np.allclose(np.array(scaling.weight), np.diag(np.diag(scaling.weight)))


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_the_expected_share_of_missed_labels_is_below_the_promised_risk_but_not_far(level):
    large, truth = draw(20_000, seed=99)
    probabilities = sigmoid(large / 2)
    missed = []
    for seed in range(200):
        logits, targets = draw(60, seed)
        threshold = risk_controlled_threshold(sigmoid(logits / 2), targets, level)
        missed.append(missed_share(probabilities, truth, threshold))
    error = np.std(missed) / len(missed) ** 0.5
    assert np.mean(missed) <= 1 - level + 2 * error
    assert np.mean(missed) >= 1 - level - 2 / 61 - 2 * error  # at most 2 B / (n + 1) below: theorem 2 of the paper


def test_the_threshold_is_that_of_mapie():
    controller = pytest.importorskip("mapie.risk_control").MultiLabelClassificationController
    logits, targets = draw(140)
    labelled = targets.any(1)  # MAPIE takes no image without a label
    probabilities, targets = sigmoid(logits / 2)[labelled], targets[labelled]
    step = 0.005
    for level in (0.8, 0.9):
        oracle = controller(
            lambda rows: rows, risk="recall", method="crc", target_level=level, predict_params=np.arange(0, 1, step)
        )
        oracle.calibrate(probabilities, targets)
        own = risk_controlled_threshold(probabilities, targets, level)
        assert 0 <= own - float(oracle.best_predict_param[0]) <= step + 1e-9  # the next threshold on MAPIE's grid


def test_the_risk_is_that_of_the_definition_with_equal_probabilities_and_images_without_labels():
    probabilities = np.array([[0.9, 0.2], [0.6, 0.6], [0.6, 0.1], [0.3, 0.1], [0.8, 0.4]])
    targets = np.array([[1, 0], [1, 1], [1, 0], [0, 0], [0, 1]])
    for level in (0.4, 0.5, 0.6, 0.7, 0.8):
        allowed = [
            threshold
            for threshold in np.unique(probabilities[targets == 1])
            if (5 * missed_share(probabilities, targets, threshold) + 1) / 6 <= 1 - level + 1e-12
        ]
        assert risk_controlled_threshold(probabilities, targets, level) == (max(allowed) if allowed else None)
    assert risk_controlled_threshold(probabilities, targets, 0.9) is None, "five images are too few"
    assert risk_controlled_threshold(probabilities, np.zeros((5, 2), int), 0.5) is None


def test_sets_by_label_hold_for_the_images_with_each_label_and_say_which_are_too_few():
    logits, targets = draw(800)
    conformal = fit_label_conformal(sigmoid(logits / 2), targets, LABELS, 0.9)
    large, truth = draw(20_000, seed=5)
    for k, label in enumerate(LABELS):
        held = sigmoid(large / 2)[truth[:, k] == 1, k] >= conformal.by_class[label]
        assert held.mean() == pytest.approx(0.9, abs=0.08), label
    few = fit_label_conformal(sigmoid(logits[:30] / 2), targets[:30], LABELS, 0.9)
    assert few.by_class is None
    assert "rare: " in few.refused


def test_of_the_images_that_get_a_label_no_more_lack_it_than_promised():
    logits, targets = draw(3000)
    fitted = fit_calibration(logits, targets, LABELS, CalibrateConfig(target_risk=0.1, strict_risk=0.05))
    calibration = fitted.calibration
    assert problems_of_calibration(calibration, LABELS) == []
    assert calibration.multi_label
    large, truth = draw(40_000, seed=7)
    probabilities = calibrated_probabilities(large, calibration)
    for mode, risk in ((Mode.BALANCED, 0.1), (Mode.STRICT, 0.05)):
        given = given_labels(calibration, mode, probabilities, logo_score(large))
        for k, label in enumerate(LABELS):
            if label in fitted.unpromised.get(mode, ""):
                continue
            assert (truth[given[:, k], k] == 0).mean() <= risk + 0.02, (mode, label)
            assert given[:, k].any()
    best = given_labels(calibration, Mode.BEST_GUESS, probabilities, logo_score(large))
    assert best.sum() >= given.sum()


def test_a_label_that_calib_cannot_prove_is_named_and_needs_a_high_probability():
    logits, targets = draw(60)
    fitted = fit_calibration(logits, targets, LABELS)
    assert "rare: not promised" in fitted.unpromised[Mode.BALANCED]
    assert fitted.calibration.label_thresholds[Mode.BALANCED]["rare"] >= 0.95


def test_agreement_and_divergence_are_those_of_labels_that_do_not_exclude_each_other():
    parent = np.array([[3.0, -3.0], [2.0, 1.0]], np.float32)
    same = compare_logits(parent, parent.copy(), multi_label=True)
    assert (same.top1_agreement, same.kl_nats) == (1.0, pytest.approx(0.0, abs=1e-9))
    both_down = parent - np.array([[0, 0], [0, 2]], np.float32)
    parity = compare_logits(parent, both_down, multi_label=True)
    own, other = sigmoid(np.array(1.0)), sigmoid(np.array(-1.0))
    expected = own * np.log(own / other) + (1 - own) * np.log((1 - own) / (1 - other))
    assert parity.kl_nats == pytest.approx(expected / 2, rel=1e-6)
    assert parity.top1_agreement == pytest.approx(2 * 2 / (3 + 2))
    with pytest.raises(VerificationError, match="agreement 80.0%"):
        verify(parent.repeat(40, 0), both_down.repeat(40, 0), QUANTIZED, "student.onnx", multi_label=True)
    shifted = parent + 5  # softmax would call this equal
    assert compare_logits(parent, shifted).kl_nats == pytest.approx(0, abs=1e-6)
    assert compare_logits(parent, shifted, multi_label=True).kl_nats > 0.05


def test_a_student_that_answers_as_its_teachers_has_no_distillation_loss_and_any_other_has_one():
    teachers = torch.tensor([[[2.0, -1.0, 0.5]], [[-3.0, 0.0, 1.0]]])  # (B, M, K)
    votes = torch.tensor([[1.0, 0.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0]])  # the second picture's labels are unknown
    config = DistillConfig(temperature=2.0, hard_weight=0.25)
    objective = distillation_objective(config, None, multi_label=True)
    exact = objective(lambda views: teachers[:, 0], torch.zeros(2), votes, teachers)
    assert exact["distillation"].item() == pytest.approx(0, abs=1e-5)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(teachers[0, 0], votes[0, :3], reduction="sum")
    assert exact["votes"].item() == pytest.approx(0.25 * expected.item(), rel=1e-5)
    shifted = objective(lambda views: teachers[:, 0] + 1, torch.zeros(2), votes, teachers)
    assert shifted["distillation"].item() > 0.05


def test_the_pictures_with_known_labels_carry_the_weight_of_all():
    class Silent:
        def answer(self, pixels):
            raise AssertionError("not asked")

    contract = InputContract(16)
    config = DistillConfig(p_mixup=0.0)
    targets = SoftTargets([Silent()], [contract], contract, config, ask=False, multi_label=True)
    picture = np.zeros((16, 16, 3), np.uint8)
    rows = [[1.0, 0.0], [float("nan")] * 2, [0.0, 0.0], [float("nan")] * 2]
    _, votes, *_ = targets.collate([(picture, torch.tensor(row), at) for at, row in enumerate(rows)])
    assert votes.tolist() == [[1, 0, 2], [0, 0, 0], [0, 0, 2], [0, 0, 0]]
    mixed = SoftTargets([Silent()], [contract], contract, DistillConfig(p_mixup=1.0), ask=False, multi_label=True)
    _, votes, *_ = mixed.collate([(picture, torch.tensor(row), at) for at, row in enumerate(rows)])
    assert not votes.any(), "two pictures, overlaid, have no known labels"


def test_the_card_names_the_threshold_of_every_label_and_the_label_that_is_found_worst():
    logits, targets = draw(300)
    figures = summarize(logits / 2, targets, np.ones(300, bool), 1.0, LABELS)
    calibration = fit_calibration(logits, targets, LABELS).calibration
    assert isinstance(calibration, Calibration)
    bundle = Bundle(
        name="pets",
        labels=LABELS,
        model=ModelEntry("model.onnx", "int8"),
        input=InputContract(96),
        calibration=calibration,
        files={},
        metrics={"test": figures},
    )
    card = model_card(bundle)
    assert "any of cat, dog, bird, rare, or none of them" in card
    assert f"rare {calibration.label_thresholds[Mode.BALANCED]['rare']:.1%}" in card
    assert "precision: cat" in card
    worst = min(figures["recall"], key=lambda label: figures["recall"][label]["value"])
    assert f"the label of the lowest recall is {worst}" in card
