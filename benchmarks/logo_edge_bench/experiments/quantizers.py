"""Every way to quantize a network, side by side: size, latency and accuracy on val.

    python -m logo_edge_bench.experiments quantizers runs/shipped runs/vits-96px-20ep/logo/member-0.safetensors

A subject is a compressed run, whose student is taken, or a checkpoint with its record beside it. Rows are written one
by one and kept as long as the checkpoint is the same; artifacts are kept in runs/quantizers/, and all of a subject are
timed by turns at the end. Calibrated on train logos, measured on val; test is not used. With --sensitivity every layer
is quantized alone, a further row keeps the most sensitive ones in FP32, and docs/results/sensitivity-SUBJECT.svg shows
them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx

from logo_edge.errors import LogoEdgeError, RecipeError, RunError
from logo_edge_bench.experiments.record import ROOT, RUNS, Out, file_name, read_logos, read_record, write_record
from logo_edge_compress.distill.distill import Student
from logo_edge_compress.onnx.export import export_body, finish
from logo_edge_compress.onnx.graph import save_model, to_float16
from logo_edge_compress.quantize.nncf import quantize_with_nncf, restore_with_nncf
from logo_edge_compress.quantize.qat import finetune, unknown_operators
from logo_edge_compress.quantize.sensitivity import measure_sensitivity, mix_precision
from logo_edge_compress.quantize.static import (
    METHODS,
    depthwise_layers,
    equalise_body,
    quantize_body,
    quantize_dynamically,
    round_body,
)
from logo_edge_compress.quantize.weight_only import store_int4, store_int8
from logo_edge_compress.search.latency_table import latencies_by_turns
from logo_edge_compress.verify import Tolerance, compare_logits, run_onnx
from logo_edge_report.charts import layer_bars
from logo_edge_train.architecture import Architecture
from logo_edge_train.checkpoints import load_network
from logo_edge_train.data.images import pixels_of
from logo_edge_train.data.manifest import Manifest, targets_of
from logo_edge_train.data.pool import stratified_sample
from logo_edge_train.keys import artifact_key
from logo_edge_train.metrics import wilson_interval
from logo_edge_train.progress import FitProgress
from logo_edge_train.runs import Run, read_run, write_text

ROUNDS = 3  # of all artifacts by turns, so that a disturbance affects all of them
MAX_DROP = 0.005  # of accuracy on val, for NNCF
GOAL = Tolerance(mean_difference=0.2, top1_agreement=0.98, kl_nats=0.01)  # for mixed precision
MOST_RESTORED = 8  # layers
PERCENTILE = {"method": "percentile", "reduce_range": True}


@dataclass(frozen=True)
class Subject:
    """A network to quantize, the logos to calibrate on and to measure on, and its run if it is a compressed one."""

    name: str
    key: str
    student: Student
    run: Run | None
    folder: Path
    body: Path
    rounded: Path
    calibration: np.ndarray
    val: np.ndarray
    targets: np.ndarray
    size_px: int

    def artifact(self, row: str) -> Path:
        return self.folder / f"{file_name(row)}.onnx"

    def logits(self, row: str) -> np.ndarray:
        """(N, K) of val, by the artifact of that row."""
        return run_onnx(self.artifact(row), self.val)


Maker = Callable[[Subject, Path, float], object]  # writes the artifact; a dict that it returns joins the row


def measure(
    subjects: Annotated[Sequence[Path], "compressed runs, or checkpoints (.safetensors)"],
    *,
    images: Annotated[int, "train logos to calibrate on"] = 256,
    minutes: Annotated[float, "for NNCF's accuracy-aware restore"] = 10.0,
    rows: Annotated[Sequence[str], "names of rows; default: all"] = (),
    sensitivity: Annotated[bool, "quantize every layer alone, and mix precisions"] = False,
    no_latency: Annotated[bool, "for a machine that runs other programs"] = False,
    out: Out,
) -> None:
    if unknown := set(rows) - MAKERS.keys():
        raise RecipeError(f"rows {sorted(unknown)}; expected some of {', '.join(MAKERS)}")
    record, manifest = read_record(out, {"subjects": {}}), read_logos()
    makers = {name: make for name, make in MAKERS.items() if not rows or name in rows}
    if sensitivity:
        makers["static INT8, most sensitive layers in FP32"] = mixed
    for path in subjects:
        subject = open_subject(path, manifest, images)
        stored = record["subjects"].get(subject.name)
        if stored is None or stored["key"] != subject.key:
            stored = {
                "key": subject.key,
                "network": str(subject.student.architecture),
                "logos": len(subject.val),
                "rows": {},
            }
            record["subjects"][subject.name] = stored
        for name, make in makers.items():
            if name not in stored["rows"]:
                stored["rows"][name] = measure_row(subject, name, make, minutes)
                write_record(out, record)
        if not no_latency:
            time_rows(subject, stored["rows"])
        record |= {"images": images, "max_drop": MAX_DROP, "goal": asdict(GOAL)}
        write_record(out, record)


def open_subject(path: Path, manifest: Manifest, images: int) -> Subject:
    """The network at `path`, exported, and its logos. Raises RunError where there is none."""
    if path.suffix == ".safetensors":
        run, checkpoint, source = None, path, path.parent / "run.json"
        name = f"{path.resolve().parent.name}-{path.stem}"
    else:
        run = read_run(path)
        try:
            chosen = json.loads((path / "compress" / "report.json").read_text())["chosen"]
        except OSError as error:
            raise RunError(f"{path} is not compressed ({error}); run logo-edge compress {path} first") from error
        checkpoint = path / "compress" / chosen.replace("@", "-") / "student.safetensors"
        source, name = path / "run.json", path.resolve().name
    record = json.loads(checkpoint.with_suffix(".json").read_text())
    architecture = Architecture.parse(record.get("student") or record["architecture"])
    classes = tuple(json.loads(source.read_text())["classes"])
    rows, val = stratified_sample(manifest.split("train"), images, seed=1), manifest.split("val")
    key = artifact_key({"network": checkpoint}, {"images": images}, {})
    folder = RUNS / "quantizers" / f"{name}-{key[:12]}"
    student = Student(architecture, load_network(checkpoint, architecture, len(classes)), checkpoint, [])
    calibration, on_val = (pixels_of(part, manifest, architecture.contract) for part in (rows, val))
    body, rounded = folder / "body.onnx", folder / "rounded.onnx"
    if not rounded.exists():
        folder.mkdir(parents=True, exist_ok=True)
        export_body(student.network, architecture.size_px, body)
        round_body(body, calibration, rounded, reduce_range=True)
    targets, size_px = targets_of(val, classes), architecture.size_px
    return Subject(name, key, student, run, folder, body, rounded, calibration, on_val, targets, size_px)


def measure_row(subject: Subject, name: str, make: Maker, minutes: float) -> dict:
    """The figures of one way to quantize the subject, or the reason why it failed."""
    print(f"{subject.name}: {name}", flush=True)
    path, start_s = subject.artifact(name), time.perf_counter()
    try:
        further = make(subject, path, minutes)
    except LogoEdgeError as error:
        return {"refused": str(error)}
    except Exception as error:  # a quantizer's failure is a result; the others go on
        return {"refused": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    seconds = time.perf_counter() - start_s
    parent, logits = subject.logits("FP32"), subject.logits(name)
    right = int((logits.argmax(1) == subject.targets).sum())
    return {
        "size_bytes": path.stat().st_size,
        "seconds": round(seconds, 1),
        "accuracy": vars(wilson_interval(right, len(logits))),
        **asdict(compare_logits(parent, logits)),
        **(further if isinstance(further, dict) else {}),
    }


def time_rows(subject: Subject, rows: dict[str, dict]) -> None:
    """Adds the median milliseconds of one logo on one thread to every row, all artifacts by turns."""
    paths = {name: subject.artifact(name) for name, row in rows.items() if "refused" not in row}
    for name, p50_ms in latencies_by_turns(paths, ROUNDS).items():
        rows[name]["p50_ms"] = p50_ms


def dynamic(*operators: str) -> Maker:
    return lambda subject, path, _: quantize_dynamically(
        subject.body, subject.size_px, path, operators=operators, reduce_range=True
    )


def static(
    method: str,
    *,
    rounds: bool = True,
    reduce_range: bool = True,
    equalises: bool = False,
    keeps_depthwise: bool = False,
) -> Maker:
    def make(subject: Subject, path: Path, _) -> None:
        body, rounded, pixels = subject.body, subject.rounded, subject.calibration
        left = depthwise_layers(onnx.load(body)) if keeps_depthwise else ()
        if equalises:
            body = equalise_body(body, pixels, subject.folder / "equalised.onnx")
        if not rounds:
            rounded = body
        elif equalises or not reduce_range:
            rounded = round_body(body, pixels, path.with_suffix(".rounded.onnx"), reduce_range=reduce_range)
        settings = {"method": method, "reduce_range": reduce_range}
        quantize_body(body, rounded, pixels, subject.size_px, path, restored=left, **settings)

    return make


def tuned(subject: Subject, path: Path, _) -> None:
    """The closest static INT8 after quantization-aware training."""
    if subject.run is None:
        raise RunError("this subject is a checkpoint alone; expected a run, whose transfer set the training needs")
    tried = [STATIC[method] for method in METHODS if subject.artifact(STATIC[method]).exists()]
    if not tried:
        raise RunError("no static INT8 artifact to start from; ask for one of its rows too")
    parent = subject.logits("FP32")
    source = subject.artifact(min(tried, key=lambda row: compare_logits(parent, subject.logits(row)).kl_nats))
    if unknown := unknown_operators(onnx.load(source)):
        raise RunError(f"the graph has operators that fine-tuning cannot train: {', '.join(unknown)}")
    key = artifact_key({"artifact": source}, {"subject": subject.key, "recipe": subject.run.recipe}, {})
    with FitProgress() as report:
        finetune(source, subject.student, subject.run, subject.run.read_manifest(), path, key=key, report=report)


def restored(subject: Subject, path: Path, minutes: float) -> dict:
    logos, limits = (subject.val, subject.targets), {"max_drop": MAX_DROP, "minutes": minutes}
    _, held = restore_with_nncf(
        subject.body, subject.calibration, *logos, subject.size_px, path, **limits, reduce_range=True
    )
    return {"held": held, "minutes": minutes}


def mixed(subject: Subject, path: Path, _) -> dict:
    graphs, logos, size_px = (subject.body, subject.rounded, subject.calibration), subject.val, subject.size_px
    layers = measure_sensitivity(
        *graphs, logos, subject.targets, size_px, subject.folder / "sensitivity.json", **PERCENTILE, say=print
    )
    kept, _ = mix_precision(layers, *graphs, logos, size_px, path, **PERCENTILE, tolerance=GOAL, most=MOST_RESTORED)
    figures = {"restored": list(kept), "layers": [asdict(layer) for layer in layers]}
    write_text(ROOT / "docs/results" / f"sensitivity-{subject.name}.svg", layer_bars(**figures))
    return figures


STATIC = {method: f"static INT8, {method}" for method in METHODS}
MAKERS: dict[str, Maker] = {
    "FP32": lambda subject, path, _: finish(onnx.load(subject.body), subject.size_px, path),
    "FP16": lambda subject, path, _: save_model(to_float16(onnx.load(subject.artifact("FP32"))), path),
    "weights INT8, computes in FP32": lambda subject, path, _: store_int8(subject.body, subject.size_px, path),
    "weights INT4, matrices": lambda subject, path, _: store_int4(subject.body, subject.size_px, path),
    "dynamic INT8, matrices": dynamic("MatMul", "Gemm"),
    "dynamic INT8, convolutions too": dynamic("MatMul", "Gemm", "Conv"),
    **{STATIC[method]: static(method) for method in METHODS},
    "static INT8, percentile, nearest weights": static("percentile", rounds=False),
    "static INT8, percentile, 8-bit weights": static("percentile", reduce_range=False),
    "static INT8, minmax, equalised": static("minmax", equalises=True),
    "static INT8, minmax, depthwise in FP32": static("minmax", keeps_depthwise=True),
    "static INT8, minmax, nearest weights": static("minmax", rounds=False),
    "static INT8, minmax, nearest weights, equalised": static("minmax", rounds=False, equalises=True),
    "static INT8, quantization-aware training": tuned,
    "NNCF, bias correction": lambda subject, path, _: quantize_with_nncf(
        subject.body, subject.calibration, subject.size_px, path, reduce_range=True
    ),
    "NNCF, accuracy-aware": restored,
}
