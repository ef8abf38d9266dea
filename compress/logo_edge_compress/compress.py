"""A run -> the best verified, calibrated bundle for each target (`logo-edge compress`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from logo_edge.backends.choose import BACKENDS
from logo_edge.bundle.record import Bundle, read_bundle
from logo_edge.errors import BundleError, LogoEdgeError, SelectionError
from logo_edge.machine import describe_machine
from logo_edge_compress.candidates.make import make_candidate
from logo_edge_compress.candidates.measure import Measured, measure_candidates
from logo_edge_compress.candidates.members import join_members, plan_members
from logo_edge_compress.candidates.pack import graph_of, pack_candidate
from logo_edge_compress.candidates.pixels import SPLITS
from logo_edge_compress.candidates.plan import make_candidates
from logo_edge_compress.candidates.store import CONVERTERS, Candidate, Plan, Task, made_with
from logo_edge_compress.convert.environments import LOCKS
from logo_edge_compress.distill.distill import distill
from logo_edge_compress.pack import refuse_other_folder
from logo_edge_compress.quantize.fitting import check_fitting, describe_fitting, fitting_rows
from logo_edge_compress.quantize.static import explain_range
from logo_edge_compress.report import REPORT, describe_candidate
from logo_edge_compress.select import Choice, Limits, add_carried, choose, find_dominators, find_slow_int8
from logo_edge_compress.subprocess_call import OutOfTimeError, call_in_subprocess
from logo_edge_compress.targets import TARGETS, is_measured
from logo_edge_compress.work import Budget, Say, Work, read_split, with_recipe, work_folder
from logo_edge_train.architecture import Architecture
from logo_edge_train.data.manifest import Manifest
from logo_edge_train.data.outliers import Family
from logo_edge_train.evaluate import ensemble_logits, short_metrics
from logo_edge_train.keys import artifact_key, select_settings, versions
from logo_edge_train.provenance import provenance
from logo_edge_train.recipe import DistillConfig, Recipe
from logo_edge_train.runs import Run, read_run, write_json
from logo_edge_train.train import check_multi_label


def compress(
    run_folder: Path,
    out: Path,
    *,
    name: str,
    device: torch.device,
    report: Callable[[dict], None],
    say: Say,
    targets: tuple[str, ...] = ("cpu",),
    limits: Limits = Limits(),
    members: int = 0,
    carry: tuple[str, ...] = (),
    budget_minutes: float | None = None,
    recipe: Recipe | None = None,
    outliers: dict[str, Family] | None = None,
    intended_use: str = "",
) -> tuple[dict[str, Bundle], dict]:
    """The packed bundle of each target, and the record that is also written to RUN/compress/compress_report.json.

    With a `recipe`, its stages after training replace the run's own, and the work is kept in RUN/compress-NAME. `out`
    is the folder of the one target's bundle; of several targets, those other than `cpu` go to OUT-TARGET. `members` is
    the number of teachers in a server's bundle; 0: all. `carry` names candidates, such as fp32 and int8-openvino, that
    every bundle holds as variants; the size limit counts them. `outliers` are families of pictures that are no logos,
    from neither the fitted nor the evaluated families. `intended_use` is a sentence for the cards.

    Every student of the recipe is distilled; every candidate of it is made, verified, calibrated on calib and measured
    here. val decides (`select.choose`), test is only reported. When the budget ends, the candidates made so far are
    chosen from, and the next call continues. A target that cannot be packed is missing among the bundles, and its
    record says why; the others are packed. Raises SelectionError, after the report is written, if none was packed,
    DatasetError before the work where INT8 would be fitted on too little (`check_fitting`).
    """
    outs = {
        target: out if len(targets) == 1 or target == "cpu" else out.with_name(f"{out.name}-{target}")
        for target in targets
    }
    for folder in outs.values():
        refuse_other_folder(folder)  # before the work, not after it
    run, folder = with_recipe(read_run(run_folder), recipe), work_folder(run_folder, recipe)
    manifest = run.read_manifest()
    check_multi_label(manifest, run.recipe)
    key = compression_key(run, name, targets, limits, members, sorted(outliers or {}), carry, intended_use)
    if (packed := _read_packed(folder / REPORT, key, outs)) is not None:
        say(f"{', '.join(map(str, outs.values()))} {'is' if len(outs) == 1 else 'are'} up to date")
        return packed
    fitted_on = fitting_rows(manifest, run.recipe.quantize.calibration_images)
    if targets != ("server",):
        check_fitting(manifest, fitted_on, run.manifest_path)
    splits = {split: read_split(run, manifest, split) for split in SPLITS if manifest.split(split)}
    work = Work(run, manifest, folder, splits, outliers or {}, Budget(budget_minutes), report, say)
    shutil.rmtree(folder / "pixels", ignore_errors=True)  # left by an earlier call that was killed
    candidates, complete = _make_all(work, targets, members, carry, device)
    shutil.rmtree(folder / "pixels", ignore_errors=True)
    packable = [candidate for candidate in candidates if candidate.status == "made" and candidate.backend != "member"]
    measured, timed = measure_candidates(work, packable)
    by_title = {candidate.title: candidate for candidate in measured}
    machine, val = describe_machine(), splits["val"]
    record = {
        "key": key,
        "run": run.folder.resolve().name,
        "recipe": run.recipe.name,
        "complete": complete and timed,
        "budget_minutes": budget_minutes,
        "limits": asdict(limits),
        "machine": machine,
        "versions": versions(),
        "int8_range": explain_range(run.recipe.quantize.reduce_range, machine["isa"]),
        "val": len(val.targets),
        "fitting": describe_fitting(manifest, fitted_on),
        "teachers": {
            "networks": [member["architecture"] for member in run.record["members"]],
            "val": short_metrics(
                ensemble_logits(run.member_logits("val"), multi_label=run.multi_label), val.targets, val.sure
            ),
        },
        "outliers": sorted(work.outliers),
        "candidates": [describe_candidate(candidate, by_title.get(candidate.title)) for candidate in candidates],
        "targets": {},
    }
    bundles = {}
    for target in targets:
        choice, choice_record = _choose(run, target, measured, limits, carry)
        record["targets"][target] = choice_record
        if choice.row is None:
            choice_record["sentence"] = _explain_none(choice, candidates, target)
            continue
        chosen = by_title[choice.row.title]
        try:
            bundles[target], packed_record = pack_candidate(
                work,
                target,
                chosen,
                measured,
                name=name,
                key=key,
                out=outs[target],
                carry=carry,
                intended_use=intended_use,
            )
        except LogoEdgeError as error:
            choice_record["sentence"] += f" It could not be packed: {error}"
            say(f"{target} was not packed: {error}")
            continue
        choice_record |= packed_record | {"provenance": provenance([bundles[target]])}
        say(f"packed {outs[target]}")
    if exported := next((target for target in ("cpu", *targets) if target in bundles and target != "server"), None):
        write_json(folder / "report.json", record["targets"][exported])  # read by `logo-edge export RUN`
    write_json(folder / REPORT, record)
    if not bundles:
        reasons = [f"{target}: {choice_record['sentence']}" for target, choice_record in record["targets"].items()]
        advice = f"Loosen a limit, or add students to distill.students; all figures: {folder / REPORT}"
        raise SelectionError("\n".join([*reasons, advice]))
    return bundles, record


def _make_all(
    work: Work, targets: tuple[str, ...], members: int, carry: tuple[str, ...], device: torch.device
) -> tuple[list[Candidate], bool]:
    """Every candidate of the targets, student by student, and whether none is left to try again."""
    recipe, budget, candidates = work.run.recipe, work.budget, []
    backends = {TARGETS[target].backend for target in targets}
    backends |= {name.partition("-")[2] for name in carry} & set(BACKENDS)
    if "members" in backends:
        candidates += _make_members(work, members)
        backends.remove("members")
    for text in recipe.distill.students if backends else ():
        student, folder = Architecture.parse(text), work.folder / text.replace("@", "-")
        missing = partial(Candidate, text, "student", "fp32", "torch", folder)
        watched = budget.watch(work.report)
        try:
            arguments, log = (work.run, work.manifest, recipe.distill, student, folder, device), folder / "distill.log"
            call_in_subprocess(_distill, arguments, log, report=watched, fresh=device.type == "cuda")
        except OutOfTimeError as error:
            candidates.append(missing("not tried", f"{error}; it is not distilled"))
            work.say(f"{text}: {error}; run the same command again to go on")
        except LogoEdgeError as error:
            candidates.append(missing("failed", str(error)))
            work.say(f"{text}: {error}")
        else:
            work.say(f"candidates of {text}")
            task = Task(work.run, work.manifest, student, folder, work.pixels(student.contract), text)
            candidates += make_candidates(task, backends, partial(_make, work, task))
    return candidates, all(candidate.status in ("made", "refused") for candidate in candidates)


def _distill(
    run: Run,
    manifest: Manifest,
    config: DistillConfig,
    student: Architecture,
    folder: Path,
    device: torch.device,
    report: Callable[[dict], None],
) -> None:
    """Runs in a separate process, so that the memory of the fit is free again before candidates are made."""
    distill(run, manifest, config, student, folder, device=device, report=report)


def _make_members(work: Work, count: int) -> list[Candidate]:
    """The first `count` teachers as ONNX and, if all are made, their ensemble."""
    run = work.run
    count = count or len(run.record["members"])
    work.say(f"{count} members")
    largest = max((run.architecture(index) for index in range(count)), key=lambda architecture: architecture.size_px)
    task = Task(run, work.manifest, largest, work.folder / "server", work.pixels(largest.contract), f"{count} members")
    members = [_make(work, task, plan) for plan in plan_members(task, count)]
    return [*members, join_members(task, members)] if all(member.status == "made" for member in members) else members


def _make(work: Work, task: Task, plan: Plan) -> Candidate:
    return make_candidate(task, plan, work.budget, report=work.report, say=work.say)


def _choose(
    run: Run, target: str, measured: list[Measured], limits: Limits, carry: tuple[str, ...]
) -> tuple[Choice, dict]:
    """The choice among the candidates for the target's backend, each with what it carries, and its record."""
    settings = TARGETS[target]
    graphs = {one.title: graph_of(one, measured) for one in measured}
    beside = {one.title: 0 if graphs[one.title] is one.candidate else graphs[one.title].size_bytes for one in measured}
    rows, unable = add_carried([one.row for one in measured], carry, beside)
    rows = [row for row in rows if row.backend == settings.backend]
    if settings.small and limits.size_mb is None:
        limits = replace(limits, size_mb=run.recipe.distill.max_size_mb)
    slow, shown, note = find_slow_int8(rows), rows, ""
    if not is_measured(target):
        slow, shown = {}, [replace(row, cost=None) for row in rows]
        if limits.latency_ms is not None:
            note = f" The limit of {limits.latency_ms:g} ms is not checked for {target}: nothing here measures it."
            limits = replace(limits, latency_ms=None)
    slow |= unable
    choice = choose(shown, limits, slow, by_size=settings.by_size)
    return choice, {
        "limits": asdict(limits),
        "refused": slow,
        "dominated": find_dominators(rows),
        "sentence": choice.sentence + note,
        "misses": {title: [miss.text for miss in missed] for title, missed in choice.misses.items() if missed},
    }


