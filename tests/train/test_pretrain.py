"""Pretraining: NT-Xent by hand, views that keep their aspect, adaptive difficulty, the members' first weights."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from interrupted import Interrupted
from PIL import Image, ImageDraw
from torch import nn

from logo_edge.errors import DatasetError, RecipeError, RunError
from logo_edge.preprocess import InputContract
from logo_edge_train import distributed, train
from logo_edge_train.architecture import Architecture
from logo_edge_train.checkpoints import load_network
from logo_edge_train.data.augment import lay_on_background
from logo_edge_train.data.manifest import FILES, LogoRow, read_manifest, write_manifest
from logo_edge_train.data.pool import pool_rows
from logo_edge_train.fit_config import PretrainFit, SamConfig
from logo_edge_train.models import LogoNetwork
from logo_edge_train.optim import SharpnessAware
from logo_edge_train.pretrain.probe import linear_probe, neighbour_probe
from logo_edge_train.pretrain.simclr import (
    AspectHead,
    AspectNetwork,
    Difficulty,
    Pairs,
    contrastive_objective,
    encoder_path,
    nt_xent,
    pretrain,
    start_from,
)
from logo_edge_train.pretrain.views import NEIGHBOUR_PX, AspectViews, InkDataset, Pair, find_neighbours
from logo_edge_train.progress import describe_epoch
from logo_edge_train.recipe import ASPECTS, AspectConfig, PretrainConfig
from logo_edge_train.recipe_io import recipe_from_dict
from logo_edge_train.train import train_ensemble

LITE = "tf_efficientnet_lite0@32"
CPU = torch.device("cpu")
MODEL = "test_resnet"  # timm's tiny one
NETWORK = f"{MODEL}@32"
CONFIG = PretrainConfig(
    hidden=32,
    projection=16,
    strength_step=0.02,
    uncertainty=True,
    **dict.fromkeys(ASPECTS, AspectConfig(strength=0.5)),
    fit=PretrainFit(epochs=6, batch_size=16, learning_rate=5e-3),
)
SIZE_PX = 96


def draw_logos(folder: Path, *, swap_labels: bool = False) -> Path:
    """A manifest of discs and bars of all colours: 16 of each in train, 4 in each held-out split, 8 without label."""
    random, rows = np.random.default_rng(3), []  # no two of them look alike
    splits = ["train"] * 16 + ["val"] * 4 + ["calib"] * 4 + ["test"] * 4 + ["train"] * 4
    for kind in ("disc", "bars"):
        for index, split in enumerate(splits):
            image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
            pen, colour = ImageDraw.Draw(image), (*random.integers(0, 200, 3).tolist(), 255)
            if kind == "disc":
                left, top, size = random.integers((4, 4, 24), (20, 20, 40))
                pen.ellipse((left, top, left + size, top + size), fill=colour)
            else:
                for left in range(int(random.integers(2, 8)), 60, int(random.integers(8, 20))):
                    pen.rectangle((left, 6, left + 4, 58), fill=colour)
            name = f"{kind}-{index}.png"
            image.save(folder / name)
            label = "" if index >= 28 else kind if not swap_labels or split != "train" else ("disc", "bars")[index % 2]
            rows.append(LogoRow(FILES, "", name, name, label, (label,) if label else (), True, split))
    write_manifest(folder / "manifest.csv", rows)
    return folder / "manifest.csv"


@pytest.fixture
def manifest_path(tmp_path) -> Path:
    return draw_logos(tmp_path)


def pool_of(path: Path) -> list[LogoRow]:
    return pool_rows(read_manifest(path), use_unlabelled=True, max_images=0)


def pretrain_logos(path: Path, folder: Path, *, config: PretrainConfig = CONFIG, stop_after: int | None = None) -> dict:
    def report(item):
        if item["kind"] == "epoch" and item["epoch"] == stop_after:
            raise Interrupted

    pretrain(path, config, NETWORK, False, pool_of(path), folder, "cpu", "", report)
    return json.loads(encoder_path(folder, NETWORK).with_suffix(".json").read_text())


def unit_rows(count: int, width: int, seed: int) -> torch.Tensor:
    rows = torch.from_numpy(np.random.default_rng(seed).normal(size=(count, width)))
    return rows / rows.norm(dim=1, keepdim=True)


def test_nt_xent_is_the_equation_of_the_paper():
    first, second, temperature = unit_rows(5, 8, 0), unit_rows(5, 8, 1), 0.3
    views, losses, hits = torch.cat([first, second]).numpy(), [], []
    for index in range(10):
        partner = (index + 5) % 10
        others = [k for k in range(10) if k != index]
        similar = {k: math.exp(float(views[index] @ views[k]) / temperature) for k in others}
        losses.append(-math.log(similar[partner] / sum(similar.values())))
        hits.append(max(similar, key=similar.get) == partner)
    pairs, share = nt_xent(first, second, temperature)
    assert pairs.tolist() == pytest.approx([(losses[k] + losses[k + 5]) / 2 for k in range(5)], rel=1e-9)
    assert float(share) == pytest.approx(sum(hits) / 10)


def test_the_ranks_have_each_others_views_as_negatives(monkeypatch):
    first, second = unit_rows(6, 8, 2), unit_rows(6, 8, 3)
    whole, _ = nt_xent(first, second, 0.2)
    parts = []
    for rank in range(2):
        mine = [half[3 * rank : 3 * rank + 3] for half in (first, second)]
        everyone = {part.data_ptr(): half for part, half in zip(mine, (first, second), strict=True)}
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "gather", lambda part, everyone=everyone: everyone[part.data_ptr()])
        parts.append(nt_xent(*mine, 0.2)[0])
    assert torch.allclose(torch.cat(parts), whole)


def test_one_pair_alone_has_nothing_to_be_told_from():
    with pytest.raises(RunError, match=r"Raise pretrain\.fit\.batch_size"):
        nt_xent(unit_rows(1, 8, 0), unit_rows(1, 8, 1), 0.1)


def test_an_unreliable_pair_counts_less_at_the_price_of_half_its_log_variance():
    first, second = unit_rows(4, 8, 4), unit_rows(4, 8, 5)
    doubts = torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    pairs = Pairs(first, second, doubts, torch.tensor(0.2))
    losses = contrastive_objective(Difficulty(CONFIG, []))(lambda *_: dict.fromkeys(ASPECTS, pairs), None, None, None)
    plain, _ = nt_xent(first, second, 0.2)
    by_hand = [math.exp(-s) * float(loss) + s / 2 for s, loss in zip(doubts.tolist(), plain, strict=True)]
    assert list(losses) == list(ASPECTS)
    assert losses["colour"].item() == pytest.approx(sum(by_hand) / 4)
    losses["colour"].backward()
    assert doubts.grad.tolist() == pytest.approx(
        [(0.5 - math.exp(-s) * float(loss)) / 4 for s, loss in zip(doubts.tolist(), plain, strict=True)]
    )


def test_a_head_learns_which_pairs_are_unreliable():
    torch.manual_seed(0)
    head = AspectHead(17, 0.2, CONFIG)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    objective = contrastive_objective(Difficulty(CONFIG, []))

    def draw_pairs():
        """Half of the pairs are of one thing; the others, whose last feature says so, of two different ones."""
        first, flag = torch.randn(32, 16), torch.arange(32)[:, None] % 2
        second = torch.where(flag == 1, torch.randn(32, 16), first + 0.1 * torch.randn(32, 16))
        (one, doubt), (other, other_doubt) = (head(torch.cat([half, flag], 1)) for half in (first, second))
        return Pairs(one, other, (doubt + other_doubt) / 2, head.temperature())

    before = draw_pairs().log_variance
    assert before.max().item() < 0.1, "at first all pairs count nearly in full"
    for _ in range(100):
        pairs = draw_pairs()
        loss = objective(lambda *_, pairs=pairs: dict.fromkeys(ASPECTS, pairs), None, None, None)["text"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = draw_pairs().log_variance
    assert after[1::2].mean().item() > 2 * after[::2].mean().item()


def test_temperatures_are_learned_or_stay_as_the_recipe_says():
    learned = AspectNetwork(LogoNetwork(MODEL, 2), 32, replace(CONFIG, colour=AspectConfig(temperature=0.4)))
    assert float(learned.heads["colour"].temperature()) == pytest.approx(0.4)
    assert float(learned.heads["text"].temperature()) == pytest.approx(0.15)
    assert learned.heads["colour"].log_temperature.requires_grad
    fixed = AspectNetwork(LogoNetwork(MODEL, 2), 32, replace(CONFIG, learn_temperature=False, uncertainty=False))
    assert not fixed.heads["colour"].log_temperature.requires_grad
    assert fixed.heads["colour"](torch.randn(3, fixed.heads["colour"].body[0].in_features))[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "mobilenetv4_conv_small_050", "tf_efficientnet_lite0"])
def test_any_backbone_of_timm_can_be_pretrained(model):
    size_px = 160 if model == "test_vit" else 64  # the size that its tokens stand for
    network = AspectNetwork(LogoNetwork(model, 4), size_px, CONFIG)
    views = torch.randint(0, 256, (8, size_px, size_px, 3), dtype=torch.uint8)
    pairs = network(views, views.flip(0), torch.arange(8) % 4)
    assert {aspect: tuple(pair.first.shape) for aspect, pair in pairs.items()} == dict.fromkeys(ASPECTS, (2, 16))
    sum(nt_xent(pair.first, pair.second, pair.temperature)[0].sum() for pair in pairs.values()).backward()
    learned = [name for name, value in network.named_parameters() if value.requires_grad]
    assert [name for name, value in network.named_parameters() if value.requires_grad and value.grad is None] == [
        f"heads.{aspect}.doubt.{kind}" for aspect in ASPECTS for kind in ("weight", "bias")
    ], "of all that is learned, only the doubts are not in the plain losses"
    assert len(learned) > 20
    classifier = {id(value) for value in network.encoder.backbone.get_classifier().parameters()}
    fixed = {id(value) for value in network.encoder.parameters() if not value.requires_grad}
    assert fixed == classifier


def ink_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGBa"))


def badge() -> np.ndarray:
    """A red half-disc on a blue bar, with empty corners; (96, 96, 4) premultiplied."""
    image = Image.new("RGBA", (SIZE_PX, SIZE_PX), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((14, 48, 82, 80), fill=(40, 60, 200, 255))
    ImageDraw.Draw(image).pieslice((24, 10, 72, 86), 180, 360, fill=(200, 40, 40, 255))
    return ink_of(image)


def stripes() -> np.ndarray:
    """Upright red strokes of 4 px, 8 px apart."""
    image = Image.new("RGBA", (SIZE_PX, SIZE_PX), (0, 0, 0, 0))
    for left in range(0, SIZE_PX, 12):
        ImageDraw.Draw(image).rectangle((left, 24, left + 3, 71), fill=(200, 40, 40, 255))
    return ink_of(image)


def draw_views(aspect: str, ink: np.ndarray, strength: float, count: int = 30) -> np.ndarray:
    views = AspectViews(InputContract(SIZE_PX), torch.full((4,), strength))
    return np.stack([views.draw(aspect, ink, seed) for seed in range(count)]).astype(int)  # (N, S, S, 3)


def plain(ink: np.ndarray) -> np.ndarray:
    return lay_on_background(ink, InputContract(SIZE_PX), np.random.default_rng(0), 0.0).astype(int)


def mask_of(view: np.ndarray) -> np.ndarray:
    """Where the view is unlike its upper left corner."""
    return np.abs(view - view[0, 0]).sum(-1) > 30


def overlap(view: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of the two masks."""
    return float((mask_of(view) & mask_of(other)).sum() / (mask_of(view) | mask_of(other)).sum())


