"""The search: composed networks, its bilevel gradient, latency and entropy; it resumes to the same result."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from interrupted import Interrupted
from pictures import MUTED, write_squares

from logo_edge.errors import DatasetError, RecipeError, RunError
from logo_edge_compress.search import search as stage
from logo_edge_compress.search.estimate import estimate_search
from logo_edge_compress.search.gradient import architecture_gradient, derive, expected_ms, mean_entropy, penalties
from logo_edge_compress.search.latency_table import LatencyTable
from logo_edge_compress.search.search import derived_recipe, halve, search
from logo_edge_compress.search.supernet import Supernet
from logo_edge_train.data.manifest import FILES, LogoRow, Manifest, read_manifest, write_manifest
from logo_edge_train.models import LogoNetwork
from logo_edge_train.models.composed import ATTENTIONS, POOLS, WIDTH
from logo_edge_train.recipe import Recipe, SearchConfig
from logo_edge_train.recipe_io import load_recipe, recipe_from_dict
from logo_edge_train.train import train_ensemble

CPU = torch.device("cpu")
SIZE = 32
BLIND, SEEING = "test_resnet", "test_efficientnet"  # the first is made blind where a test plants an informative choice
SPACE = {"backbones": [BLIND, SEEING], "attentions": ["none", "se"], "heads": ["linear", "mlp"], "size_px": SIZE}
TABLE = LatencyTable(SIZE, {}, {BLIND: 1.0, SEEING: 10.0}, {"none": 0.0, "se": 0.5}, {"linear": 0.1, "mlp": 0.2})
RATES = {"epochs": 12, "warmup_epochs": 4, "batch_size": 6, "alpha_rate": 0.1, "learning_rate": 3e-3, "patience": 12}
TIMES = ("seconds", "images_per_s")


class HalfBlind(Supernet):
    """A supernet whose first backbone sees nothing: only the second can tell logos apart."""

    def __init__(self, config: SearchConfig, classes: int):
        super().__init__(config, classes)
        self.trunks[0] = Blind()


class Blind(torch.nn.Module):
    def forward(self, planes):
        return planes.new_zeros(len(planes), WIDTH, 1, 1)


@pytest.fixture
def logos(tmp_path) -> Manifest:
    """Three classes by colour: 12 logos to learn from and 4 on each of val and calib, of each."""
    return read_manifest(write_squares(tmp_path, MUTED, {"train": 12, "val": 4, "calib": 4}, framed=True))


def recipe_of(**settings) -> Recipe:
    fit = {"epochs": 1, "batch_size": 8, "frozen_blocks": 2}
    return recipe_from_dict(
        {"name": "tiny", "train": {"fit": fit, "pretrained": False}, "search": {**SPACE, **RATES, **settings}}
    )


def run(logos: Manifest, folder: Path, *, report=lambda _: None, table=TABLE, **settings) -> dict:
    """What history.json holds after the search."""
    search(logos.folder / "manifest.csv", recipe_of(**settings), table, folder, device=CPU, report=report)
    return json.loads((folder / "search" / "history.json").read_text())


@pytest.mark.parametrize("body", ["test_resnet", "test_vit"])
@pytest.mark.parametrize(("attention", "head"), [*zip(ATTENTIONS, POOLS, strict=True)])
def test_a_composed_network_is_one_to_timm_and_all_of_it_learns(body, attention, head):
    network = LogoNetwork(f"{body}+{attention}+{head}", 5)
    pixels = torch.randint(0, 256, (2, 48, 48, 3), dtype=torch.uint8)
    logits = network(pixels)
    assert logits.shape == (2, 5)
    (logits**2).sum().backward()
    assert not [name for name, weight in network.named_parameters() if weight.grad is None]
    backbone = network.eval().backbone
    with torch.no_grad():
        features = backbone.forward_features(torch.zeros(1, 3, 48, 48))
        assert features.shape == (1, backbone.num_features, *features.shape[2:])
        before = backbone.forward_head(features, pre_logits=True)
        assert torch.equal(backbone.get_classifier()(before), backbone.forward_head(features))
        backbone.reset_classifier(2)
        assert backbone(torch.zeros(1, 3, 48, 48)).shape == (1, 2)


def test_each_attention_block_and_head_is_reached_by_a_test_above():
    assert len(ATTENTIONS) == len(POOLS) == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_resnet+cbm+linear", "no attention block 'cbm'; expected one of none, se, cbam, mhsa"),
        ("test_resnet+se+linaer", "no head 'linaer'; expected one of linear, mlp, attention_pool, ensemble"),
        ("test_resnett+se+linear", "timm has no model 'test_resnett'"),
        (
            "test_resnet+se",
            r"network 'test_resnet\+se'; expected a timm name, backbone\+measures, or backbone\+attention\+head",
        ),
    ],
)
def test_a_part_that_there_is_not_is_refused_by_name(name, message):
    with pytest.raises(RecipeError, match=message):
        LogoNetwork(name, 3)


def test_a_composed_network_keeps_imagenet_weights_and_can_be_frozen():
    plain = LogoNetwork("tf_efficientnet_lite0", 3, pretrained=True)
    composed = LogoNetwork("tf_efficientnet_lite0+se+mlp", 3, pretrained=True)
    body = composed.backbone.trunk.body
    assert torch.equal(body.blocks[6][0].conv_pw.weight, plain.backbone.blocks[6][0].conv_pw.weight)
    assert float(composed.backbone.get_classifier().weight.detach().abs().sum()) == 0
    composed.freeze(2)
    learned = {name for name, weight in composed.named_parameters() if weight.requires_grad}
    assert not [name for name in learned if ".body.conv_stem" in name or ".body.blocks.1" in name]
    assert [name for name in learned if ".body.blocks.2" in name]


def toy_levels():
    """Two levels of which the gradient can be had exactly: (alphas, weights, learning loss, judging loss)."""
    torch.manual_seed(0)
    alphas = [torch.randn(3, dtype=torch.float64, requires_grad=True)]
    weights = [
        torch.randn(3, dtype=torch.float64, requires_grad=True),
        torch.randn(4, dtype=torch.float64, requires_grad=True),
    ]
    mixing = torch.randn(4, 3, dtype=torch.float64)

    def learn(a, w):
        return ((w[0] - a[0].sin()) ** 2).sum() + (w[1] * (mixing @ a[0].exp())).tanh().sum() + (w[1] ** 2).sum()

    def judge(a, w):
        return (w[0] ** 3).sum() + (w[1].cos() * w[0].sum()).sum() + (a[0] ** 2).sum()

    return alphas, weights, learn, judge


def test_the_second_order_gradient_is_that_of_autograd_through_the_step():
    alphas, weights, learn, judge = toy_levels()
    rate = 0.1
    gradients = torch.autograd.grad(learn(alphas, weights), weights, create_graph=True)
    ahead = [weight - rate * gradient for weight, gradient in zip(weights, gradients, strict=True)]
    exact = torch.autograd.grad(judge(alphas, ahead), alphas)
    before = [weight.detach().clone() for weight in weights]
    loss, approximate = architecture_gradient(
        alphas, weights, lambda: learn(alphas, weights), lambda: judge(alphas, weights), rate
    )
    assert torch.allclose(approximate[0], exact[0], rtol=1e-3)
    assert loss.item() == pytest.approx(judge(alphas, ahead).item())
    assert all(torch.equal(weight, kept) for weight, kept in zip(weights, before, strict=True)), "the weights stay"
    _, first_order = architecture_gradient(alphas, weights, lambda: 1 / 0, lambda: judge(alphas, weights), 0.0)
    assert torch.equal(first_order[0], 2 * alphas[0].detach()), "the first order does not even ask how weights learn"
    assert not torch.allclose(first_order[0], exact[0], rtol=0.05)


def test_the_expected_latency_is_the_weighted_sum_of_the_options():
    config = recipe_of().search
    costs = [torch.from_numpy(cost) for cost in TABLE.costs(config)]
    shares = [torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])]
    assert float(expected_ms(shares, costs)) == pytest.approx(0.25 * 1 + 0.75 * 10 + 0.25 + 0.1)


def test_latency_counts_above_the_target_only_and_entropy_by_the_progress():
    shares = [torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0])]
    costs = [torch.tensor([1.0, 7.0]), torch.zeros(2), torch.zeros(2)]  # 4 ms expected
    config = SearchConfig(entropy_weight=3.0, latency_weight=2.0, target_ms=2.0)
    terms = penalties(shares, costs, config, 0.5)
    assert float(terms["latency_penalty"]) == pytest.approx(2 * math.log(2))
    assert float(terms["entropy_penalty"]) == pytest.approx(3 * 0.5 / 3)
    assert float(penalties(shares, costs, replace(config, target_ms=4.5), 0.5)["latency_penalty"]) == 0
    assert "latency_penalty" not in penalties(shares, costs, replace(config, target_ms=0.0), 0.5)
    assert float(mean_entropy([torch.tensor([1.0])])) == 0, "one option is no choice"


def test_the_likeliest_architecture_within_the_target_is_taken():
    shares, costs = ([0.1, 0.9], [0.6, 0.4], [0.2, 0.8]), TABLE.costs(recipe_of().search)
    assert derive(shares, costs, 0.0) == (1, 0, 1)
    assert derive(shares, costs, 10.15) == (1, 0, 0), "the head of the likeliest would be too slow"
    assert derive(shares, costs, 2.0) == (0, 0, 1)
    assert derive(shares, costs, 1.1) == (0, 0, 0)


def test_a_supernet_that_has_decided_answers_as_the_chosen_architecture():
    torch.manual_seed(0)
    supernet = Supernet(recipe_of().search, 3).eval()
    supernet.chosen = (1, 0, 1)
    for alpha, index in zip(supernet.alphas, supernet.chosen, strict=True):
        alpha.data[index] = 100.0
    pixels = torch.randint(0, 256, (2, SIZE, SIZE, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.allclose(supernet.mix(pixels, [0, 1]), supernet(pixels), atol=1e-5)
        assert not torch.allclose(supernet.mix(pixels, [0]), supernet(pixels), atol=1e-3)


def test_backbones_are_drawn_by_their_shares_and_never_twice():
    torch.manual_seed(0)
    supernet = Supernet(recipe_of(backbones=[BLIND, SEEING, "test_vit"]).search, 3)
    supernet.alphas[0].data[:] = torch.tensor([0.0, 2.0, 0.0])
    draws = [tuple(supernet.draw_paths(2)) for _ in range(200)]
    assert all(len(set(draw)) == 2 for draw in draws)
    assert sum(1 in draw for draw in draws) > 180
    assert {index for draw in draws for index in draw} == {0, 1, 2}
    assert supernet.draw_paths(0) == [0, 1, 2]


def test_halves_have_like_classes_and_share_no_group():
    rows = [LogoRow(FILES, "", f"{k}-{i}", f"{k}-{i // 3}", f"{k}") for k in range(3) for i in range(30)]
    first, second = halve(rows, seed=1)
    assert len(first) + len(second) == 90
    assert not {row.group for row in first} & {row.group for row in second}
    assert all(12 <= sum(row.label == f"{k}" for row in first) <= 18 for k in range(3))


def test_a_search_that_cannot_be_halved_is_refused(logos, tmp_path):
    few = [row for row in logos.rows if row.split != "train"]
    few += [replace(row, group="one") for row in logos.rows if row.split == "train"]
    write_manifest(tmp_path / "manifest.csv", few)
    with pytest.raises(DatasetError, match="36 images to search with; expected enough for two halves"):
        run(read_manifest(tmp_path / "manifest.csv"), tmp_path / "run")


def test_where_latency_is_free_the_informative_backbone_wins(logos, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "Supernet", HalfBlind)
    history = run(logos, tmp_path / "run")
    assert history["epochs"][-1]["shares"]["backbones"][SEEING] > 0.6
    assert history["chosen"].startswith(SEEING)
    assert history["epochs"][-1]["expected_ms"] > history["epochs"][0]["expected_ms"]


def test_where_latency_is_all_the_fastest_backbone_wins_even_blind(logos, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "Supernet", HalfBlind)
    history = run(logos, tmp_path / "run", latency_weight=100.0, target_ms=1.5)
    assert history["epochs"][-1]["shares"]["backbones"][BLIND] > 0.8
    assert history["chosen"].startswith(BLIND)
    assert history["epochs"][-1]["expected_ms"] < 3 < history["epochs"][0]["expected_ms"]


def test_annealing_makes_the_choice_sharp(logos, tmp_path):
    free = run(logos, tmp_path / "free", entropy_weight=0.0)["epochs"]
    annealed = run(logos, tmp_path / "annealed", entropy_weight=30.0)["epochs"]
    assert free[3]["choice_entropy"] == annealed[3]["choice_entropy"] == pytest.approx(1), "nothing is chosen before"
    assert annealed[-1]["choice_entropy"] < 0.6
    assert annealed[-1]["choice_entropy"] < free[-1]["choice_entropy"]


def test_a_choice_that_stands_ends_the_search(logos, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "Supernet", HalfBlind)
    reports: list[dict] = []
    epochs = run(
        logos, tmp_path / "run", patience=2, epochs=40, latency_weight=100.0, target_ms=1.5, report=reports.append
    )["epochs"]
    assert 4 + 3 <= len(epochs) < 40, "no choice counts before the alphas learn"
    assert [epoch["stable_epochs"] for epoch in epochs[:5]] == [0] * 5
    assert epochs[-1]["stable_epochs"] == 2
    assert reports[-1]["epochs"] == reports[-1]["epoch"] == len(epochs), "whoever watches is told that it was the last"


@pytest.mark.parametrize("settings", [{}, {"sample_paths": False, "inner_rate": 0.01}])
def test_an_interrupted_search_resumes_to_the_same_result(logos, tmp_path, settings):
    settings = {**settings, "epochs": 4, "warmup_epochs": 1}
    whole = run(logos, tmp_path / "whole", **settings)

    def stop(item):
        if item["kind"] == "epoch" and item["epoch"] == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(logos, tmp_path / "parts", report=stop, **settings)
    assert not (tmp_path / "parts" / "search" / "history.json").exists()
    reports: list[dict] = []
    parts = run(logos, tmp_path / "parts", report=reports.append, **settings)
    assert [item["kind"] for item in reports if item["kind"] != "stage"][:2] == ["start", "resume"]
    for record in (*whole["epochs"], *parts["epochs"]):
        for name in TIMES:
            del record[name]
    assert len(whole["epochs"]) == 4
    assert whole["epochs"] == parts["epochs"]
    derived = [(tmp_path / name / "search" / "derived.toml").read_text() for name in ("whole", "parts")]
    assert derived[0] == derived[1]


def test_a_finished_search_is_read_and_another_one_refused(logos, tmp_path):
    settings = {"epochs": 1, "warmup_epochs": 0}
    run(logos, tmp_path / "run", **settings)
    assert (tmp_path / "run" / "search" / "search.png").stat().st_size > 10_000
    assert not (tmp_path / "run" / "search" / "search.state").exists()
    run(logos, tmp_path / "run", report=lambda _: pytest.fail("searched twice"), **settings)
    with pytest.raises(RunError, match=r"a search of other settings or data \(search.entropy_weight 0.2 -> 7.0\)"):
        run(logos, tmp_path / "run", **settings, entropy_weight=7.0)


def test_the_recipe_that_is_found_trains_the_network_that_was_found(logos, tmp_path):
    history = run(logos, tmp_path / "run", epochs=2, warmup_epochs=1)
    recipe = load_recipe(str(tmp_path / "run" / "search" / "derived.toml"))
    assert recipe.train.teachers == recipe.distill.students == (history["chosen"],)
    assert history["chosen"].endswith(f"@{SIZE}")
    trained = train_ensemble(
        logos.folder / "manifest.csv", recipe, tmp_path / "trained", device=CPU, report=lambda _: None
    )
    assert f"{trained.load_member(0).name}@{SIZE}" == history["chosen"]
    assert trained.member_logits("val").shape == (1, 12, 3)


def test_a_pretrained_choice_keeps_its_weights():
    recipe = recipe_of(pretrained=True)
    assert derived_recipe(recipe, "tf_efficientnet_lite0+se+mlp").train.pretrained
    assert not derived_recipe(recipe, "resnet10t+se+mlp").train.pretrained


def test_a_choice_that_joins_stands_beside_all_others():
    recipe, architecture = recipe_of(joins=True), f"resnet10t+se+mlp@{SIZE}"
    derived = derived_recipe(recipe, "resnet10t+se+mlp")
    assert derived.train == replace(recipe.train, teachers=(*recipe.train.teachers, architecture))
    assert derived.distill == replace(recipe.distill, students=(*recipe.distill.students, architecture))


def test_a_target_that_no_architecture_meets_is_refused(logos, tmp_path):
    with pytest.raises(RunError, match=r"search.target_ms is 0.5, the fastest architecture takes 1.10 ms"):
        run(logos, tmp_path / "run", target_ms=0.5)


def test_a_table_of_another_space_is_refused(logos, tmp_path):
    with pytest.raises(RunError, match="lacks cbam; expected search.attentions"):
        run(logos, tmp_path / "run", attentions=["none", "cbam"])


def test_a_loss_that_is_not_finite_stops_with_its_epoch(logos, tmp_path):
    with pytest.raises(RunError, match="not finite in the search's epoch"):
        run(logos, tmp_path / "run", learning_rate=1e30)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": []}, r"search.heads is \[\]; expected at least one"),
        ({"patience": 0}, "search.patience is 0; expected at least 1"),
        ({"epoch": 3}, "unknown field search.epoch; search has alpha_rate"),
    ],
)
def test_a_wrong_setting_is_refused_by_the_name_of_the_key(settings, message):
    with pytest.raises(RecipeError, match=message):
        recipe_of(**settings)


def test_an_estimate_of_a_search_is_of_all_its_epochs_and_leaves_nothing(logos, tmp_path):
    estimate = estimate_search(tmp_path / "manifest.csv", recipe_of(epochs=12), TABLE, device=CPU)
    (stage_estimate,) = estimate["stages"]
    assert (stage_estimate["epochs"], stage_estimate["steps"]) == (12, 3), "of 18 logos in batches of 6"
    assert estimate["seconds"] >= 12 * 18 / stage_estimate["images_per_s"] > 0
    assert not list(tmp_path.glob("**/search"))
