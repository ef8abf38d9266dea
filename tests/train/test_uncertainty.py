"""Uncertainty: layers, losses and measures of torch-uncertainty; draws repeat; a Bayesian run resumes and exports."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from interrupted import Interrupted
from torch import nn
from torch_uncertainty.layers.bayesian import BayesLinear
from torch_uncertainty.losses import ELBOLoss
from torch_uncertainty.metrics import Entropy, MutualInformation
from torch_uncertainty.post_processing import TemperatureScaler

from logo_edge.errors import RecipeError
from logo_edge.preprocess import InputContract
from logo_edge.probabilities import softmax
from logo_edge_compress.onnx.export import export_onnx
from logo_edge_train.data.dataset import LogoDataset
from logo_edge_train.data.images import pixels_of
from logo_edge_train.data.manifest import Manifest, targets_of
from logo_edge_train.evaluate import ensemble_logits
from logo_edge_train.fit import fit
from logo_edge_train.fit_config import FitConfig
from logo_edge_train.losses import supervised_objective
from logo_edge_train.metrics import negative_log_likelihood
from logo_edge_train.models import BayesianLinear, LogoNetwork, bayesian_layers
from logo_edge_train.models.bayesian import RHO_SCALE
from logo_edge_train.optim import parameter_groups
from logo_edge_train.recipe import AugmentConfig, BayesConfig
from logo_edge_train.recipe_io import recipe_from_dict
from logo_edge_train.runs import read_run
from logo_edge_train.temperature import fit_temperature
from logo_edge_train.train import train_ensemble
from logo_edge_train.uncertainty import BayesianObjective, decompose, sample_logits, weigh_members, weighted_logits

CPU = torch.device("cpu")
MODEL = "test_resnet"  # timm's smallest: its dropout is a function, that of test_vit a layer
BAYES = BayesConfig(enabled=True, kl_warmup_epochs=2)


def members(count: int = 5, logos: int = 40, classes: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 2, (count, logos, classes)).astype(np.float32)


def seeded(model: str = MODEL, dropout: float = 0.0) -> LogoNetwork:
    torch.manual_seed(5)
    return LogoNetwork(model, 3, size_px=32, dropout=dropout)


def pair_of_layers(deviation: float = 0.3) -> tuple[BayesianLinear, BayesLinear]:
    """This project's layer and torch-uncertainty's, with the same posterior and prior."""
    torch.manual_seed(0)
    ours = BayesianLinear(nn.Linear(6, 3), prior_deviation=0.5, first_deviation=deviation)
    theirs = BayesLinear(6, 3, prior_sigma_1=0.5, prior_sigma_2=1.0, prior_pi=1)
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(theirs, f"{name}_mu").copy_(getattr(ours, name))
            getattr(theirs, f"{name}_sigma").copy_(RHO_SCALE * getattr(ours, f"{name}_rho"))
    return ours, theirs


def test_total_aleatoric_and_epistemic_are_those_of_torch_uncertainty():
    logits = members()
    uncertainty, probabilities = decompose(logits), torch.from_numpy(softmax(logits)).transpose(0, 1)  # (N, M, K)
    epistemic, aleatoric, total = (metric(reduction="none") for metric in (MutualInformation, Entropy, Entropy))
    epistemic.update(probabilities)
    aleatoric.update(probabilities)
    total.update(probabilities.mean(1))
    assert uncertainty.total.shape == (40,)
    for name, metric in (("epistemic", epistemic), ("aleatoric", aleatoric), ("total", total)):
        assert getattr(uncertainty, name) == pytest.approx(metric.compute().numpy(), abs=1e-7), name
    assert uncertainty.total == pytest.approx(uncertainty.aleatoric + uncertainty.epistemic)
    assert uncertainty.epistemic.min() > 0


def test_members_that_agree_leave_nothing_epistemic_and_sure_ones_that_do_not_nothing_else():
    agreed = decompose(np.repeat(members(1), 3, axis=0))
    assert np.abs(agreed.epistemic).max() < 1e-12
    quarrel = decompose(100.0 * np.eye(4)[:, None])  # each sure of another class
    assert quarrel.epistemic == pytest.approx([np.log(4)])
    assert quarrel.aleatoric == pytest.approx([0.0])


def test_a_member_counts_for_as_much_as_it_has_learned_of_the_logo():
    logits = np.array([[[9.0, 0, 0]], [[0, 0, 0]], [[0, 1, 0]]])
    weights = weigh_members(logits)
    assert weights.sum(0) == pytest.approx([1.0])
    assert weights[1, 0] < 1e-9, "who knows nothing has no say"
    assert weights[0, 0] > weights[2, 0] > 0
    product = (softmax(logits) ** weights[..., None]).prod(0)
    assert softmax(weighted_logits(logits)) == pytest.approx(product / product.sum(1, keepdims=True), abs=1e-6)
    weighted = decompose(logits, weights)
    assert weighted.total == pytest.approx(weighted.aleatoric + weighted.epistemic)
    assert weighted.aleatoric[0] < decompose(logits).aleatoric[0]


def test_members_without_any_opinion_share_the_say():
    assert weigh_members(np.zeros((4, 2, 3))) == pytest.approx(np.full((4, 2), 0.25))


def test_the_ensemble_s_temperature_is_as_good_as_torch_uncertainty_s():
    random, logits = np.random.default_rng(1), members(3, 600)
    pooled = ensemble_logits(logits)
    cumulated = softmax(pooled, 0.5).cumsum(1)  # surer is right: members that differ make their mean too unsure
    targets = (random.random((600, 1)) > cumulated).sum(1).clip(0, 3)
    temperature = fit_temperature(pooled, targets)
    theirs = TemperatureScaler(nn.Identity(), device="cpu")
    data = torch.utils.data.TensorDataset(torch.from_numpy(pooled), torch.from_numpy(targets))
    theirs.fit(torch.utils.data.DataLoader(data, batch_size=600), progress=False)
    assert temperature == pytest.approx(0.5, rel=0.15)
    assert temperature == pytest.approx(float(theirs.temperature[0].detach()), rel=0.02)
    before, after = (negative_log_likelihood(softmax(pooled, heat), targets) for heat in (1.0, temperature))
    assert after < before


def test_a_draw_of_the_layer_is_torch_uncertainty_s_draw():
    ours, theirs = pair_of_layers()
    features = torch.randn(7, 6)
    for seed in range(3):
        torch.manual_seed(seed)
        drawn = ours(features)
        torch.manual_seed(seed)
        assert torch.allclose(drawn, theirs(features), atol=1e-6)
    theirs.freeze()
    assert torch.allclose(ours.eval()(features), theirs(features)), "in evaluation mode, the means"


def test_the_kl_in_closed_form_is_the_mean_of_torch_uncertainty_s_estimate():
    ours, theirs = pair_of_layers()
    estimates = []
    for seed in range(4000):
        torch.manual_seed(seed)
        theirs(torch.zeros(1, 6))
        estimates.append(float((theirs.log_variational_posterior - theirs.log_prior).detach()))
    estimates = (
        np.array(estimates) + 0.5 * 21
    )  # its log posterior lacks that much of a Gaussian's, for each of 21 weights
    error = estimates.std() / np.sqrt(len(estimates))
    assert error < 0.1
    assert float(ours.kl_divergence().detach()) == pytest.approx(estimates.mean(), abs=4 * error)


def test_step_by_step_the_mean_of_many_draws_learns_as_with_torch_uncertainty_s_elbo():
    ours, theirs = pair_of_layers(deviation=0.05)
    torch.manual_seed(1)
    features, targets = torch.randn(12, 6), torch.randint(0, 3, (12,))
    config = BayesConfig(enabled=True, kl_warmup_epochs=0)
    objective = BayesianObjective(supervised_objective(0.0), config, logos=12)
    batch = [features, nn.functional.one_hot(targets, 3).float(), torch.ones(12), torch.arange(12)]
    elbo = ELBOLoss(theirs, nn.CrossEntropyLoss(), kl_weight=1 / 12, num_samples=400)
    rhos = {"params": [ours.weight_rho, ours.bias_rho], "lr": 0.1 / RHO_SCALE**2}  # they and their gradients are scaled
    optimizers = [
        torch.optim.SGD([{"params": [ours.weight, ours.bias]}, rhos], 0.1),
        torch.optim.SGD(theirs.parameters(), 0.1),
    ]
    for step in range(4):
        torch.manual_seed(step)
        losses = [objective(ours, *batch) for _ in range(400)]
        ours_loss = sum(sum(parts.values()) for parts in losses) / 400
        torch.manual_seed(step)
        theirs_loss = elbo(features, targets).squeeze() + 0.5 * 21 / 12
        assert float(ours_loss) == pytest.approx(float(theirs_loss), abs=0.05)
        for optimizer, loss in zip(optimizers, (ours_loss, theirs_loss), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for name in ("weight", "bias"):
            assert torch.allclose(getattr(ours, name), getattr(theirs, f"{name}_mu"), atol=0.01), (step, name)
            rho = RHO_SCALE * getattr(ours, f"{name}_rho")
            assert torch.allclose(rho, getattr(theirs, f"{name}_sigma"), atol=0.01), (step, name)
    assert set(losses[0]) == {"cross_entropy", "kl"}


def test_the_kl_grows_by_the_epoch_until_it_counts_in_full():
    network = seeded()
    network.learn_deviations(BAYES.prior_deviation, BAYES.first_deviation)
    (layer,) = bayesian_layers(network)
    config = replace(BAYES, kl_weight=0.5, kl_warmup_epochs=4)
    batch = (torch.zeros(2, 32, 32, 3, dtype=torch.uint8), torch.eye(3)[:2], torch.ones(2), torch.arange(2))
    objective = BayesianObjective(supervised_objective(0.1), config, logos=10)
    whole, shares = 0.5 * float(layer.kl_divergence().detach()) / 10, []
    for epoch in range(6):
        shares.append(float(objective(network, *batch)["kl"]) / whole)
        objective.end_epoch(epoch)
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_what_has_a_prior_does_not_decay_besides():
    network = seeded()
    plain = [len(group["params"]) for group in parameter_groups(network.parameters(), 0.05)]
    network.learn_deviations(BAYES.prior_deviation, BAYES.first_deviation)
    decayed, others = parameter_groups(network.parameters(), 0.05)
    assert len(decayed["params"]) == plain[0] - 1
    assert len(others["params"]) == plain[1] + 3
    (layer,) = bayesian_layers(network)
    assert all(parameter is not weight for weight in layer.parameters() for parameter in decayed["params"])


def test_a_network_without_a_linear_classifier_cannot_be_bayesian():
    network = seeded()
    network.backbone.reset_classifier(0)
    with pytest.raises(RecipeError, match="test_resnet has no linear classifier with a bias; set train.bayes.enabled"):
        network.learn_deviations(BAYES.prior_deviation, BAYES.first_deviation)


@pytest.mark.parametrize(
    ("key", "value"),
    [("prior_deviation", 0.0), ("first_deviation", -0.1), ("kl_weight", -1.0), ("kl_warmup_epochs", -1)],
)
def test_a_bad_value_is_refused_by_its_key(key, value):
    with pytest.raises(RecipeError, match=f"train.bayes.{key} is {value}; expected"):
        recipe_from_dict({"train": {"bayes": {key: value}}})


@pytest.mark.parametrize("model", [MODEL, "test_vit", "mobilenetv3_small_050+none+mlp"])
def test_dropout_is_drawn_anew_and_batch_statistics_are_not(model):
    network, pixels = seeded(model, dropout=0.5), np.random.default_rng(2).integers(0, 256, (40, 32, 32, 3), np.uint8)
    with torch.no_grad():
        plain = network.eval()(torch.from_numpy(pixels)).numpy()
    statistics = {name: value.clone() for name, value in network.named_buffers()}
    draws = sample_logits(network, pixels, CPU, samples=6)
    assert draws.shape == (6, 40, 3)
    assert np.abs(draws - plain).max() > 1e-3
    assert np.abs(draws[0] - draws[1]).max() > 1e-3
    assert np.array_equal(draws, sample_logits(network, pixels, CPU, samples=6)), "the same seed, the same draws"
    assert not np.array_equal(draws, sample_logits(network, pixels, CPU, samples=6, seed=1))
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(value, statistics[name]) for name, value in network.named_buffers())
    one_by_one = sample_logits(seeded(model), pixels, CPU, samples=2)
    assert np.abs(one_by_one - plain).max() < 1e-4, "without dropout every draw is the prediction"


def test_the_draws_are_dropout_s_own_distribution():
    network, pixels = seeded(dropout=0.4), np.random.default_rng(2).integers(0, 256, (1, 32, 32, 3), np.uint8)
    draws = sample_logits(network, pixels, CPU, samples=4000)[:, 0]  # (M, K)
    with torch.no_grad():
        features = network.features(torch.from_numpy(pixels))[0]
        terms = network.backbone.get_classifier().weight * features  # (K, F)
        mean = network(torch.from_numpy(pixels))[0].numpy()
    deviation = (terms.square().sum(1) * 0.4 / 0.6).sqrt().numpy()
    assert draws.mean(0) == pytest.approx(mean, abs=4 * deviation.max() / np.sqrt(4000))
    assert draws.std(0) == pytest.approx(deviation, rel=0.1)


def test_one_draw_is_one_set_of_weights_for_all_logos():
    network = seeded()
    network.learn_deviations(BAYES.prior_deviation, 0.5)
    pixels = np.repeat(np.random.default_rng(2).integers(0, 256, (1, 32, 32, 3), np.uint8), 40, axis=0)  # two batches
    draws = sample_logits(network, pixels, CPU, samples=3)
    assert np.abs(draws - draws[:, :1]).max() < 1e-5
    assert np.abs(draws[0] - draws[1]).max() > 1e-2


def fit_bayesian(manifest: Manifest, state, *, stop_after: int | None = None):
    dataset = LogoDataset(
        manifest, manifest.split("train"), manifest.classes, contract=InputContract(32), augment=AugmentConfig(), seed=3
    )
    network = seeded(dropout=0.2)
    network.learn_deviations(BAYES.prior_deviation, BAYES.first_deviation)

    def report(item):
        if item["kind"] == "epoch" and item["epoch"] == stop_after:
            raise Interrupted

    return fit(
        network,
        dataset,
        BayesianObjective(supervised_objective(0.1), BAYES, len(dataset)),
        FitConfig(epochs=3, batch_size=8, accumulate=2),
        state=state,
        seed=3,
        device=CPU,
        evaluate=lambda _: {},
        report=report,
    )


def test_an_interrupted_bayesian_fit_resumes_to_the_same_weights(logos, tmp_path):
    whole, whole_history = fit_bayesian(logos, tmp_path / "whole.state")
    with pytest.raises(Interrupted):
        fit_bayesian(logos, tmp_path / "parts.state", stop_after=2)
    resumed, history = fit_bayesian(logos, tmp_path / "parts.state")
    for name in ("cross_entropy", "kl"):
        assert [record[name] for record in history] == [record[name] for record in whole_history], name
    tensors = resumed.state_dict()
    assert {"backbone.fc.weight_rho", "backbone.fc.bias_rho"} <= tensors.keys()
    for key, value in whole.state_dict().items():
        assert torch.equal(value, tensors[key]), key
    before = seeded()
    before.learn_deviations(BAYES.prior_deviation, BAYES.first_deviation)
    assert not torch.equal(tensors["backbone.fc.weight_rho"], before.state_dict()["backbone.fc.weight_rho"])


def test_a_bayesian_run_is_read_back_to_draw_from_and_exported_as_its_mean_network(logos, tmp_path):
    recipe = recipe_from_dict(
        {
            "train": {
                "teachers": [f"{MODEL}@32"],
                "pretrained": False,
                "fit": {"epochs": 1, "batch_size": 8},
                "bayes": {"enabled": True, "first_deviation": 0.2},
            }
        }
    )
    run = train_ensemble(tmp_path / "manifest.csv", recipe, tmp_path / "run", device=CPU, report=lambda _: None)
    assert run.record["members"][0]["history"][0]["kl"] > 0
    mean, drawn, pixels = (
        run.load_member(0),
        run.load_member(0, drawing=True),
        pixels_of(logos.split("val"), logos, InputContract(32)),
    )
    assert not bayesian_layers(mean)
    assert mean.state_dict().keys() == LogoNetwork(MODEL, 3).state_dict().keys()
    with torch.no_grad():
        logits, same = (network(torch.from_numpy(pixels)).numpy() for network in (mean, drawn))
    assert np.array_equal(logits, same), "in evaluation mode, a Bayesian network is its mean network"
    assert np.abs(logits - run.member_logits("val")[0]).max() < 0.05
    draws = sample_logits(drawn, pixels, CPU, samples=400)
    assert np.abs(draws.mean(0) - logits).max() < 5 * draws.std(0).max() / np.sqrt(400), (
        "logits of means, mean of logits"
    )
    assert decompose(draws).epistemic.min() > 0
    path = export_onnx(mean, 32, tmp_path / "mean.onnx")
    exported = onnxruntime.InferenceSession(str(path)).run(None, {"pixels": pixels})[0]
    assert np.abs(exported - logits).max() < 1e-3


def test_a_run_keeps_the_temperature_of_its_ensemble(logos, tmp_path, one_process):
    recipe = recipe_from_dict(
        {"train": {"teachers": [f"{MODEL}@32"] * 2, "pretrained": False, "fit": {"epochs": 1, "batch_size": 8}}}
    )
    run = train_ensemble(tmp_path / "manifest.csv", recipe, tmp_path / "run", device=CPU, report=lambda _: None)
    targets = targets_of(logos.split("calib"), run.classes)
    assert run.temperature == fit_temperature(ensemble_logits(run.member_logits("calib")), targets) != 1.0
    record = json.loads((run.folder / "run.json").read_text())
    del record["temperature"]  # as runs before it was fitted
    (run.folder / "run.json").write_text(json.dumps(record))
    assert read_run(run.folder).temperature == 1.0
