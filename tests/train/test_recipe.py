"""Recipes: read whole, overridden by single fields, refused by the name of the key."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from logo_edge.errors import RecipeError
from logo_edge_train.recipe import BUILT_IN, QuantizeConfig, load_recipe, recipe_from_dict, recipe_to_toml


@pytest.mark.parametrize("name", sorted(path.stem for path in BUILT_IN.glob("*.toml")))
def test_every_built_in_recipe_is_read_and_survives_a_round_trip(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe_from_dict(asdict(recipe)) == recipe


@pytest.mark.parametrize("name", sorted(path.stem for path in BUILT_IN.glob("*.toml")))
def test_a_recipe_that_was_written_is_read_as_it_was(name, tmp_path):
    recipe = replace(load_recipe(name), description='"quoted" \\ and Zürich 🙂')
    (tmp_path / "mine.toml").write_text(recipe_to_toml(recipe), encoding="utf-8")
    assert load_recipe(str(tmp_path / "mine.toml")) == recipe


def test_a_recipe_for_each_need_is_there():
    assert {path.stem for path in BUILT_IN.glob("*.toml")} >= {"smoke", "cpu", "default", "full"}


def test_the_command_line_overrides_single_fields():
    recipe = load_recipe(
        "smoke", ("train.fit.epochs=7", "train.teachers=['a@64', 'b@96']", "distill.students=['c@96']")
    )
    assert recipe.train.fit.epochs == 7
    assert recipe.train.fit.batch_size == load_recipe("smoke").train.fit.batch_size
    assert recipe.train.teachers == ("a@64", "b@96")
    assert recipe.distill.students == ("c@96",)


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"trian": {}}, "unknown key trian"),
        ({"train": {"fit": {"epoch": 3}}}, "unknown key train.fit.epoch"),
        ({"train": {"fit": {"epochs": "three"}}}, "train.fit.epochs is 'three'; expected int"),
        ({"train": {"fit": {"epochs": 0}}}, "train.fit.epochs is 0"),
        ({"train": {"fit": {"accumulate": 0}}}, "train.fit.accumulate is 0; expected at least 1"),
        ({"distill": {"fit": {"batch_size": 4, "accumulate": 5}}}, "distill.fit.accumulate is 5; expected at most"),
        ({"train": {"fit": {"amp": "fp16"}}}, "train.fit.amp is 'fp16'; expected auto, bf16, off"),
        ({"train": {"fit": {"amp": True}}}, "train.fit.amp is True; expected auto, bf16, off"),
        ({"train": {"fit": {"compile": 1}}}, "train.fit.compile is 1; expected bool"),
        ({"train": {"fit": 3}}, "train.fit is 3; expected a table"),
        ({"train": {"fit": {"sam": {"kind": "yes"}}}}, "train.fit.sam.kind is 'yes'; expected off, sam, asam"),
        ({"train": {"fit": {"sam": {"rho": 0}}}}, "train.fit.sam.rho is 0.0; expected more than 0"),
        ({"distill": {"fit": {"sam": {"adapt": -1}}}}, "distill.fit.sam.adapt is -1.0; expected at least 0"),
        ({"train": {"fit": {"sam": {"stem_scale": -0.5}}}}, "train.fit.sam.stem_scale is -0.5; expected at least 0"),
        ({"train": {"fit": {"phases": {"restart_growth": 0.5}}}}, "phases.restart_growth is 0.5; expected at least 1"),
        (
            {"train": {"fit": {"phases": {"ranger_epochs": -1}}}},
            "train.fit.phases.ranger_epochs is -1; expected at least 0",
        ),
        (
            {"train": {"fit": {"epochs": 5, "phases": {"ranger_epochs": 3, "finetune_epochs": 2}}}},
            "train.fit.phases.ranger_epochs + finetune_epochs is 5; expected less than train.fit.epochs, 5",
        ),
        ({"train": {"teachers": []}}, "train.teachers is empty"),
        ({"train": {"teachers": "lite0"}}, "train.teachers is 'lite0'; expected a list"),
        ({"train": {"teachers": ["lite0"]}}, "network 'lite0'; expected name@size_px"),
        ({"distill": {"students": ["lite0@0"]}}, "network 'lite0@0'; expected name@size_px"),
        ({"distill": {"hard_weight": True}}, "distill.hard_weight is True; expected float"),
        ({"calibrate": {"target_risk": 1.0}}, "calibrate.target_risk is 1.0; expected 0 or more, below 1"),
        ({"calibrate": {"target_risk": 0.02}}, "calibrate.strict_risk is 0.03; expected at most target_risk, 0.02"),
    ],
)
def test_a_wrong_recipe_is_refused_by_the_name_of_the_key(table, named):
    with pytest.raises(RecipeError) as caught:
        recipe_from_dict(table)
    assert named in str(caught.value)


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(RecipeError, match="expected one of cpu, default, full, robust, smoke"):
        load_recipe("quick")


def test_an_override_without_a_value_is_refused():
    with pytest.raises(RecipeError, match=r"expected section\.key=value"):
        load_recipe("smoke", ("train.fit.epochs",))


def test_what_a_table_leaves_out_keeps_the_default_of_its_own_stage():
    tuned = recipe_from_dict({"quantize": {"finetune": {"max_images": 7}}}).quantize.finetune
    assert tuned == replace(QuantizeConfig().finetune, max_images=7)
    assert tuned.epochs == 1
    assert recipe_from_dict({"quantize": {"finetune": {"epochs": 0}}}).quantize.finetune.epochs == 0


@pytest.mark.parametrize("content", [b"hello", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_toml_is_refused_by_its_path(content, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"mine\.toml.*expected a recipe, a TOML file"):
        load_recipe(str(path))


def test_an_unknown_way_to_quantize_is_refused():
    with pytest.raises(RecipeError, match=r"quantize.methods has 'magic'; expected some of minmax, percentile"):
        recipe_from_dict({"quantize": {"methods": ["minmax", "magic"]}})
