"""Makes one candidate: converts a student, verifies the artifact and runs it on real logos.

Each candidate is made in a separate process. A refusal, an error or a crash is a line of the report.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors.numpy import load_file as load_arrays

from logo_edge.bundle.record import EPISTEMIC
from logo_edge.errors import LogoEdgeError, VerificationError
from logo_edge_compress.audit import CHOSEN_IN_FLOAT, refuse_float
from logo_edge_compress.candidates.pixels import FITTING, OUTLIERS, load_pixels, pixel_files
from logo_edge_compress.candidates.store import (
    Candidate,
    Plan,
    Task,
    candidate_key,
    delete_candidate,
    made_with,
    outcome,
    read_candidate,
    write_candidate,
)
from logo_edge_compress.convert.export import export_artifact
from logo_edge_compress.convert.onnx import audit
from logo_edge_compress.convert.request import Images
from logo_edge_compress.convert.source import FITTING_IMAGES, Source
from logo_edge_compress.distill.distill import load_student
from logo_edge_compress.onnx.export import export_onnx
from logo_edge_compress.onnx.graph import save_model, store_float16
from logo_edge_compress.quantize.nncf import restore_with_nncf
from logo_edge_compress.quantize.qat import finetune
from logo_edge_compress.quantize.sensitivity import measure_sensitivity, mix_precision
from logo_edge_compress.quantize.static import (
    depthwise_layers,
    equalise_body,
    evidence_nodes,
    quantize_body,
    quantize_dynamically,
    round_body,
)
from logo_edge_compress.quantize.weight_only import store_int4, store_int8
from logo_edge_compress.subprocess_call import OutOfTimeError, SubprocessError, call_in_subprocess
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
    verify,
    verify_epistemic,
)
from logo_edge_compress.work import Budget
from logo_edge_train.data.manifest import targets_of
from logo_edge_train.keys import artifact_key, file_hash
from logo_edge_train.runs import save_logits, write_json

NNCF_DROP = 0.005  # of accuracy on val

Pixels = dict[str, np.ndarray]  # as `load_pixels` returns them


@dataclass(frozen=True)
class Artifact:
    """A converted model: its files (first the one that the backend opens) and the function that runs it.

    Its logits on val are compared with `parent`, the (N, K) logits of its parent, unless `record` holds that comparison
    already. Its epistemic output, if it has one, is compared with `epistemic` (N,), its parent's on val and outliers.
    """

    files: tuple[Path, ...]
    forward: Forward
    tolerance: Tolerance
    parent: np.ndarray | None = None
    epistemic: np.ndarray | None = None
    record: dict = field(default_factory=dict)


def make_candidate(
    task: Task, plan: Plan, budget: Budget, *, report: Callable[[dict], None], say: Callable[[str], None]
) -> Candidate:
    """The candidate of the plan, made in a separate process, or read where it is stored under the same key."""
    key = candidate_key(task, plan)
    if (stored := read_candidate(task, plan, key)) is not None:
        return stored
    if budget.is_over:
        return outcome(task, plan, "not tried", f"the budget of {budget.minutes:g} minutes was over")
    delete_candidate(task, plan)
    started, log = time.monotonic(), task.folder / f"{plan.name}.log"
    try:
        fields = call_in_subprocess(_make, (task, plan), log, report=report, deadline=budget.deadline)
    except OutOfTimeError:
        reason = f"stopped when the budget of {budget.minutes:g} minutes was over"
        candidate = outcome(task, plan, "not tried", reason)
    except SubprocessError as error:  # it may succeed next time: not stored
        candidate = outcome(task, plan, "failed", str(error))
    else:
        candidate = outcome(task, plan, **fields, seconds=time.monotonic() - started)
        write_candidate(task, plan, key, candidate)
    say(f"  {candidate.name}: {describe(candidate)}")
    return candidate


def describe(candidate: Candidate) -> str:
    """One line about the outcome."""
    if not candidate.files:
        return f"{candidate.status}: {candidate.reason}"
    parity = candidate.record["parity"]
    text = (
        f"{candidate.size_bytes / 1e6:.2f} MB, top-1 agreement {parity['top1_agreement']:.1%}, KL "
        f"{parity['kl_nats']:.4f} nats on val, {candidate.seconds:.0f} s"
    )
    return text if candidate.status == "made" else f"{candidate.status}: {text}"


def make_fp32(task: Task, plan: Plan, pixels: Pixels, report) -> Artifact:
    """The student as ONNX, and `body.onnx`, the graph that is quantized."""
    network = load_student(task.folder, len(task.run.classes)).network
    export_onnx(network, task.student.size_px, task.fp32, body=task.body)
    with torch.no_grad():
        parent = run_artifact(lambda part: network(torch.from_numpy(part)).numpy(), pixels["val"], None)
        epistemic = network.epistemic and _run_on_val_and_outliers(
            lambda part: network.epistemic_nats(torch.from_numpy(part)).numpy(), pixels
        )
    return Artifact((task.fp32,), open_onnx(task.fp32), EXPORTED, parent, epistemic)


def make_fp16(task: Task, plan: Plan, pixels: Pixels, report) -> Artifact:
    """FP32 with its weights stored in half the bytes."""
    path = task.folder / "student-fp16.onnx"
    save_model(store_float16(onnx.load(task.fp32)), path)
    return _onnx_artifact(task, plan, path, pixels, ROUNDED)


def make_int8(task: Task, plan: Plan, pixels: Pixels, report) -> Artifact:
    """INT8 by one calibration method; the rounded weights are shared with the other methods."""
    path = _int8_path(task, plan)
    rounded, size_px = _round_weights(task, plan, pixels), task.student.size_px
    quantize_body(task.body, rounded, pixels[FITTING], size_px, path, **_quantizer_settings(plan))
    return _onnx_artifact(task, plan, path, pixels)


def make_equalised(task: Task, plan: Plan, pixels: Pixels, report) -> Artifact:
    """INT8 of the student with the channels between its convolutions equalised."""
    path, size_px = _int8_path(task, plan), task.student.size_px
    body = equalise_body(task.body, pixels[FITTING], task.folder / "body-equalised.onnx")
    rounded = _round_weights(task, plan, pixels, body)
    quantize_body(body, rounded, pixels[FITTING], size_px, path, **_quantizer_settings(plan))
    return _onnx_artifact(task, plan, path, pixels)


def make_depthwise_fp32(task: Task, plan: Plan, pixels: Pixels, report) -> Artifact:
    """INT8 with all depthwise layers in FP32."""
    path, left = _int8_path(task, plan), depthwise_layers(onnx.load(task.body))
    if not left:
        raise VerificationError(f"{task.title} has no depthwise layer to leave in FP32; take another candidate")
    rounded, settings = _round_weights(task, plan, pixels), _quantizer_settings(plan)
    quantize_body(task.body, rounded, pixels[FITTING], task.student.size_px, path, restored=left, **settings)
    return _onnx_artifact(task, plan, path, pixels, left=left)


def make_mixed(task: Task, plan: Plan, pixels: Pixels, report) -> Artifact:
    """INT8 with as few layers in FP32 as needed to agree with the parent; records the sensitivity of every layer."""
    path, size_px = _int8_path(task, plan), task.student.size_px
    rounded, settings = _round_weights(task, plan, pixels), _quantizer_settings(plan)
    images, val = pixels[FITTING], pixels["val"]
    inputs = {"rounded": rounded, **pixel_files(task.pixels, FITTING, "val")}
    key = artifact_key(inputs, settings, made_with())
    stored = task.folder / f"sensitivity-{key[:12]}.json"
    layers = measure_sensitivity(task.body, rounded, images, val, _val_targets(task), size_px, stored, **settings)
    limits = {"tolerance": QUANTIZED, "most": plan.settings["most"], "multi_label": task.run.multi_label}
    restored, _ = mix_precision(layers, task.body, rounded, images, val, size_px, path, **settings, **limits)
    sensitivity = {"layers": [asdict(layer) for layer in layers], "restored": list(restored)}
    return _onnx_artifact(task, plan, path, pixels, left=restored, sensitivity=sensitivity)


def make_nncf(task: Task, plan: Plan, pixels: Pixels, report) -> Artifact:
    """INT8 by NNCF, with layers restored to FP32 until accuracy on val is at most NNCF_DROP lower, or time is over."""
    path = _int8_path(task, plan)
    settings = {name: plan.settings[name] for name in ("minutes", "reduce_range")}
    _, within_drop = restore_with_nncf(
        task.body,
        pixels[FITTING],
        pixels["val"],
        _val_targets(task),
        task.student.size_px,
        path,
        max_drop=NNCF_DROP,
        **settings,
    )
    return _onnx_artifact(task, plan, path, pixels, share=CHOSEN_IN_FLOAT, held=within_drop)


def make_dynamic(task: Task, plan: Plan, pixels: Pixels, report) -> Artifact:
    """INT8 matrices whose inputs are quantized at run time."""
    path = _int8_path(task, plan)
    quantize_dynamically(task.body, task.student.size_px, path, reduce_range=plan.settings["reduce_range"])
    return _onnx_artifact(task, plan, path, pixels, share=CHOSEN_IN_FLOAT)


def make_stored(task: Task, plan: Plan, pixels: Pixels, report) -> Artifact:
    """FP32 arithmetic on weights that are stored in 8 or 4 bits."""
    path = _int8_path(task, plan)
    store = {"weights-int8": store_int8, "weights-int4": store_int4}[plan.settings["method"]]
    store(task.body, task.student.size_px, path)
    return _onnx_artifact(task, plan, path, pixels)


def make_tuned(task: Task, plan: Plan, pixels: Pixels, report) -> Artifact:
    """An INT8 graph, fine-tuned with the FP32 student as its teacher."""
    path, key = _int8_path(task, plan), candidate_key(task, plan)
    student = load_student(task.folder, len(task.run.classes))
    finetune(plan.inputs[0], student, task.run, task.manifest, path, key=key, report=report)
    return _onnx_artifact(task, plan, path, pixels)


def make_export(task: Task, plan: Plan, pixels: Pixels, report) -> Artifact:
    """A graph converted for another backend as by `logo-edge export`, which verifies it in that backend."""
    parent, checkpoint = plan.inputs
    graphs = {"int8" if plan.precision == "int8" else "fp32": parent}
    source = Source(
        "student",
        task.student.contract,
        graphs,
        student=checkpoint,
        run=task.run.folder,
        manifest=task.run.manifest_path,
        multi_label=task.run.multi_label,
    )
    few = pixels[FITTING][:: -(-len(pixels[FITTING]) // FITTING_IMAGES)]
    images, messages = Images(few, pixels["val"], whole_val=True), []
    exported = export_artifact(source, plan.backend, plan.precision, None, task.folder, images, say=messages.append)
    files = sorted((task.folder / name for name in exported["files"]), key=lambda path: path.suffix == ".bin")
    engine = exported.get("engine")
    verified = engine or exported
    if engine:
        forward = open_artifact(plan.backend, task.folder / engine["file"])
    elif plan.backend == "coreml":  # the program that was read back runs in its place
        forward, files = open_onnx(files[0]), files[1:]
    else:  # TensorRT's graph runs in ONNX Runtime where there is no engine
        forward = open_artifact("onnxruntime" if plan.backend == "tensorrt" else plan.backend, files[0])
    copied = "verified_by", "audit", "steps", "kept_range", "ranges", "not_done"
    record = {name: exported[name] for name in copied if name in exported}
    record |= {
        "parity": verified["parity"],
        "engine": engine and engine["file"],
        "said": messages,
        "parent": parent.name,
    }
    return Artifact(tuple(files), forward, Tolerance(**verified["tolerance"]), record=record)


def _int8_path(task: Task, plan: Plan) -> Path:
    return task.folder / f"student-{plan.name}.onnx"


def _quantizer_settings(plan: Plan) -> dict:
    return {name: plan.settings[name] for name in ("method", "reduce_range")}


def _round_weights(task: Task, plan: Plan, pixels: Pixels, body: Path | None = None) -> Path:
    """The task's body, or this one, with its weights on the INT8 grid, which the methods share."""
    body = body or task.body
    rounded, record = (task.folder / f"{body.stem}-rounded{suffix}" for suffix in (".onnx", ".json"))
    settings = {"reduce_range": plan.settings["reduce_range"]}
    key = artifact_key({"body": body, **pixel_files(task.pixels, FITTING)}, settings, made_with())
    if not (rounded.exists() and record.exists() and json.loads(record.read_text(encoding="utf-8"))["key"] == key):
        round_body(body, pixels[FITTING], rounded, **settings)
        write_json(record, {"key": key})
    return rounded


