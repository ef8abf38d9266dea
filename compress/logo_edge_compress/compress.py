"""A run -> the best verified, calibrated bundle for each target (`logo-edge compress`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.metrics import roc_auc_score

from logo_edge.bundle.calibration import Calibration, Mode, Scaling
from logo_edge.bundle.record import EMBEDDING, EPISTEMIC, Bundle, MemberEntry, ModelEntry, read_bundle
from logo_edge.decision import calibrated_logits, is_answered, logo_score
from logo_edge.errors import BundleError, LogoEdgeError, MissingExtraError, SelectionError
from logo_edge.machine import describe_machine
from logo_edge.preprocess import InputContract
from logo_edge.probabilities import softmax
from logo_edge.timing import Latency
from logo_edge_compress.calibrate import Fitted, fit_calibration
from logo_edge_compress.candidates.plan import (
    CONVERTERS,
    SPLITS,
    Budget,
    Candidate,
    Task,
    join_members,
    made_with,
    make_candidate,
    plan_candidates,
    plan_members,
    save_pixels,
)
from logo_edge_compress.convert.tensorrt import why_no_engine
from logo_edge_compress.distill.distill import check_teachers, distill, load_student
from logo_edge_compress.figures import summarize_rows
from logo_edge_compress.onnx.embedding_output import embed_bundle
from logo_edge_compress.onnx.graph import LOGITS, PIXELS
from logo_edge_compress.pack import describe_calibration, pack_bundle, reference, refuse_other_folder
from logo_edge_compress.quantize.static import explain_range
from logo_edge_compress.select import Choice, Limits, Row, choose, find_dominators, find_slow_int8
from logo_edge_compress.subprocess_call import OutOfTimeError
from logo_edge_compress.timing import Cost, Opened, measure_side_by_side
from logo_edge_compress.verify import Parity
from logo_edge_train.data.icons import renders_folder
from logo_edge_train.data.manifest import LogoRow, Manifest, targets_of
from logo_edge_train.data.outliers import Family
from logo_edge_train.evaluate import ensemble_logits, short_metrics
from logo_edge_train.keys import artifact_key, select_settings, versions
from logo_edge_train.metrics import debiased_calibration_error, debiased_ece
from logo_edge_train.recipe import Architecture, Recipe
from logo_edge_train.runs import Run, read_run, write_json

REPORT, PAGE = "compress_report.json", "compress_report.html"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Target:
    """Where a bundle is to run: its backend, whether this command can measure it, and what counts most."""

    backend: str
    by_size: bool = False  # the smallest file, not the fastest
    small: bool = False  # the recipe's `max_size_mb` holds where no other limit is given


TARGETS = {
    "cpu": Target("onnxruntime", small=True),
    "openvino": Target("openvino"),
    "jetson": Target("tensorrt"),
    "web": Target("onnxruntime", by_size=True, small=True),
    "torchscript": Target("torchscript"),
    "server": Target("members"),
}
TITLES = {"onnxruntime": "ONNX", "openvino": "OpenVINO", "tensorrt": "TensorRT", "torchscript": "TorchScript"}


@dataclass(frozen=True)
class Split:
    """The labelled logos of one split: targets (N,)."""

    rows: list[LogoRow]
    targets: np.ndarray

    @property
    def sure(self) -> np.ndarray:
        return np.array([row.sure for row in self.rows], bool)


@dataclass(frozen=True)
class Stage:
    """One step of the compression: its logits on every split, its size and single-image latency on one thread.

    `latency` is that of `measure_side_by_side`; None for a stage in PyTorch, which is not timed.
    """

    name: str
    logits: dict[str, np.ndarray]
    size_bytes: int
    latency: Latency | None
    temperature: float = 1.0
    parity: Parity | None = None
    scaling: Scaling | None = None

    def calibrated(self, split: str) -> np.ndarray:
        """The (N, K) logits whose softmax are the stage's probabilities."""
        return calibrated_logits(self.logits[split], self.temperature, self.scaling)