def test_the_same_seed_gives_the_same_view_and_another_another():
    for aspect in ASPECTS:
        views, again = draw_views(aspect, badge(), 0.5, 10), draw_views(aspect, badge(), 0.5, 10)
        assert np.array_equal(views, again)
        assert len({view.tobytes() for view in views}) == 10


@pytest.mark.parametrize("aspect", ASPECTS)
def test_at_strength_0_a_view_is_the_logo_itself(aspect):
    assert np.abs(draw_views(aspect, badge(), 0.0, 5) - plain(badge())).mean() < 3


def test_geometric_views_keep_the_ink_where_it_is_and_change_its_colours():
    views, logo = draw_views("geometric", badge(), 1.0), plain(badge())
    assert np.median([overlap(view, logo) for view in views]) > 0.8
    assert np.median(np.abs(views[:, 60, 48] - logo[60, 48]).sum(1)) > 100


def test_colour_views_keep_the_colours_and_move_the_ink():
    views, logo = draw_views("colour", badge(), 1.0), plain(badge())
    palette = np.array([(255, 255, 255), (200, 40, 40), (40, 60, 200)])
    distances = np.abs(views[:, :, :, None] - palette).sum(-1)  # (N, S, S, 3)
    assert (distances.min(-1) <= 6).mean() > 0.85, "the rest are mixtures along edges"
    shares = (distances <= 6).mean((1, 2))  # (N, 3)
    assert shares[:, 1:].min() > 0.02, "no colour is lost"
    assert np.median([overlap(view, logo) for view in views]) < 0.6


