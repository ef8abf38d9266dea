"""Recipes: reading, overrides of single fields, and errors that name the field."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from typer.testing import CliRunner

from logo_edge.errors import RecipeError
from logo_edge_train.commands import data, few_shot, train
from logo_edge_train.models.composed import ATTENTIONS, POOLS
from logo_edge_train.recipe import Attention, Head, QuantizeConfig, Recipe
from logo_edge_train.recipe_io import BUILT_IN, load_recipe, recipe_from_dict, recipe_to_toml


def leaves(config: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, type with its rules) of every field of a recipe that is not a section."""
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        name = f"{where}.{field.name}".lstrip(".")
        if is_dataclass(hints[field.name]):
            yield from leaves(getattr(config, field.name), name)
        else:
            yield name, hints[field.name]


def plain(hint: Any) -> Any:
    """The type without its rules; for a list, the type of its items."""
    hint = hint.__origin__ if get_origin(hint) is Annotated else hint
    return plain(get_args(hint)[0]) if get_origin(hint) is tuple else hint


LEAVES = dict(leaves(Recipe()))
NUMBERS = {name: plain(hint) for name, hint in LEAVES.items() if plain(hint) in (int, float)}
NAMES = [name for name, hint in LEAVES.items() if plain(hint) is str and name != "description"]


