"""Few-shot learning: MAML's gradients by finite differences, prototypes by hand, ridge by scikit-learn; the splits."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from interrupted import Interrupted
from PIL import Image, ImageDraw
from sklearn.linear_model import RidgeClassifier
from torch.nn import functional
from typer.testing import CliRunner

from logo_edge.errors import DatasetError, RecipeError, RunError
from logo_edge.preprocess import InputContract
from logo_edge.tables.find import find_images
from logo_edge_train.command_line import print_result
from logo_edge_train.commands import few_shot as command
from logo_edge_train.commands import print_sorted
from logo_edge_train.data import pool
from logo_edge_train.data.icons import LABELS
from logo_edge_train.data.manifest import LogoRow, read_manifest, renders_folder, write_manifest
from logo_edge_train.few_shot import classify, episodes
from logo_edge_train.few_shot.classify import classify_files, classify_images
from logo_edge_train.few_shot.episodes import (
    PARTS,
    VIEWS,
    BrandTasks,
    Drawings,
    EpisodeDataset,
    TypeTasks,
    check_disjoint,
    split_drawing,
    task_rows,
)
from logo_edge_train.few_shot.methods import Maml, Prototypes, few_shot_objective, prototype_logits, ridge_logits
from logo_edge_train.few_shot.run import build_network, evaluate_few_shot, read_few_shot, train_few_shot
from logo_edge_train.fit_config import FewShotFit
from logo_edge_train.models import LogoNetwork
from logo_edge_train.recipe import FewShotConfig
from logo_edge_train.recipe_io import recipe_from_dict

CPU = torch.device("cpu")
MODEL = "test_efficientnet"  # timm's tiny one, of stages
CONFIG = FewShotConfig(
    network=f"{MODEL}@32",
    ways=3,
    shots=2,
    queries=1,
    episodes=6,
    val_episodes=10,
    inner_steps=2,
    held_out_package="two",
    fit=FewShotFit(epochs=3, batch_size=2, learning_rate=1e-3, ema_decay=0.995, frozen_blocks=-1),
)
KINDS = ("disc", "bars")


@pytest.fixture
def manifest_path(tmp_path, monkeypatch) -> Path:
    """Brands of random blocks, in colour in package `one`, in grey in `two`: 8 in train, 4 in val, 4 in test."""
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    random, rows = np.random.default_rng(0), []
    for index, split in enumerate(["train"] * 8 + ["val"] * 4 + ["test"] * 4):
        blocks = random.integers(0, 200, (6, 6, 3), dtype=np.uint8)
        blocks[random.random((6, 6)) < 0.5] = 255
        for package in ("one", "two"):
            pixels = blocks if package == "one" else blocks.mean(2, keepdims=True).astype(np.uint8).repeat(3, 2)
            folder = renders_folder() / package / "1"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize((48, 48), Image.Resampling.NEAREST).save(folder / f"icon-{index}.png")
            label = KINDS[index % 2]
            rows.append(LogoRow(package, "1", f"icon-{index}", f"brand-{index}", label, (label,), True, split))
    write_manifest(tmp_path / "manifest.csv", rows)
    return tmp_path / "manifest.csv"


def toy(**changes) -> tuple[Maml, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A tiny MAML in float64 with changed rates; maps of a support of 3 classes, its labels, and maps of 4 queries."""
    torch.manual_seed(0)
    network = Maml(LogoNetwork(MODEL, 2), replace(CONFIG, **changes), keep_statistics=True).double().train()
    with torch.no_grad():
        for parameter in getattr(network, "rates", ()):
            parameter += 0.01 * torch.randn_like(parameter)
    maps = torch.randn(6 + 4, 3, 32, 32, dtype=torch.float64)
    return network, maps[:6], torch.tensor([0, 0, 1, 1, 2, 2]), maps[6:, None]


