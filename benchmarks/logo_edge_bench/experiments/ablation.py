"""The effect of each technique of a fit: added to the plain recipe, and removed from the full one.

    python -m logo_edge_bench.experiments ablation               # at most 10 CPU hours
    python -m logo_edge_bench.experiments ablation --estimate
    python -m logo_edge_bench.experiments ablation --variants plain "plain + SAM" --hours 1

Cross-validation inside train + val, stratified by class; no group is split, calib and test are not used. Each run adds
the missing variants and folds, fold by fold: a budget that ends early leaves equally many folds of each variant.
Interrupted, it resumes from the fits in runs/ablation/.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from scipy.stats import t as student_t
from sklearn.model_selection import StratifiedGroupKFold

from logo_edge.errors import RecipeError
from logo_edge_bench.experiments.record import RUNS, Out, read_record, result_path, write_record
from logo_edge_train.data.icons import LABELS, fetch_logos
from logo_edge_train.data.lookalikes import find_lookalikes
from logo_edge_train.data.manifest import FILES, LogoRow, read_manifest, write_manifest
from logo_edge_train.estimate import estimate_training
from logo_edge_train.fit_config import FitConfig
from logo_edge_train.keys import artifact_key, file_hash
from logo_edge_train.parallel import count_cores, run_side_by_side
from logo_edge_train.progress import FitProgress
from logo_edge_train.recipe import Recipe
from logo_edge_train.recipe_io import load_recipe, recipe_from_dict
from logo_edge_train.schedule import plan_phases
from logo_edge_train.state import read_history
from logo_edge_train.train import fit_member

EMPTY = {"entries": []}
POLICY = read_record(result_path("augmentation"), {})["policy"]
METRICS = ("accuracy", "accuracy_sure", "worst_recall", "nll", "calibration_error")

SWITCHES: dict[str, tuple[str, ...]] = {
    "SAM": ("train.fit.sam.kind=sam",),
    "phases": ("train.fit.phases.ranger_epochs=2", "train.fit.phases.finetune_epochs=1"),
    "restarts": ("train.fit.phases.restarts=1",),
    "adaptive focal loss": (
        "train.fit.focal_gamma=2.0",
        "train.fit.adaptive_focal=true",
        "train.fit.class_weight_power=0.0",
    ),
    "confident errors": ("train.fit.confident_errors=0.1",),
    "balanced batches": ("train.fit.balanced_batches=true", "train.fit.class_weight_power=0.0"),
    "intensity": ("train.augment.adapt_intensity=0.5",),
}
"""Technique -> recipe overrides. Each is added to the plain recipe, and removed from the full one, which has all."""

ALTERNATIVES: dict[str, tuple[str, ...]] = {
    "ASAM": ("train.fit.sam.kind=asam", "train.fit.sam.rho=0.5"),
    "SAM, scaled": ("train.fit.sam.kind=sam", "train.fit.sam.plain_scale=0.1", "train.fit.sam.stem_scale=0.5"),
    "SAM, adapted": ("train.fit.sam.kind=sam", "train.fit.sam.adapt=1.0"),
    "focal loss": ("train.fit.focal_gamma=2.0",),
    "hard labels": ("train.fit.use_votes=false",),
    "MixUp": ("train.augment.p_mixup=0.3",),
    "learned policy": (f"train.augment.policy={json.dumps(POLICY)}",),
    "CutMix": ("train.augment.p_cutmix=0.3",),
    "curriculum": ("train.fit.curriculum_epochs=4.0",),
}
"""Techniques that are only added to the plain recipe: the full one has others of the same kind."""


@dataclass(frozen=True)
class Variant:
    """Recipe overrides, and the variant to compare with."""

    overrides: tuple[str, ...]
    baseline: str | None


def list_variants() -> dict[str, Variant]:
    """Every variant by name, the baselines first."""
    alone = {f"plain + {name}": Variant(overrides, "plain") for name, overrides in (SWITCHES | ALTERNATIVES).items()}
    without = {f"full - {name}": Variant(_all_but(name), "full") for name in SWITCHES}
    return {"plain": Variant((), None), "full": Variant(_all_but(), "plain"), **alone, **without}


def _all_but(*names: str) -> tuple[str, ...]:
    return tuple(override for name, overrides in SWITCHES.items() if name not in names for override in overrides)


VARIANTS = list_variants()


def measure(
    *,
    variants: Annotated[Sequence[str], {"choices": VARIANTS, "metavar": "NAME"}] = tuple(VARIANTS),
    network: Annotated[str, {"metavar": "NAME@SIZE"}] = "tf_efficientnet_lite0@96",
    epochs: int = 8,
    folds: int = 3,
    hours: Annotated[float, "of CPU time in all; no fit begins after them"] = 10.0,
    workers: Annotated[int, "parallel fits"] = count_cores(),
    set: Annotated[Sequence[str], {"metavar": "KEY=VALUE", "help": "overrides of the plain recipe"}] = (),
    estimate: Annotated[bool, "print the expected time and stop"] = False,
    manifest: Path = LABELS,
    work: Path = RUNS / "ablation",
    out: Out,
) -> None:
    if manifest == LABELS:
        fetch_logos()
    plain = (f"train.teachers=['{network}']", f"train.fit.epochs={epochs}", *set)
    recipes = {name: load_recipe("cpu", (*plain, *VARIANTS[name].overrides)) for name in variants}
    paths = write_folds(manifest, work, folds)
    torch.set_num_threads(max(1, count_cores() // workers))
    record = read_record(out, EMPTY)
    missing = [
        (name, index)
        for index, path in enumerate(paths)
        for name, recipe in recipes.items()
        if not any(is_measured(fit, name, index, recipe, path) for fit in record["entries"])
    ]
    print(f"{len(missing)} fits to do, {len(record['entries'])} done in {spent_hours(record):.2f} hours of CPU time")
    if missing:
        fits = [recipes[name].train.fit for name, _ in missing]
        print_estimate(load_recipe("cpu", plain), paths[0], fits, hours, workers)
    if estimate or not missing:
        return
    manifests = [read_manifest(path) for path in paths]
    left_out = [find_lookalikes(manifest, manifest.split("train")) for manifest in manifests]
    jobs = [(name, index, recipes[name], paths[index], left_out[index], work, out, hours) for name, index in missing]
    with FitProgress() as progress:

        def report(item: dict) -> None:
            if item["kind"] == "entry":
                add_entry(out, item["entry"])
            else:
                progress(item)

        run_side_by_side(fit_fold, jobs, report, workers=workers)


def write_folds(manifest_path: Path, work: Path, count: int) -> list[Path]:
    """One manifest per fold: `val` is the fold's part of train + val, `train` the rest; calib is copied."""
    manifest = read_manifest(manifest_path)
    folder = manifest.folder.resolve()
    rows, calib = (
        [replace(row, icon=str(folder / row.icon)) if row.package == FILES else row for row in manifest.split(*splits)]
        for splits in (("train", "val"), ("calib",))
    )
    labels, groups = [row.label for row in rows], [row.group or f"{row.package}/{row.icon}" for row in rows]
    splitter, paths = StratifiedGroupKFold(count, shuffle=True, random_state=0), []
    work.mkdir(parents=True, exist_ok=True)
    for fold, (_, held_out) in enumerate(splitter.split(rows, labels, groups)):
        in_val = set(held_out.tolist())
        marked = [replace(row, split="val" if index in in_val else "train") for index, row in enumerate(rows)]
        paths.append(work / f"fold-{fold + 1}-of-{count}.csv")
        write_manifest(paths[-1], [*marked, *calib])
    return paths