def test_text_views_keep_strokes_and_lose_their_colour_and_place():
    views, logo = draw_views("text", stripes(), 0.5), plain(stripes())

    def grey(view):
        return view.mean(-1)

    across = [np.abs(np.diff(grey(view), axis=1)).sum() for view in views]
    down = [np.abs(np.diff(grey(view), axis=0)).sum() for view in views]
    assert np.min(np.array(across) / np.maximum(down, 1)) > 2, "the strokes stay upright"
    rhythm = [count_strokes(view) for view in views]
    assert count_strokes(logo) == 8
    assert min(rhythm) >= 7
    assert max(rhythm) <= 11
    assert np.mean([(np.abs(view - (200, 40, 40)).sum(-1) <= 30).any() for view in views]) < 0.2, "no red is left"
    assert np.median([overlap(view, logo) for view in views]) < 0.6


def count_strokes(view: np.ndarray) -> int:
    """Strokes that the middle of the logo's rows crosses, at most."""
    return max(int((np.diff(row.astype(int)) == 1).sum()) + int(row[0]) for row in mask_of_ground(view))


def mask_of_ground(view: np.ndarray) -> np.ndarray:
    """Where the view is unlike its commonest colour."""
    colours, counts = np.unique(view.reshape(-1, 3), axis=0, return_counts=True)
    return np.abs(view - colours[counts.argmax()]).sum(-1) > 60


