"""Every way to quantize a network, side by side: size, latency, and what it costs on val.

    python benchmarks/compare_quantizers.py runs/default runs/vits-96px-20ep/logo/member-0.safetensors [--sensitivity]

A subject is a compressed run, whose student is taken, or a checkpoint beside its record. Writes
benchmarks/results/quantizers.json row by row and goes on from there; a row of another checkpoint is made anew. Artifacts
are kept in runs/quantizers/, and all of a subject are timed in turn at the end. Calibrated on train logos, measured on val;
test is never looked at. With --sensitivity every layer is quantized alone, the most sensitive ones stay in FP32 in a
further row, and docs/sensitivity-SUBJECT.svg shows them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from logo_edge.errors import LogoEdgeError, RunError
from logo_edge.machine import describe_machine
from logo_edge_compress.distill.distill import Student
from logo_edge_compress.onnx.export import export_body, finish
from logo_edge_compress.onnx.graph import save_model, to_float16
from logo_edge_compress.quantize.nncf import quantize_with_nncf, restore_with_nncf
from logo_edge_compress.quantize.qat import finetune, unknown_operators
from logo_edge_compress.quantize.sensitivity import measure_sensitivity, mix_precision
from logo_edge_compress.quantize.static import (
    METHODS,
    quantize_body,
    quantize_dynamically,
    round_body,
    store_int4,
    store_int8,
)
from logo_edge_compress.search.latency_table import latencies_by_turns
from logo_edge_compress.verify import Tolerance, compare_logits, run_onnx
from logo_edge_report.charts import layer_bars
from logo_edge_train.checkpoints import load_network
from logo_edge_train.data.icons import LABELS, fetch_logos
from logo_edge_train.data.images import pixels_of
from logo_edge_train.data.manifest import Manifest, read_manifest, targets_of
from logo_edge_train.data.pool import stratified_sample
from logo_edge_train.keys import artifact_key, versions
from logo_edge_train.metrics import wilson_interval
from logo_edge_train.models import LogoNetwork
from logo_edge_train.progress import FitProgress
from logo_edge_train.recipe import Architecture
from logo_edge_train.runs import Run, read_run, write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
RESULT, WORK = ROOT / "benchmarks" / "results" / "quantizers.json", ROOT / "runs" / "quantizers"
ROUNDS = 3  # of all artifacts in turn: what slows the machine for a while slows them all
MAX_DROP = 0.005  # of accuracy on val, that NNCF is to hold
GOAL = Tolerance(mean_difference=0.2, top1_agreement=0.98, kl_nats=0.01)  # of mixed precision
MOST_RESTORED = 8  # layers


@dataclass(frozen=True)
class Subject:
    """A network to quantize, with the logos to calibrate on and to measure on; `run` where it is a compressed one."""

    name: str
    key: str
    architecture: Architecture
    network: LogoNetwork
    checkpoint: Path
    run: Run | None
    folder: Path
    calibration: np.ndarray
    val: np.ndarray
    targets: np.ndarray

    @property
    def body(self) -> Path:
        return self.folder / "body.onnx"

    @property
    def rounded(self) -> Path:
        return self.folder / "rounded.onnx"


Maker = Callable[[Subject, Path, argparse.Namespace], object]  # writes the artifact; a dict that it gives joins the row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subjects", type=Path, nargs="+", help="compressed runs, or checkpoints (.safetensors)")
    parser.add_argument("--images", type=int, default=256, help="train logos to calibrate on")
    parser.add_argument("--minutes", type=float, default=10.0, help="for NNCF's accuracy-aware restore")
    parser.add_argument("--rows", nargs="+", choices=MAKERS, default=list(MAKERS), help="left out: all")
    parser.add_argument("--sensitivity", action="store_true", help="quantize every layer alone, and mix precisions")
    parser.add_argument("--no-latency", action="store_true", help="on a machine that is busy with other things")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    fetch_logos()
    record = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"subjects": {}}
    manifest = read_manifest(LABELS)
    for path in arguments.subjects:
        subject = open_subject(path, manifest, arguments.images)
        entry = record["subjects"].get(subject.name)
        if entry is None or entry["key"] != subject.key:
            entry = {"key": subject.key, "network": str(subject.architecture), "logos": len(subject.val), "rows": {}}
            record["subjects"][subject.name] = entry
        makers = {name: MAKERS[name] for name in arguments.rows}
        if arguments.sensitivity:
            makers["static INT8, most sensitive layers in FP32"] = mixed
        for name, make in makers.items():
            if name not in entry["rows"]:
                entry["rows"][name] = measure_row(subject, name, make, arguments)
                write_json(arguments.out, record)
        if not arguments.no_latency:
            time_rows(subject, entry["rows"])
        record |= {
            "images": arguments.images,
            "max_drop": MAX_DROP,
            "goal": asdict(GOAL),
            "versions": versions(),
            "machine": describe_machine(),
        }
        write_json(arguments.out, record)


def open_subject(path: Path, manifest: Manifest, images: int) -> Subject:
    """The network at `path`, exported, and its logos. Raises RunError where there is none."""
    if path.suffix == ".safetensors":
        checkpoint, run = path, None
        source = path.parent / "run.json"
        name = "-".join([path.resolve().parent.name, path.stem])
    else:
        run = read_run(path)
        try:
            chosen = json.loads((path / "compress" / "report.json").read_text())["chosen"]
        except OSError as error:
            raise RunError(f"{path} is not compressed ({error}); run logo-edge compress {path} first") from error
        checkpoint = path / "compress" / chosen.replace("@", "-") / "student.safetensors"
        source, name = path / "run.json", path.resolve().name
    told = json.loads(checkpoint.with_suffix(".json").read_text())
    architecture = Architecture.parse(told.get("student") or told["architecture"])
    classes = tuple(json.loads(source.read_text())["classes"])
    rows, val = stratified_sample(manifest.split("train"), images, seed=1), manifest.split("val")
    key = artifact_key({"network": checkpoint}, {"images": images}, {})
    folder = WORK / f"{name}-{key[:12]}"
    subject = Subject(
        name,
        key,
        architecture,
        load_network(checkpoint, architecture, len(classes)),
        checkpoint,
        run,
        folder,
        pixels_of(rows, manifest, architecture.contract),
        pixels_of(val, manifest, architecture.contract),
        targets_of(val, classes),
    )
    if not subject.rounded.exists():
        folder.mkdir(parents=True, exist_ok=True)
        export_body(subject.network, architecture.size_px, subject.body)
        round_body(subject.body, subject.calibration, subject.rounded, reduce_range=True)
    return subject


def measure_row(subject: Subject, name: str, make: Maker, arguments: argparse.Namespace) -> dict:
    """What one way of quantizing makes of the subject, or why it does not."""
    print(f"{subject.name}: {name}", flush=True)
    path, start = artifact(subject, name), time.perf_counter()
    try:
        further = make(subject, path, arguments)
    except LogoEdgeError as error:
        return {"refused": str(error)}
    except Exception as error:  # of a quantizer, whose failure is a result: the others go on
        return {"refused": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    seconds = time.perf_counter() - start
    parent = run_onnx(artifact(subject, "FP32"), subject.val)
    logits = run_onnx(path, subject.val)
    right = int((logits.argmax(1) == subject.targets).sum())
    return {
        "size_bytes": path.stat().st_size,
        "seconds": round(seconds, 1),
        "accuracy": vars(wilson_interval(right, len(logits))),
        **asdict(compare_logits(parent, logits)),
        **(further if isinstance(further, dict) else {}),
    }


def artifact(subject: Subject, name: str) -> Path:
    return subject.folder / f"{name.replace(', ', '-').replace(' ', '-')}.onnx"


def time_rows(subject: Subject, rows: dict[str, dict]) -> None:
    """Adds the median milliseconds of one logo on one thread to every row, all artifacts in turn."""
    made = {name: artifact(subject, name) for name, row in rows.items() if "refused" not in row}
    for name, p50_ms in latencies_by_turns(made, ROUNDS).items():
        rows[name]["p50_ms"] = p50_ms


def plain(subject: Subject, path: Path, _) -> None:
    finish(onnx.load(subject.body), subject.architecture.size_px, path)


def half(subject: Subject, path: Path, _) -> None:
    save_model(to_float16(onnx.load(artifact(subject, "FP32"))), path)


def dynamic(*operators: str) -> Maker:
    return lambda subject, path, _: quantize_dynamically(
        subject.body, subject.architecture.size_px, path, operators=operators, reduce_range=True
    )


def static(method: str, *, rounds: bool = True, reduce_range: bool = True) -> Maker:
    def make(subject: Subject, path: Path, _) -> None:
        rounded = subject.rounded if rounds and reduce_range else subject.body
        if rounds and not reduce_range:
            rounded = round_body(
                subject.body, subject.calibration, subject.folder / "rounded-8-bit.onnx", reduce_range=False
            )
        quantize_body(
            subject.body,
            rounded,
            subject.calibration,
            subject.architecture.size_px,
            path,
            method=method,
            reduce_range=reduce_range,
        )

    return make


def tuned(subject: Subject, path: Path, _) -> None:
    """The closest static INT8 after quantization-aware training."""
    if subject.run is None:
        raise RunError("needs a run, whose transfer set it learns on; this subject is a checkpoint alone")
    tried = {
        method: run_onnx(artifact(subject, STATIC[method]), subject.val)
        for method in METHODS
        if artifact(subject, STATIC[method]).exists()
    }
    if not tried:
        raise RunError("needs a static INT8 artifact to begin at; none of those methods was asked for")
    parent = run_onnx(artifact(subject, "FP32"), subject.val)
    best = min(tried, key=lambda method: compare_logits(parent, tried[method]).kl_nats)
    source = artifact(subject, STATIC[best])
    if unknown := unknown_operators(onnx.load(source)):
        raise RunError(f"the graph has operators that fine-tuning does not know: {', '.join(unknown)}")
    student = Student(subject.architecture, subject.network, subject.checkpoint, [])
    with FitProgress() as progress:
        key = artifact_key({"artifact": source}, {"subject": subject.key, "recipe": subject.run.recipe}, {})
        finetune(source, student, subject.run, subject.run.read_manifest(), path, key=key, report=progress)


def nncf(subject: Subject, path: Path, _) -> None:
    quantize_with_nncf(subject.body, subject.calibration, subject.architecture.size_px, path, reduce_range=True)


def nncf_restored(subject: Subject, path: Path, arguments: argparse.Namespace) -> dict:
    _, held = restore_with_nncf(
        subject.body,
        subject.calibration,
        subject.val,
        subject.targets,
        subject.architecture.size_px,
        path,
        max_drop=MAX_DROP,
        minutes=arguments.minutes,
        reduce_range=True,
    )
    return {"held": held, "minutes": arguments.minutes}


def mixed(subject: Subject, path: Path, _) -> dict:
    size_px, record = subject.architecture.size_px, subject.folder / "sensitivity.json"
    layers = measure_sensitivity(
        subject.body,
        subject.rounded,
        subject.calibration,
        subject.val,
        subject.targets,
        size_px,
        record,
        method="percentile",
        reduce_range=True,
        say=print,
    )
    restored, _ = mix_precision(
        layers,
        subject.body,
        subject.rounded,
        subject.calibration,
        subject.val,
        size_px,
        path,
        method="percentile",
        reduce_range=True,
        tolerance=GOAL,
        most=MOST_RESTORED,
    )
    found = {"restored": list(restored), "layers": [asdict(layer) for layer in layers]}
    write_text(ROOT / "docs" / f"sensitivity-{subject.name}.svg", layer_bars(**found))
    return found


STATIC = {method: f"static INT8, {method}" for method in METHODS}
MAKERS: dict[str, Maker] = {
    "FP32": plain,
    "FP16": half,
    "weights INT8, computes in FP32": lambda subject, path, _: store_int8(
        subject.body, subject.architecture.size_px, path
    ),
    "weights INT4, matrices": lambda subject, path, _: store_int4(subject.body, subject.architecture.size_px, path),
    "dynamic INT8, matrices": dynamic("MatMul", "Gemm"),
    "dynamic INT8, convolutions too": dynamic("MatMul", "Gemm", "Conv"),
    **{STATIC[method]: static(method) for method in METHODS},
    "static INT8, percentile, nearest weights": static("percentile", rounds=False),
    "static INT8, percentile, 8-bit weights": static("percentile", reduce_range=False),
    "static INT8, quantization-aware training": tuned,
    "NNCF, bias correction": nncf,
    "NNCF, accuracy-aware": nncf_restored,
}


if __name__ == "__main__":
    main()
