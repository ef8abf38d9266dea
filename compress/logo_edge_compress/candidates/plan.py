"""One candidate of a compression: a student in one precision for one backend, made, verified and run on real logos.

Each is made in a process of its own and kept by the hash of what it was made from. What can go wrong with one, from a
refusal to a crash, is a line of the report.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors.numpy import load_file as load_arrays

from logo_edge.bundle.members import pool_logits, reduce_pixels
from logo_edge.bundle.record import EPISTEMIC
from logo_edge.errors import LogoEdgeError, VerificationError
from logo_edge.preprocess import InputContract, preprocess
from logo_edge_compress.convert.artifacts import FITTING_IMAGES, Images, Source, export_artifact
from logo_edge_compress.distill.distill import load_student
from logo_edge_compress.onnx.export import export_onnx
from logo_edge_compress.onnx.graph import save_model, store_float16
from logo_edge_compress.quantize.nncf import restore_with_nncf
from logo_edge_compress.quantize.qat import NOT_TUNED_BY, TUNED_BY, finetune, unknown_operators
from logo_edge_compress.quantize.sensitivity import measure_sensitivity, mix_precision
from logo_edge_compress.quantize.static import (
    METHODS,
    quantize_body,
    quantize_dynamically,
    round_body,
    store_int4,
    store_int8,
)
from logo_edge_compress.subprocess_call import ApartError, OutOfTimeError, run_apart
from logo_edge_compress.verify import (
    EXPORTED,
    LEAST_RANK_CORRELATION,
    QUANTIZED,
    ROUNDED,
    Forward,
    Tolerance,
    compare_logits,
    has_epistemic,
    open_artifact,
    open_onnx,
    run_artifact,
    run_onnx,
    verify,
    verify_epistemic,
)
from logo_edge_train.data.images import pixels_of
from logo_edge_train.data.manifest import Manifest, targets_of
from logo_edge_train.data.outliers import Family, draw_pictures
from logo_edge_train.data.pool import stratified_sample
from logo_edge_train.evaluate import ensemble_logits
from logo_edge_train.keys import artifact_key, file_hash, select_settings, source_hash, versions
from logo_edge_train.recipe import Architecture
from logo_edge_train.runs import Run, save_logits, write_json

SPLITS = ("val", "calib", "test")
NNCF_DROP = 0.005  # of accuracy on val
MADE_WITH = ("numpy", "onnx", "onnxruntime", "torch")
CONVERTERS = ("nncf", "openvino", "tensorrt")  # packages of which a candidate's method or backend has the name
FITTED = "fitting"  # the pixels that quantization is fitted on


@dataclass(frozen=True)
class Task:
    """What the candidates of one student have in common; `pixels` is the folder of `save_pixels`.

    Of an ensemble, the `student` stands for the largest of its members.
    """

    run: Run
    manifest: Manifest
    student: Architecture
    folder: Path
    pixels: Path
    title: str


@dataclass(frozen=True)
class Plan:
    """How a candidate is to be made: `make(task, plan, pixels, report)` gives a Made, out of `inputs` and `settings`.

    `fits`: whether it is fitted on the train logos among the pixels as well.
    """

    name: str  # also that of its files: int8-percentile
    precision: str  # fp32, fp16, int8, or what is only stored in fewer bits: int8-weights, int4-weights
    backend: str  # onnxruntime, openvino, tensorrt or torchscript
    make: Callable
    inputs: tuple[Path, ...]
    settings: dict = field(default_factory=dict)
    fits: bool = False


@dataclass(frozen=True)
class Made:
    """An artifact: its files, the one that the backend opens first, and how it runs.

    It is held against the `parent`'s (N, K) logits on val, unless its record has its parity already; where it says
    what is epistemic too, against the (N,) `epistemic` of its parent on val and what is no logo.
    """

    files: tuple[Path, ...]
    forward: Forward
    tolerance: Tolerance
    parent: np.ndarray | None = None
    epistemic: np.ndarray | None = None
    record: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """What became of a plan. `status` is made, refused (it disagrees with its parent), failed or not tried."""

    student: str
    name: str
    precision: str
    backend: str
    folder: Path
    status: str
    reason: str = ""
    files: dict[str, str] = field(default_factory=dict)  # name -> sha256
    record: dict = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def title(self) -> str:
        return f"{self.student}, {self.name}"

    @property
    def path(self) -> Path:
        """The file that the backend opens."""
        return self.folder / next(iter(self.files))

    @property
    def paths(self) -> list[Path]:
        return [self.folder / name for name in self.files]

    @property
    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths)

    @property
    def kl_nats(self) -> float:
        return self.record["parity"]["kl_nats"]

    def logits(self) -> dict[str, np.ndarray]:
        """(N, K) float32 by split, and by `outliers-FAMILY`."""
        return load_arrays(self.folder / f"{self.name}.logits")


class Budget:
    """The time that a compression may take; none: as long as it needs."""

    def __init__(self, minutes: float | None):
        self.minutes = minutes
        self.deadline = float("inf") if minutes is None else time.monotonic() + 60 * minutes

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.deadline

    def watch(self, report: Callable[[dict], None]) -> Callable[[dict], None]:
        """The report, which raises OutOfTimeError once the budget is over: a fit then stops where it can go on later."""

        def watched(item: dict) -> None:
            report(item)
            if self.is_over:
                raise OutOfTimeError(f"the budget of {self.minutes:g} minutes is over")

        return watched


def save_pixels(
    run: Run, manifest: Manifest, contract: InputContract, outliers: dict[str, Family], folder: Path
) -> Path:
    """The folder with what every candidate of one input contract is run on, as (N, S, S, C) uint8 .npy files.

    val, calib, test, the logos of train that quantization is `fitting` on, and `outliers-FAMILY`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "complete").exists():
        return folder
    for name in SPLITS:
        if rows := manifest.split(name):
            np.save(folder / f"{name}.npy", pixels_of(rows, manifest, contract))
    rows = stratified_sample(manifest.split("train"), run.recipe.quantize.calibration_images, seed=1)
    np.save(folder / f"{FITTED}.npy", pixels_of(rows, manifest, contract))
    for name, family in outliers.items():
        pictures = [preprocess(image, contract) for image in draw_pictures(name, family)]
        np.save(folder / f"outliers-{name}.npy", np.stack(pictures))
    (folder / "complete").touch()
    return folder


