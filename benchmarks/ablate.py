"""What each technique of a fit is worth: alone on the plain recipe, and missing from the full one.

    python benchmarks/ablate.py                                         # at most 10 CPU hours
    python benchmarks/ablate.py --estimate                              # how long it would take
    python benchmarks/ablate.py --variants plain "plain + SAM" --hours 1

Cross-validation inside train + val, stratified by class, no group split; nothing is measured on calib or test. Adds to
benchmarks/results/ablation.json what is not in it yet, an entry per variant and fold, fold by fold, so that a budget
that ends early leaves as many folds of each variant. Interrupted, it goes on from the fits in runs/ablation/.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import logo_edge_train  # noqa: F401 (before torch)

# isort: split
import torch
from scipy.stats import t as student_t
from sklearn.model_selection import StratifiedGroupKFold

from logo_edge.errors import RecipeError
from logo_edge_train.data.icons import LABELS, fetch_logos, renders_folder
from logo_edge_train.data.lookalikes import find_lookalikes
from logo_edge_train.data.manifest import FILES, LogoRow, read_manifest, write_manifest
from logo_edge_train.estimate import estimate_training
from logo_edge_train.keys import artifact_key, file_hash, versions
from logo_edge_train.parallel import count_cores, run_side_by_side
from logo_edge_train.progress import FitProgress
from logo_edge_train.recipe import FitConfig, Recipe
from logo_edge_train.recipe_io import load_recipe, recipe_from_dict
from logo_edge_train.runs import write_json
from logo_edge_train.schedule import plan_phases
from logo_edge_train.state import read_history
from logo_edge_train.train import fit_member

ROOT = Path(__file__).resolve().parents[1]
RESULT, WORK = ROOT / "benchmarks" / "results" / "ablation.json", ROOT / "runs" / "ablation"
POLICY = RESULT.with_name("augmentation.json")  # of search_augmentation.py
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
"""Technique -> recipe overrides. The full recipe has all of them: each is tried alone on the plain one, and left out of it."""

ALTERNATIVES: dict[str, tuple[str, ...]] = {
    "ASAM": ("train.fit.sam.kind=asam", "train.fit.sam.rho=0.5"),
    "SAM, scaled": ("train.fit.sam.kind=sam", "train.fit.sam.plain_scale=0.1", "train.fit.sam.stem_scale=0.5"),
    "SAM, adapted": ("train.fit.sam.kind=sam", "train.fit.sam.adapt=1.0"),
    "focal loss": ("train.fit.focal_gamma=2.0",),
    "hard labels": ("train.fit.use_votes=false",),
    "MixUp": ("train.augment.p_mixup=0.3",),
    "learned policy": (f"train.augment.policy={json.dumps(json.loads(POLICY.read_text(encoding='utf-8'))['policy'])}",),
    "CutMix": ("train.augment.p_cutmix=0.3",),
    "curriculum": ("train.fit.curriculum_epochs=4.0",),
}
"""Techniques that are tried alone on the plain recipe only: others of the same kind are in the full one."""


@dataclass(frozen=True)
class Variant:
    """Recipe overrides, and the variant that it is compared with."""

    overrides: tuple[str, ...]
    baseline: str | None


def list_variants() -> dict[str, Variant]:
    """Every variant by name, the baselines first."""
    alone = {f"plain + {name}": Variant(overrides, "plain") for name, overrides in (SWITCHES | ALTERNATIVES).items()}
    without = {f"full - {name}": Variant(_all_but(name), "full") for name in SWITCHES}
    return {"plain": Variant((), None), "full": Variant(_all_but(), "plain"), **alone, **without}


def _all_but(*names: str) -> tuple[str, ...]:
    return tuple(override for name, overrides in SWITCHES.items() if name not in names for override in overrides)


def main(words: Sequence[str] | None = None) -> None:
    variants = list_variants()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", choices=variants, default=list(variants), metavar="NAME")
    parser.add_argument("--network", default="tf_efficientnet_lite0@96", metavar="NAME@SIZE")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--hours", type=float, default=10.0, help="of CPU time, in all: then no other fit begins")
    parser.add_argument("--workers", type=int, default=count_cores(), help="fits side by side")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the plain recipe")
    parser.add_argument("--estimate", action="store_true", help="say how long it would take, and stop")
    parser.add_argument("--manifest", type=Path, default=LABELS)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args(words)
    if arguments.manifest == LABELS:
        fetch_logos()
    plain = (f"train.teachers=['{arguments.network}']", f"train.fit.epochs={arguments.epochs}", *arguments.set)
    recipes = {name: load_recipe("cpu", (*plain, *variants[name].overrides)) for name in arguments.variants}
    folds = write_folds(arguments.manifest, arguments.work, arguments.folds)
    torch.set_num_threads(max(1, count_cores() // arguments.workers))
    record = read_result(arguments.out)
    todo = [
        (name, index)
        for index, fold in enumerate(folds)
        for name, recipe in recipes.items()
        if not any(is_measured(entry, name, index, recipe, fold) for entry in record["entries"])
    ]
    print_estimate(
        load_recipe("cpu", plain), folds[0], [recipes[name].train.fit for name, _ in todo], record, arguments
    )
    if arguments.estimate or not todo:
        return
    manifests = [read_manifest(fold) for fold in folds]
    left_out = [find_lookalikes(manifest, manifest.split("train"), renders_folder()) for manifest in manifests]
    jobs = [
        (name, index, recipes[name], folds[index], left_out[index], arguments.work, arguments.out, arguments.hours)
        for name, index in todo
    ]
    with FitProgress() as progress:

        def report(item: dict) -> None:
            if item["kind"] == "entry":
                add_entry(arguments.out, item["entry"])
            else:
                progress(item)

        run_side_by_side(fit_fold, jobs, report, workers=arguments.workers)


def write_folds(manifest_path: Path, work: Path, count: int) -> list[Path]:
    """A manifest per fold: its part of train + val is `val`, the rest of both `train`; calib, which it needs, as it is."""
    manifest = read_manifest(manifest_path)
    here = manifest.folder.resolve()
    rows, calib = (
        [replace(row, icon=str(here / row.icon)) if row.package == FILES else row for row in manifest.split(*splits)]
        for splits in (("train", "val"), ("calib",))
    )
    labels, groups = [row.label for row in rows], [row.group or f"{row.package}/{row.icon}" for row in rows]
    splitter, paths = StratifiedGroupKFold(count, shuffle=True, random_state=0), []
    work.mkdir(parents=True, exist_ok=True)
    for index, (_, held_out) in enumerate(splitter.split(rows, labels, groups)):
        chosen = set(held_out.tolist())
        marked = [replace(row, split="val" if place in chosen else "train") for place, row in enumerate(rows)]
        paths.append(work / f"fold-{index + 1}-of-{count}.csv")
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
    """Fits the variant on the fold's train rows and reports the entry of its figures on the others, unless time is up."""
    if spent_hours(read_result(out)) >= hours:
        return
    settings = json.loads(json.dumps(asdict(recipe.train)))
    key = artifact_key({"fold": fold}, {"train": recipe.train}, {})
    folder = work / key[:12]
    folder.mkdir(parents=True, exist_ok=True)
    before, began_s = read_history(folder / "member-0.state"), time.process_time()
    if not (fitted := (folder / "member-0.json").exists()):
        name = f"{variant}, fold {index + 1}"
        fit_member(
            fold, recipe.train, 0, folder, "cpu", left_out, None, key, lambda item: report({**item, "name": name})
        )
    shutil.rmtree(folder / "snapshots", ignore_errors=True)
    history = json.loads((folder / "member-0.json").read_text(encoding="utf-8"))["history"]
    seconds = cpu_seconds = sum(epoch["seconds"] for epoch in history)
    if not fitted and len(before) < len(history):  # else nothing was left to do here, and the clock has to serve
        cpu_seconds = (time.process_time() - began_s) * len(history) / (len(history) - len(before))
    report(
        {
            "kind": "entry",
            "entry": {
                "variant": variant,
                "fold": index + 1,
                **{name: history[-1][name] for name in METRICS},
                "seconds": seconds,
                "cpu_seconds": cpu_seconds,
                "curve": [epoch["accuracy"] for epoch in history],
                "settings": settings,
                "fold_sha256": file_hash(fold),
                "folder": key,
            },
        }
    )


