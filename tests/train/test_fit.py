"""Fitting: an interrupted run resumes to the same result; bad loss, data and models stop by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from logo_edge.errors import DatasetError, RecipeError, RunError
from logo_edge.manifest import FILES, LogoRow, Manifest, read_manifest, write_manifest
from logo_edge_train.dataset import LogoDataset, check_classes, class_weights, soft_label, stratified_sample
from logo_edge_train.fit import fit, predict_logits, supervised_objective
from logo_edge_train.models import LogoNetwork, load_imagenet_weights, normalise
from logo_edge_train.recipe import Architecture, AugmentConfig, FitConfig, recipe_from_dict
from logo_edge_train.runs import load_network, read_run, save_member
from logo_edge_train.train import ensemble_logits, train_ensemble

CPU = torch.device("cpu")
CONFIG = FitConfig(epochs=3, batch_size=4, warmup_epochs=1.0)
MODEL = "mobilenetv3_small_050"
TEACHER = f"{MODEL}@32"


class Interrupted(Exception):
    """What a person's Ctrl-C does, at a chosen epoch."""


@pytest.fixture
def logos(tmp_path) -> Manifest:
    """Three classes by colour: 8 logos to learn from and 4 to measure on, of each."""
    random, rows = np.random.default_rng(0), []
    for label, colour in (("red", (200, 30, 30)), ("green", (30, 200, 30)), ("blue", (30, 30, 200))):
        for index, split in enumerate(["train"] * 8 + ["val"] * 4 + ["calib"] * 4 + ["test"] * 4):
            pixels = random.integers(0, 255, (40, 40, 4), dtype=np.uint8)
            pixels[8:32, 8:32, :3] = colour
            Image.fromarray(pixels).save(tmp_path / f"{label}-{index}.png")
            rows.append(LogoRow(FILES, "", f"{label}-{index}.png", f"{label}-{index}", label, (label,), True, split))
    write_manifest(tmp_path / "manifest.csv", rows)
    return read_manifest(tmp_path / "manifest.csv")


def fit_logos(manifest: Manifest, state, *, stop_after: int | None = None):
    dataset = LogoDataset(manifest, manifest.split("train"), manifest.classes, state.parent, size_px=32,
                          augment=AugmentConfig(), seed=3)  # fmt: skip
    torch.manual_seed(3)

    def report(item):
        if item["kind"] == "epoch" and item["epoch"] == stop_after:
            raise Interrupted

    return fit(
        LogoNetwork(MODEL, 3, dropout=0.2), dataset, supervised_objective(0.1), CONFIG, state=state, seed=3, device=CPU,
        evaluate=lambda network: {"accuracy": 0.0}, report=report,
    )  # fmt: skip


def test_an_interrupted_fit_resumes_to_the_same_weights(logos, tmp_path):
    whole, whole_history = fit_logos(logos, tmp_path / "whole.state")
    with pytest.raises(Interrupted):
        fit_logos(logos, tmp_path / "parts.state", stop_after=2)
    resumed, history = fit_logos(logos, tmp_path / "parts.state")
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert [record["cross_entropy"] for record in history] == [record["cross_entropy"] for record in whole_history]
    tensors = resumed.state_dict()
    assert len(tensors) > 100
    for key, value in whole.state_dict().items():
        assert torch.equal(value, tensors[key]), key


def test_a_state_of_another_configuration_is_not_resumed(logos, tmp_path):
    with pytest.raises(Interrupted):
        fit_logos(logos, tmp_path / "a.state", stop_after=1)
    dataset = LogoDataset(logos, logos.split("train"), logos.classes, tmp_path, size_px=32)
    with pytest.raises(RunError, match="another configuration"):
        fit(LogoNetwork(MODEL, 3), dataset, supervised_objective(0.1), replace(CONFIG, learning_rate=0.1),
            state=tmp_path / "a.state", seed=3, device=CPU, evaluate=lambda _: {}, report=lambda _: None)  # fmt: skip


def test_a_loss_that_is_not_finite_stops_with_its_epoch_and_step(logos, tmp_path):
    dataset = LogoDataset(logos, logos.split("train"), logos.classes, tmp_path, size_px=32)

    def broken(network, pixels, *_):
        return {"cross_entropy": network(pixels).sum() * float("nan")}

    with pytest.raises(RunError, match="not finite at epoch 1, step 1"):
        fit(LogoNetwork(MODEL, 3), dataset, broken, CONFIG, state=tmp_path / "b.state", seed=0, device=CPU,
            evaluate=lambda _: {}, report=lambda _: None)  # fmt: skip


def test_frozen_stages_keep_weights_and_statistics_and_the_others_learn(logos, tmp_path):
    dataset = LogoDataset(logos, logos.split("train"), logos.classes, tmp_path, size_px=32)
    torch.manual_seed(0)
    network = LogoNetwork(MODEL, 3)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    after, _ = fit(network, dataset, supervised_objective(0.1), replace(CONFIG, epochs=1, frozen_blocks=2),
                   state=tmp_path / "c.state", seed=0, device=CPU, evaluate=lambda _: {}, report=lambda _: None)  # fmt: skip
    frozen = ("backbone.conv_stem", "backbone.bn1", "backbone.blocks.0", "backbone.blocks.1")
    changed = {key for key, value in after.state_dict().items() if not torch.equal(value, before[key])}
    assert not [key for key in changed if key.startswith(frozen)]
    assert [key for key in changed if key.startswith("backbone.blocks.2")]