def nested(name: str, value: Any) -> dict:
    """The nested table with the value in the field of that dotted name."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def refusal(table: dict) -> str:
    """The message of the RecipeError for the table."""
    with pytest.raises(RecipeError) as caught:
        recipe_from_dict(table)
    return str(caught.value)


@pytest.mark.parametrize(
    ("verb", "arguments"), [(train, []), (few_shot, ["train"]), (data, ["suspects"]), (data, ["next"])]
)
def test_an_unknown_recipe_is_refused_before_pytorch_is_loaded(verb, arguments, monkeypatch):
    for package in ("torch", "timm", "albumentations"):
        monkeypatch.setitem(sys.modules, package, None)  # an import of it fails
    result = CliRunner().invoke(verb, [*arguments, "--recipe", "nope"])
    assert isinstance(result.exception, RecipeError), result.output
    assert str(result.exception).startswith("no recipe 'nope': expected one of cpu, full, ")


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
    assert {path.stem for path in BUILT_IN.glob("*.toml")} >= {"smoke", "cpu", "shipped", "full"}


def test_the_command_line_overrides_single_fields():
    recipe = load_recipe(
        "smoke",
        (
            "train.fit.epochs=7",
            "train.teachers=['test_vit@64', 'test_resnet@96']",
            "distill.students=['test_resnet@96']",
        ),
    )
    assert recipe.train.fit.epochs == 7
    assert recipe.train.fit.batch_size == load_recipe("smoke").train.fit.batch_size
    assert recipe.train.teachers == ("test_vit@64", "test_resnet@96")
    assert recipe.distill.students == ("test_resnet@96",)


def test_a_field_of_a_stored_recipe_can_be_set_to_its_default_and_the_stored_one_stays():
    stored = {"distill": {"fit": {"epochs": 9}}}
    default = Recipe().distill.fit.epochs
    assert recipe_from_dict(stored, (f"distill.fit.epochs={default}",)).distill.fit.epochs == default != 9
    assert stored == {"distill": {"fit": {"epochs": 9}}}


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"trian": {}}, "unknown field trian; a recipe has calibrate, description, distill"),
        ({"train": {"fit": {"epoch": 3}}}, "unknown field train.fit.epoch; train.fit has accumulate"),
        ({"train": {"fit": {"epochs": "three"}}}, "train.fit.epochs is 'three'; expected int"),
        ({"train": {"fit": {"epochs": 0}}}, "train.fit.epochs is 0"),
        ({"train": {"fit": {"accumulate": 0}}}, "train.fit.accumulate is 0; expected at least 1"),
        ({"distill": {"fit": {"batch_size": 4, "accumulate": 5}}}, "distill.fit.accumulate is 5; expected at most"),
        ({"train": {"fit": {"amp": "fp16"}}}, "train.fit.amp is 'fp16'; expected auto, bf16, off"),
        ({"train": {"fit": {"amp": True}}}, "train.fit.amp is True; expected auto, bf16, off"),
        ({"train": {"fit": {"compile": 1}}}, "train.fit.compile is 1; expected bool"),
        ({"train": {"fit": 3}}, "train.fit is 3; expected a table"),
        ({"train": {"fit": {"sam": {"kind": "yes"}}}}, "train.fit.sam.kind is 'yes'; expected off, sam, asam"),
        ({"train": {"fit": {"sam": {"rho": 0}}}}, "train.fit.sam.rho is 0; expected more than 0"),
        ({"distill": {"fit": {"sam": {"adapt": -1}}}}, "distill.fit.sam.adapt is -1; expected at least 0"),
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
        ({"train": {"teachers": []}}, "train.teachers is []; expected at least one"),
        ({"train": {"teachers": "lite0"}}, "train.teachers is 'lite0'; expected a list"),
        ({"train": {"teachers": ["lite0"]}}, "train.teachers has 'lite0'; expected name@size_px"),
        ({"distill": {"students": ["lite0@0"]}}, "distill.students has 'lite0@0'; expected name@size_px"),
        ({"distill": {"hard_weight": True}}, "distill.hard_weight is True; expected float"),
        ({"calibrate": {"target_risk": 1.0}}, "calibrate.target_risk is 1.0; expected 0 or more, below 1"),
        ({"calibrate": {"target_risk": 0.02}}, "calibrate.strict_risk is 0.03; expected at most target_risk, 0.02"),
    ],
)
def test_a_wrong_recipe_is_refused_by_the_name_of_the_key(table, named):
    with pytest.raises(RecipeError) as caught:
        recipe_from_dict(table)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "distill.fit.label_smoothing",
        "distill.fit.class_weight_power",
        "distill.prune.fit.dropout",
        "few_shot.fit.max_images",
        "few_shot.fit.grad_checkpointing",
        "few_shot.augment.p_mixup",
        "pretrain.fit.use_votes",
        "pretrain.fit.label_smoothing",
        "quantize.finetune.grad_checkpointing",
        "quantize.finetune.frozen_blocks",
        "quantize.finetune.amp",
        "quantize.finetune.dropout",
    ],
)
def test_a_field_of_another_stage_is_refused_with_those_that_the_stage_has(name):
    section, _, key = name.rpartition(".")
    own = sorted(leaf.removeprefix(f"{section}.").split(".")[0] for leaf in LEAVES if leaf.startswith(f"{section}."))
    with pytest.raises(RecipeError) as caught:
        load_recipe("cpu", (f"{name}=1",))
    assert str(caught.value) == f"unknown field {name}; {section} has {', '.join(sorted(set(own)))}"
    assert key not in own
    assert len(own) > 4


def test_every_number_and_every_name_has_a_rule_beside_it():
    def has_rule(hint: Any) -> bool:
        inner = hint.__origin__ if get_origin(hint) is Annotated else hint
        return has_rule(get_args(inner)[0]) if get_origin(inner) is tuple else get_origin(hint) is Annotated

    free = [name for name, hint in LEAVES.items() if plain(hint) is not bool and get_origin(plain(hint)) is not Literal]
    assert [name for name in free if not has_rule(LEAVES[name])] == ["description"]
    assert len(free) > 120


def test_no_number_may_be_far_below_zero_infinite_or_no_number():
    for name, kind in NUMBERS.items():
        for value in (-2,) if kind is int else (-2.0, float("nan"), float("inf")):
            table, verb = (
                (nested(name, [value]), "has") if name == "few_shot.penalties" else (nested(name, value), "is")
            )
            assert refusal(table).startswith(f"{name} {verb} {value}; expected")
    assert len(NUMBERS) > 100


def test_no_name_may_be_misspelt():
    for name in NAMES:
        value = "a/b" if name == "name" else "" if name == "few_shot.held_out_package" else "test_resnt@32"
        listed = get_origin(LEAVES[name]) is tuple or get_origin(getattr(LEAVES[name], "__origin__", None)) is tuple
        assert f"{name} {'has' if listed else 'is'} {value!r}; " in refusal(nested(name, [value] if listed else value))
    assert len(NAMES) > 10


def test_the_defaults_hold_to_their_own_rules():
    assert recipe_from_dict(asdict(Recipe())) == Recipe()


def test_all_problems_are_reported_at_once():
    table = {
        "train": {"fit": {"learning_rate": -1}, "teachers": ["tf_efficientnet_lite0@128", "lite0"]},
        "distill": {"temperature": 0, "hard_weight": 7, "students": ["tf_eficientnet_lite0@96"], "size": 3},
        "search": {"attentions": ["none", "sea"]},
        "few_shot": {"episodes": 2},
    }
    first, *problems = refusal(table).splitlines()
    assert first == "8 problems in the recipe:"
    for expected in (
        "train.fit.learning_rate is -1; expected more than 0",
        "train.teachers has 'lite0'; expected name@size_px, such as tf_efficientnet_lite0@128",
        "distill.temperature is 0; expected more than 0",
        "distill.hard_weight is 7; expected 0 to 1",
        "distill.students has 'tf_eficientnet_lite0@96'; timm has no model 'tf_eficientnet_lite0'; close names: "
        "tf_efficientnet_lite0",
        "unknown field distill.size; distill has adversarial_radius",
        "search.attentions has 'sea'; expected none, se, cbam, mhsa",
        "few_shot.fit.batch_size is 4; expected at most few_shot.episodes, 2",
    ):
        assert sum(problem.startswith(f"  {expected}") for problem in problems) == 1, expected


def test_a_value_that_is_wrong_by_itself_is_not_compared_with_others():
    assert refusal({"few_shot": {"episodes": -2}}) == "few_shot.episodes is -2; expected at least 1"


@pytest.mark.parametrize(
    ("table", "named"),
    [
        (
            {"distill": {"students": ["test_vit@32"], "fit": {"frozen_blocks": 2}}},
            "distill.fit: test_vit has no stem and stages that can be frozen; set frozen_blocks = -1",
        ),
        ({"distill": {"students": ["tf_efficientnet_lite0:9@32"]}}, "expected 1 to 6 stages"),
        ({"train": {"teachers": ["test_resnet@8"]}}, "train.teachers has 'test_resnet@8'; expected 16 to 1024"),
        (
            {"pretrain": {"fit": {"accumulate": 16}}},
            "pretrain.fit.batch_size is 64; expected a multiple of 4, at least 128",
        ),
        ({"train": {"teachers": ["logo_vit_tiny@100"]}}, "LogoViT at 100 px; expected a multiple of 16"),
        ({"train": {"fit": {"aleatoric": True}}}, "train.fit.aleatoric is true; tf_efficientnet_lite0@128 has no head"),
        (
            {"train": {"teachers": ["test_vit@32"]}, "distill": {"epistemic": "dirichlet"}},
            "distill.epistemic is 'dirichlet', and train.teachers has one, which cannot disagree",
        ),
        (
            {"search": {"epochs": 4, "warmup_epochs": 4}},
            "search.warmup_epochs is 4; expected less than search.epochs, 4",
        ),
    ],
)
def test_what_a_network_or_a_stage_cannot_do_is_found_before_anything_is_trained(table, named):
    assert named in refusal(table)


def test_checking_networks_draws_no_random_numbers():
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    recipe_from_dict({"train": {"teachers": ["tf_efficientnet_lite0+measures@48"]}})
    assert torch.equal(torch.rand(4), wanted)


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(RecipeError, match="expected one of cpu, full, own, robust, shipped, smoke"):
        load_recipe("quick")


def test_an_override_without_a_value_is_refused():
    with pytest.raises(RecipeError, match=r"expected section\.key=value"):
        load_recipe("smoke", ("train.fit.epochs",))


def test_an_override_that_a_command_would_ignore_is_refused():
    assert load_recipe("smoke", ("few_shot.ways=3",), used=("few_shot",)).few_shot.ways == 3
    with pytest.raises(RecipeError, match=r"override 'distill.seed=1' would be ignored; this command uses few_shot"):
        load_recipe("smoke", ("distill.seed=1",), used=("few_shot",))


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
    with pytest.raises(RecipeError, match=r"quantize.methods has 'magic'; expected minmax, percentile"):
        recipe_from_dict({"quantize": {"methods": ["minmax", "magic"]}})


def test_a_search_can_choose_every_block_of_a_composed_network_and_no_other():
    assert get_args(Attention) == tuple(ATTENTIONS)
    assert get_args(Head) == tuple(POOLS)