@dataclass(frozen=True)
class Work:
    """What a compression is about, from beginning to end."""

    run: Run
    manifest: Manifest
    folder: Path
    splits: dict[str, Split]
    outliers: dict[str, Family]
    budget: Budget
    report: Callable[[dict], None]
    say: Say

    def pixels(self, contract: InputContract) -> Path:
        """The folder of `save_pixels` for one input contract."""
        name = f"{contract.size_px}px" + "-details" * contract.details
        return save_pixels(self.run, self.manifest, contract, self.outliers, self.folder / "pixels" / name)


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
    budget_minutes: float | None = None,
    recipe: Recipe | None = None,
    outliers: dict[str, Family] | None = None,
) -> tuple[dict[str, Bundle], dict]:
    """The packed bundle of each target, and the record that is also written to RUN/compress/compress_report.json.

    With a `recipe`, its stages after training stand in for those of the run's own, and all is kept in RUN/compress-NAME.
    `out` is the folder of the one target's bundle; of several, those but `cpu` go to OUT-TARGET. `members` is how many
    teachers a server's bundle holds; 0: all. `outliers`: families of pictures that are no logos, which are neither fitted nor those of the evaluation.

    Every student of the recipe is distilled; every candidate of it made, verified, calibrated on calib and measured here;
    val decides (`select.choose`), test is only reported. Where the budget ends, what is made by then is chosen from, and
    the next call goes on. A target that cannot be packed is missing among the bundles, and its record says why; the
    others are packed. Raises SelectionError, once the report is written, where none was.
    """
    outs = {
        target: out if len(targets) == 1 or target == "cpu" else out.with_name(f"{out.name}-{target}")
        for target in targets
    }
    for folder in outs.values():
        refuse_other_folder(folder)  # before the work, not after it
    run, folder = with_recipe(read_run(run_folder), recipe), work_folder(run_folder, recipe)
    manifest = run.read_manifest()
    key = compression_key(run, name, targets, limits, members, sorted(outliers or {}))
    if (packed := _packed_before(folder / REPORT, key, outs)) is not None:
        say(f"{', '.join(map(str, outs.values()))} {'is' if len(outs) == 1 else 'are'} up to date")
        return packed
    splits = {split: _split(run, manifest, split) for split in SPLITS if manifest.split(split)}
    work = Work(run, manifest, folder, splits, outliers or {}, Budget(budget_minutes), report, say)
    shutil.rmtree(folder / "pixels", ignore_errors=True)  # of an earlier call that was killed
    candidates, complete = _make_all(work, targets, members, device)
    shutil.rmtree(folder / "pixels", ignore_errors=True)
    made = [entry for entry in candidates if entry.status == "made" and entry.backend != "member"]
    costs, timed = _measure(made, folder, say)
    say(f"calibrating {len(made)} candidates")
    calibrations = {entry.title: _calibrate(work, entry) for entry in made}
    rows = [_row(work, entry, calibrations[entry.title].calibration, costs[entry.title]) for entry in made]
    machine = describe_machine()
    teachers = short_metrics(ensemble_logits(run.member_logits("val")), splits["val"].targets, splits["val"].sure)
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
        "val": len(splits["val"].targets),
        "teachers": {"networks": _teachers(run), "val": teachers},
        "outliers": sorted(work.outliers),
        "candidates": [_describe_candidate(entry, rows, costs) for entry in candidates],
        "targets": {},
    }
    bundles = {}
    for target in targets:
        choice, found = _choose(run, target, rows, limits)
        record["targets"][target] = found
        if choice.row is None:
            found["sentence"] = _why_none(choice, candidates, target)
            continue
        candidate = next(entry for entry in made if entry.title == choice.row.title)
        try:
            bundles[target] = _pack(work, target, candidate, made, calibrations, costs, name, key, outs[target], found)
        except LogoEdgeError as error:
            found["sentence"] += f" It could not be packed: {error}"
            say(f"{target} was not packed: {error}")
            continue
        say(f"packed {outs[target]}")
        if target == next((place for place in ("cpu", *targets) if place in bundles and place != "server"), None):
            write_json(folder / "report.json", found)  # what `logo-edge export RUN` reads
    write_json(folder / REPORT, record)
    if not bundles:
        reasons = [f"{target}: {found['sentence']}" for target, found in record["targets"].items()]
        raise SelectionError(
            "\n".join(reasons)
            + f"\nLoosen a limit, or add students to distill.students; all figures: {folder / REPORT}"
        )
    return bundles, record


def with_recipe(run: Run, recipe: Recipe | None) -> Run:
    """The run, with the recipe's stages after training in the place of its own."""
    if recipe is None:
        return run
    later = {stage: entry for stage, entry in asdict(recipe).items() if stage != "train"}
    return replace(run, record={**run.record, "recipe": {**run.record["recipe"], **later}})