def test_shape_views_keep_the_contour_and_blur_what_is_inside():
    views, logo = draw_views("shape", badge(), 0.4), plain(badge())
    assert np.median([overlap(view, logo) for view in views]) > 0.6

    def inner_contrast(view):
        return np.abs(view[28, 48] - view[68, 48]).sum()  # the half-disc against the bar

    assert np.median([inner_contrast(view) for view in views]) < 0.7 * inner_contrast(logo)


def test_a_batch_holds_as_many_logos_of_each_aspect_in_every_part_of_it():
    views = AspectViews(InputContract(SIZE_PX), torch.full((4,), 0.5))
    first, second, aspects = views.collate([Pair(badge(), (badge(),) * 4, seed) for seed in range(16)])
    assert first.shape == second.shape == (16, SIZE_PX, SIZE_PX, 3)
    assert first.dtype == torch.uint8
    assert aspects.tolist() == [0, 1, 2, 3] * 4
    assert not torch.equal(first, second)


def test_the_second_view_is_of_the_partner_in_the_aspect():
    views = AspectViews(InputContract(SIZE_PX), torch.zeros(4))
    blank = np.zeros_like(badge())
    pair = Pair(badge(), (badge(), stripes(), badge(), blank), 0)
    first, second, _ = views.collate([pair] * 4)
    for index, partner in enumerate(pair.partners):
        assert np.abs(first[index].numpy().astype(int) - plain(badge())).mean() < 3
        assert np.abs(second[index].numpy().astype(int) - plain(partner)).mean() < 3