def test_an_ensemble_is_trained_once_and_read_back(logos, tmp_path):
    recipe = recipe_from_dict(
        {"train": {"teachers": [TEACHER, TEACHER], "pretrained": False, "fit": {"epochs": 1, "batch_size": 8}}}
    )
    reports: list[dict] = []
    manifest_path = tmp_path / "manifest.csv"
    train_ensemble(manifest_path, recipe, tmp_path / "run", device=CPU, report=reports.append)
    assert {item["kind"] for item in reports} == {"start", "step", "epoch"}
    run = train_ensemble(
        manifest_path, recipe, tmp_path / "run", device=CPU, report=lambda item: pytest.fail("trained twice")
    )
    assert run.member_logits("test").shape == (2, 12, 3)
    assert read_run(tmp_path / "run").record["metrics"]["val"].keys() >= {"accuracy", "worst_recall"}
    val = LogoDataset(logos, logos.split("val"), logos.classes, tmp_path, size_px=32)
    again = predict_logits(run.load_member(0), val, CPU)
    assert np.abs(again - run.member_logits("val")[0]).max() < 0.05, "float16 checkpoints give nearly the same logits"
    assert np.allclose(np.exp(ensemble_logits(run.member_logits("val"))).sum(1), 1, atol=1e-5)


def test_a_run_of_another_recipe_is_not_overwritten(logos, tmp_path):
    recipe = {"train": {"teachers": [TEACHER], "pretrained": False, "fit": {"epochs": 1, "batch_size": 8}}}
    train_ensemble(
        tmp_path / "manifest.csv", recipe_from_dict(recipe), tmp_path / "run", device=CPU, report=lambda _: None
    )
    recipe["train"]["seed"] = 5
    with pytest.raises(RunError, match="another recipe or other data"):
        train_ensemble(
            tmp_path / "manifest.csv", recipe_from_dict(recipe), tmp_path / "run", device=CPU, report=lambda _: None
        )


def test_a_changed_checkpoint_is_refused(logos, tmp_path):
    recipe = {"train": {"teachers": [TEACHER], "pretrained": False, "fit": {"epochs": 1, "batch_size": 8}}}
    run = train_ensemble(
        tmp_path / "manifest.csv", recipe_from_dict(recipe), tmp_path / "run", device=CPU, report=lambda _: None
    )
    path = run.folder / run.record["members"][0]["file"]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match="not the file that run.json lists"):
        run.load_member(0)


def test_an_unfinished_or_missing_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="expected the folder of a run"):
        read_run(tmp_path)


def test_a_checkpoint_gives_its_network_back(tmp_path):
    torch.manual_seed(1)
    network = LogoNetwork(MODEL, 5).eval()
    save_member(tmp_path / "m.safetensors", network)
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.allclose(
            network(pixels), load_network(tmp_path / "m.safetensors", Architecture(MODEL, 32), 5)(pixels), atol=1e-2
        )


def test_imagenet_weights_land_in_the_layers_of_their_own_names():
    network = LogoNetwork("tf_efficientnet_lite0", 4, pretrained=True)
    stem = network.backbone.conv_stem.weight
    assert 0.05 < float(stem.detach().std()) < 1.5
    assert float(network.backbone.bn1.running_var.max()) > 10, "statistics of ImageNet, not of a fresh network"
    assert float(network.backbone.get_classifier().weight.abs().sum()) == 0
    assert not torch.equal(stem, LogoNetwork("tf_efficientnet_lite0", 4).backbone.conv_stem.weight)


def test_a_network_without_reachable_weights_is_refused_by_name():
    with pytest.raises(RecipeError, match="no ImageNet weights can be had for 'resnet18'"):
        load_imagenet_weights(torch.nn.Identity(), "resnet18")
    with pytest.raises(RecipeError, match="timm has no model 'efficientnett'"):
        LogoNetwork("efficientnett", 4)


def test_normalisation_is_the_one_of_the_imagenet_weights():
    planes = normalise(torch.tensor([[[[0, 127, 255]]]], dtype=torch.uint8))
    assert planes.flatten().tolist() == [-127 / 128, 0.0, 1.0]


def test_votes_become_shares_and_classes_are_weighted_by_rarity():
    row = LogoRow(FILES, "", "a", "a", "text", ("simple", "text", "text"))
    assert soft_label(row, ("simple", "text"), use_votes=True).tolist() == pytest.approx([1 / 3, 2 / 3])
    assert soft_label(row, ("simple", "text"), use_votes=False).tolist() == [0, 1]
    rows = [replace(row, label="simple")] * 4 + [row]
    weights = class_weights(rows, ("simple", "text"), 0.5)
    assert weights[1] / weights[0] == pytest.approx(2)
    assert (4 * weights[0] + weights[1]) / 5 == pytest.approx(1)


def test_an_empty_split_and_a_missing_class_are_named():
    row = LogoRow(FILES, "", "a", "a", "text")
    with pytest.raises(DatasetError, match="split 'val' is empty"):
        check_classes([], ("simple", "text"), "val")
    with pytest.raises(DatasetError, match="split 'val' has no logo of class simple"):
        check_classes([row], ("simple", "text"), "val")


def test_a_stratified_sample_keeps_every_class():
    rows = [LogoRow(FILES, "", f"{k}-{i}", "", f"{k}") for k in range(3) for i in range(10 * (k + 1))]
    sample = stratified_sample(rows, 12)
    assert 10 <= len(sample) <= 14
    assert {row.label for row in sample} == {"0", "1", "2"}
    assert stratified_sample(rows, 0) == rows