def work_folder(run_folder: Path, recipe: Recipe | None) -> Path:
    """Where a compression keeps its work and its report."""
    return run_folder / (f"compress-{recipe.name}" if recipe else "compress")


def check_targets(run: Run, targets: tuple[str, ...], limits: Limits, members: int = 0) -> None:
    """Refuses at the start what could only fail after the work. `members` as for `compress`.

    Raises SelectionError where a limit of latency is asked of targets none of which can be measured here, or a server's
    bundle of fewer than two teachers; MissingExtraError where a target's library is not installed; RunError where the
    recipe distils what one teacher cannot say.
    """
    teachers = members or len(run.record["members"])
    if "server" in targets and teachers < 2:
        others = " ".join(f"--target {target}" for target in targets if target != "server") or "--target cpu"
        raise SelectionError(
            f"--target server packs the teachers of {run.folder} together, and it has {teachers}; expected two or more. "
            f"Train with more train.teachers, or leave it out: {others}"
        )
    if "openvino" in targets and find_spec("openvino") is None:
        raise MissingExtraError("openvino", "openvino")
    if targets != ("server",):
        check_teachers(run, run.recipe.distill)
    unmeasured = [target for target in targets if not _is_measured(target)]
    if limits.latency_ms is not None and len(unmeasured) == len(targets):
        reasons = {"web": "a browser runs it", "jetson": why_no_engine()}
        told = "; ".join(f"{target}: {reasons[target]}" for target in unmeasured)
        raise SelectionError(
            f"--max-latency-ms {limits.latency_ms:g} cannot be held here ({told}); leave it out and measure on the device"
        )


def _is_measured(target: str) -> bool:
    """Whether the latencies that are measured here are the target's own."""
    return target != "web" and not (target == "jetson" and why_no_engine())


def _make_all(work: Work, targets: tuple[str, ...], members: int, device: torch.device) -> tuple[list[Candidate], bool]:
    """Every candidate of the targets, and whether none is left to try (again). A student's come before the next is distilled."""
    recipe, budget, found = work.run.recipe, work.budget, []
    backends = {TARGETS[target].backend for target in targets}
    if "members" in backends:
        found += _make_members(work, members)
        backends.remove("members")
    for text in recipe.distill.students if backends else ():
        student = Architecture.parse(text)
        folder = work.folder / text.replace("@", "-")
        try:
            distill(
                work.run,
                work.manifest,
                recipe.distill,
                student,
                folder,
                device=device,
                report=budget.watch(work.report),
            )
        except OutOfTimeError as error:
            found.append(
                Candidate(text, "student", "fp32", "torch", folder, "not tried", f"{error}; it is not distilled")
            )
            work.say(f"{text}: {error}; run the same command again to go on")
            continue
        except LogoEdgeError as error:
            found.append(Candidate(text, "student", "fp32", "torch", folder, "failed", str(error)))
            work.say(f"{text}: {error}")
            continue
        work.say(f"candidates of {text}")
        task = Task(work.run, work.manifest, student, folder, work.pixels(student.contract), text)
        plans = plan_candidates(task, folder / "student.safetensors", backends)
        made = None
        while (plan := _next(plans, made)) is not None:
            made = make_candidate(task, plan, budget, report=work.report, say=work.say)
            found.append(made)
    return found, all(entry.status in ("made", "refused") for entry in found)


def _choose(run: Run, target: str, rows: list[Row], limits: Limits) -> tuple[Choice, dict]:
    """The choice among the rows of the target's backend, and the record of it."""
    place = TARGETS[target]
    rows = [row for row in rows if row.backend == place.backend]
    if place.small and limits.size_mb is None:
        limits = replace(limits, size_mb=run.recipe.distill.max_size_mb)
    slow = find_slow_int8(rows) if _is_measured(target) else {}
    shown, note = rows, ""
    if not _is_measured(target):
        shown = [replace(row, cost=None) for row in rows]
        if limits.latency_ms is not None:
            note = f" The limit of {limits.latency_ms:g} ms is not held for {target}: nothing here measures it."
            limits = replace(limits, latency_ms=None)
    choice = choose(shown, limits, slow, by_size=place.by_size)
    return choice, {
        "limits": asdict(limits),
        "refused": slow,
        "dominated": find_dominators(rows),
        "sentence": choice.sentence + note,
        "misses": {title: [miss.text for miss in missed] for title, missed in choice.misses.items() if missed},
    }


def _next(plans, made: Candidate | None):
    try:
        return plans.send(made)
    except StopIteration:
        return None


