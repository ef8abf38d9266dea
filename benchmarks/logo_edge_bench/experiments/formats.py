"""Every format of `logo-edge export` in every precision: agreement, accuracy, size, latency, golden vectors.

    python -m logo_edge_bench.experiments formats --run runs/shipped

INT8 is exported from the bundle, FP32 and FP16 from its dequantized weights, TorchScript from --run. Agreement with the
parent is that of the export's verification on val, accuracy and ECE are on test. Confidences have the bundle's
calibration where the artifact may share it, else one fitted on calib. Rows are written one by one and kept as long as
bundle, logos and versions are the same, but those that failed are tried again. Artifacts are kept in runs/formats. At
the end the golden vectors run on an emulated ARM core, and all artifacts that run here are timed by turns.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx

from logo_edge.backends.choose import BACKENDS
from logo_edge.bundle.record import DEFAULT_BUNDLE, Bundle
from logo_edge.classifier import Classifier
from logo_edge.decision import calibrated_logits
from logo_edge.errors import LogoEdgeError, RunError
from logo_edge.files import write_file
from logo_edge.model import CHECKED_ROUNDS
from logo_edge_bench.experiments.record import ROOT, RUNS, Out, read_logos, read_record, write_record
from logo_edge_compress.calibrate import fit_calibration
from logo_edge_compress.convert.export import FORMATS, VERSIONED, export_artifact
from logo_edge_compress.convert.request import Images
from logo_edge_compress.convert.source import FITTING_IMAGES, Source, read_source
from logo_edge_compress.convert.tflm import run_tflm
from logo_edge_compress.onnx.dequantize import to_float
from logo_edge_compress.onnx.graph import save_model
from logo_edge_compress.process_tree import process_tree
from logo_edge_compress.quantize.fitting import describe_fitting, fitting_rows
from logo_edge_compress.timing import Cost, Opened, measure_side_by_side
from logo_edge_compress.verify import Forward, compare_logits, open_artifact, run_artifact
from logo_edge_train.data.images import pixels_of
from logo_edge_train.data.manifest import targets_of
from logo_edge_train.data.pool import data_inputs, stratified_sample
from logo_edge_train.keys import artifact_key, versions
from logo_edge_train.metrics import summarize, wilson_interval

PRECISIONS_OF_FORMAT = {  # of each format, as far as it has them
    "onnx": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "fp16", "int8"),
    "torchscript": ("fp32",),
    "litert": ("fp32", "fp16", "int8"),
    "tflm": ("int8",),
    "ncnn": ("fp32", "fp16", "int8"),
    "mnn": ("fp32", "fp16", "int8"),
    "executorch": ("fp32", "int8"),
    "coreml": ("fp16", "int8"),
    "tensorrt": ("fp32", "fp16", "int8"),
}
ROWS = {
    f"{kind} {precision}": (kind, precision) for kind, offered in PRECISIONS_OF_FORMAT.items() for precision in offered
}
ASIDE = {"tflm": ".h", "coreml": ".onnx"}  # suffix of a file of the export that no program needs beside the others
SPLITS = ("val", "calib", "test")
EMULATE, ARM_CPU, ARM_S = ROOT / "tests" / "system" / "arm" / "emulate.py", "cortex-a76", 1200.0
# ExecuTorch 1.5.1 has a wheel for aarch64 (18 MB), but PyTorch's there is of CUDA: 484 MB, and gigabytes of libraries
NOT_ON_ARM = dict.fromkeys(
    ("executorch", "torchscript"), "not run: it needs PyTorch, which is not among the wheels of the emulated core"
)
ON_ARM = """
import json, sys
import numpy as np
from logo_edge import Classifier
from logo_edge.errors import LogoEdgeError
bundle, backend, artifact, rounds, pixels, logits = json.loads(sys.argv[1])
try:
    classifier = Classifier.load(bundle, backend=backend, artifact=artifact)
    reply = {"passes": classifier.run_vectors(rounds=rounds)}
    np.save(logits, np.concatenate([classifier.logits(image[None]) for image in np.load(pixels)]))
except LogoEdgeError as error:
    reply = {"refused": str(error)}