def load_pixels(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))}


def make_candidate(
    task: Task, plan: Plan, budget: Budget, *, report: Callable[[dict], None], say: Callable[[str], None]
) -> Candidate:
    """The plan's candidate, made in a process of its own, or read back where it was made of the very same before."""
    place = (task.title, plan.name, plan.precision, plan.backend, task.folder)
    record_path, key = task.folder / f"{plan.name}.candidate.json", candidate_key(task, plan)
    if (found := _read_candidate(record_path, key, place)) is not None:
        return found
    if budget.is_over:
        return Candidate(*place, "not tried", f"the budget of {budget.minutes:g} minutes was over")
    record_path.unlink(missing_ok=True)
    started = time.monotonic()
    try:
        made = run_apart(
            _make_apart, (task, plan), task.folder / f"{plan.name}.log", report=report, deadline=budget.deadline
        )
    except OutOfTimeError:
        found = Candidate(*place, "not tried", f"stopped when the budget of {budget.minutes:g} minutes was over")
    except ApartError as error:  # it may go better next time: not kept
        found = Candidate(*place, "failed", str(error))
    else:
        found = Candidate(*place, **made, seconds=time.monotonic() - started)
        kept = {
            "key": key,
            **{name: getattr(found, name) for name in ("status", "reason", "files", "record", "seconds")},
        }
        write_json(record_path, kept)
    say(f"  {found.name}: {describe(found)}")
    return found


def describe(candidate: Candidate) -> str:
    """What became of it, in a line."""
    if not candidate.files:
        return f"{candidate.status}: {candidate.reason}"
    parity = candidate.record["parity"]
    told = (
        f"{candidate.size_bytes / 1e6:.2f} MB, top-1 agreement {parity['top1_agreement']:.1%}, KL "
        f"{parity['kl_nats']:.4f} nats on val, {candidate.seconds:.0f} s"
    )
    return told if candidate.status == "made" else f"{candidate.status}: {told}"


