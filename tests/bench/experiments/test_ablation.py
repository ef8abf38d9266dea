"""The ablation: its variants, folds and intervals, how it resumes, and its budget."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from logo_edge_bench.experiments import ablation
from logo_edge_train.data.manifest import FILES, LogoRow, read_manifest, write_manifest
from logo_edge_train.fit_config import FitConfig, SamConfig
from logo_edge_train.recipe_io import load_recipe

TINY = {
    "network": "test_resnet@32",
    "epochs": 4,
    "folds": 2,
    "workers": 1,
    "set": ("train.pretrained=false", "train.fit.batch_size=8", "train.fit.frozen_blocks=-1"),
}


@pytest.fixture
def manifest(tmp_path) -> Path:
    """Two classes by colour; two logos of each brand."""
    random, rows = np.random.default_rng(0), []
    for label, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
        for index, split in enumerate(["train"] * 16 + ["val"] * 8 + ["calib"] * 4 + ["test"] * 4):
            shade = np.kron(random.choice([0.1, 1.0], (5, 5, 1)), np.ones((8, 8, 1)))  # no two look alike
            name = f"{label}-{index}.png"
            Image.fromarray((np.array(colour) * shade).astype(np.uint8)).save(tmp_path / name)
            rows.append(LogoRow(FILES, "", name, f"{label}-{index // 2}", label, (label,), True, split))
    write_manifest(tmp_path / "manifest.csv", rows)
    return tmp_path / "manifest.csv"


def test_each_technique_is_added_and_removed_once():
    variants = ablation.VARIANTS
    recipes = {
        name: load_recipe("cpu", ("train.fit.epochs=8", *variant.overrides)).train for name, variant in variants.items()
    }
    assert len(variants) == 2 + 2 * len(ablation.SWITCHES) + len(ablation.ALTERNATIVES)
    assert len({repr(recipe) for recipe in recipes.values()}) == len(variants), "no two are the same"
    for name in ablation.SWITCHES:
        assert variants[f"plain + {name}"].baseline == "plain"
        assert variants[f"full - {name}"].baseline == "full"
    assert recipes["full - SAM"].fit.sam.kind == "off"
    assert recipes["full - SAM"].fit.phases == recipes["full"].fit.phases


def test_folds_hold_every_logo_of_train_and_val_out_once_and_split_no_group(manifest, tmp_path):
    folds = [read_manifest(path) for path in ablation.write_folds(manifest, tmp_path / "work", 3)]
    held_out = [row.icon for fold in folds for row in fold.split("val")]
    assert len(held_out) == len(set(held_out)) == 48
    for fold in folds:
        assert not {row.group for row in fold.split("val")} & {row.group for row in fold.split("train")}
        assert {row.label for row in fold.split("val")} == {"red", "blue"}
        assert not fold.split("test")


def test_an_interval_is_that_of_students_t():
    interval = ablation.paired_interval([0.01, 0.02, 0.03])
    assert interval["mean"] == pytest.approx(0.02)
    assert interval["high"] - interval["mean"] == pytest.approx(4.302653 * 0.01 / 3**0.5, rel=1e-5)
    assert ablation.paired_interval([0.01]) == {"mean": 0.01, "low": None, "high": None}


def test_sharpness_aware_epochs_count_twice():
    assert ablation.passes(FitConfig(epochs=8)) == 1
    assert ablation.passes(FitConfig(epochs=8, warmup_epochs=2.0, sam=SamConfig("sam"))) == 1.75


def test_a_measured_fold_is_not_fitted_again_and_no_fit_begins_beyond_the_budget(
    manifest, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "ablation.json"
    common = {"manifest": manifest, "work": tmp_path / "work", "out": out, **TINY}
    ablation.measure(variants=["plain"], hours=0, **common)
    assert "2 fits to do" in capsys.readouterr().out
    assert not out.exists()
    ablation.measure(variants=["plain"], **common)
    first = json.loads(out.read_text())["entries"]
    assert [(fit["variant"], fit["fold"]) for fit in first] == [("plain", 1), ("plain", 2)]
    fitted, fit_member = [], ablation.fit_member
    monkeypatch.setattr(ablation, "fit_member", lambda *job: (fitted.append(job[1].fit.sam.kind), fit_member(*job)))
    ablation.measure(variants=["plain", "plain + SAM"], **common)
    assert fitted == ["sam", "sam"]
    record = json.loads(out.read_text())
    assert record["entries"][:2] == first
    plain, sam = record["summary"]
    assert (plain["folds"], plain["difference"], sam["baseline"]) == (2, {}, "plain")
    fits = {(fit["variant"], fit["fold"]): fit for fit in record["entries"]}
    differences = [fits["plain + SAM", fold]["nll"] - fits["plain", fold]["nll"] for fold in (1, 2)]
    assert sam["difference"]["nll"]["mean"] == pytest.approx(sum(differences) / 2)
    assert sam["difference"]["nll"]["low"] < sam["difference"]["nll"]["mean"]
    capsys.readouterr()
    ablation.measure(variants=["plain", "plain + SAM"], **common)
    assert "0 fits to do, 4 done" in capsys.readouterr().out
    assert len(fitted) == 2