def fit_fold(
    variant: str,
    index: int,
    recipe: Recipe,
    fold: Path,
    left_out: set[LogoRow],
    work: Path,
    out: Path,
    hours: float,
    report: Callable[[dict], None],
) -> None:
    """Fits the variant on the fold's train rows and reports its figures on the others, unless the time is used up."""
    if spent_hours(read_record(out, EMPTY)) >= hours:
        return
    settings = json.loads(json.dumps(asdict(recipe.train)))
    key = artifact_key({"fold": fold}, {"train": recipe.train}, {})
    folder = work / key[:12]
    folder.mkdir(parents=True, exist_ok=True)
    before, began_s = read_history(folder / "member-0.state"), time.process_time()
    if not (fitted := (folder / "member-0.json").exists()):

        def rename(item: dict) -> None:
            report({**item, "name": f"{variant}, fold {index + 1}"})

        fit_member(fold, recipe.train, 0, folder, "cpu", left_out, None, key, rename)
    shutil.rmtree(folder / "snapshots", ignore_errors=True)
    history = json.loads((folder / "member-0.json").read_text(encoding="utf-8"))["history"]
    seconds = cpu_seconds = sum(epoch["seconds"] for epoch in history)
    if not fitted and len(before) < len(history):  # else only wall time is known
        cpu_seconds = (time.process_time() - began_s) * len(history) / (len(history) - len(before))
    figures = {
        "variant": variant,
        "fold": index + 1,
        **{name: history[-1][name] for name in METRICS},
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "settings": settings,
        "fold_sha256": file_hash(fold),
        "folder": key,
    }
    report({"kind": "entry", "entry": figures})