def plan_candidates(task: Task, checkpoint: Path, backends: set[str]) -> Iterator[Plan]:
    """The plans of one student, each yielded once what it is made of has been tried; send() it the Candidate.

    The graphs for ONNX Runtime come first, as all others are made of them: FP32, its weights stored in FP16, then by each
    of the recipe's methods, the closest static INT8 fine-tuned and, by `quantize.mixed`, one with sensitive layers in FP32.
    """
    folder, config = task.folder, task.run.recipe.quantize
    settings = {"reduce_range": config.reduce_range}
    body = folder / "body.onnx"
    fp32 = yield Plan("fp32", "fp32", "onnxruntime", make_fp32, (checkpoint,))
    if fp32.status != "made":
        return
    graphs = {"fp32": fp32}
    graphs["fp16"] = yield Plan("fp16", "fp16", "onnxruntime", make_fp16, (fp32.path,))
    static, others = [], []
    for method in config.methods:
        told = {**settings, "method": method}
        if method in METHODS:
            static.append(
                (yield Plan(f"int8-{method}", "int8", "onnxruntime", make_int8, (body, fp32.path), told, fits=True))
            )
        elif method == "nncf":
            told["minutes"] = config.nncf_minutes
            others.append(
                (yield Plan("int8-nncf", "int8", "onnxruntime", make_nncf, (body, fp32.path), told, fits=True))
            )
        elif method == "dynamic":
            others.append((yield Plan("int8-dynamic", "int8", "onnxruntime", make_dynamic, (body, fp32.path), told)))
        else:
            precision = f"{method.removeprefix('weights-')}-weights"
            yield Plan(precision, precision, "onnxruntime", make_stored, (body, fp32.path), {"method": method})
    tried = [entry for entry in static if entry.files]
    if tried and config.finetune.epochs and not unknown_operators(onnx.load(closest(tried).path)):
        told = select_settings(task.run.recipe, *TUNED_BY, without=NOT_TUNED_BY) | settings
        tried.append(
            (
                yield Plan(
                    "int8-tuned", "int8", "onnxruntime", make_tuned, (closest(tried).path, checkpoint, fp32.path), told
                )
            )
        )
    verified = [entry for entry in (*tried, *others) if entry.status == "made"]
    refused = any(entry.status == "refused" for entry in static)
    if config.mixed == "always" or (config.mixed == "needed" and refused and not verified):
        told = {
            **settings,
            "method": next((name for name in config.methods if name in METHODS), "minmax"),
            "most": config.most_restored,
        }
        mixed = yield Plan("int8-mixed", "int8", "onnxruntime", make_mixed, (body, fp32.path), told, fits=True)
        verified += [mixed] if mixed.status == "made" else []
    if verified:
        graphs["int8"] = closest(verified)
    for backend in sorted(backends - {"onnxruntime"}):
        precisions = ("fp32",) if backend == "torchscript" else ("fp32", "fp16", "int8")
        for precision in precisions:
            parent = graphs.get("fp32" if precision == "fp16" else precision)
            if parent is not None:
                yield Plan(
                    f"{precision}-{backend}",
                    precision,
                    backend,
                    make_export,
                    (parent.path, checkpoint),
                    {"kind": backend},
                    fits=True,
                )


def plan_members(task: Task, count: int) -> Iterator[Plan]:
    """The first `count` teachers of the run, each as FP32 ONNX."""
    for index in range(count):
        member = task.run.record["members"][index]
        checkpoint = task.run.folder / member["file"]
        yield Plan(f"member-{index}", "fp32", "member", make_member, (checkpoint,), {"index": index})


def join_members(task: Task, made: list[Candidate]) -> Candidate:
    """The candidate that the members are together, each counting as much: their logits as the runtime pools them."""
    weights = np.full(len(made), 1 / len(made))
    apart = [entry.logits() for entry in made]
    pooled = {name: pool_logits(np.stack([logits[name] for logits in apart]), weights) for name in apart[0]}
    save_logits(task.folder / "fp32.logits", pooled)
    files = {name: sha256 for entry in made for name, sha256 in entry.files.items()}
    members = [
        (entry.path.name, task.run.architecture(index).size_px, 1 / len(made)) for index, entry in enumerate(made)
    ]
    teachers = ensemble_logits(task.run.member_logits("val")[: len(made)])
    parity = asdict(compare_logits(teachers, pooled["val"]))
    record = {"members": members, "network": str(task.student), "parity": parity}
    return Candidate(
        task.title,
        "fp32",
        "fp32",
        "members",
        task.folder,
        "made",
        "",
        files,
        record,
        sum(entry.seconds for entry in made),
    )