def _make_members(work: Work, count: int) -> list[Candidate]:
    """The first `count` teachers as ONNX and, where all are, the candidate that they are together."""
    run = work.run
    count = count or len(run.record["members"])
    work.say(f"{count} members")
    largest = max((run.architecture(index) for index in range(count)), key=lambda entry: entry.size_px)
    task = Task(run, work.manifest, largest, work.folder / "server", work.pixels(largest.contract), f"{count} members")
    made = [
        make_candidate(task, plan, work.budget, report=work.report, say=work.say) for plan in plan_members(task, count)
    ]
    return [*made, join_members(task, made)] if all(entry.status == "made" for entry in made) else made


def _measure(candidates: list[Candidate], folder: Path, say: Say) -> tuple[dict[str, Cost | str], bool]:
    """Title -> its cost on this machine, or why there is none; and whether all that can be opened here were timed.

    Costs are kept, and read where they are of these files and this machine. One timing that failed keeps none: they are
    taken by turns, so the next call measures all of them again.
    """
    opened = {entry.title: _open(entry) for entry in candidates}
    measurable = {title: artifact for title, artifact in opened.items() if isinstance(artifact, Opened)}
    machine = describe_machine()
    files = {f"{entry.title}/{name}": sha256 for entry in candidates for name, sha256 in entry.files.items()}
    key = artifact_key(files, {"machine": machine}, {})
    path = folder / "latency.json"
    if path.exists() and (kept := json.loads(path.read_text(encoding="utf-8")))["key"] == key:
        costs = {
            title: Cost(**{**cost, "rounds_ms": tuple(cost["rounds_ms"])}) for title, cost in kept["costs"].items()
        }
        return {**opened, **costs}, True
    say(f"measuring {len(measurable)} candidates by turns")
    costs = measure_side_by_side(measurable, folder)
    for title, cost in {**opened, **costs}.items():
        if isinstance(cost, str):
            say(f"  {title} was not measured: {cost}")
    complete = all(isinstance(cost, Cost) for cost in costs.values())
    if complete:
        kept = {title: asdict(cost) for title, cost in costs.items()}
        write_json(path, {"key": key, "machine": machine, "costs": kept})
    return {**opened, **costs}, complete


def _open(candidate: Candidate) -> Opened | str:
    """How to open the candidate here, or why it cannot be."""
    contract = Architecture.parse(candidate.record["network"]).contract
    if candidate.backend != "tensorrt":
        return Opened(candidate.backend, tuple(candidate.paths), contract, tuple(candidate.record.get("members", ())))
    engine = candidate.record["engine"]
    return Opened("tensorrt", (candidate.folder / engine,), contract) if engine else candidate.record["not_done"]


def _calibrate(work: Work, candidate: Candidate) -> Fitted:
    """Fitted on the candidate's own logits on calib."""
    return fit_calibration(
        candidate.logits()["calib"], work.splits["calib"].targets, work.run.classes, work.run.recipe.calibrate
    )


def _row(work: Work, candidate: Candidate, calibration: Calibration, cost: Cost | str) -> Row:
    val, logits = work.splits["val"], candidate.logits()
    calibrated = calibrated_logits(logits["val"], calibration.temperature, calibration.scaling)
    probabilities = softmax(calibrated)
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == val.targets
    figures = short_metrics(calibrated, val.targets, val.sure)
    teachers = ensemble_logits(work.run.member_logits("val")).argmax(1) == val.targets
    inside = logo_score(logits["val"])
    ood = {
        name.removeprefix("outliers-"): float(
            roc_auc_score(np.repeat([1, 0], [len(inside), len(part)]), np.concatenate([inside, logo_score(part)]))
        )
        for name, part in sorted(logits.items())
        if name.startswith("outliers-")
    }
    return Row(
        candidate.student,
        candidate.name,
        candidate.precision,
        candidate.backend,
        candidate.size_bytes,
        **figures,
        accuracy_drop=float(teachers.mean() - correct.mean()),
        ece=debiased_ece(confidence, correct),
        calibration_error=debiased_calibration_error(confidence, correct),
        ood=ood,
        correct=correct,
        cost=cost if isinstance(cost, Cost) else None,
    )


def _why_none(choice: Choice, candidates: list[Candidate], target: str) -> str:
    """The choice's sentence, with what was not made at all."""
    backends = ("member",) if target == "server" else (TARGETS[target].backend, "torch")
    lost = [entry for entry in candidates if entry.status != "made" and entry.backend in backends]
    lines = [f"  {entry.title}: {entry.status}, {entry.reason}" for entry in lost]
    return "\n".join([choice.sentence, *lines])