def spent_hours(record: dict) -> float:
    """Hours of CPU time."""
    return sum(fit["cpu_seconds"] for fit in record["entries"]) / 3600


def is_measured(fit: dict, variant: str, index: int, recipe: Recipe, fold: Path) -> bool:
    """Whether the fit is of the current variant and fold; settings that it does not name have their default."""
    if (fit["variant"], fit["fold"], fit["fold_sha256"]) != (variant, index + 1, file_hash(fold)):
        return False
    try:
        return recipe_from_dict({"train": fit["settings"]}).train == recipe.train
    except RecipeError:  # of settings that were removed
        return False


def add_entry(path: Path, fit: dict) -> None:
    """Adds the fit, in place of an earlier one of the same variant and fold, and summarizes all."""
    order = {name: number for number, name in enumerate(VARIANTS)}
    key = fit["variant"], fit["fold"]
    others = [other for other in read_record(path, EMPTY)["entries"] if (other["variant"], other["fold"]) != key]
    fits = sorted([*others, fit], key=lambda one: (order.get(one["variant"], len(order)), one["fold"]))
    write_record(path, {"summary": summarize(fits), "entries": fits})


def summarize(fits: list[dict]) -> list[dict]:
    """Per variant: the mean of each figure over its folds, and its difference from the baseline on shared folds."""
    by_variant: dict[str, dict[int, dict]] = {}
    for fit in fits:
        by_variant.setdefault(fit["variant"], {})[fit["fold"]] = fit
    summary = []
    for name, folds in by_variant.items():
        baseline = VARIANTS[name].baseline if name in VARIANTS else None
        base_folds = by_variant.get(baseline, {})
        shared = sorted(folds.keys() & base_folds.keys())
        means = {key: statistics.mean(fit[key] for fit in folds.values()) for key in (*METRICS, "seconds")}
        changes = {metric: [folds[fold][metric] - base_folds[fold][metric] for fold in shared] for metric in METRICS}
        difference = {metric: paired_interval(values) for metric, values in changes.items() if shared}
        summary.append({"variant": name, "folds": len(folds), "baseline": baseline, **means, "difference": difference})
    return summary


def paired_interval(differences: list[float]) -> dict[str, float | None]:
    """The mean and the 95 % interval of Student's t, which is too narrow because the folds share training logos."""
    mean, count = statistics.mean(differences), len(differences)
    if count < 2:
        return {"mean": mean, "low": None, "high": None}
    half = float(student_t.ppf(0.975, count - 1)) * statistics.stdev(differences) / math.sqrt(count)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def print_estimate(plain: Recipe, fold: Path, fits: list[FitConfig], hours: float, workers: int) -> None:
    """Prints the expected hours: a trial of a plain fit, with sharpness-aware epochs counted twice."""
    clock_s, cpu_s = time.perf_counter(), time.process_time()
    once_s = estimate_training(fold, plain, device=torch.device("cpu"))["seconds"]
    share = (time.process_time() - cpu_s) / (time.perf_counter() - clock_s)  # of the machine, beside other programs
    total_hours = sum(once_s * passes(fit) for fit in fits) / 3600
    print(
        f"about {share * total_hours:.1f} more hours of CPU time, {total_hours / min(workers, count_cores()):.1f} by "
        f"the clock if the machine stays as busy; no fit begins once {hours:g} of CPU time are spent"
    )


def passes(config: FitConfig) -> float:
    """The cost of a fit, relative to one of the same length without sharpness-aware epochs."""
    return 1 + sum(phase.end - phase.begin for phase in plan_phases(config) if phase.sharp) / config.epochs