def test_neighbours_are_those_of_the_aspect():
    flat, fading = (np.full((2, NEIGHBOUR_PX, NEIGHBOUR_PX, 3), 255, np.uint8) for _ in range(2))
    ramp = np.linspace(40, 200, 48).astype(np.uint8)
    for index, half in enumerate((slice(0, 48), slice(48, 96))):  # each colouring once left and once right
        flat[index, 24:72, half] = (200, 40, 40)
        fading[index, 24:72, half] = ramp[None, :, None]
    near = find_neighbours(np.concatenate([flat, fading]), 1)  # flat left, flat right, fading left, fading right
    assert near.shape == (4, 4, 1)
    assert near[ASPECTS.index("colour"), :, 0].tolist() == [1, 0, 3, 2]
    assert near[ASPECTS.index("geometric"), :, 0].tolist() == [2, 3, 0, 1]


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (2, 2), (9, 3)])
def test_there_are_at_most_as_many_neighbours_as_other_logos(count, expected):
    pixels = np.random.default_rng(0).integers(0, 256, (4, NEIGHBOUR_PX, NEIGHBOUR_PX, 3), dtype=np.uint8)
    near = find_neighbours(pixels, count)
    assert near.shape == (4, 4, expected)
    assert all(index not in near[:, index] for index in range(4)), "no logo is a neighbour of itself"


def test_partners_are_the_neighbours_and_the_logo_itself_the_same_for_the_same_seed(manifest_path):
    manifest, rows = read_manifest(manifest_path), pool_of(manifest_path)
    near = np.stack([np.arange(len(rows))[:, None] * 0 + aspect for aspect in range(4)])  # logo 0 for geometric, ...
    dataset, again, other = (InkDataset(manifest, rows, size_px=32, seed=seed, neighbours=near) for seed in (5, 5, 6))
    seen = set()
    for epoch in range(20):
        pair = dataset[epoch * len(rows) + 9]
        for aspect, partner in enumerate(pair.partners):
            which = next(index for index in (9, aspect) if partner is dataset.inks[index])
            seen.add((aspect, which))
    assert seen == {(aspect, which) for aspect in range(4) for which in (9, aspect)}
    position = 3 * len(rows) + 9
    assert dataset[position].seed == again[position].seed != other[position].seed
    assert all(np.array_equal(*both) for both in zip(dataset[position].partners, again[position].partners, strict=True))


def test_difficulty_rises_where_partners_are_found_and_falls_where_not():
    difficulty = Difficulty(replace(CONFIG, strength_step=0.1, target_accuracy=0.8), [])
    shares = torch.tensor([0.9, 0.5, 1.0, 0.8], dtype=torch.float64)
    for _ in range(2):
        difficulty.adapt(shares)
    assert difficulty.strengths.tolist() == pytest.approx([0.7, 0.3, 0.7, 0.5])
    for _ in range(20):
        difficulty.adapt(shares)
    assert difficulty.strengths.tolist() == pytest.approx([1.0, 0.0, 1.0, 0.5])
    summary = difficulty.summary()
    assert summary["contrastive_accuracy"] == pytest.approx(dict(zip(ASPECTS, (0.9, 0.5, 1.0, 0.8), strict=True)))
    restored = Difficulty(CONFIG, [json.loads(json.dumps(summary))])
    assert torch.equal(restored.strengths, difficulty.strengths)
    still = Difficulty(replace(CONFIG, strength_step=0.0), [])
    still.adapt(torch.ones(4))
    assert still.strengths.tolist() == [0.5] * 4


def test_the_second_pass_of_a_sharpness_aware_step_moves_no_strength():
    difficulty, seen = Difficulty(CONFIG, []), []
    objective, rows = contrastive_objective(difficulty), nn.Parameter(unit_rows(8, 4, 0))
    pairs = Pairs(rows, rows.detach(), torch.zeros(8), torch.tensor(0.5))

    def add(hold: bool = False) -> dict[str, torch.Tensor]:
        losses = objective(lambda *_: dict.fromkeys(ASPECTS, pairs), None, None, None)
        sum(losses.values()).backward()
        seen.append(difficulty.strengths.tolist())
        return losses

    before = difficulty.strengths.tolist()
    network = nn.ParameterList([rows])
    SharpnessAware(network, SamConfig("sam"), []).add_gradients(torch.optim.SGD([rows], 0.1), add)
    assert len(seen) == 2
    assert seen[0] == seen[1] != before