def outer_loss(network: Maml, support, labels, queries) -> torch.Tensor:
    return functional.cross_entropy(network.classify(support, labels, queries, 3), torch.tensor([0, 1, 2, 1]))


def learned(network: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: weight for name, weight in network.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("rates", ["layer", "element", "fixed"])
def test_the_second_order_gradient_is_that_of_finite_differences(rates):
    network, *task = toy(rates=rates, inner_rate=0.05)
    outer_loss(network, *task).backward()
    parameters = learned(network)
    assert all(parameter.grad is not None for parameter in parameters.values())
    generator, step = torch.Generator().manual_seed(1), 1e-6
    weights, rates = ([name for name in parameters if ("rates" in name) is of_rates] for of_rates in (False, True))
    for name in [*weights[::12], *rates[-3:]]:
        parameter = parameters[name]
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        with torch.no_grad():
            losses = []
            for sign in (1, -1):
                parameter += sign * step * direction
                losses.append(float(outer_loss(network, *task)))
                parameter -= sign * step * direction
        slope = float((parameter.grad * direction).sum())
        assert slope == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-3, abs=1e-7), name


def test_the_second_order_gradient_is_that_of_the_inner_steps_written_out():
    network, support, labels, queries = toy(rates="fixed", inner_steps=1)
    outer_loss(network, support, labels, queries).backward()
    weights = {name: weight.detach().clone().requires_grad_() for name, weight in network._learned().items()}
    rows = torch.zeros(3, network.width, dtype=torch.float64, requires_grad=True)
    loss = functional.cross_entropy(network._logits({**weights, "head": rows}, support), labels)
    gradients = torch.autograd.grad(loss, [*weights.values(), rows], create_graph=True)
    adapted = {name: w - 0.01 * g for (name, w), g in zip(weights.items(), gradients[:-1], strict=True)}
    adapted["head"] = rows - 0.5 * gradients[-1]
    functional.cross_entropy(network._logits(adapted, queries[:, 0]), torch.tensor([0, 1, 2, 1])).backward()
    assert len(weights) > 10
    for name, weight in weights.items():
        assert torch.allclose(weight.grad, dict(network.rest.named_parameters())[name].grad, rtol=1e-9, atol=1e-12), (
            name
        )


def test_the_first_order_gradient_is_that_at_the_adapted_weights():
    network, support, labels, queries = toy(second_order=False, rates="fixed")
    outer_loss(network, support, labels, queries).backward()
    adapted = network.adapt(support, labels, 3)
    leaves = {name: weight.detach().clone().requires_grad_() for name, weight in adapted.items()}
    functional.cross_entropy(network._logits(leaves, queries[:, 0]), torch.tensor([0, 1, 2, 1])).backward()
    whole, *task = toy(second_order=True, rates="fixed")
    outer_loss(whole, *task).backward()
    for (name, weight), other in zip(network._learned().items(), whole._learned().values(), strict=True):
        assert torch.allclose(weight.grad, leaves[name].grad, rtol=1e-9, atol=1e-12), name
        assert not torch.allclose(weight.grad, other.grad, rtol=1e-3), f"{name}: the second order has more in it"


def test_maml_adapts_and_does_not_mind_the_order_of_classes():
    network, support, labels, queries = toy(rates="fixed", inner_steps=5, inner_rate=0.001)
    with torch.no_grad():
        before = functional.cross_entropy(torch.zeros(6, 3), labels)
        after = functional.cross_entropy(network.solve(support, labels, support, 3), labels)
        turned = network.classify(support, (labels + 1) % 3, queries, 3)
        plain = network.classify(support, labels, queries, 3)
    assert float(after) < 0.8 * float(before)
    assert torch.allclose(turned.roll(-1, 1), plain, atol=1e-9)


def test_prototypes_are_means_and_logits_minus_squared_distances():
    support = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 5.0]])
    logits = prototype_logits(support, torch.tensor([0, 0, 1]), torch.tensor([[1.0, 2.0], [5.0, 4.0]]), 2)
    assert logits.tolist() == [[-4.0, -25.0], [-32.0, -1.0]]  # the means are (1, 0) and (5, 5)