def closest(candidates: list[Candidate]) -> Candidate:
    """The one whose predictions on val are the nearest to its parent's."""
    return min(candidates, key=lambda entry: entry.kl_nats)


def make_fp32(task: Task, plan: Plan, pixels: dict[str, np.ndarray], report) -> Made:
    """The student as ONNX, and `body.onnx`, which quantization begins with."""
    network, size_px = load_student(task.folder, len(task.run.classes)).network, task.student.size_px
    path = export_onnx(network, size_px, task.folder / "student-fp32.onnx", body=task.folder / "body.onnx")
    with torch.no_grad():
        parent = run_artifact(lambda part: network(torch.from_numpy(part)).numpy(), pixels["val"], None)
        epistemic = network.epistemic and run_artifact(
            lambda part: network.epistemic_nats(torch.from_numpy(part)).numpy(), _doubted(pixels), None
        )
    return Made((path,), open_onnx(path), EXPORTED, parent, epistemic)


def make_fp16(task: Task, plan: Plan, pixels: dict[str, np.ndarray], report) -> Made:
    """FP32 whose weights are stored in half the bytes."""
    path = task.folder / "student-fp16.onnx"
    save_model(store_float16(onnx.load(plan.inputs[0])), path)
    return Made((path,), open_onnx(path), ROUNDED, *_parent(task, pixels))


def make_int8(task: Task, plan: Plan, pixels: dict[str, np.ndarray], report) -> Made:
    """INT8 by one calibration method; the rounded weights are shared with the other methods."""
    body, reduce_range, method = plan.inputs[0], plan.settings["reduce_range"], plan.settings["method"]
    path = task.folder / f"student-int8-{method}.onnx"
    quantize_body(
        body,
        _rounded(task, plan, pixels),
        pixels[FITTED],
        task.student.size_px,
        path,
        method=method,
        reduce_range=reduce_range,
    )
    return Made((path,), open_onnx(path), QUANTIZED, *_parent(task, pixels))


def make_mixed(task: Task, plan: Plan, pixels: dict[str, np.ndarray], report) -> Made:
    """INT8 with as few of the most sensitive layers in FP32 as hold the parent; the record has every layer's sensitivity."""
    body, size_px, path = plan.inputs[0], task.student.size_px, task.folder / "student-int8-mixed.onnx"
    rounded, how = _rounded(task, plan, pixels), {name: plan.settings[name] for name in ("method", "reduce_range")}
    key = artifact_key({"rounded": rounded, **_pixel_files(task, FITTED, "val")}, how, made_with())
    kept = task.folder / f"sensitivity-{key[:12]}.json"
    layers = measure_sensitivity(body, rounded, pixels[FITTED], pixels["val"], _val_targets(task), size_px, kept, **how)
    restored, _ = mix_precision(
        layers,
        body,
        rounded,
        pixels[FITTED],
        pixels["val"],
        size_px,
        path,
        **how,
        tolerance=QUANTIZED,
        most=plan.settings["most"],
    )
    sensitivity = {"layers": [asdict(layer) for layer in layers], "restored": list(restored)}
    return Made((path,), open_onnx(path), QUANTIZED, *_parent(task, pixels), {"sensitivity": sensitivity})


def make_nncf(task: Task, plan: Plan, pixels: dict[str, np.ndarray], report) -> Made:
    """INT8 by NNCF, with layers put back to FP32 until accuracy on val is half a point below at most, or time is over."""
    path = task.folder / "student-int8-nncf.onnx"
    _, held = restore_with_nncf(
        plan.inputs[0],
        pixels[FITTED],
        pixels["val"],
        _val_targets(task),
        task.student.size_px,
        path,
        max_drop=NNCF_DROP,
        minutes=plan.settings["minutes"],
        reduce_range=plan.settings["reduce_range"],
    )
    return Made((path,), open_onnx(path), QUANTIZED, *_parent(task, pixels), {"held": held})


