"""Finds, reads, checks and writes recipes: TOML files, whose fields the command line may override."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from logo_edge.errors import RecipeError
from logo_edge_train.architecture import PRIOR_PREFIX, Architecture, network_error
from logo_edge_train.bounds import read_table
from logo_edge_train.fit_config import LoopConfig
from logo_edge_train.recipe import ASPECTS, Recipe, TrainConfig

BUILT_IN = Path(str(files("logo_edge_train") / "recipes"))


def find_recipe(name_or_path: str) -> Path:
    """The TOML file of the built-in recipe of that name, or at that path. Raises RecipeError if there is none."""
    for path in (BUILT_IN / f"{name_or_path}.toml", Path(name_or_path)):
        if path.exists():
            return path
    known = ", ".join(sorted(path.stem for path in BUILT_IN.glob("*.toml")))
    raise RecipeError(f"no recipe {name_or_path!r}: expected one of {known}, or the path of a TOML file")


def load_recipe(name_or_path: str, overrides: tuple[str, ...] = (), *, used: tuple[str, ...] = ()) -> Recipe:
    """The recipe of that name (smoke, own, cpu, shipped, full, robust) or TOML file, with overrides section.key=value.

    `used` are the sections that the caller reads; (): all. Raises RecipeError for a missing file, for an override of an
    unused section, and as `recipe_from_dict` does.
    """
    path = find_recipe(name_or_path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}; expected a recipe, a TOML file that can be read") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise RecipeError(f"{path}: {error}; expected a recipe, a TOML file") from error
    table.setdefault("name", path.stem)
    for override in overrides:
        if used and override.partition("=")[0].split(".")[0] not in used:
            raise RecipeError(f"override {override!r} would be ignored; this command uses {', '.join(used)}")
    return recipe_from_dict(table, overrides)


def recipe_from_dict(table: dict[str, Any], overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe of a nested dict (the form of `dataclasses.asdict`), with `section.key=value` overrides.

    Raises RecipeError that lists every unknown field, wrong type, value out of bounds, network that cannot be built,
    and conflict between fields.
    """
    table = copy.deepcopy(table)
    for override in overrides:
        _apply_override(table, override)
    problems: list[tuple[str, str]] = []
    recipe = read_table(Recipe(), table, "", problems)
    invalid = {name for name, _ in problems}
    sentences = [text for _, text in problems]
    sentences += [text for names, text in _find_conflicts(recipe) if not invalid & set(names)]
    if len(sentences) > 1:
        raise RecipeError(f"{len(sentences)} problems in the recipe:\n" + "\n".join(f"  {text}" for text in sentences))
    if sentences:
        raise RecipeError(sentences[0])
    return recipe


Conflict = tuple[tuple[str, ...], str]  # the fields that conflict, and a sentence


def _find_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    fits = {
        "pretrain.fit": recipe.pretrain.fit,
        "train.fit": recipe.train.fit,
        "distill.fit": recipe.distill.fit,
        "distill.prune.fit": recipe.distill.prune.fit,
        "few_shot.fit": recipe.few_shot.fit,
        "quantize.finetune": recipe.quantize.finetune,
    }
    for where, config in fits.items():
        yield from _fit_conflicts(where, config)
    yield from _network_conflicts(recipe)
    yield from _teacher_conflicts(recipe.train)
    yield from _student_conflicts(recipe)
    size, parts = recipe.pretrain.fit.batch_size, len(ASPECTS)
    least = 2 * parts * recipe.pretrain.fit.accumulate
    if size % parts or size < least:
        yield (
            ("pretrain.fit.batch_size", "pretrain.fit.accumulate"),
            f"pretrain.fit.batch_size is {size}; expected a multiple of {parts}, at least {least}: each aspect has "
            "an equal part of a batch, and compares at least two images in each of the parts that `accumulate` makes",
        )
    few_shot = recipe.few_shot
    if few_shot.fit.batch_size > few_shot.episodes:
        yield (
            ("few_shot.fit.batch_size", "few_shot.episodes"),
            f"few_shot.fit.batch_size is {few_shot.fit.batch_size}; expected at most few_shot.episodes, "
            f"{few_shot.episodes}",
        )
    if recipe.search.warmup_epochs >= recipe.search.epochs:
        yield (
            ("search.warmup_epochs", "search.epochs"),
            f"search.warmup_epochs is {recipe.search.warmup_epochs}; expected less than search.epochs, "
            f"{recipe.search.epochs}: the architecture is chosen after the warm-up",
        )
    if recipe.calibrate.strict_risk > recipe.calibrate.target_risk:
        yield (
            ("calibrate.strict_risk", "calibrate.target_risk"),
            f"calibrate.strict_risk is {recipe.calibrate.strict_risk}; expected at most target_risk, "
            f"{recipe.calibrate.target_risk}: strict may not be wrong more often than balanced",
        )