@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
def test_ridge_is_that_of_scikit_learn(penalty):
    random = np.random.default_rng(0)
    support, queries = random.normal(size=(12, 30)), random.normal(size=(9, 30))
    labels = np.repeat(np.arange(4), 3)
    oracle = RidgeClassifier(alpha=penalty).fit(support, labels).decision_function(queries)
    ours = ridge_logits(*map(torch.from_numpy, (support, labels, queries)), 4, penalty)
    assert np.allclose(ours.numpy(), oracle, atol=1e-9)


def test_a_query_is_of_the_class_that_its_best_view_is_of():
    network = build_network(CONFIG, None)[0].eval()
    support = functional.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), dim=1)
    queries = torch.tensor([[[0.9, 0.1], [0.0, 1.0]], [[1.0, 0.0], [0.3, 0.3]]])  # (M, V, F)
    logits = network.classify(support, torch.tensor([0, 1]), queries, 2)
    single = network.solve(support, torch.tensor([0, 1]), queries.flatten(0, 1), 2)
    assert torch.equal(logits, torch.maximum(single[::2], single[1::2]))
    assert logits.argmax(1).tolist() == [1, 0]


@pytest.mark.parametrize("blocks", [-1, 0, 2])
def test_a_split_network_makes_the_features_of_the_whole(blocks):
    torch.manual_seed(0)
    network, pixels = LogoNetwork(MODEL, 2).eval(), torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    whole, names = network.features(pixels), network.backbone.state_dict().keys()
    config = replace(CONFIG, fit=replace(CONFIG.fit, frozen_blocks=blocks))
    split = Prototypes(network, config, keep_statistics=True).eval()
    assert torch.allclose(split.embed(pixels), functional.normalize(whole, dim=1), atol=1e-6)
    assert {*split.trunk.state_dict(), *split.rest.backbone.state_dict()} == set(names), "the names stay"
    assert not any(weight.requires_grad for weight in split.trunk.parameters())


def test_kept_statistics_do_not_change_while_learning():
    for keep in (True, False):
        network = Prototypes(LogoNetwork(MODEL, 2), CONFIG, keep_statistics=keep).train()
        before = {name: value.clone() for name, value in network.named_buffers()}
        network(*(torch.randint(0, 256, (1, 3, 2, 32, 32, 3), dtype=torch.uint8) for _ in range(2)))
        same = all(torch.equal(value, before[name]) for name, value in network.named_buffers())
        assert same is keep


def test_weights_are_needed_where_a_method_does_not_make_them():
    for method in ("maml", "ridge"):
        with pytest.raises(RecipeError, match="has no ImageNet weights; expected a start"):
            build_network(replace(CONFIG, method=method), None)
    frozen = replace(CONFIG, network="logo_vit_tiny@32", fit=replace(CONFIG.fit, frozen_blocks=2))
    with pytest.raises(RecipeError, match=r"lower few_shot\.fit\.frozen_blocks"):
        Prototypes(LogoNetwork("logo_vit_tiny", 2, size_px=32), frozen, keep_statistics=True)


def lockup() -> Image.Image:
    """A red square, a gap, then three blue bars nearer to each other, with margins."""
    image = Image.new("RGBA", (120, 60), (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)
    pen.rectangle((10, 10, 39, 39), fill=(200, 0, 0, 255))
    for left in (60, 72, 84):
        pen.rectangle((left, 15, left + 7, 34), fill=(0, 0, 200, 255))
    return image


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("opaque", [False, True])
def test_a_drawing_is_split_at_its_widest_gap(turned, opaque):
    image = lockup().transpose(Image.Transpose.TRANSPOSE) if turned else lockup()
    if opaque:
        paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(paper, image).convert("RGB")
    whole, first, second = split_drawing(image)
    assert whole is image
    assert (first.size, second.size) == (((30, 30), (20, 32)) if turned else ((30, 30), (32, 20)))
    assert first.convert("RGB").getpixel((0, 0)) == (200, 0, 0)
    assert second.convert("RGB").getpixel((0, 0)) == (0, 0, 200)


def test_a_drawing_without_a_gap_stays_whole():
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 255))
    assert split_drawing(image) == (image, image, image)


