"""A measured candidate -> the bundle of a target, and the record of its stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from logo_edge.bundle.record import EMBEDDING, EPISTEMIC, Bundle, MemberEntry, ModelEntry, VariantEntry
from logo_edge_compress.candidates.measure import Measured
from logo_edge_compress.candidates.store import Candidate
from logo_edge_compress.distill.distill import load_student
from logo_edge_compress.onnx.embedding_output import embed_bundle
from logo_edge_compress.onnx.graph import LOGITS, PIXELS
from logo_edge_compress.pack import describe_calibration, describe_data, pack_bundle, reference
from logo_edge_compress.quantize.fitting import describe_fitting, fitting_rows
from logo_edge_compress.report import Stage, candidate_stage, describe_abstention, describe_stage, teachers_stage
from logo_edge_compress.work import Work
from logo_edge_train.architecture import Architecture
from logo_edge_train.keys import versions

FORMAT_NAMES = {
    "onnxruntime": "ONNX",
    "openvino": "OpenVINO",
    "litert": "LiteRT",
    "tensorrt": "TensorRT",
    "torchscript": "TorchScript",
    "ncnn": "NCNN",
    "mnn": "MNN",
    "executorch": "ExecuTorch",
    "coreml": "Core ML",
}


def pack_candidate(
    work: Work,
    target: str,
    chosen: Measured,
    measured: list[Measured],
    *,
    name: str,
    key: str,
    out: Path,
    carry: tuple[str, ...] = (),
    intended_use: str = "",
) -> tuple[Bundle, dict]:
    """Packs the chosen candidate to `out`; the bundle, and what the target's record says of it.

    `carry` names further candidates of the student, which become the bundle's variants. `intended_use` is a sentence
    for the card; empty: what the bundle does.
    """
    run, candidate, calibration = work.run, chosen.candidate, chosen.fitted.calibration
    siblings = [other for other in measured if other.candidate.student == candidate.student]
    fp32 = [other for other in siblings if other.candidate.name == "fp32"]
    stages = _stages(work, chosen, next((other for other in fp32 if other.candidate.backend == "onnxruntime"), None))
    summary = [describe_stage(stage, work.splits, run.classes) for stage in stages]
    graph = graph_of(chosen, siblings)
    members = tuple(MemberEntry(*member) for member in candidate.record.get("members", ()))
    if members:
        outputs, extra = {EPISTEMIC}, {path.name: path for path in candidate.paths}
    else:
        outputs = {output.name for output in onnx.load(graph.path, load_external_data=False).graph.output}
        extra = {} if graph is candidate else {"".join(["model", *path.suffixes]): path for path in candidate.paths}
    carried = [other for other in siblings if other.candidate.name in carry and other is not chosen]
    for other in carried:
        extra |= {f"variants/{other.candidate.name}{path.suffix}": path for path in other.candidate.paths}
    described = Bundle(
        name=name if target == "cpu" else f"{name}-{target}",
        labels=run.classes,
        members=members,
        variants=tuple(
            VariantEntry(
                f"variants/{other.candidate.name}{other.candidate.path.suffix}",
                other.candidate.precision,
                f"vectors/{other.candidate.name}.json",
                other.fitted.calibration,
            )
            for other in carried
        ),
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
        metrics={split: figures for split, figures in summary[-1].items() if split in ("val", "test")},
        provenance={
            "key": key,
            "target": target,
            "student": candidate.student.rpartition("@")[0],
            "recipe": run.recipe.name,
            "quantization": candidate.name,
            "reduce_range": run.recipe.quantize.reduce_range,
            "fitting": describe_fitting(
                work.manifest, fitting_rows(work.manifest, run.recipe.quantize.calibration_images)
            ),
            "data_hash": run.data_hash,
            "data": describe_data(work.manifest, len(run.record.get("left_out", ()))),
            "intended_use": intended_use,
            "teachers": [member["architecture"] for member in run.record["members"]],
            "versions": versions(),
            **describe_calibration(run.recipe.calibrate, chosen.fitted),
        },
        reference=reference(stages[-1].logits["calib"], run.classes, calibration),
    )
    model = graph.path
    if not members:
        described, model, space = embed_bundle(described, model, model.parent, work.manifest)
        extra |= space
    bundle = pack_bundle(described, model, out, extra)
    graphs = {other.candidate.precision: other.candidate.path for other in fp32}
    if graph.precision == "int8":
        graphs["int8"] = graph.path
    return bundle, {
        "run": run.folder.name,
        "recipe": run.recipe.name,
        "chosen": candidate.student,
        "method": candidate.name,
        "precision": candidate.precision,
        "artifact": str(candidate.path.relative_to(work.folder)),
        "graphs": {precision: str(path.relative_to(work.folder)) for precision, path in graphs.items()},
        "bundle": str(out),
        "bundle_bytes": bundle.size_bytes,
        "stages": summary,
        "abstention": describe_abstention(stages[-1], work.splits, calibration),
        "versions": versions(),
    }


def _stages(work: Work, chosen: Measured, fp32: Measured | None) -> list[Stage]:
    """The teachers, the student in PyTorch and as FP32 ONNX, the chosen candidate, and this one calibrated."""
    candidate, calibration = chosen.candidate, chosen.fitted.calibration
    precision = candidate.precision.upper()
    stages = [teachers_stage(work.run, work.splits)]
    if fp32:
        plain = candidate_stage("FP32 ONNX", fp32)
        size_bytes = load_student(candidate.folder, len(work.run.classes)).network.float32_bytes
        stages.append(Stage("student, PyTorch", plain.logits, size_bytes, None))
        if fp32 is not chosen:
            stages.append(plain)
    stage = candidate_stage(f"{precision} {FORMAT_NAMES.get(candidate.backend, 'ONNX')}", chosen)
    stages.append(stage)
    fitted = {"temperature": calibration.temperature, "scaling": calibration.scaling}
    stages.append(replace(stage, name=f"{precision}, calibrated", **fitted))
    return [replace(stage, multi_label=work.run.multi_label) for stage in stages]


def graph_of(chosen: Measured, measured: list[Measured]) -> Candidate:
    """The candidate whose ONNX graph is packed: for a file of another format its parent, which runs anywhere."""
    candidate = chosen.candidate
    if candidate.path.suffix == ".onnx":
        return candidate
    parent = candidate.folder / candidate.record["parent"]
    return next(other.candidate for other in measured if other.candidate.path == parent)