def _explain_none(choice: Choice, candidates: list[Candidate], target: str) -> str:
    """The choice's sentence, with the candidates that were not made."""
    backends = ("member",) if target == "server" else (TARGETS[target].backend, "torch")
    missing = [candidate for candidate in candidates if candidate.status != "made" and candidate.backend in backends]
    lines = [f"  {candidate.title}: {candidate.status}, {candidate.reason}" for candidate in missing]
    return "\n".join([choice.sentence, *lines])


def compression_key(
    run: Run,
    name: str,
    targets: tuple[str, ...],
    limits: Limits,
    members: int,
    outliers: list[str],
    carry: tuple[str, ...] = (),
    intended_use: str = "",
) -> str:
    """The key of a compression: teachers, data, the recipe's stages after training, the options, versions."""
    inputs = {"data": run.data_hash, **{path.name: path for path in LOCKS.glob("*.txt")}}
    for index, member in enumerate(run.record["members"]):
        inputs |= {f"teacher {index + 1}": member["sha256"], f"logits {index + 1}": member["logits_sha256"]}
    asked = {"bundle": name, "targets": targets, "limits": limits, "members": members, "outliers": outliers}
    asked |= {"intended_use": intended_use}
    if carry:
        asked["carry"] = carry
    settings = select_settings(run.recipe, "name", "distill", "quantize", "calibrate")
    return artifact_key(inputs, settings | asked, made_with("pillow", *CONVERTERS.values()))


def _read_packed(report: Path, key: str, outs: dict[str, Path]) -> tuple[dict[str, Bundle], dict] | None:
    """The bundles and their report, if all have this key, nothing is left to try and every bundle is undamaged."""
    if not report.exists():
        return None
    record = json.loads(report.read_text(encoding="utf-8"))
    if record["key"] != key or not record["complete"]:
        return None
    try:
        bundles = {target: read_bundle(out) for target, out in outs.items()}
    except BundleError:
        return None
    return (bundles, record) if all(bundle.provenance.get("key") == key for bundle in bundles.values()) else None