def read_result(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"entries": []}


def spent_hours(record: dict) -> float:
    """Hours of CPU time."""
    return sum(entry["cpu_seconds"] for entry in record["entries"]) / 3600


def is_measured(entry: dict, variant: str, index: int, recipe: Recipe, fold: Path) -> bool:
    """Whether the entry is of this variant and fold as they are now; a setting that is newer than it has its default."""
    if (entry["variant"], entry["fold"], entry["fold_sha256"]) != (variant, index + 1, file_hash(fold)):
        return False
    try:
        return recipe_from_dict({"train": entry["settings"]}).train == recipe.train
    except RecipeError:  # of settings that are no more
        return False


def add_entry(path: Path, entry: dict) -> None:
    """Puts the entry in the place of its like, and writes anew what the entries together say."""
    place, order = (entry["variant"], entry["fold"]), list(list_variants())
    others = [other for other in read_result(path)["entries"] if (other["variant"], other["fold"]) != place]
    entries = sorted(
        [*others, entry],
        key=lambda found: (order.index(found["variant"]) if found["variant"] in order else len(order), found["fold"]),
    )
    write_json(path, {"summary": summarize(entries), "entries": entries, "versions": versions()})


def summarize(entries: list[dict]) -> list[dict]:
    """Per variant: the mean of each figure over its folds, and its difference from the baseline on the folds of both."""
    found: dict[str, dict[int, dict]] = {}
    for entry in entries:
        found.setdefault(entry["variant"], {})[entry["fold"]] = entry
    summary = []
    for name, folds in found.items():
        baseline = list_variants()[name].baseline if name in list_variants() else None
        shared = sorted(folds.keys() & found.get(baseline, {}).keys())
        summary.append(
            {
                "variant": name,
                "folds": len(folds),
                "baseline": baseline,
                **{
                    metric: statistics.mean(entry[metric] for entry in folds.values())
                    for metric in (*METRICS, "seconds")
                },
                "difference": {
                    metric: paired_interval([folds[fold][metric] - found[baseline][fold][metric] for fold in shared])
                    for metric in METRICS
                    if shared
                },
            }
        )
    return summary


