"""How much of an ensemble's accuracy and uncertainty one pass of a student keeps, by the way it is distilled.

    python -m logo_edge_bench.experiments distillation runs/shipped [--student NAME@SIZE] [--epochs 6] [--report-test]

Every variant distils the same student from the same teachers on the same logos for as many epochs, and is quantized to
INT8. Students are kept in RUN/compare-distillation/ and resume. Temperatures are fitted on calib; the measure that
separates other images from logos is chosen on val logos against the families of CHOOSE_ON; test is used with
--report-test only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from logo_edge.bundle.record import EPISTEMIC
from logo_edge.probabilities import entropy, softmax
from logo_edge_bench.experiments import uncertainty
from logo_edge_bench.experiments.record import Device, ReportTest, file_name, keep_arrays
from logo_edge_compress.distill.distill import Student, distill
from logo_edge_compress.onnx.export import export_onnx
from logo_edge_compress.quantize.qat import finetune
from logo_edge_compress.quantize.static import quantize_body, round_body
from logo_edge_compress.search.latency_table import latencies_by_turns
from logo_edge_compress.verify import compare_logits, has_epistemic, run_onnx
from logo_edge_train.architecture import Architecture
from logo_edge_train.data.icons import fetch_logos
from logo_edge_train.data.images import pixels_of
from logo_edge_train.data.pool import stratified_sample
from logo_edge_train.device import pick_device
from logo_edge_train.evaluate import predict_logits
from logo_edge_train.keys import artifact_key, file_hash
from logo_edge_train.progress import FitProgress
from logo_edge_train.recipe_io import recipe_from_dict
from logo_edge_train.runs import Run, read_run

VARIANTS: dict[str, dict] = {
    "plain": {"epistemic": "off"},
    "Dirichlet": {"epistemic": "dirichlet"},
    "dispersion": {"epistemic": "dispersion", "teachers_per_batch": 0},  # which needs all teachers
}
ROUNDS = 3  # of all graphs by turns, so that a disturbance affects all of them


def measure(
    run: Annotated[Path, "the folder of a run of two or more teachers"],
    *,
    student: Annotated[str, "NAME@SIZE; default: the first of the run's recipe"] = "",
    epochs: Annotated[int, "of every student; 0: as in the run's recipe"] = 0,
    set: Annotated[Sequence[str], {"metavar": "KEY=VALUE", "help": "distill.KEY=VALUE, for all variants"}] = (),
    variants: Annotated[Sequence[str], {"choices": VARIANTS}] = tuple(VARIANTS),
    pictures: Annotated[int, "of each family that is no logo, at most"] = uncertainty.OUTLIERS,
    families: Annotated[Sequence[str], {"choices": uncertainty.FAMILIES}] = tuple(uncertainty.FAMILIES),
    device: Device = "auto",
    report_test: ReportTest = False,
) -> dict:
    fetch_logos()
    teachers_run, chosen_device = read_run(run), pick_device(device)
    base = recipe_from_dict(teachers_run.record["recipe"], tuple(set)).distill
    base = replace(base, fit=replace(base.fit, epochs=epochs or base.fit.epochs))
    architecture = Architecture.parse(student or base.students[0])
    images = uncertainty.Images(teachers_run, pictures, families)
    splits = ("val", "test") if report_test else ("val",)
    sets = ("calib", *splits, *families)
    work = teachers_run.folder / "compare-distillation"
    teachers = read_teachers(teachers_run, images, sets, work, chosen_device)
    one_teacher = {name: logits[:1] for name, logits in teachers.items()}
    ensemble = f"ensemble of {len(teachers_run.record['members'])}"
    methods = {
        ensemble: uncertainty.measure_method(uncertainty.Method(teachers), images, splits),
        "one teacher": uncertainty.measure_method(uncertainty.Method(one_teacher), images, splits),
    }
    graphs = export_teachers(teachers_run, work)
    for name in variants:
        folder = work / str(architecture).replace("@", "-") / file_name(name)
        config = replace(base, **VARIANTS[name])
        with FitProgress() as progress:
            distilled = distill(
                teachers_run, images.manifest, config, architecture, folder, device=chosen_device, report=progress
            )
        for precision, path in make_graphs(distilled, teachers_run, images, folder).items():
            print(variant := f"{name}, {precision}", flush=True)
            outputs = read_graph(path, architecture.size_px, images, sets, folder)
            methods[variant], graphs[variant] = measure_one_pass(outputs, images, splits), path
    times_ms = latencies_by_turns(graphs, ROUNDS)
    times_ms[ensemble] = sum(ms for name, ms in times_ms.items() if name.startswith("teacher "))
    times_ms["one teacher"] = times_ms["teacher 1"]
    for name, method in methods.items():
        method["forward_ms"] = times_ms[name]
    return {
        "run": teachers_run.folder.name,
        "members": [member["architecture"] for member in teachers_run.record["members"]],
        "student": str(architecture),
        "epochs": base.fit.epochs,
        "pictures": pictures,
        "families": list(families),
        "chosen_on": list(uncertainty.CHOOSE_ON),
        "near": list(uncertainty.NEAR),
        "methods": methods,
    }


def read_teachers(
    run: Run, images: uncertainty.Images, sets: tuple[str, ...], work: Path, device: torch.device
) -> dict[str, np.ndarray]:
    """Set -> (M, N, K) logits of the run's members, kept in `work`."""

    def predict(index: int, name: str) -> dict[str, np.ndarray]:
        print(f"teacher {index + 1}: {name}", flush=True)
        pixels = [(torch.from_numpy(part),) for part in images.pixels(name, run.architecture(index).size_px)]
        return {"logits": predict_logits(run.load_member(index).to(device), pixels, device)}

    logits: dict[str, list[np.ndarray]] = {name: [] for name in sets}
    for index, member in enumerate(run.record["members"]):
        for name in sets:
            path = work / "teachers" / f"{member['sha256'][:12]}-{images.count}-{file_name(name)}.safetensors"
            logits[name].append(keep_arrays(path, predict, index, name)["logits"])
    return {name: np.stack(parts) for name, parts in logits.items()}