def test_pretraining_learns_and_tells_its_history(manifest_path, tmp_path):
    record = pretrain_logos(manifest_path, tmp_path / "run", config=replace(CONFIG, neighbours=0))
    history = record["history"]
    totals = [sum(epoch[aspect] for aspect in ASPECTS) for epoch in history]
    assert len(history) == 6
    assert totals[-1] < 0.8 * totals[0]
    assert record["logos"] == 40
    for epoch in history:
        assert 0 <= epoch["accuracy"] <= 1
        for figures in (epoch["contrastive_accuracy"], epoch["strength"], epoch["temperature"]):
            assert tuple(figures) == ASPECTS
    assert history[-1]["strength"] != history[0]["strength"]
    assert not encoder_path(tmp_path / "run", NETWORK).with_suffix(".state").exists()
    line = describe_epoch({**history[0], "name": "pretraining", "losses": ASPECTS, "epochs": 6})
    assert "epoch 1/6" in line


def test_an_interrupted_pretraining_resumes_to_the_same_weights(manifest_path, tmp_path):
    whole = pretrain_logos(manifest_path, tmp_path / "whole")
    with pytest.raises(Interrupted):
        pretrain_logos(manifest_path, tmp_path / "parts", stop_after=3)
    resumed = pretrain_logos(manifest_path, tmp_path / "parts")
    assert resumed["sha256"] == whole["sha256"]
    for key in (*ASPECTS, "strength", "contrastive_accuracy", "temperature", "accuracy"):
        assert [epoch[key] for epoch in resumed["history"]] == [epoch[key] for epoch in whole["history"]], key


def test_no_label_is_learned_from(manifest_path, tmp_path):
    (tmp_path / "other").mkdir()
    shuffled = draw_logos(tmp_path / "other", swap_labels=True)
    assert [row.label for row in pool_of(shuffled)] != [row.label for row in pool_of(manifest_path)]
    config = replace(CONFIG, fit=replace(CONFIG.fit, epochs=1))
    one, other = (
        pretrain_logos(path, tmp_path / name, config=config) for path, name in ((manifest_path, "a"), (shuffled, "b"))
    )
    assert one["sha256"] == other["sha256"]


def test_the_pool_is_what_may_be_learned_from_and_no_look_alike_of_a_held_out_logo(manifest_path):
    manifest = read_manifest(manifest_path)
    pool = pool_of(manifest_path)
    assert {row.split for row in pool if row.label} == {"train"}
    assert len([row for row in pool if row.label]) == 32
    assert len([row for row in pool if not row.label]) == 8
    copied = [row for row in manifest.rows if row.split in ("val", "test")][:2]
    twins = [replace(row, icon=f"twin-{row.icon}", label="", votes=(), split="train") for row in copied]
    for row, twin in zip(copied, twins, strict=True):
        (manifest_path.parent / twin.icon).write_bytes((manifest_path.parent / row.icon).read_bytes())
    write_manifest(manifest_path, [*manifest.rows, *twins])
    assert read_manifest(manifest_path).unlabelled[-2:] == twins
    assert pool_of(manifest_path) == pool
    labelled_only = pool_rows(manifest, use_unlabelled=False, max_images=0)
    assert labelled_only == [row for row in pool if row.label]


def test_too_few_logos_are_refused(manifest_path, tmp_path):
    with pytest.raises(DatasetError, match="3 images to pretrain on; expected at least 8"):
        pretrain(manifest_path, CONFIG, NETWORK, False, pool_of(manifest_path)[:3], tmp_path, "cpu", "", lambda _: None)


def recipe_with(epochs: int):
    return recipe_from_dict(
        {
            "train": {"teachers": [NETWORK], "pretrained": False, "fit": {"epochs": 1, "batch_size": 8}},
            "pretrain": {"hidden": 32, "projection": 16, "fit": {"epochs": epochs, "batch_size": 16}},
        }
    )


def test_members_start_from_what_was_pretrained(manifest_path, tmp_path, monkeypatch):
    starts, fit = [], train.fit

    def watch(network, *arguments, **options):
        starts.append({key: value.clone() for key, value in network.state_dict().items()})
        return fit(network, *arguments, **options)

    monkeypatch.setattr(train, "fit", watch)
    reports: list[dict] = []
    train_ensemble(manifest_path, recipe_with(1), tmp_path / "run", device=CPU, report=reports.append)
    assert [item["stem"] for item in reports if item["kind"] == "start"] == ["pretrain-test_resnet-32", "member-0"]
    learned = load_network(encoder_path(tmp_path / "run", NETWORK), Architecture.parse(NETWORK), 2).state_dict()
    (start,) = starts
    classifier = {"backbone.head.fc.weight", "backbone.head.fc.bias", "backbone.fc.weight", "backbone.fc.bias"} & set(
        start
    )
    assert len(classifier) == 2
    for key, value in start.items():
        expected = torch.zeros_like(value) if key in classifier else learned[key]
        assert torch.equal(value, expected), key
    train_ensemble(
        manifest_path, recipe_with(1), tmp_path / "run", device=CPU, report=lambda item: pytest.fail("trained twice")
    )