def test_views_are_the_parts_in_colour_then_in_grey():
    drawings = Drawings([lockup()], InputContract(32))
    views = [drawings.draw(0, view) for view in range(len(VIEWS))]
    assert len(VIEWS) == 2 * PARTS
    assert not np.array_equal(views[0], views[1])
    assert (views[1] == (200, 0, 0)).all(), "the first part fills the square"
    for colour, grey in zip(views[:PARTS], views[PARTS:], strict=True):
        assert np.allclose(grey[:, :, 0], colour @ [0.299, 0.587, 0.114], atol=2)
        assert (grey == grey[:, :, :1]).all()
    detailed = Drawings([lockup()], InputContract(32, details=True))
    colour, grey = (detailed.draw(0, view) for view in (0, PARTS))
    assert colour.shape == grey.shape == (32, 32, 7)
    assert not np.array_equal(colour[:, :, 3:], grey[:, :, 3:]), "the planes are of the grey drawing"


def brand_rows(count: int) -> list[LogoRow]:
    """Brands in three packages, two drawings in the first of them, and as many in one package alone."""
    rows = []
    for index in range(count):
        for package, icon in (("a", "icon"), ("a", "word"), ("b", "icon"), ("c", "icon")):
            rows.append(LogoRow(package, "1", f"{icon}-{index}", f"brand-{index}", "simple"))
        rows.append(LogoRow("a", "1", f"lonely-{index}", f"lonely-{index}", "simple"))
    return rows


def test_brands_are_shown_by_one_drawing_and_asked_for_by_other_packages():
    rows = brand_rows(6)
    tasks = BrandTasks(rows, replace(CONFIG, ways=5, shots=5, queries=2))
    assert len(tasks.members) == 6
    drawn = [tasks.draw(np.random.default_rng(seed)) for seed in range(60)]
    shown = set()
    for episode in drawn:
        assert len(set(episode.classes)) == 5
        for name, support, queries in zip(episode.classes, episode.support, episode.queries, strict=True):
            assert len(set(support.tolist())) == 1, "all shots are views of one drawing"
            assert len(set(queries.tolist())) == 2
            assert {rows[index].group for index in (*support, *queries)} == {name}
            assert rows[support[0]].package not in {rows[index].package for index in queries}
            shown.add(rows[support[0]].package)
    assert shown == {"a", "b", "c"}
    again = tasks.draw(np.random.default_rng(7))
    assert np.array_equal(again.support, drawn[7].support)
    with pytest.raises(
        DatasetError, match=r"1 groups have drawings in two packages; expected at least few_shot\.ways, 5"
    ):
        BrandTasks(brand_rows(1), replace(CONFIG, ways=5))


def test_types_are_shown_and_asked_for_by_different_groups_of_one_package():
    rows = [
        LogoRow(package, "1", f"{label}-{index}", f"group-{index // 2}-{label if index % 3 else ''}", label)
        for package in ("a", "b")
        for label in ("simple", "text", "complex")
        for index in range(20)
    ]
    rows.append(LogoRow("small", "1", "x", "x", "text"))
    tasks = TypeTasks(rows, replace(CONFIG, shots=3, queries=2))
    packages = set()
    for seed in range(60):
        episode = tasks.draw(np.random.default_rng(seed))
        everyone = [rows[index] for index in (*episode.support.flat, *episode.queries.flat)]
        assert len({row.package for row in everyone}) == 1
        packages.add(everyone[0].package)
        shown, asked = ({rows[index].group for index in part.flat} for part in (episode.support, episode.queries))
        assert not shown & asked
        for name, indices in zip(episode.classes, episode.support, strict=True):
            assert {rows[index].label for index in indices} == {name}
    assert packages == {"a", "b"}
    with pytest.raises(DatasetError, match="no package has images of 23 groups of each type"):
        TypeTasks(rows, replace(CONFIG, shots=21, queries=2))