def _pack(
    work: Work,
    target: str,
    candidate: Candidate,
    made: list[Candidate],
    calibrations: dict[str, Fitted],
    costs: dict[str, Cost | str],
    name: str,
    key: str,
    out: Path,
    found: dict,
) -> Bundle:
    """Packs the candidate for the target and completes the record that `found` is of it."""
    run, splits, fitted = work.run, work.splits, calibrations[candidate.title]
    calibration = fitted.calibration
    latency, parity = _latency(costs[candidate.title]), Parity(**candidate.record["parity"])
    fp32 = next(
        (
            entry
            for entry in made
            if (entry.student, entry.name, entry.backend) == (candidate.student, "fp32", "onnxruntime")
        ),
        None,
    )
    form = f"{candidate.precision.upper()} {TITLES.get(candidate.backend, 'ONNX')}"
    chosen = Stage(form, candidate.logits(), candidate.size_bytes, latency, parity=parity)
    calibrated = replace(
        chosen,
        name=f"{candidate.precision.upper()}, calibrated",
        temperature=calibration.temperature,
        scaling=calibration.scaling,
    )
    stages = [_ensemble_stage(run, splits)]
    if fp32:
        plain = Stage(
            "FP32 ONNX",
            fp32.logits(),
            fp32.size_bytes,
            _latency(costs[fp32.title]),
            parity=Parity(**fp32.record["parity"]),
        )
        size_bytes = load_student(candidate.folder, len(run.classes)).network.float32_bytes
        stages += [Stage("student, PyTorch", plain.logits, size_bytes, None)]
        stages += [plain] if fp32 is not candidate else []
    stages += [chosen, calibrated]
    summary = _summarize(stages, splits, run.classes)
    graph = candidate
    if candidate.backend in ("openvino", "torchscript"):  # beside the graph that it was made of, which runs anywhere
        graph = next(
            entry
            for entry in made
            if entry.student == candidate.student and entry.path.name == candidate.record["parent"]
        )
    outputs = {entry.name for entry in onnx.load(graph.path, load_external_data=False).graph.output}
    outputs |= {EPISTEMIC} if candidate.backend == "members" else set()
    extra = {} if graph is candidate else {f"model{path.suffix}": path for path in candidate.paths}
    members = tuple(MemberEntry(*member) for member in candidate.record.get("members", ()))
    extra |= {path.name: path for path in candidate.paths} if members else {}
    final = {split: figures for split, figures in summary[-1].items() if split in ("val", "test")}
    described = Bundle(
        name=name if target == "cpu" else f"{name}-{target}",
        labels=run.classes,
        members=members,
        model=ModelEntry(
            members[0].file if members else "model.onnx",
            graph.precision,
            PIXELS,
            LOGITS,
            tuple(sorted(outputs & {EPISTEMIC, EMBEDDING})),
        ),
        input=Architecture.parse(candidate.record["network"]).contract,
        calibration=calibration,
        files={},
        metrics=final,
        provenance={
            "key": key,
            "target": target,
            "student": candidate.student.rpartition("@")[0],
            "recipe": run.recipe.name,
            "quantization": candidate.name,
            "reduce_range": run.recipe.quantize.reduce_range,
            "data_hash": run.data_hash,
            "teachers": _teachers(run),
            "versions": versions(),
            **describe_calibration(run.recipe.calibrate, fitted),
        },
        reference=reference(calibrated.logits["calib"], run.classes, calibration),
    )
    model = graph.path
    if not members:
        described, model, space = embed_bundle(described, model, model.parent, work.manifest, renders_folder())
        extra |= space
    bundle = pack_bundle(described, model, out, extra)
    graphs = {
        entry.precision: str(entry.path.relative_to(work.folder))
        for entry in made
        if entry.student == candidate.student and entry.name == "fp32"
    }
    if graph.precision == "int8":
        graphs["int8"] = str(graph.path.relative_to(work.folder))
    found |= {
        "run": run.folder.name,
        "recipe": run.recipe.name,
        "chosen": candidate.student,
        "method": candidate.name,
        "precision": candidate.precision,
        "artifact": str(candidate.path.relative_to(work.folder)),
        "graphs": graphs,
        "bundle": str(out),
        "bundle_bytes": bundle.size_bytes,
        "stages": summary,
        "abstention": _abstention(calibrated, splits, calibration),
        "versions": versions(),
    }
    return bundle