@pytest.mark.parametrize(
    ("pretrained", "from_imagenet", "expected"),
    [(True, False, [NETWORK]), (True, True, [LITE, NETWORK]), (False, False, [LITE, NETWORK])],
)
def test_what_imagenet_has_taught_is_left_as_it_is_unless_the_recipe_says_otherwise(
    pretrained, from_imagenet, expected
):
    recipe = recipe_from_dict(
        {
            "train": {"teachers": [LITE, NETWORK, NETWORK], "pretrained": pretrained},
            "pretrain": {"from_imagenet": from_imagenet, "fit": {"epochs": 1}},
        }
    )
    assert train.networks_to_pretrain(recipe) == expected


def test_a_changed_start_is_refused(manifest_path, tmp_path):
    pretrain_logos(manifest_path, tmp_path, config=replace(CONFIG, fit=replace(CONFIG.fit, epochs=1)))
    path = encoder_path(tmp_path, NETWORK)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match="not the file that test_resnet-32.json lists"):
        start_from(path, LogoNetwork(MODEL, 2))


def test_pretraining_is_off_by_default_and_then_leaves_no_trace(manifest_path, tmp_path):
    assert recipe_from_dict({}).pretrain.fit.epochs == 0
    manifest = read_manifest(manifest_path)
    epochs = [
        train.run_identity(recipe_with(epochs), manifest).settings.get("pretrain.fit.epochs") for epochs in (0, 2)
    ]
    assert epochs == [None, 2]
    run = train_ensemble(manifest_path, recipe_with(0), tmp_path / "run", device=CPU, report=lambda _: None)
    assert not (run.folder / "pretrain").exists()


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"epochs": 3}, "unknown field pretrain.epochs"),
        (
            {"colour": {"strenght": 1.0}},
            "unknown field pretrain.colour.strenght; pretrain.colour has strength, temperature",
        ),
        ({"colour": {"strength": 1.5}}, "pretrain.colour.strength is 1.5; expected 0 to 1"),
        ({"text": {"temperature": 0.0}}, "pretrain.text.temperature is 0.0; expected more than 0"),
        ({"fit": {"batch_size": 30}}, "pretrain.fit.batch_size is 30; expected a multiple of 4"),
        ({"fit": {"epochs": -1}}, "pretrain.fit.epochs is -1"),
        ({"uncertainty": 1}, "pretrain.uncertainty is 1; expected bool"),
    ],
)
def test_a_wrong_recipe_is_refused_by_the_name_of_the_key(table, named):
    with pytest.raises(RecipeError) as caught:
        recipe_from_dict({"pretrain": table})
    assert named in str(caught.value)


@pytest.mark.parametrize("probe", [linear_probe, neighbour_probe])
def test_probes_find_what_features_hold_and_nothing_where_they_hold_nothing(probe):
    random = np.random.default_rng(0)
    targets, groups = np.arange(120) % 3, [f"brand-{index // 2}" for index in range(120)]
    noise = random.normal(size=(120, 10))
    telling = np.concatenate([noise, 3 * np.eye(3)[targets] + random.normal(size=(120, 3))], axis=1)
    assert probe(telling[:80], targets[:80], groups[:80]).score(telling[80:], targets[80:]) > 0.8
    assert probe(noise[:80], targets[:80], groups[:80]).score(noise[80:], targets[80:]) < 0.6


def test_a_class_of_few_logos_makes_no_warning():
    random, targets = np.random.default_rng(0), np.array([0] * 20 + [1] * 20 + [2] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        neighbour_probe(random.normal(size=(42, 5)), targets, [f"{index}" for index in range(42)])
