"""Losses: the published equations, adaptive recalls, named terms, and a state that resumes bit for bit."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from interrupted import Interrupted
from pictures import MUTED, write_squares
from torch.nn import functional
from torch_uncertainty.losses import ConfidencePenaltyLoss, FocalLoss

from logo_edge.errors import RecipeError, RunError
from logo_edge.preprocess import InputContract
from logo_edge_train import distributed
from logo_edge_train.data.augment import Intensity
from logo_edge_train.data.dataset import LogoDataset
from logo_edge_train.data.manifest import Manifest, read_manifest
from logo_edge_train.data.sampling import EpochOrder
from logo_edge_train.fit import fit
from logo_edge_train.fit_config import TeacherFit
from logo_edge_train.losses import RECALL_MOMENTUM, SupervisedObjective, penalise_errors, supervised_objective
from logo_edge_train.models import LogoNetwork, Prediction
from logo_edge_train.optim import perturbing
from logo_edge_train.recipe import TeacherAugment
from logo_edge_train.recipe_io import recipe_from_dict

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c", "d")
PLAIN = TeacherFit(label_smoothing=0.0)
ADAPTIVE = replace(PLAIN, focal_gamma=2.0, adaptive_focal=True)


def draw_batch(count: int = 24, classes: int = 4, *, soft: bool = True, seed: int = 0):
    """(logits, targets, weights, positions) of a batch; targets are shares of votes, or hard."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, generator=random, dtype=torch.float64)
    hard = functional.one_hot(torch.arange(count) % classes, classes).double()
    targets = hard if not soft else 0.75 * hard + 0.25 * hard.roll(1, 1)
    return logits, targets, torch.rand(count, generator=random, dtype=torch.float64) + 0.5, torch.arange(count)


def as_network(logits: torch.Tensor, prior: torch.Tensor | None = None):
    """A network with constant output."""

    def network(pixels, whole=False):
        return Prediction(logits, prior, torch.zeros_like(logits)) if whole else logits

    return network


def losses_of(objective, batch, prior=None) -> dict[str, torch.Tensor]:
    logits, *rest = batch
    return objective(as_network(logits, prior), None, *rest)


