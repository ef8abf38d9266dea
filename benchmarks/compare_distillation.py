"""What one pass of a student keeps of an ensemble's accuracy and doubts, by the way its doubts are distilled.

    python benchmarks/compare_distillation.py runs/default [--student NAME@SIZE] [--epochs 6] [--report-test]

Every variant distils the same student from the same teachers on the same logos for as many epochs, and is quantized to
INT8. Writes benchmarks/results/distillation.json. Students are kept in RUN/compare-distillation/ and resume. Temperatures
are fitted on calib; which measure tells other pictures from logos is chosen on val logos against the families of
CHOOSE_ON; test is looked at with --report-test only.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from compare_uncertainty import CHOOSE_ON, FAMILIES, MEASURES, NEAR, OUTLIERS, Method, Pictures, describe, measure
from safetensors.numpy import load_file

from logo_edge.bundle.record import EPISTEMIC
from logo_edge.machine import describe_machine
from logo_edge.probabilities import softmax
from logo_edge_compress.distill.distill import Student, distill
from logo_edge_compress.onnx.export import export_onnx
from logo_edge_compress.quantize.qat import finetune
from logo_edge_compress.quantize.static import quantize_body, round_body
from logo_edge_compress.search.latency_table import latencies_by_turns
from logo_edge_compress.verify import compare_logits, has_epistemic, run_onnx
from logo_edge_train.data.icons import fetch_logos
from logo_edge_train.data.images import pixels_of
from logo_edge_train.data.pool import stratified_sample
from logo_edge_train.device import pick_device
from logo_edge_train.evaluate import predict_logits
from logo_edge_train.keys import artifact_key, file_hash, versions
from logo_edge_train.progress import FitProgress
from logo_edge_train.recipe import Architecture, DistillConfig
from logo_edge_train.recipe_io import load_recipe, recipe_from_dict
from logo_edge_train.runs import Run, read_run, save_logits, write_json
from logo_edge_train.uncertainty import entropy

RESULT = Path(__file__).resolve().parent / "results" / "distillation.json"
DISPERSION = {"epistemic": "dispersion", "teachers_per_batch": 0}  # which needs all teachers
VARIANTS: dict[str, dict] = {
    "plain": {"epistemic": "off"},
    "Dirichlet": {"epistemic": "dirichlet"},
    "dispersion": DISPERSION,
}
ROUNDS = 3  # of all graphs in turn: what slows the machine for a while slows them all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of a run of two or more teachers")
    parser.add_argument("--student", help="NAME@SIZE; left out: the first of the run's recipe")
    parser.add_argument("--epochs", type=int, default=0, help="of every student; 0: as the run's recipe has it")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="distill.KEY=VALUE, of all")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--pictures", type=int, default=OUTLIERS, help="of each family that is no logo, at most")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--report-test", action="store_true", help="report on the test split too, once all is chosen")
    arguments = parser.parse_args()
    fetch_logos()
    for family in set(FAMILIES) - set(arguments.families):
        del FAMILIES[family]
    run, device = read_run(arguments.run), pick_device(arguments.device)
    recipe = recipe_from_dict(run.record["recipe"])
    base = override(recipe.distill, tuple(arguments.set))
    base = replace(base, fit=replace(base.fit, epochs=arguments.epochs or base.fit.epochs))
    candidate = Architecture.parse(arguments.student or base.students[0])
    pictures = Pictures(run, arguments.pictures)
    splits = ("val", "test") if arguments.report_test else ("val",)
    sets = ("calib", *splits, *FAMILIES)
    work = run.folder / "compare-distillation"
    teachers = ask_teachers(run, pictures, sets, work, device)
    ensemble = f"ensemble of {len(run.record['members'])}"
    methods = {ensemble: measure(Method(teachers), pictures, splits)}
    methods["one teacher"] = measure(Method({name: logits[:1] for name, logits in teachers.items()}), pictures, splits)
    graphs = export_teachers(run, work)
    for name in arguments.variants:
        folder = work / str(candidate).replace("@", "-") / name.replace(", ", "-").replace(" ", "-")
        with FitProgress() as progress:
            student = distill(
                run,
                pictures.manifest,
                replace(base, **VARIANTS[name]),
                candidate,
                folder,
                device=device,
                report=progress,
            )
        for precision, path in make_graphs(student, run, pictures, folder).items():
            print(f"{name}, {precision}", flush=True)
            said = ask_graph(path, candidate.size_px, pictures, sets, folder)
            methods[f"{name}, {precision}"] = measure_one_pass(said, pictures, splits)
            graphs[f"{name}, {precision}"] = path
    times = latencies_by_turns(graphs, ROUNDS)
    for name in methods:
        methods[name]["forward_ms"] = times.get(name)
    methods[ensemble]["forward_ms"] = sum(times[name] for name in times if name.startswith("teacher "))
    methods["one teacher"]["forward_ms"] = times["teacher 1"]
    write_json(
        arguments.out,
        {
            "run": run.folder.name,
            "members": [member["architecture"] for member in run.record["members"]],
            "student": str(candidate),
            "epochs": base.fit.epochs,
            "pictures": arguments.pictures,
            "families": list(FAMILIES),
            "chosen_on": list(CHOOSE_ON),
            "near": list(NEAR),
            "methods": methods,
            "machine": describe_machine(),
            "versions": versions(),
        },
    )


def override(config: DistillConfig, overrides: tuple[str, ...]) -> DistillConfig:
    """The configuration with `distill.key=value` applied, as the command line of `logo-edge` would."""
    changed, plain = load_recipe("cpu", overrides).distill, load_recipe("cpu").distill
    fit = {key: value for key, value in vars(changed.fit).items() if value != getattr(plain.fit, key)}
    others = {key: value for key, value in vars(changed).items() if key != "fit" and value != getattr(plain, key)}
    return replace(config, **others, fit=replace(config.fit, **fit))


def ask_teachers(
    run: Run, pictures: Pictures, sets: tuple[str, ...], work: Path, device: torch.device
) -> dict[str, np.ndarray]:
    """Set -> (M, N, K) logits of the run's members, kept in `work`."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in sets}
    for index, member in enumerate(run.record["members"]):
        network, size_px = None, run.architecture(index).size_px
        for name in sets:
            path = work / "teachers" / f"{member['sha256'][:12]}-{pictures.count}-{name.replace(' ', '-')}.safetensors"
            if not path.exists():
                print(f"teacher {index + 1}: {name}", flush=True)
                network = network or run.load_member(index).to(device)
                pixels = [(torch.from_numpy(part),) for part in pictures.pixels(name, size_px)]
                path.parent.mkdir(parents=True, exist_ok=True)
                save_logits(path, {"logits": predict_logits(network, pixels, device)})
            found[name].append(load_file(path)["logits"])
    return {name: np.stack(parts) for name, parts in found.items()}