@pytest.mark.parametrize(("task", "least"), [("brands", {"train": 800, "val": 60, "test": 80}), ("types", None)])
def test_the_projects_own_groups_are_never_learned_from_and_reported_on(monkeypatch, task, least):
    for module in (pool, episodes):  # they leave out more than this: the test stands without them, and is quick
        monkeypatch.setattr(module, "leave_out", lambda *_: (set(), set()))
    manifest, config = read_manifest(LABELS), FewShotConfig(task=task)
    rows = {split: task_rows(manifest, config, split) for split in ("train", "val", "test")}
    check_disjoint(rows)
    held_out = {row.group for row in manifest.rows if row.split != "train"}
    assert not {row.group for row in rows["train"]} & held_out
    assert not {row.icon for row in rows["train"] if not row.label} & {
        row.icon for row in manifest.rows if row.group in held_out
    }
    assert {row.split for row in rows["test"]} == {"test"}
    assert {row.split for row in rows["val"]} == {"val"}
    if task == "brands":
        for split, count in least.items():
            assert len(BrandTasks(rows[split], config).members) >= count
    else:
        assert {row.package for row in rows["test"]} == {config.held_out_package}
        assert config.held_out_package not in {row.package for row in rows["train"] + rows["val"]}
        assert {TypeTasks(rows[split], config).ways for split in rows} == {4}


def test_a_group_in_two_splits_is_refused():
    with pytest.raises(DatasetError, match="groups that stand in train and in test: brand-0"):
        check_disjoint({"train": brand_rows(1), "val": [], "test": brand_rows(1)})


@pytest.mark.parametrize("task", ["brands", "types"])
def test_episodes_have_fixed_shapes_and_come_again(manifest_path, task):
    config = replace(CONFIG, task=task)
    manifest = read_manifest(manifest_path)
    dataset = EpisodeDataset(manifest, task_rows(manifest, config, "train"), config)
    ways, views = (3, PARTS) if task == "brands" else (2, 1)
    support, queries = dataset[4]
    assert support.shape == (ways, 2, 32, 32, 3)
    assert queries.shape == (ways, views, 32, 32, 3)
    assert support.dtype == queries.dtype == torch.uint8
    again, other = dataset[4], dataset[5]
    assert torch.equal(again[0], support)
    assert torch.equal(again[1], queries)
    assert not torch.equal(other[0], support)


