"""A run -> the best verified, calibrated bundle (`logo-edge compress`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch

from logo_edge.bundle import Bundle, ModelEntry, read_bundle
from logo_edge.decision import Calibration, Mode, Scaling, calibrated_logits
from logo_edge.errors import BundleError, VerificationError
from logo_edge.manifest import Manifest, read_manifest, targets_of
from logo_edge.metrics import softmax, summarize
from logo_edge.preprocess import InputContract
from logo_edge.timing import Latency, measure_latency
from logo_edge_compress.calibrate import fit_calibration
from logo_edge_compress.distill import Student, distill
from logo_edge_compress.export import export_body, export_onnx
from logo_edge_compress.finetune import finetune, unknown_operators
from logo_edge_compress.graph import EPISTEMIC, LOGITS, PIXELS
from logo_edge_compress.latency import onnx_latency
from logo_edge_compress.pack import pack_bundle, reference, refuse_other_folder
from logo_edge_compress.quantize import quantize_body, round_body
from logo_edge_compress.verify import (
    EXPORTED,
    LEAST_RANK_CORRELATION,
    QUANTIZED,
    Parity,
    compare_logits,
    run_onnx,
    verify,
    verify_epistemic,
)
from logo_edge_train.dataset import pixels_of, stratified_sample
from logo_edge_train.recipe import Architecture, CalibrateConfig, Recipe
from logo_edge_train.runs import Run, read_run, versions, write_json
from logo_edge_train.train import ensemble_logits, short_metrics

SPLITS = ("val", "calib", "test")


@dataclass(frozen=True)
class Split:
    """The labelled logos of one split: targets (N,), sure (N,)."""

    targets: np.ndarray
    sure: np.ndarray


@dataclass(frozen=True)
class Stage:
    """One step of the compression: its logits on every split, its size and single-image latency on one thread."""

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
class Quantized:
    """The chosen INT8 artifact of one student, beside its FP32 parent; `tried` has the parity of each method on val."""

    student: Student
    fp32: Stage
    int8: Stage
    path: Path
    method: str
    tried: dict[str, Parity]


def compress(
    run_folder: Path, out: Path, *, name: str, recipe: Recipe | None = None, device: torch.device,
    report: Callable[[dict], None], say: Callable[[str], None],
) -> tuple[Bundle, dict]:  # fmt: skip
    """The packed bundle at `out` and the report that is also written to RUN/compress/report.json.

    With a `recipe`, its stages after training stand in for those of the run's own, and all is kept in RUN/compress-NAME.

    Every student of the recipe is distilled, exported, verified, quantized and verified again; the best INT8 artifact
    on val that fits `max_size_mb` is calibrated on calib and packed. test is only reported.
    """
    refuse_other_folder(out)  # before the work, not after it
    run, work = read_run(run_folder), run_folder / "compress"
    if recipe:
        later = {stage: entry for stage, entry in asdict(recipe).items() if stage != "train"}
        run = replace(run, record={**run.record, "recipe": {**run.record["recipe"], **later}})
        work = run_folder / f"compress-{recipe.name}"
    key = _cache_key(run, name)
    if (packed := _packed_before(work / "report.json", key, out)) is not None:
        say(f"{out} is up to date")
        return packed
    manifest, recipe = read_manifest(run.manifest_path), run.recipe
    splits = {name: _split(run, manifest, name) for name in SPLITS if manifest.split(name)}
    tried: list[Quantized] = []
    for text in recipe.distill.students:
        candidate = Architecture.parse(text)
        folder = work / text.replace("@", "-")
        student = distill(run, manifest, recipe.distill, candidate, folder, device=device, report=report)
        say(f"export and quantize {candidate}")
        tried.append(_quantize_student(run, manifest, student, folder, splits, report, say))
    chosen = choose(tried, splits["val"], recipe.distill.max_size_mb)
    say(f"chosen on val: {chosen.student.candidate}, {chosen.method}")
    calib = splits["calib"]
    calibration = fit_calibration(
        chosen.int8.logits["calib"], calib.targets, run.classes, risks=risks_of(recipe.calibrate),
        false_positive_rate=recipe.calibrate.false_positive_rate,
    )  # fmt: skip
    calibrated = Stage("INT8, calibrated", chosen.int8.logits, chosen.int8.size_bytes, chosen.int8.latency,
                       calibration.temperature, chosen.int8.parity, calibration.scaling)  # fmt: skip
    stages = [_ensemble_stage(run, splits), _torch_stage(chosen.student, chosen.fp32), chosen.fp32, chosen.int8,
              calibrated]  # fmt: skip
    summary = _summarize(stages, splits, run.classes)
    bundle = pack_bundle(_describe(run, chosen, calibrated, calibration, summary, name, key), chosen.path, out)
    record = {
        "key": key, "run": run.folder.name, "recipe": recipe.name, "chosen": str(chosen.student.candidate),
        "method": chosen.method, "artifact": str(chosen.path.relative_to(work)),
        "bundle_bytes": bundle.size_bytes, "stages": summary, "candidates": _candidates(tried, splits["val"]),
        "abstention": _abstention(calibrated, splits, calibration), "versions": versions(),
    }  # fmt: skip
    write_json(work / "report.json", record)
    return bundle, record


def risks_of(config: CalibrateConfig) -> dict[Mode, float]:
    """The share of wrong answers that each mode allows itself on calib; best-guess answers always."""
    return {Mode.BALANCED: config.target_risk, Mode.STRICT: config.strict_risk}


def choose(tried: list[Quantized], val: Split, max_size_mb: float) -> Quantized:
    """The student whose INT8 artifact is most accurate on val, the lower NLL first among equals.

    Raises VerificationError where none fits `max_size_mb`.
    """
    fitting = [entry for entry in tried if entry.int8.size_bytes <= max_size_mb * 1e6]
    if not fitting:
        sizes = ", ".join(f"{entry.student.candidate} {entry.int8.size_bytes / 1e6:.2f} MB" for entry in tried)
        raise VerificationError(f"no student fits distill.max_size_mb = {max_size_mb}: {sizes}; raise it, or add one")

    def order(entry: Quantized) -> tuple[float, float]:
        metrics = short_metrics(entry.int8.logits["val"], val.targets, val.sure)
        return metrics["accuracy"], -metrics["nll"]

    return max(fitting, key=order)


def _cache_key(run: Run, name: str) -> str:
    """What a finished compression depends on: the teachers, the recipe, the name and every version."""
    parts = {
        "members": run.record["members"], "recipe": run.record["recipe"], "identity": run.record["identity"],
        "name": name, "versions": versions(),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _packed_before(report: Path, key: str, out: Path) -> tuple[Bundle, dict] | None:
    """The bundle at `out` and its report, where both are of this very key and the bundle is whole."""
    if not report.exists() or (record := json.loads(report.read_text(encoding="utf-8"))).get("key") != key:
        return None
    try:
        bundle = read_bundle(out)
    except BundleError:
        return None
    return (bundle, record) if bundle.provenance.get("key") == key else None


def _quantize_student(
    run: Run, manifest: Manifest, student: Student, folder: Path, splits: dict[str, Split],
    report: Callable[[dict], None], say: Callable[[str], None],
) -> Quantized:  # fmt: skip
    size_px, config = student.candidate.size_px, run.recipe.quantize
    pixels = {name: pixels_of(manifest.split(name), manifest, size_px) for name in splits}
    rows = stratified_sample(manifest.split("train"), config.calibration_images, seed=1)
    calibration_pixels = pixels_of(rows, manifest, size_px)
    body = folder / "body.onnx"
    export_body(student.network, size_px, body)
    exported = export_onnx(student.network, size_px, folder / "student-fp32.onnx")
    with torch.no_grad():
        parent = np.concatenate(
            [student.network(torch.from_numpy(part)).numpy() for part in np.array_split(pixels["val"], 8)]
        )
    fp32 = _onnx_stage("FP32 ONNX", exported, pixels, parent, EXPORTED)
    rounded = round_body(body, calibration_pixels, folder / "body-rounded.onnx", reduce_range=config.reduce_range)
    made: dict[str, tuple[Path, Parity]] = {}
    for method in config.methods:
        path = folder / f"student-int8-{method}.onnx"
        quantize_body(body, rounded, calibration_pixels, size_px, path, method=method, reduce_range=config.reduce_range)
        made[method] = path, compare_logits(fp32.logits["val"], run_onnx(path, pixels["val"]))
        say(f"  {method}: {_parity(made[method][1])}")
    best = min(made, key=lambda method: made[method][1].kl_nats)
    path, parity = made[best]
    if config.finetune.epochs and (unknown := unknown_operators(onnx.load(path))):
        say(f"  not fine-tuned: the graph has operators that fine-tuning does not know: {', '.join(unknown)}")
    elif config.finetune.epochs:
        tuned = finetune(path, student, run, manifest, folder / "student-int8-tuned.onnx", report=report)
        made["fine-tuned"] = tuned, compare_logits(fp32.logits["val"], run_onnx(tuned, pixels["val"]))
        say(f"  fine-tuned: {_parity(made['fine-tuned'][1])}")
        if made["fine-tuned"][1].kl_nats < parity.kl_nats:
            path, best = tuned, f"{best}, fine-tuned"
    int8 = _onnx_stage("INT8 ONNX", path, pixels, fp32.logits["val"], QUANTIZED)
    if student.network.epistemic:
        wanted, found = (run_onnx(file, pixels["val"], output=EPISTEMIC) for file in (exported, path))
        verify_epistemic(wanted, found, LEAST_RANK_CORRELATION, path.name)
    return Quantized(student, fp32, int8, path, best, {method: parity for method, (_, parity) in made.items()})


def _parity(parity: Parity) -> str:
    return f"top-1 agreement {parity.top1_agreement:.1%}, KL {parity.kl_nats:.4f} nats on val"


def _onnx_stage(name: str, path: Path, pixels: dict[str, np.ndarray], parent: np.ndarray, tolerance) -> Stage:
    logits = {split: run_onnx(path, images) for split, images in pixels.items()}
    parity = verify(parent, logits["val"], tolerance, path.name)
    return Stage(name, logits, path.stat().st_size, onnx_latency(path, pixels["val"][:1]), parity=parity)


def _ensemble_stage(run: Run, splits: dict[str, Split]) -> Stage:
    logits = {name: ensemble_logits(run.member_logits(name)) for name in splits}
    count = len(run.record["members"])
    networks = [(run.load_member(index), run.architecture(index).size_px) for index in range(count)]
    size = sum(network.float32_bytes for network, _ in networks)
    return Stage(f"{count} teachers, PyTorch", logits, size, _torch_latency(networks), run.temperature)


def _torch_stage(student: Student, fp32: Stage) -> Stage:
    latency = _torch_latency([(student.network, student.candidate.size_px)])
    return Stage("student, PyTorch", fp32.logits, student.network.float32_bytes, latency)


def _torch_latency(networks: list[tuple[torch.nn.Module, int]]) -> Latency:
    """One image through every (network, size_px) in turn, on one thread."""
    pixels = [torch.zeros(1, size_px, size_px, 3, dtype=torch.uint8) for _, size_px in networks]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        latency = measure_latency(
            lambda: [network(image) for (network, _), image in zip(networks, pixels, strict=True)], runs=50
        )
    torch.set_num_threads(threads)
    return latency


def _split(run: Run, manifest: Manifest, name: str) -> Split:
    rows = manifest.split(name)
    return Split(targets_of(rows, run.classes), np.array([row.sure for row in rows], bool))


def _summarize(stages: list[Stage], splits: dict[str, Split], labels: tuple[str, ...]) -> list[dict]:
    return [
        {
            "stage": stage.name, "size_bytes": stage.size_bytes, "temperature": stage.temperature,
            "scaling": asdict(stage.scaling) if stage.scaling else None,
            "latency": asdict(stage.latency) if stage.latency else None,
            "parity": asdict(stage.parity) if stage.parity else None,
            **{
                name: summarize(stage.calibrated(name), split.targets, split.sure, 1.0, labels)
                for name, split in splits.items() if name != "calib"
            },
        }
        for stage in stages
    ]  # fmt: skip


def _candidates(tried: list[Quantized], val: Split) -> list[dict]:
    return [
        {
            "student": str(entry.student.candidate), "method": entry.method, "size_bytes": entry.int8.size_bytes,
            "latency_int8": asdict(entry.int8.latency), "latency_fp32": asdict(entry.fp32.latency),
            "val_fp32": short_metrics(entry.fp32.logits["val"], val.targets, val.sure),
            "val_int8": short_metrics(entry.int8.logits["val"], val.targets, val.sure),
            "parity": asdict(entry.int8.parity), "tried": {method: asdict(parity) for method, parity in entry.tried.items()},
        }
        for entry in tried
    ]  # fmt: skip


def _abstention(stage: Stage, splits: dict[str, Split], calibration: Calibration) -> dict:
    """Coverage and error among the answered on each split, at the packed threshold; those of strict under its name."""

    def selection(threshold: float) -> dict:
        found = {}
        for name, split in splits.items():
            probabilities = softmax(stage.calibrated(name))
            answered = probabilities.max(1) >= threshold
            wrong = probabilities.argmax(1) != split.targets
            found[name] = {
                "coverage": float(answered.mean()),
                "risk": float(wrong[answered].mean()) if answered.any() else 0.0,
            }
        return {"threshold": threshold, **found}

    thresholds = calibration.abstain_below
    return {**selection(thresholds[Mode.BALANCED]), Mode.STRICT.value: selection(thresholds[Mode.STRICT])}


def _describe(
    run: Run, chosen: Quantized, calibrated: Stage, calibration: Calibration, summary: list[dict], name: str, key: str
) -> Bundle:
    candidate, outputs = chosen.student.candidate, (EPISTEMIC,) if chosen.student.network.epistemic else ()
    final = {split: figures for split, figures in summary[-1].items() if split in ("val", "test")}
    return Bundle(
        name=name, labels=run.classes, model=ModelEntry("model.onnx", "int8", PIXELS, LOGITS, outputs),
        input=InputContract(candidate.size_px), calibration=calibration, files={},
        provenance={
            "key": key, "student": candidate.model, "recipe": run.recipe.name, "quantization": chosen.method,
            "reduce_range": run.recipe.quantize.reduce_range, "data_hash": run.record["identity"]["data_hash"],
            "teachers": [member["architecture"] for member in run.record["members"]], "versions": versions(),
        },
        metrics=final,
        reference=reference(calibrated.calibrated("calib"), run.classes, calibration),
    )  # fmt: skip