def make_dynamic(task: Task, plan: Plan, pixels: dict[str, np.ndarray], report) -> Made:
    """INT8 matrices whose inputs are quantized as they come."""
    path = task.folder / "student-int8-dynamic.onnx"
    quantize_dynamically(plan.inputs[0], task.student.size_px, path, reduce_range=plan.settings["reduce_range"])
    return Made((path,), open_onnx(path), QUANTIZED, *_parent(task, pixels))


def make_stored(task: Task, plan: Plan, pixels: dict[str, np.ndarray], report) -> Made:
    """FP32 arithmetic on weights that are stored in 8 or 4 bits."""
    path = task.folder / f"student-{plan.name}.onnx"
    store = {"weights-int8": store_int8, "weights-int4": store_int4}[plan.settings["method"]]
    store(plan.inputs[0], task.student.size_px, path)
    return Made((path,), open_onnx(path), QUANTIZED, *_parent(task, pixels))


def make_tuned(task: Task, plan: Plan, pixels: dict[str, np.ndarray], report) -> Made:
    """The INT8 graph after it has learned from the FP32 student."""
    path, key = task.folder / "student-int8-tuned.onnx", candidate_key(task, plan)
    student = load_student(task.folder, len(task.run.classes))
    finetune(plan.inputs[0], student, task.run, task.manifest, path, key=key, report=report)
    return Made((path,), open_onnx(path), QUANTIZED, *_parent(task, pixels))


def make_member(task: Task, plan: Plan, pixels: dict[str, np.ndarray], report) -> Made:
    """A teacher as ONNX; where it sees fewer pixels than the largest, what all are given is reduced for it."""
    index = plan.settings["index"]
    network, size_px = task.run.load_member(index), task.run.architecture(index).size_px
    path = export_onnx(network, size_px, task.folder / f"{plan.name}.onnx")
    with torch.no_grad():
        parent = run_artifact(
            lambda part: network(torch.from_numpy(reduce_pixels(part, size_px).copy())).numpy(), pixels["val"], None
        )
    forward = open_onnx(path)
    return Made((path,), lambda part: forward(reduce_pixels(part, size_px)), EXPORTED, parent)