print(json.dumps(reply))
"""


@dataclass(frozen=True)
class Subject:
    """The bundle, where its artifacts come from, and the logos of SPLITS: pixels (N, S, S, C), targets (N,)."""

    bundle: Bundle
    source: Source
    run: Source | None
    images: Images
    pixels: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]
    sure: np.ndarray  # of test
    folder: Path


def measure(
    *,
    bundle: Path = DEFAULT_BUNDLE,
    run: Annotated[Path | None, "the compressed run of a network with the bundle's input, for TorchScript"] = None,
    rows: Annotated[Sequence[str], {"metavar": "ROW", "help": f"such as 'litert int8'; default: {len(ROWS)}"}] = (),
    images: Annotated[int, "about this many logos of each split, to try the command with another --out; 0: all"] = 0,
    arm_images: Annotated[int, "logos of val to compare on the emulated ARM core; 0: leave it out"] = 32,
    no_latency: Annotated[bool, "for a machine that runs other programs"] = False,
    out: Out,
) -> None:
    if unknown := set(rows) - ROWS.keys():
        raise RunError(f"rows {sorted(unknown)}; expected some of {', '.join(ROWS)}")
    subject, key = open_subject(bundle, run, images)
    record = read_record(out, None)
    if record is None or record["key"] != key:
        record = {"key": key, "bundle": subject.bundle.name, "precision": subject.bundle.model.precision, "rows": {}}
    record |= {"images": {split: len(part) for split, part in subject.pixels.items()}}
    chosen = [name for name in ROWS if not rows or name in rows]
    for name in chosen:
        if "parity" not in record["rows"].get(name, {}):
            print(name, flush=True)
            measured = {**record["rows"], name: measure_row(subject, *ROWS[name])}
            record["rows"] = {known: measured[known] for known in ROWS if known in measured}
            write_record(out, record, [subject.bundle])
    measured = record["rows"]
    for name in chosen if arm_images else ():
        if measured[name].get("vectors", {}).get("passes") and "passes" not in measured[name].get("arm", {}):
            print(f"{name} on an emulated {ARM_CPU}", flush=True)
            measured[name]["arm"] = check_on_arm(subject, measured[name], arm_images)
            write_record(out, record, [subject.bundle])
    if not no_latency:
        opened = {
            name: Opened(row["backend"], (subject.folder / row["artifact"],), subject.bundle.input)
            for name, row in measured.items()
            if row.get("vectors", {}).get("passes")
        }
        for name, cost in measure_side_by_side(opened, subject.folder).items():
            measured[name]["cost"] = asdict(cost) if isinstance(cost, Cost) else {"refused": cost}
        write_record(out, record, [subject.bundle])


def open_subject(folder: Path, run: Path | None, images: int) -> tuple[Subject, str]:
    """The bundle with its logos, and the key of this work. Raises RunError where the run reads another input."""
    packed, manifest, student = read_source(folder), read_logos(), run and read_source(run)
    bundle = packed.bundle
    if student and student.input != bundle.input:
        raise RunError(f"{run} reads {student.input}; expected the bundle's {bundle.input}. Give its own run")
    rows = {split: stratified_sample(manifest.split(split), images) for split in SPLITS}
    fitting = fitting_rows(manifest, FITTING_IMAGES)
    pixels = {split: pixels_of(part, manifest, bundle.input) for split, part in rows.items()}
    key = artifact_key(
        {
            "model": bundle.model_path,
            **({"student": student.student} if student else {}),
            **data_inputs(manifest, use_unlabelled=False),
        },
        {"images": images},
        versions(VERSIONED),
    )
    work = RUNS / "formats" / key[:16]
    work.mkdir(parents=True, exist_ok=True)
    graphs = {precision: work / f"{precision}.onnx" for precision in packed.graphs}
    for path in graphs.values():
        write_file(path, bundle.read(bundle.model.file))
    if "int8" in graphs:
        graphs["fp32"] = work / "fp32.onnx"
        save_model(to_float(onnx.load(graphs["int8"]))[0], graphs["fp32"])
    subject = Subject(
        bundle,
        Source(bundle.name, bundle.input, graphs),
        student,
        Images(
            pixels_of(fitting, manifest, bundle.input), pixels["val"], not images, describe_fitting(manifest, fitting)
        ),
        pixels,
        {split: targets_of(part, bundle.labels) for split, part in rows.items()},
        np.array([row.sure for row in rows["test"]], bool),
        work,
    )
    return subject, key


def measure_row(subject: Subject, kind: str, precision: str) -> dict:
    """The figures of one artifact, or why there is none."""
    if kind not in FORMATS:
        return {"refused": "`logo-edge export` has no such format"}
    source = subject.run if kind == "torchscript" and subject.run else subject.source
    folder = subject.folder / f"{kind}-{precision}"
    try:
        exported = export_artifact(source, kind, precision, None, folder, subject.images, say=print)
        backend, path, forward = open_exported(kind, exported, folder)
        logits = {
            split: run_artifact(
                forward, pixels, None if backend else len(pixels)
            )  # TFLM starts a process for each call
            for split, pixels in subject.pixels.items()
        }
    except LogoEdgeError as error:
        return {"refused": str(error)}
    proof = exported | (exported.get("engine") or {})
    steps = proof.get("steps", {"shares_calibration": kind == "onnx" and subject.images.whole_val})
    shares = precision == subject.bundle.model.precision and steps["shares_calibration"]
    return {
        "backend": backend,
        "artifact": path.relative_to(subject.folder).as_posix(),
        "size_bytes": sum(
            file["size_bytes"] for name, file in exported["files"].items() if Path(name).suffix != ASIDE.get(kind)
        ),
        **{name: proof[name] for name in ("verified_by", "parity", "steps") if name in proof},
        "vectors": check_vectors(subject.bundle, backend, path, exported.get("not_done")),
        **measure_accuracy(subject, logits, shares=shares),
    }


def open_exported(kind: str, exported: dict, folder: Path) -> tuple[str, Path, Forward]:
    """The backend that runs the exported artifact here (empty for TFLM, which is none), its file and its function.

    Where the format's own runtime is not here, ONNX Runtime runs the ONNX file that was verified instead.
    """
    names = [exported["engine"]["file"]] if exported.get("engine") else list(exported["files"])
    backend = "litert" if kind == "tflm" else "onnxruntime" if kind == "onnx" or "not_done" in exported else kind
    path = next(folder / name for name in names if Path(name).suffix in BACKENDS[backend].suffixes)
    if kind == "tflm":
        return "", path, lambda pixels: run_tflm(path, pixels, **exported["output"])[0]
    return backend, path, open_artifact(backend, path)


def check_vectors(bundle: Bundle, backend: str, path: Path, not_done: str | None) -> dict:
    """How many golden vectors of the bundle the artifact gives here, or why not."""
    if not_done or not backend:
        return {"refused": not_done or "not run: TFLM runs on microcontrollers, and is no backend"}
    try:
        return {"passes": Classifier(bundle, backend=backend, artifact=path).run_vectors(rounds=CHECKED_ROUNDS)}
    except LogoEdgeError as error:
        return {"refused": str(error)}


def measure_accuracy(subject: Subject, logits: dict[str, np.ndarray], *, shares: bool) -> dict:
    """Accuracy on val, and the calibrated figures on test, of (N, K) logits by split. `shares` the calibration."""
    labels, right = subject.bundle.labels, int((logits["val"].argmax(1) == subject.targets["val"]).sum())
    calibration = subject.bundle.calibration
    if not shares:
        calibration = fit_calibration(logits["calib"], subject.targets["calib"], labels).calibration
    calibrated = calibrated_logits(logits["test"], calibration.temperature, calibration.scaling)
    return {
        "shares_calibration": shares,
        "val_accuracy": vars(wilson_interval(right, len(logits["val"]))),
        "test": summarize(calibrated, subject.targets["test"], subject.sure, 1.0, labels),
    }


def check_on_arm(subject: Subject, row: dict, images: int) -> dict:
    """The golden vectors on the emulated core and the difference of its logits from those here, or why not."""
    if row["backend"] in NOT_ON_ARM:
        return {"refused": NOT_ON_ARM[row["backend"]]}
    path, pixels = subject.folder / row["artifact"], subject.images.verifying[:images]
    sent, returned = subject.folder / "arm-pixels.npy", subject.folder / "arm-logits.npy"
    np.save(sent, pixels)
    arguments = [subject.bundle.folder, row["backend"], path, CHECKED_ROUNDS, sent, returned]
    command = [sys.executable, EMULATE, "--", "-c", ON_ARM, json.dumps(arguments, default=str)]
    try:
        with process_tree(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as emulated:
            output, errors = emulated.communicate(timeout=ARM_S)
        reply = json.loads(output.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"refused": f"it did not end in {ARM_S:.0f} s"}
    except (ValueError, IndexError):  # the emulator is not here, or the library crashed
        return {"refused": f"status {emulated.returncode}: {' '.join(errors.split())[-300:]}"}
    if "passes" not in reply:
        return reply
    parity = compare_logits(run_artifact(open_artifact(row["backend"], path), pixels, 1), np.load(returned))
    return {**reply, "cpu": ARM_CPU, **asdict(parity)}