def export_teachers(run: Run, work: Path) -> dict[str, Path]:
    """Every member as FP32 ONNX."""
    paths = {}
    for index, member in enumerate(run.record["members"]):
        path = work / f"teacher-{member['sha256'][:12]}.onnx"
        if not path.exists():
            export_onnx(run.load_member(index), run.architecture(index).size_px, path)
        paths[f"teacher {index + 1}"] = path
    return paths


def make_graphs(student: Student, run: Run, images: uncertainty.Images, folder: Path) -> dict[str, Path]:
    """The student as FP32 and as INT8 like in a bundle: the method closest on val, fine-tuned."""
    config, size_px = run.recipe.quantize, student.architecture.size_px
    key = file_hash(student.checkpoint)[:12]
    fp32, int8 = (folder / f"{precision}-{key}.onnx" for precision in ("fp32", "int8"))
    if not int8.exists():
        rows = stratified_sample(images.rows["train"], config.calibration_images, seed=1)
        pixels, val = pixels_of(rows, images.manifest, student.architecture.contract), images.pixels("val", size_px)
        body = folder / "body.onnx"
        export_onnx(student.network, size_px, fp32, body=body)
        rounded = round_body(body, pixels, folder / "rounded.onnx", reduce_range=config.reduce_range)
        parent, divergences = run_onnx(fp32, val), {}
        for method in config.methods:
            path, settings = folder / f"int8-{method}.onnx", {"method": method, "reduce_range": config.reduce_range}
            quantize_body(body, rounded, pixels, size_px, path, **settings)
            divergences[path] = compare_logits(parent, run_onnx(path, val)).kl_nats
        with FitProgress() as progress:
            source = min(divergences, key=divergences.__getitem__)
            key = artifact_key({"artifact": source, "network": student.checkpoint}, {"recipe": run.recipe}, {})
            finetune(source, student, run, images.manifest, int8, key=key, report=progress)
    return {"FP32": fp32, "INT8": int8}


def read_graph(
    path: Path, size_px: int, images: uncertainty.Images, sets: tuple[str, ...], folder: Path
) -> dict[str, dict[str, np.ndarray]]:
    """Set -> the graph's logits (N, K) and, where it has the output, epistemic (N,); kept in `folder`."""
    outputs = ("logits", *([EPISTEMIC] if has_epistemic(path) else []))

    def predict(name: str) -> dict[str, np.ndarray]:
        pixels = images.pixels(name, size_px)
        return {output: run_onnx(path, pixels, output=output) for output in outputs}

    kept = {name: folder / "said" / f"{path.stem}-{images.count}-{file_name(name)}.safetensors" for name in sets}
    return {name: keep_arrays(kept[name], predict, name) for name in sets}


def measure_one_pass(
    outputs: dict[str, dict[str, np.ndarray]], images: uncertainty.Images, splits: tuple[str, ...]
) -> dict:
    """The figures of `measure_method` for one pass: total uncertainty that is not epistemic is aleatoric."""
    pooled = {name: arrays["logits"] for name, arrays in outputs.items()}
    uncertainties = {}
    for name, arrays in outputs.items():
        total = entropy(softmax(arrays["logits"]))
        epistemic = arrays.get(EPISTEMIC, np.zeros(len(total)))
        parts = total, np.maximum(total - epistemic, 0.0), epistemic
        uncertainties[name] = dict(zip(uncertainty.MEASURES, parts, strict=True))
    return uncertainty.describe(pooled, uncertainties, images, splits)