def make_export(task: Task, plan: Plan, pixels: dict[str, np.ndarray], report) -> Made:
    """What `logo-edge export` makes of a graph for another backend; it has verified it in the backend itself."""
    source = Source(
        "student",
        task.student.contract,
        {"int8" if plan.precision == "int8" else "fp32": plan.inputs[0]},
        student=plan.inputs[1],
        run=task.run.folder,
        manifest=task.run.manifest_path,
    )
    few = pixels[FITTED][:: -(-len(pixels[FITTED]) // FITTING_IMAGES)]
    images, said = Images(few, pixels["val"]), []
    record = export_artifact(
        source, plan.backend, plan.precision, None, task.folder, images, say=lambda text: said.append(text)
    )
    files = sorted((task.folder / name for name in record["files"]), key=lambda path: path.suffix == ".bin")
    tolerance, engine = Tolerance(**record["tolerance"]), record.get("engine")
    if engine:
        tolerance, record["parity"] = Tolerance(**engine["tolerance"]), engine["parity"]
    if engine:
        forward = open_artifact(plan.backend, task.folder / engine["file"])
    else:  # TensorRT's graph where there is no engine
        forward = open_artifact("onnxruntime" if plan.backend == "tensorrt" else plan.backend, files[0])
    kept = {name: record[name] for name in ("parity", "verified_by", "kept_range", "not_done") if name in record}
    kept |= {"engine": engine and engine["file"], "said": said, "parent": plan.inputs[0].name}
    return Made(tuple(files), forward, tolerance, record=kept)


def _rounded(task: Task, plan: Plan, pixels: dict[str, np.ndarray]) -> Path:
    """The body with its weights on the INT8 grid, which the methods share."""
    body, reduce_range = plan.inputs[0], plan.settings["reduce_range"]
    rounded, record = task.folder / "body-rounded.onnx", task.folder / "body-rounded.json"
    key = artifact_key({"body": body, **_pixel_files(task, FITTED)}, {"reduce_range": reduce_range}, made_with())
    if not (rounded.exists() and record.exists() and json.loads(record.read_text(encoding="utf-8"))["key"] == key):
        round_body(body, pixels[FITTED], rounded, reduce_range=reduce_range)
        write_json(record, {"key": key})
    return rounded


def _val_targets(task: Task) -> np.ndarray:
    return targets_of(task.manifest.split("val"), task.run.classes)


def _make_apart(task: Task, plan: Plan, report: Callable[[dict], None]) -> dict:
    """What `make_candidate` keeps of a candidate, but for its place; runs in a process of its own."""
    pixels = load_pixels(task.pixels)
    try:
        made = plan.make(task, plan, pixels, report)
    except VerificationError as error:
        return {"status": "refused", "reason": str(error)}
    except LogoEdgeError as error:  # such as a library that is not installed
        raise ApartError(str(error)) from error
    logits = {
        name: run_artifact(made.forward, images, None).astype(np.float32)
        for name, images in pixels.items()
        if name != FITTED
    }
    record, status, reason = {**made.record, "network": str(task.student)}, "made", ""
    if made.parent is not None:
        record["parity"] = asdict(compare_logits(made.parent, logits["val"]))
        try:
            verify(made.parent, logits["val"], made.tolerance, made.files[0].name)
            if made.epistemic is not None:
                found = run_onnx(made.files[0], _doubted(pixels), output=EPISTEMIC)
                record["epistemic_rank_correlation"] = verify_epistemic(
                    made.epistemic, found, LEAST_RANK_CORRELATION, made.files[0].name
                )
        except VerificationError as error:
            status, reason = "refused", str(error)
    save_logits(task.folder / f"{plan.name}.logits", logits)
    files = {path.name: file_hash(path) for path in made.files}
    return {"status": status, "reason": reason, "files": files, "record": record}


def _read_candidate(path: Path, key: str, place: tuple) -> Candidate | None:
    """The candidate of an earlier run, where it was made of the same and its files are what they were."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.pop("key") != key:
            return None
        found = Candidate(*place, **kept)
        found.files and found.logits()
        return found if all(file_hash(found.folder / name) == sha256 for name, sha256 in found.files.items()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def candidate_key(task: Task, plan: Plan) -> str:
    """The key of the candidate: what it is made of, the logos that it is made and run on, and the code that makes it."""
    names = [path.stem for path in sorted(task.pixels.glob("*.npy")) if plan.fits or path.stem != FITTED]
    inputs = {path.name: path for path in plan.inputs} | _pixel_files(task, *names)
    settings = {**plan.settings, "name": plan.name, "make": plan.make.__qualname__}
    converters = [name for name in CONVERTERS if name in (plan.backend, plan.settings.get("method"))]
    return artifact_key(inputs, settings, made_with(*converters))


def made_with(*converters: str) -> dict[str, str]:
    """The versions, for an artifact_key, of what makes and runs artifacts, of these packages besides, and of this code."""
    return versions((*MADE_WITH, *converters)) | {"logo_edge_compress": source_hash(Path(__file__).parents[1])}


def _pixel_files(task: Task, *names: str) -> dict[str, Path]:
    return {f"pixels/{name}": task.pixels / f"{name}.npy" for name in names}


def _parent(task: Task, pixels: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """What the FP32 graph gives: logits of val and, where it says so, what is epistemic in `_doubted`."""
    path = task.folder / "student-fp32.onnx"
    epistemic = run_onnx(path, _doubted(pixels), output=EPISTEMIC) if has_epistemic(path) else None
    return load_arrays(task.folder / "fp32.logits")["val"], epistemic


def _doubted(pixels: dict[str, np.ndarray]) -> np.ndarray:
    """What the order of `epistemic` is compared on: val and what is no logo. Of easy logos alone, all doubts are alike."""
    return np.concatenate([images for name, images in pixels.items() if name == "val" or name.startswith("outliers-")])