def test_without_a_switch_the_loss_is_the_weighted_cross_entropy_of_the_votes():
    logits, targets, weights, _ = batch = draw_batch()
    (name, loss), *rest = losses_of(SupervisedObjective(replace(PLAIN, label_smoothing=0.1)), batch).items()
    expected = functional.cross_entropy(logits.float(), targets.float(), reduction="none", label_smoothing=0.1)
    assert (name, rest) == ("cross_entropy", [])
    assert loss.item() == pytest.approx((expected * weights).mean().item(), rel=1e-5)
    assert torch.equal(losses_of(supervised_objective(0.1), batch)["cross_entropy"], loss)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_the_focal_loss_and_its_gradient_are_those_of_torch_uncertainty(gamma):
    logits, targets, _, positions = draw_batch(soft=False)
    logits = logits.float().requires_grad_()
    objective = SupervisedObjective(replace(PLAIN, focal_gamma=gamma))
    losses = losses_of(objective, (logits, targets, torch.ones(24), positions))
    assert list(losses) == ["focal"]
    ours = torch.autograd.grad(losses["focal"], logits)[0]
    expected = FocalLoss(gamma)(logits, targets.argmax(1))
    assert losses["focal"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(ours, torch.autograd.grad(expected, logits)[0], rtol=1e-4, atol=1e-7)


def test_on_votes_the_focal_loss_is_the_votes_mean_of_it():
    """For two classes it is the binary loss of Lin et al., as in torchvision, for each vote."""
    logits, targets, weights, positions = draw_batch(classes=2)
    losses = losses_of(SupervisedObjective(replace(PLAIN, focal_gamma=2.0)), (logits, targets, weights, positions))
    margin = (logits[:, 1] - logits[:, 0]).float()
    each = [
        torchvision.ops.sigmoid_focal_loss(margin, torch.full_like(margin, label), alpha=-1, gamma=2.0)
        for label in (0.0, 1.0)
    ]
    expected = (torch.stack(each, 1) * targets).sum(1) * weights
    assert losses["focal"].item() == pytest.approx(expected.mean().item(), rel=1e-4)


def test_a_certain_prediction_has_a_finite_focal_gradient():
    logits = torch.tensor([[200.0, 0.0, 0.0, 0.0]] * 4, requires_grad=True)
    _, targets, weights, positions = draw_batch(4, soft=False)
    losses = losses_of(SupervisedObjective(replace(PLAIN, focal_gamma=0.5)), (logits, targets, weights, positions))
    losses["focal"].backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[1:].abs().max() > 0


def test_confident_errors_cost_what_the_confidence_penalty_does_and_right_predictions_nothing():
    logits, targets, _, _ = draw_batch(soft=False)
    log_probabilities = logits.log_softmax(1)
    costs = penalise_errors(log_probabilities, targets)
    labels = targets.argmax(1)
    penalty = ConfidencePenaltyLoss(reduction="none", eps=0.0)(logits, labels)
    penalty -= functional.cross_entropy(logits, labels, reduction="none")
    wrong = logits.argmax(1) != labels
    assert 5 < wrong.sum() < 24
    assert torch.allclose(costs[wrong], penalty[wrong], atol=1e-6)
    assert costs[~wrong].abs().max() == 0
    disputed = torch.tensor([[0.25, 0.75, 0.0, 0.0]], dtype=torch.float64)
    sure_of_the_first = torch.tensor([[30.0, 0.0, 0.0, 0.0]], dtype=torch.float64).log_softmax(1)
    assert penalise_errors(sure_of_the_first, disputed).item() == pytest.approx(0.75 * math.log(4), rel=1e-6)


def test_the_penalty_makes_an_error_less_confident():
    logits = torch.tensor([[4.0, 0.0, 0.0, 0.0]], requires_grad=True)
    targets = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    (gradient,) = torch.autograd.grad(penalise_errors(logits.log_softmax(1), targets).sum(), logits)
    assert gradient[0, 0] > 0, "a step down lowers the logit of what was wrongly said"


def test_every_term_has_its_name_and_its_weight():
    batch, prior = draw_batch(), draw_batch(seed=1)[0]
    config = replace(ADAPTIVE, confident_errors=0.5, prior_consistency=0.1)
    losses = losses_of(SupervisedObjective(config, CLASSES), batch, prior)
    assert list(losses) == ["focal", "confident_errors", "prior", "prior_consistency"]
    half = losses_of(
        SupervisedObjective(replace(config, prior_consistency=0.05, confident_errors=0.25), CLASSES), batch, prior
    )
    for name in ("confident_errors", "prior", "prior_consistency"):
        assert half[name].item() == pytest.approx(losses[name].item() / 2)
    expected = functional.kl_div(batch[0].log_softmax(1), prior.softmax(1), reduction="batchmean")
    assert losses["prior_consistency"].item() == pytest.approx(0.1 * expected.item(), rel=1e-4)


def test_the_prior_learns_from_labels_and_the_prediction_from_the_prior():
    logits, *rest = draw_batch()
    logits, prior = logits.requires_grad_(), draw_batch(seed=1)[0].requires_grad_()
    losses = losses_of(SupervisedObjective(replace(PLAIN, prior_consistency=1.0)), (logits, *rest), prior)
    of_prior = torch.autograd.grad(losses["prior"], [logits, prior], allow_unused=True, retain_graph=True)
    of_consistency = torch.autograd.grad(losses["prior_consistency"], [logits, prior], allow_unused=True)
    assert [gradient is None for gradient in of_prior] == [True, False]
    assert [gradient is None for gradient in of_consistency] == [False, True]


@pytest.mark.parametrize("teacher", ["tf_efficientnet_lite0@128", "vit_tiny_patch16_224@128"])
def test_a_network_without_a_prior_is_refused_by_the_recipe(teacher):
    table = {"train": {"teachers": ["logo_vit_tiny@128", teacher], "fit": {"prior_consistency": 0.1}}}
    with pytest.raises(RecipeError, match=f"prior_consistency is 0.1; {teacher} has no logo-type prior"):
        recipe_from_dict(table)
    table["train"]["teachers"] = ["logo_vit_tiny@128"]
    assert recipe_from_dict(table).train.fit.prior_consistency == 0.1


def test_recalls_run_and_rule_gammas_and_weights():
    objective = SupervisedObjective(ADAPTIVE, CLASSES)
    gammas, weights = objective.focus(4)
    assert gammas.tolist() == [4.0] * 4
    assert weights.tolist() == pytest.approx([1.0] * 4)
    targets = functional.one_hot(torch.tensor([0] * 8 + [1] * 4 + [2] * 2 + [3] * 2), 4).double()
    predicted = torch.tensor([0] * 8 + [1] * 2 + [0] * 2 + [3, 3] + [2, 3])  # recalls 1, 1/2, 0 and 1/2
    batch = (5 * functional.one_hot(predicted, 4).double(), targets, torch.ones(16), torch.arange(16))
    before = losses_of(objective, batch)["focal"]
    assert torch.equal(losses_of(objective, batch)["focal"], before), "all parts of a batch meet the same loss"
    objective.end_step()
    assert objective.recalls().tolist() == pytest.approx([1.0, 0.5, 0.0, 0.5])
    assert objective.seen.tolist() == pytest.approx([(1 - RECALL_MOMENTUM) * 2 * n for n in (8, 4, 2, 2)])
    gammas, weights = objective.focus(4)
    assert gammas.tolist() == pytest.approx([2.0, 3.0, 4.0, 3.0])
    assert (weights / weights[0]).tolist() == pytest.approx([1.0, 3.0, 5.0, 3.0])
    assert (weights * torch.tensor([8, 4, 2, 2]) / 16).sum().item() == pytest.approx(1.0), "over the logos seen, 1"
    hand = -(targets * weights * (1 - batch[0].softmax(1)) ** gammas * batch[0].log_softmax(1)).sum(1).mean()
    assert losses_of(objective, batch)["focal"].item() == pytest.approx(hand.item(), rel=1e-5)
    objective.end_step()
    assert objective.end_epoch(0)["running_recall"] == pytest.approx({"a": 1.0, "b": 0.5, "c": 0.0, "d": 0.5})


def test_what_is_seen_at_perturbed_weights_is_not_learned_from():
    objective = SupervisedObjective(ADAPTIVE, CLASSES)
    with perturbing():
        losses_of(objective, draw_batch())
    objective.end_step()
    assert objective.seen.tolist() == [0.0] * 4


def test_all_ranks_learn_what_one_process_learns_from_the_whole_batch(monkeypatch):
    batch = draw_batch()
    alone = SupervisedObjective(ADAPTIVE, CLASSES, Intensity(24, 0.5))
    losses_of(alone, batch)
    alone.end_step()
    halves = [[tensor[part] for tensor in batch] for part in (slice(0, 12), slice(12, 24))]
    ranks = [SupervisedObjective(ADAPTIVE, CLASSES, Intensity(24, 0.5)) for _ in halves]
    gathered: list[torch.Tensor] = []
    for rank, half in zip(ranks, halves, strict=True):  # what each of them hands over
        losses_of(rank, half)
        monkeypatch.setattr(distributed, "gather", lambda part: gathered.append(part) or part)
        rank.end_step()
    count = len(gathered) // 2
    assert count == 3
    whole = [torch.cat([gathered[i], gathered[i + count]]) for i in range(count)]
    for half in halves:
        fresh, answers = SupervisedObjective(ADAPTIVE, CLASSES, Intensity(24, 0.5)), iter(whole)
        losses_of(fresh, half)
        monkeypatch.setattr(distributed, "gather", lambda part, answers=answers: next(answers))
        fresh.end_step()
        assert torch.allclose(fresh.seen, alone.seen)
        assert torch.allclose(fresh.hit, alone.hit)
        assert torch.allclose(fresh.intensity.losses, alone.intensity.losses)


@pytest.fixture
def logos(tmp_path) -> Manifest:
    """Twelve red, six green and three blue logos to learn from."""
    return read_manifest(write_squares(tmp_path, MUTED, {"train": {"red": 12, "green": 6, "blue": 3}}, framed=True))


EVERYTHING = TeacherFit(
    epochs=5,
    batch_size=7,
    warmup_epochs=1.0,
    accumulate=2,
    focal_gamma=1.0,
    adaptive_focal=True,
    confident_errors=0.5,
    balanced_batches=True,
    curriculum_epochs=3.0,
)
AUGMENTED = TeacherAugment(
    policy=("shear 0.5 1.0", "noise 0.5 1.0"),
    adapt_intensity=0.8,
    p_mixup=0.3,
    p_cutmix=0.3,
    mixup_pairs=("red+green",),
    cutmix_pairs=("blue+blue",),
)


def fit_logos(manifest: Manifest, state, *, stop_after: int | None = None, loaders: int = 0):
    """The objective, the average and the history of a fit with every switch."""
    intensity = Intensity(len(manifest.rows), AUGMENTED.adapt_intensity)
    dataset = LogoDataset(
        manifest,
        list(manifest.rows),
        manifest.classes,
        contract=InputContract(32),
        augment=AUGMENTED,
        seed=3,
        intensity=intensity,
    )
    difficulty = np.concatenate([np.linspace(0, 1, count) for count in (12, 6, 3)])
    order = EpochOrder(len(dataset), 3, classes=dataset.hard_targets, difficulty=difficulty, curriculum_epochs=3.0)
    objective = SupervisedObjective(EVERYTHING, manifest.classes, intensity)
    torch.manual_seed(3)

    def report(item):
        if item["kind"] == "epoch" and item["epoch"] == stop_after:
            raise Interrupted

    network, history = fit(
        LogoNetwork("test_resnet", 3),
        dataset,
        objective,
        EVERYTHING,
        state=state,
        seed=3,
        device=CPU,
        evaluate=lambda _: {},
        report=report,
        order=order,
        loaders=loaders,
    )
    return objective, network, history


@pytest.mark.parametrize(("stop_after", "loaders"), [(1, 0), (3, 0), (3, 2)])
def test_with_every_switch_an_interrupted_fit_resumes_to_the_bit(logos, tmp_path, stop_after, loaders):
    """Also with loader processes, with the same result as without."""
    whole, whole_network, whole_history = fit_logos(logos, tmp_path / "whole.state")
    with pytest.raises(Interrupted):
        fit_logos(logos, tmp_path / "parts.state", stop_after=stop_after, loaders=loaders)
    parts, network, history = fit_logos(logos, tmp_path / "parts.state", loaders=loaders)
    assert len(history) == 5
    assert len({record["intensity"] for record in whole_history}) > 2, "the strengths move"
    for name in ("focal", "confident_errors", "running_recall", "intensity"):
        assert [record[name] for record in history] == [record[name] for record in whole_history], name
    for key, value in whole.state_dict().items():
        assert np.array_equal(value, parts.state_dict()[key], equal_nan=True), key
    assert {"seen", "hit", "intensity.losses", "intensity.strengths"} == whole.state_dict().keys()
    for key, value in whole_network.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key


def test_a_state_of_another_setting_is_not_gone_on_with(logos, tmp_path):
    config = TeacherFit(epochs=2, batch_size=7)
    dataset = LogoDataset(logos, list(logos.rows), logos.classes, contract=InputContract(32))

    def fit_plainly(config):
        torch.manual_seed(0)
        return fit(
            LogoNetwork("test_resnet", 3),
            dataset,
            supervised_objective(0.1),
            config,
            state=tmp_path / "s.state",
            seed=0,
            device=CPU,
            evaluate=lambda _: {},
            report=stop,
        )

    def stop(item):
        if item["kind"] == "epoch" and item["epoch"] == 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        fit_plainly(config)
    with pytest.raises(RunError, match="a fit of other settings, data or versions"):
        fit_plainly(replace(config, confident_errors=0.1))
    _, history = fit_plainly(config)
    assert [record["epoch"] for record in history] == [1, 2]


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"train": {"fit": {"focal_gamma": -1.0}}}, "train.fit.focal_gamma is -1.0; expected at least 0"),
        ({"train": {"fit": {"adaptive_focal": True}}}, "train.fit.adaptive_focal is true, train.fit.focal_gamma 0"),
        (
            {"distill": {"fit": {"focal_gamma": 2.0}}},
            "unknown field distill.fit.focal_gamma; distill.fit has accumulate, amp",
        ),
        ({"pretrain": {"fit": {"balanced_batches": True}}}, "unknown field pretrain.fit.balanced_batches"),
        ({"quantize": {"finetune": {"confident_errors": 0.1}}}, "unknown field quantize.finetune.confident_errors"),
    ],
)
def test_a_wrong_recipe_is_refused_by_the_name_of_the_key(table, named):
    with pytest.raises(RecipeError) as caught:
        recipe_from_dict(table)
    assert named in str(caught.value)


def test_a_logo_vit_learns_its_prior_in_a_fit(logos, tmp_path):
    config = TeacherFit(epochs=1, batch_size=7, prior_consistency=0.1)
    dataset = LogoDataset(logos, list(logos.rows), logos.classes, contract=InputContract(32))
    torch.manual_seed(0)
    network = LogoNetwork("logo_vit_tiny", 3, size_px=32)
    before = [parameter.clone() for parameter in network.backbone.prior.parameters()]
    _, history = fit(
        network,
        dataset,
        SupervisedObjective(config),
        config,
        state=tmp_path / "v.state",
        seed=0,
        device=CPU,
        evaluate=lambda _: {},
        report=lambda _: None,
    )
    assert {"cross_entropy", "prior", "prior_consistency"} <= history[0].keys()
    after = list(network.backbone.prior.parameters())
    assert len(before) == 4
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))