def paired_interval(differences: list[float]) -> dict[str, float | None]:
    """The mean and the 95 % interval of Student's t; folds learn from shared logos, so that it is rather too narrow."""
    mean, count = statistics.mean(differences), len(differences)
    if count < 2:
        return {"mean": mean, "low": None, "high": None}
    half = float(student_t.ppf(0.975, count - 1)) * statistics.stdev(differences) / math.sqrt(count)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def print_estimate(
    plain: Recipe, fold: Path, fits: list[FitConfig], record: dict, arguments: argparse.Namespace
) -> None:
    """How many fits are left, and the hours that they take: of a plain one's trial, sharpness-aware epochs counted twice."""
    spent = spent_hours(record)
    print(f"{len(fits)} fits to do, {len(record['entries'])} done in {spent:.2f} hours of CPU time")
    if not fits:
        return
    clock_s, cpu_s = time.perf_counter(), time.process_time()
    once_s = estimate_training(fold, plain, device=torch.device("cpu"))["seconds"]
    share = (time.process_time() - cpu_s) / (time.perf_counter() - clock_s)  # what others left of the machine
    hours = sum(once_s * passes(fit) for fit in fits) / 3600
    print(
        f"about {share * hours:.1f} more hours of CPU time, {hours / min(arguments.workers, count_cores()):.1f} by the clock "
        f"if the machine stays as busy; no fit begins once {arguments.hours:g} of CPU time are spent"
    )


def passes(config: FitConfig) -> float:
    """What a fit takes, in fits of the same length that are not sharpness-aware."""
    return 1 + sum(phase.end - phase.begin for phase in plan_phases(config) if phase.sharp) / config.epochs


if __name__ == "__main__":
    main()