def _fit_conflicts(where: str, config: LoopConfig) -> Iterator[Conflict]:
    if config.accumulate > config.batch_size:
        yield (
            (f"{where}.accumulate", f"{where}.batch_size"),
            f"{where}.accumulate is {config.accumulate}; expected at most {where}.batch_size, {config.batch_size}",
        )
    late = config.phases.ranger_epochs + config.phases.finetune_epochs
    if late and late >= config.epochs:
        yield (
            (f"{where}.phases.ranger_epochs", f"{where}.phases.finetune_epochs", f"{where}.epochs"),
            f"{where}.phases.ranger_epochs + finetune_epochs is {late}; expected less than {where}.epochs, "
            f"{config.epochs}: warm-up and main phase come before them",
        )


def _network_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    """Switches of a fit that one of its networks does not support."""
    train, distill = recipe.train, recipe.distill
    for where, fit, key, texts, frozen_blocks in (
        ("train.fit", train.fit, "train.teachers", train.teachers, -1),  # frozen only in those with ImageNet weights
        ("distill.fit", distill.fit, "distill.students", distill.students, distill.fit.frozen_blocks),
        ("distill.prune.fit", distill.prune.fit, "distill.students", distill.students, distill.prune.fit.frozen_blocks),
    ):
        if frozen_blocks < 0 and not fit.grad_checkpointing:
            continue
        for architecture in map(Architecture.parse, dict.fromkeys(texts)):
            switches = {"frozen_blocks": frozen_blocks, "grad_checkpointing": fit.grad_checkpointing}
            if text := network_error(architecture.model, architecture.size_px, **switches):
                yield (key, *(f"{where}.{name}" for name in switches)), f"{where}: {text}"


def _teacher_conflicts(config: TrainConfig) -> Iterator[Conflict]:
    fit, augment = config.fit, config.augment
    if fit.adaptive_focal and not fit.focal_gamma:
        yield (
            ("train.fit.adaptive_focal", "train.fit.focal_gamma"),
            "train.fit.adaptive_focal is true, train.fit.focal_gamma 0; expected a gamma above 0",
        )
    detailed = [text for text in config.teachers if Architecture.parse(text).contract.details]
    if detailed and fit.frozen_blocks >= 0:
        yield (
            ("train.fit.frozen_blocks", "train.teachers"),
            f"train.fit.frozen_blocks is {fit.frozen_blocks}; expected -1: the stem of {detailed[0]} has to learn "
            "the detail planes",
        )
    without = [text for text in config.teachers if not text.startswith(PRIOR_PREFIX) or "+" in text]
    for key, lacking in (("prior_consistency", "logo-type prior"), ("aleatoric", "head of log variances")):
        if without and (value := getattr(fit, key)):
            off = "false" if value is True else "0"
            yield (
                (f"train.fit.{key}", "train.teachers"),
                f"train.fit.{key} is {json.dumps(value)}; {without[0]} has no {lacking}: expected {off}, or only "
                f"{PRIOR_PREFIX} among train.teachers",
            )
    if augment.p_mixup + augment.p_cutmix > 1:
        yield (
            ("train.augment.p_mixup", "train.augment.p_cutmix"),
            f"train.augment.p_mixup and p_cutmix are {augment.p_mixup} and {augment.p_cutmix}; expected at most 1 "
            "together",
        )


def _student_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    config = recipe.distill
    fits = {Architecture.parse(text).fit for text in (*recipe.train.teachers, *config.students)}
    if len(fits) > 1:
        yield (
            ("train.teachers", "distill.students"),
            "some networks of train.teachers and distill.students have the fit :crop, others not; expected it for all "
            "or none: teachers and students see the same part of an image",
        )
    if config.teachers_per_batch and (config.feature_weight or config.epistemic == "dispersion"):
        what = "feature_weight" if config.feature_weight else "epistemic = 'dispersion'"
        yield (
            ("distill.teachers_per_batch", "distill.feature_weight", "distill.epistemic"),
            f"distill.teachers_per_batch is {config.teachers_per_batch}; expected 0: distill.{what} needs all teachers",
        )
    if config.epistemic != "off" and len(recipe.train.teachers) < 2:
        yield (
            ("distill.epistemic", "train.teachers"),
            f"distill.epistemic is {config.epistemic!r}, and train.teachers has one, which cannot disagree; expected "
            "two teachers or more, or epistemic = 'off'",
        )


def recipe_to_toml(recipe: Recipe) -> str:
    """The recipe as TOML with every field, so that it does not change with the defaults."""
    return "\n".join(_toml_lines(asdict(recipe), "")) + "\n"


def _toml_lines(table: dict[str, Any], where: str) -> list[str]:
    lines = [
        f"{key} = {json.dumps(value, ensure_ascii=False)}"
        for key, value in table.items()
        if not isinstance(value, dict)
    ]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += ["", f"[{where}{key}]", *_toml_lines(value, f"{where}{key}.")]
    return lines


def _apply_override(table: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise RecipeError(f"override {override!r}; expected section.key=value, such as train.fit.epochs=5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise RecipeError(f"override {override!r}: {parent} is not a table")
    table[last] = value