def _describe_candidate(candidate: Candidate, rows: list[Row], costs: dict[str, Cost | str]) -> dict:
    """The candidate for JSON: what it is, what became of it and, where it was made, its figures on val."""
    told = {
        "title": candidate.title,
        "student": candidate.student,
        "name": candidate.name,
        "precision": candidate.precision,
        "backend": candidate.backend,
        "status": candidate.status,
        "reason": candidate.reason,
        "seconds": candidate.seconds,
        "files": candidate.files,
        **{
            key: candidate.record.get(key)
            for key in ("parity", "epistemic_rank_correlation", "verified_by", "not_done", "sensitivity")
        },
    }
    row = next((row for row in rows if row.title == candidate.title), None)
    if row is not None:
        cost = costs[candidate.title]
        figures = {name: value for name, value in vars(row).items() if name not in ("correct", "cost", *told)}
        told |= {
            **figures,
            "cost": asdict(cost) if isinstance(cost, Cost) else None,
            "not_measured": cost if isinstance(cost, str) else "",
        }
    return told


def compression_key(
    run: Run, name: str, targets: tuple[str, ...], limits: Limits, members: int, outliers: list[str]
) -> str:
    """The key of a compression: teachers, data, the recipe's stages after training, what was asked for, versions."""
    inputs = {"data": run.data_hash}
    for index, member in enumerate(run.record["members"]):
        inputs |= {f"teacher {index + 1}": member["sha256"], f"logits {index + 1}": member["logits_sha256"]}
    asked = {"bundle": name, "targets": targets, "limits": limits, "members": members, "outliers": outliers}
    settings = select_settings(run.recipe, "name", "distill", "quantize", "calibrate")
    return artifact_key(inputs, settings | asked, made_with("pillow", *CONVERTERS))


def _packed_before(report: Path, key: str, outs: dict[str, Path]) -> tuple[dict[str, Bundle], dict] | None:
    """The bundles and their report, where all are of this very key, nothing is left to try and every bundle is whole."""
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


def _teachers(run: Run) -> list[str]:
    return [member["architecture"] for member in run.record["members"]]


def _latency(cost: Cost | str) -> Latency | None:
    return Latency(cost.p50_ms, cost.p90_ms, cost.p99_ms, cost.runs) if isinstance(cost, Cost) else None


def _ensemble_stage(run: Run, splits: dict[str, Split]) -> Stage:
    logits = {name: ensemble_logits(run.member_logits(name)) for name in splits}
    count = len(run.record["members"])
    size = sum(run.load_member(index).float32_bytes for index in range(count))
    return Stage(f"{count} teachers, PyTorch", logits, size, None, run.temperature)


def _split(run: Run, manifest: Manifest, name: str) -> Split:
    rows = manifest.split(name)
    return Split(rows, targets_of(rows, run.classes))


def _summarize(stages: list[Stage], splits: dict[str, Split], labels: tuple[str, ...]) -> list[dict]:
    return [
        {
            "stage": stage.name,
            "size_bytes": stage.size_bytes,
            "temperature": stage.temperature,
            "scaling": asdict(stage.scaling) if stage.scaling else None,
            "latency": asdict(stage.latency) if stage.latency else None,
            "parity": asdict(stage.parity) if stage.parity else None,
            **{
                name: summarize_rows(stage.calibrated(name), split.rows, labels)
                for name, split in splits.items()
                if name != "calib"
            },
        }
        for stage in stages
    ]


def _abstention(stage: Stage, splits: dict[str, Split], calibration: Calibration) -> dict:
    """Coverage and error among the answered on each split, at the packed thresholds; those of strict under its name."""

    def selection(mode: Mode) -> dict:
        found = {}
        for name, split in splits.items():
            probabilities = softmax(stage.calibrated(name))
            answered = is_answered(calibration, mode, probabilities.max(1), logo_score(stage.logits[name]))
            wrong = probabilities.argmax(1) != split.targets
            found[name] = {
                "coverage": float(answered.mean()),
                "risk": float(wrong[answered].mean()) if answered.any() else 0.0,
            }
        return {"threshold": calibration.abstain_below[mode], **found}

    familiarity = calibration.familiarity and asdict(calibration.familiarity)
    return {**selection(Mode.BALANCED), "familiarity": familiarity, Mode.STRICT.value: selection(Mode.STRICT)}