def test_the_objective_is_the_cross_entropy_of_queries_in_the_order_of_classes():
    logits = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    loss = few_shot_objective(2)(lambda *_: logits, None, None)["cross_entropy"]
    by_hand = [-float(logits[task, row].log_softmax(0)[row // 2]) for task in range(2) for row in range(6)]
    assert float(loss) == pytest.approx(sum(by_hand) / 12, rel=1e-6)


def learn(
    path: Path, folder: Path, config: FewShotConfig = CONFIG, stop_after: int | None = None, start: Path | None = None
):
    def report(item):
        if item["kind"] == "epoch" and item["epoch"] == stop_after:
            raise Interrupted

    return train_few_shot(path, config, folder, device=CPU, report=report, start=start)


def test_an_interrupted_run_resumes_to_the_same_weights(manifest_path, tmp_path):
    first = learn(manifest_path, tmp_path / "begin")
    assert [epoch["epoch"] for epoch in first["history"]] == [1, 2, 3]
    config = replace(CONFIG, method="maml", fit=replace(CONFIG.fit, epochs=2, frozen_blocks=1))
    whole = learn(manifest_path, tmp_path / "whole", config, start=tmp_path / "begin")
    with pytest.raises(Interrupted):
        learn(manifest_path, tmp_path / "parts", config, stop_after=1, start=tmp_path / "begin")
    resumed = learn(manifest_path, tmp_path / "parts", config, start=tmp_path / "begin")
    assert resumed["sha256"] == whole["sha256"] != first["sha256"]
    network, _ = read_few_shot(tmp_path / "parts")
    before, _ = read_few_shot(tmp_path / "begin")
    assert network.rates.abs().sum() > 0, "rates are learned"
    kept = before.rest.backbone.state_dict()["blocks.0.0.conv.weight"]
    assert torch.equal(network.trunk.state_dict()["blocks.0.0.conv.weight"], kept), "frozen blocks stay as they were"
    assert learn(manifest_path, tmp_path / "parts", config, start=tmp_path / "begin") == resumed, (
        "nothing is left to do"
    )
    with pytest.raises(RunError, match="other settings or data"):
        learn(manifest_path, tmp_path / "parts", replace(config, seed=1), start=tmp_path / "begin")


def test_prototypes_learn_brands_that_they_are_then_asked_for(manifest_path, tmp_path):
    config = replace(CONFIG, episodes=24, fit=replace(CONFIG.fit, epochs=4, batch_size=4, learning_rate=3e-3))
    record = learn(manifest_path, tmp_path / "run", config)
    assert record["history"][-1]["cross_entropy"] < 0.8 * record["history"][0]["cross_entropy"]
    figures = evaluate_few_shot(manifest_path, tmp_path / "run", split="test", episodes=60, device=CPU)
    assert (figures["ways"], figures["shots"], figures["classes"], figures["drawings"]) == (3, 2, 4, 8)
    assert figures["accuracy"]["low"] <= figures["accuracy"]["value"] <= figures["accuracy"]["high"]
    assert figures["accuracy"]["value"] > 0.5, "chance is a third"
    again = evaluate_few_shot(manifest_path, tmp_path / "run", split="test", episodes=60, device=CPU)
    assert again["accuracy"] == figures["accuracy"]
    write_manifest(manifest_path, read_manifest(manifest_path).rows[2:])
    with pytest.raises(
        RunError, match=r"is not the manifest that .*run was made of: rows 2 removed: one/icon-0, two/icon-0"
    ):
        evaluate_few_shot(manifest_path, tmp_path / "run", split="test", episodes=60, device=CPU)


def test_ridge_keeps_the_penalty_that_is_best_on_val(manifest_path, tmp_path):
    learn(manifest_path, tmp_path / "begin", replace(CONFIG, fit=replace(CONFIG.fit, epochs=1)))
    record = learn(manifest_path, tmp_path / "ridge", replace(CONFIG, method="ridge"), start=tmp_path / "begin")
    assert list(record["penalties"]) == ["1.0", "0.1", "0.01", "10.0"]
    network, _ = read_few_shot(tmp_path / "ridge")
    assert float(network.penalty) == pytest.approx(float(max(record["penalties"], key=record["penalties"].get)))
    assert record["seconds"] == 0


def test_types_do_not_begin_at_what_has_learned_the_held_out_package(manifest_path, tmp_path):
    learn(manifest_path, tmp_path / "brands", replace(CONFIG, fit=replace(CONFIG.fit, epochs=1)))
    with pytest.raises(RunError, match="has learned brands, from two too"):
        learn(manifest_path, tmp_path / "types", replace(CONFIG, task="types", shots=1), start=tmp_path / "brands")


def test_images_are_sorted_by_their_likeness_to_the_support(manifest_path, tmp_path):
    learn(manifest_path, tmp_path / "run", replace(CONFIG, fit=replace(CONFIG.fit, epochs=1)))
    network, _ = read_few_shot(tmp_path / "run")
    manifest = read_manifest(manifest_path)
    images = [Image.open(manifest.image_path(manifest.rows[index])) for index in (0, 2, 4)]
    support = {"first": [images[0]], "second": [images[1], images[1].rotate(90)], "third": [images[2]]}
    answers = classify_images(network, support, images, CPU)
    assert [next(iter(answer)) for answer in answers] == ["first", "second", "third"]
    assert all(list(answer.values()) == sorted(answer.values(), reverse=True) for answer in answers)
    with pytest.raises(DatasetError, match=r"first \(1\); expected two or more"):
        classify_images(network, {"first": [images[0]]}, images, CPU)


def test_the_command_trains_evaluates_and_classifies(manifest_path, tmp_path):
    run = CliRunner().invoke
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        f'[few_shot]\nnetwork = "{MODEL}@32"\nways = 3\nshots = 2\nqueries = 1\nepisodes = 2\nval_episodes = 4\n'
        "fit = { epochs = 1, batch_size = 2 }\n",
        encoding="utf-8",
    )
    folder = tmp_path / "run"
    arguments = ["--data", str(manifest_path), "--device", "cpu"]
    done = run(command, ["train", "--recipe", str(recipe), "--out", str(folder), *arguments])
    assert done.exit_code == 0, done.output
    assert f"Next: logo-edge few-shot evaluate {folder}" in done.output
    done = run(command, ["evaluate", str(folder), "--episodes", "20", "--json", *arguments])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["episodes"] == 20
    for name, colour in (("red", (220, 0, 0)), ("blue", (0, 0, 220))):
        (tmp_path / "brands" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), colour).save(tmp_path / "brands" / name / "a.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    asked = [str(tmp_path / "brands" / "blue" / "a.png"), str(tmp_path / "broken.png")]
    done = run(
        command, ["classify", str(tmp_path / "brands"), *asked, "--run", str(folder), "--device", "cpu", "--json"]
    )
    assert done.exit_code == 1, "a bad image spoils its own result"
    good, bad = json.loads(done.stdout)
    assert (good["label"], good["runner_up"]) == ("blue", "red")
    assert good["margin"] > 0
    assert "broken.png" in bad["error"]


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"network": "lite0"}, "few_shot.network is 'lite0'; expected name@size_px"),
        ({"method": "knn"}, "few_shot.method is 'knn'; expected maml, prototypes, ridge"),
        ({"ways": 1}, "few_shot.ways is 1; expected at least 2"),
        ({"inner_steps": 0}, "few_shot.inner_steps is 0; expected at least 1"),
        ({"penalties": [0.0]}, "few_shot.penalties has 0.0; expected more than 0"),
        ({"episodes": 2}, "few_shot.fit.batch_size is 4; expected at most few_shot.episodes, 2"),
        ({"fit": {"compile": True}}, "unknown field few_shot.fit.compile; few_shot.fit has accumulate"),
    ],
)
def test_a_wrong_setting_is_refused_by_the_name_of_the_key(table, named):
    with pytest.raises(RecipeError) as caught:
        recipe_from_dict({"few_shot": table})
    assert named in str(caught.value)


def test_files_of_any_name_are_sorted_and_printed_and_damaged_ones_reported(hostile_tree, monkeypatch, capsys):
    monkeypatch.setattr(
        classify, "classify_images", lambda network, support, images, device: [{"ok": 1.0, "a|b": 0.0} for _ in images]
    )
    paths = [Path(path) for path in find_images([str(hostile_tree.root)])]
    records = classify_files(None, hostile_tree.root, paths, CPU)
    failed = {os.path.relpath(record["path"], hostile_tree.root) for record in records if "error" in record}
    assert failed == hostile_tree.damaged
    assert len(records) == len(hostile_tree.images)
    print_result(records, True, print_sorted)
    assert json.loads(capsys.readouterr().out.encode("utf-8")) == records
    print_sorted(records)
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert len(printed.out.splitlines()) + len(printed.err.splitlines()) == len(records)