def _val_targets(task: Task) -> np.ndarray:
    return targets_of(task.manifest.split("val"), task.run.classes)


def _onnx_artifact(
    task: Task,
    plan: Plan,
    path: Path,
    pixels: Pixels,
    tolerance: Tolerance = QUANTIZED,
    *,
    left: Collection[str] = (),
    share: float = 0.0,
    **record,
) -> Artifact:
    """The artifact at `path`, to be compared with the FP32 graph; its audit is recorded.

    Raises VerificationError where it is an INT8 with layers in float other than `left` and the epistemic head, and more
    than a `share` of them.
    """
    counted = audit(path)
    if plan.precision == "int8":
        refuse_float(counted, path.name, left={*left, *evidence_nodes(onnx.load(path))}, share=share)
    record["audit"] = counted.record()
    parent = load_arrays(task.folder / "fp32.logits")["val"]
    forward = open_onnx(task.fp32, output=EPISTEMIC) if has_epistemic(task.fp32) else None
    epistemic = _run_on_val_and_outliers(forward, pixels) if forward else None
    return Artifact((path,), open_onnx(path), tolerance, parent, epistemic, record)


def _make(task: Task, plan: Plan, report: Callable[[dict], None]) -> dict:
    """The stored fields of the plan's candidate, except its seconds; runs in a separate process."""
    pixels = load_pixels(task.pixels)
    try:
        artifact = plan.make(task, plan, pixels, report)
    except VerificationError as error:
        return {"status": "refused", "reason": str(error)}
    except LogoEdgeError as error:  # such as a library that is not installed
        raise SubprocessError(str(error)) from error
    logits = {
        name: run_artifact(artifact.forward, images, None).astype(np.float32)
        for name, images in pixels.items()
        if name != FITTING
    }
    record, status, reason = {**artifact.record, "network": str(task.student)}, "made", ""
    if artifact.parent is not None:
        file = artifact.files[0]
        multi_label = task.run.multi_label
        record["parity"] = asdict(compare_logits(artifact.parent, logits["val"], multi_label=multi_label))
        try:
            verify(artifact.parent, logits["val"], artifact.tolerance, file.name, multi_label=multi_label)
            if artifact.epistemic is not None:
                epistemic = _run_on_val_and_outliers(open_onnx(file, output=EPISTEMIC), pixels)
                record["epistemic_rank_correlation"] = verify_epistemic(
                    artifact.epistemic, epistemic, LEAST_RANK_CORRELATION, file.name
                )
        except VerificationError as error:
            status, reason = "refused", str(error)
    save_logits(task.folder / f"{plan.name}.logits", logits)
    files = {path.name: file_hash(path) for path in artifact.files}
    return {"status": status, "reason": reason, "files": files, "record": record}


def _run_on_val_and_outliers(forward: Forward, pixels: Pixels) -> np.ndarray:
    """`epistemic` of the images on which rankings are compared: also outliers, as it hardly varies on easy images."""
    names = [name for name in pixels if name == "val" or name.startswith(OUTLIERS)]
    return np.concatenate([run_artifact(forward, pixels[name], None) for name in names])