def export_teachers(run: Run, work: Path) -> dict[str, Path]:
    """Every member as FP32 ONNX."""
    found = {}
    for index, member in enumerate(run.record["members"]):
        path = work / f"teacher-{member['sha256'][:12]}.onnx"
        if not path.exists():
            export_onnx(run.load_member(index), run.architecture(index).size_px, path)
        found[f"teacher {index + 1}"] = path
    return found


def make_graphs(student: Student, run: Run, pictures: Pictures, folder: Path) -> dict[str, Path]:
    """The student as FP32 and, as bundles have it, INT8: the method that is closest on val, fine-tuned."""
    config, size_px = run.recipe.quantize, student.architecture.size_px
    key = file_hash(student.checkpoint)[:12]
    fp32, int8 = (folder / f"{precision}-{key}.onnx" for precision in ("fp32", "int8"))
    if not int8.exists():
        rows = stratified_sample(pictures.rows["train"], config.calibration_images, seed=1)
        pixels, val = pixels_of(rows, pictures.manifest, student.architecture.contract), pictures.pixels("val", size_px)
        body = folder / "body.onnx"
        export_onnx(student.network, size_px, fp32, body=body)
        rounded = round_body(body, pixels, folder / "rounded.onnx", reduce_range=config.reduce_range)
        parent, tried = run_onnx(fp32, val), {}
        for method in config.methods:
            path = quantize_body(
                body,
                rounded,
                pixels,
                size_px,
                folder / f"int8-{method}.onnx",
                method=method,
                reduce_range=config.reduce_range,
            )
            tried[path] = compare_logits(parent, run_onnx(path, val)).kl_nats
        with FitProgress() as progress:
            source = min(tried, key=tried.__getitem__)
            work = artifact_key({"artifact": source, "network": student.checkpoint}, {"recipe": run.recipe}, {})
            finetune(source, student, run, pictures.manifest, int8, key=work, report=progress)
    return {"FP32": fp32, "INT8": int8}


def ask_graph(
    path: Path, size_px: int, pictures: Pictures, sets: tuple[str, ...], folder: Path
) -> dict[str, dict[str, np.ndarray]]:
    """Set -> the graph's logits (N, K) and, where it has the output, epistemic (N,); kept in `folder`."""
    outputs = ("logits", *([EPISTEMIC] if has_epistemic(path) else []))
    found = {}
    for name in sets:
        kept = folder / "said" / f"{path.stem}-{pictures.count}-{name.replace(' ', '-')}.safetensors"
        if not kept.exists():
            pixels = pictures.pixels(name, size_px)
            kept.parent.mkdir(parents=True, exist_ok=True)
            save_logits(kept, {output: run_onnx(path, pixels, output=output) for output in outputs})
        found[name] = load_file(kept)
    return found


def measure_one_pass(said: dict[str, dict[str, np.ndarray]], pictures: Pictures, splits: tuple[str, ...]) -> dict:
    """The figures of `compare_uncertainty.measure` for one pass: what is not said to be epistemic is aleatoric."""
    pooled = {name: arrays["logits"] for name, arrays in said.items()}
    doubts = {}
    for name, arrays in said.items():
        total = entropy(softmax(arrays["logits"]))
        epistemic = arrays.get(EPISTEMIC, np.zeros(len(total)))
        doubts[name] = dict(zip(MEASURES, (total, np.maximum(total - epistemic, 0.0), epistemic), strict=True))
    return describe(pooled, doubts, pictures, splits)


if __name__ == "__main__":
    main()
