"""The order of logos in an epoch: unchanged by default, balanced over classes, easy first, the same when resumed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from logo_edge.preprocess import InputContract
from logo_edge_train import distributed, fit, train
from logo_edge_train.data.dataset import LogoDataset
from logo_edge_train.data.manifest import FILES, LogoRow, Manifest, read_manifest, write_manifest
from logo_edge_train.data.sampling import CURRICULUM_START, EpochOrder, rank_difficulty, rank_shares
from logo_edge_train.organize import features as features_module
from logo_edge_train.organize.features import measure_file, measure_rows
from logo_edge_train.recipe import AugmentConfig
from logo_edge_train.recipe_io import recipe_from_dict

CLASSES = np.array([0] * 60 + [1] * 25 + [2] * 12 + [3] * 3)


def test_without_a_switch_the_order_is_the_shuffle_that_it_always_was():
    order = EpochOrder(100, 7)
    for epoch in (0, 3):
        assert order(epoch).tolist() == (epoch * 100 + np.random.default_rng((7, epoch)).permutation(100)).tolist()


@pytest.mark.parametrize("batch_size", [8, 10])
def test_balanced_batches_hold_all_classes_equally_in_each_rank_s_share_and_each_part(batch_size, monkeypatch):
    order = EpochOrder(100, 7, classes=CLASSES)
    checked = 0
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: 2)
        for batch in fit._BatchSampler(100, batch_size, range(3), order):
            counts = np.bincount(CLASSES[np.array(batch) % 100], minlength=4)
            assert len(batch) == batch_size // 2
            assert np.ptp(counts) <= (0 if batch_size == 8 else 1)
            checked += 1
    assert checked == 2 * 3 * (100 // batch_size)


def test_over_the_seeds_every_logo_of_a_class_is_seen_as_often():
    seen = sum(np.bincount(EpochOrder(100, seed, classes=CLASSES)(0) % 100, minlength=100) for seed in range(200)) / 200
    for label, count in enumerate(np.bincount(CLASSES)):
        assert seen[label == CLASSES] == pytest.approx(np.full(count, 25 / count), abs=0.15)


def test_a_logo_that_comes_again_within_an_epoch_comes_in_another_view(tmp_path):
    positions = EpochOrder(100, 7, classes=CLASSES)(2)
    assert len(set(positions.tolist())) == 100
    again = positions[positions % 100 == 99]
    assert len(again) >= 8
    rows = [LogoRow(FILES, "", "a.png", f"{i}", "a" if i < 99 else "b", (), True, "train") for i in range(100)]
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    views = LogoDataset(
        Manifest(tuple(rows), tmp_path), rows, ("a", "b"), contract=InputContract(32), augment=AugmentConfig()
    )
    assert len({views[int(position)][0].numpy().tobytes() for position in again}) == len(again)


def test_the_order_depends_on_seed_and_epoch_alone():
    one, other = (EpochOrder(100, 7, classes=CLASSES) for _ in range(2))
    first = [one(epoch) for epoch in range(3)]
    assert np.array_equal(other(2), first[2])
    assert not np.array_equal(first[1] % 100, first[2] % 100)
    assert not np.array_equal(EpochOrder(100, 8, classes=CLASSES)(2), first[2])


def test_a_curriculum_begins_with_the_easier_half_of_each_class_and_ends_with_all():
    difficulty = np.concatenate([rank_shares(np.arange(count)[::-1]) for count in np.bincount(CLASSES)])
    order = EpochOrder(100, 7, difficulty=difficulty, curriculum_epochs=4.0)
    for epoch, limit in enumerate((0.5, 0.625, 0.75, 0.875, 1.0, 1.0)):
        seen = order(epoch) % 100
        assert difficulty[seen].max() <= limit == order.limit(epoch)
        assert set(CLASSES[seen]) == {0, 1, 2, 3}
    assert sorted(seen.tolist()) == list(range(100))
    assert CURRICULUM_START == 0.5
    plain = EpochOrder(100, 7)
    assert np.array_equal(order(4), plain(4)), "afterwards it is the plain order"


def test_rank_shares_are_those_of_the_other_values_below():
    assert rank_shares(np.array([3.0, 1.0, 2.0])).tolist() == [1.0, 0.0, 0.5]
    assert rank_shares(np.array([1.0, 1.0, 1.0])).tolist() == [0.5] * 3
    assert rank_shares(np.array([5.0])).tolist() == [0.0]


@pytest.fixture
def logos(tmp_path) -> Manifest:
    """Plain discs, and discs with rings and spots of many colours, of two classes."""
    random, rows = np.random.default_rng(5), []
    for label in ("disc", "other"):
        for index, split in enumerate(["train"] * 8 + ["val"] * 2 + ["calib"] * 2 + ["test"] * 2):
            image = Image.new("RGBA", (96, 96), (0, 0, 0, 0))
            pen = ImageDraw.Draw(image)
            left, top = random.integers(2, 20, 2).tolist()
            pen.ellipse((left, top, left + 70, top + 70), fill=(*random.integers(0, 200, 3).tolist(), 255))
            for _ in range(0 if index % 2 == 0 else 12):
                x, y = random.integers(20, 70, 2).tolist()
                pen.ellipse((x, y, x + 9, y + 9), fill=(*random.integers(0, 255, 3).tolist(), 255))
            name = f"{label}-{index}.png"
            image.save(tmp_path / name)
            rows.append(LogoRow(FILES, "", name, name, label, (label,), True, split))
    write_manifest(tmp_path / "manifest.csv", rows)
    return read_manifest(tmp_path / "manifest.csv")


def test_intricate_logos_are_the_hard_ones_of_their_class(logos, tmp_path):
    rows = logos.split("train")
    measurements = measure_rows(logos, rows, tmp_path / "m.json")
    difficulty = rank_difficulty(measurements, np.array([row.label == "disc" for row in rows]))
    spotted = np.array([int(row.icon.split("-")[1].split(".")[0]) % 2 == 1 for row in rows])
    assert difficulty[spotted].min() > difficulty[~spotted].max()
    assert difficulty.min() == 0.0
    assert difficulty.max() == 1.0


def test_measurements_are_taken_once(logos, tmp_path, monkeypatch):
    rows, taken = logos.split("train"), []
    monkeypatch.setattr(features_module, "measure_file", lambda path: taken.append(path) or measure_file(path))
    first = measure_rows(logos, rows, tmp_path / "m.json")
    assert len(taken) == len(rows) == 16
    assert measure_rows(logos, rows[:5], tmp_path / "m.json") == first[:5]
    assert len(taken) == 16
    assert first[0] == measure_file(logos.image_path(rows[0]))


RECIPE = {
    "train": {
        "teachers": ["test_resnet@32", "test_resnet@32"],
        "pretrained": False,
        "fit": {
            "epochs": 2,
            "batch_size": 8,
            "focal_gamma": 2.0,
            "adaptive_focal": True,
            "balanced_batches": True,
            "class_weight_power": 0.0,
            "curriculum_epochs": 2.0,
            "confident_errors": 0.1,
        },
        "augment": {"adapt_intensity": 0.5, "p_mixup": 0.5, "mixup_pairs": ["disc+other"], "policy": ["tint 0.5 1.0"]},
    }
}


def test_a_recipe_with_every_switch_trains_its_teachers(logos, tmp_path, one_process):
    recipe = recipe_from_dict(RECIPE)
    run = train.train_ensemble(
        tmp_path / "manifest.csv", recipe, tmp_path / "run", device=torch.device("cpu"), report=lambda _: None
    )
    assert (tmp_path / "run" / train.MEASUREMENTS).exists()
    for member in run.record["members"]:
        for record in member["history"]:
            assert {"focal", "confident_errors", "intensity"} <= record.keys()
            assert record["running_recall"].keys() == {"disc", "other"}
    augment = replace(recipe.train.augment, kind="logo")  # which was proposed
    assert run.recipe == replace(recipe, train=replace(recipe.train, augment=augment))


def test_a_recipe_without_a_switch_leaves_no_trace_in_a_run(logos, tmp_path, one_process):
    plain = recipe_from_dict({"train": {**RECIPE["train"], "fit": {"epochs": 1, "batch_size": 8}, "augment": {}}})
    run = train.train_ensemble(
        tmp_path / "manifest.csv", plain, tmp_path / "run", device=torch.device("cpu"), report=lambda _: None
    )
    (record,) = run.record["members"][0]["history"]
    assert not {"intensity", "running_recall", "focal"} & record.keys()
    assert not (tmp_path / "run" / train.MEASUREMENTS).exists()
