"""The effect of rounding, bias correction and fine-tuning: INT8 variants of a student, compared with FP32 on val.

python -m logo_edge_bench.experiments rounding runs/shipped
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

import numpy as np
from rich.progress import track

from logo_edge_compress.quantize.rounding import correct_biases
from logo_edge_compress.quantize.static import quantize_body, round_body
from logo_edge_compress.verify import compare_logits, run_onnx
from logo_edge_train.architecture import Architecture
from logo_edge_train.data.images import pixels_of
from logo_edge_train.data.manifest import targets_of
from logo_edge_train.data.pool import stratified_sample
from logo_edge_train.runs import read_run

METHODS = ("minmax", "percentile")
VARIANTS = {"nearest": (False, False), "rounded": (True, False), "rounded, biases corrected": (True, True)}


def measure(run: Path) -> dict:
    trained = read_run(run)
    chosen = Architecture.parse(json.loads((trained.folder / "compress" / "report.json").read_text())["chosen"])
    folder = trained.folder / "compress" / str(chosen).replace("@", "-")
    manifest, config = trained.read_manifest(), trained.recipe.quantize
    rows = stratified_sample(manifest.split("train"), config.calibration_images, seed=1)
    calibration = pixels_of(rows, manifest, chosen.contract)
    val = pixels_of(manifest.split("val"), manifest, chosen.contract)
    targets = targets_of(manifest.split("val"), trained.classes)
    parent = run_onnx(folder / "student-fp32.onnx", val)
    variants = []
    with tempfile.TemporaryDirectory() as work:
        body = folder / "body.onnx"
        rounded = round_body(body, calibration, Path(work) / "rounded.onnx", reduce_range=config.reduce_range)
        for method, (name, (rounds, corrects)) in track([(m, v) for m in METHODS for v in VARIANTS.items()]):
            correct = correct_biases if corrects else lambda quantized, *_: quantized
            with patch("logo_edge_compress.quantize.static.correct_biases", correct):
                source, path = rounded if rounds else body, Path(work) / "int8.onnx"
                settings = {"method": method, "reduce_range": config.reduce_range}
                quantize_body(body, source, calibration, chosen.size_px, path, **settings)
            variants.append({"name": f"{method}, weights {name}", **compare(path, val, parent, targets)})
    if (tuned := folder / "student-int8-tuned.onnx").exists():
        variants.append({"name": "the closest of them, fine-tuned", **compare(tuned, val, parent, targets)})
    return {
        "student": str(chosen),
        "split": "val",
        "accuracy_fp32": float((parent.argmax(1) == targets).mean()),
        "variants": variants,
    }


def compare(path: Path, pixels: np.ndarray, parent: np.ndarray, targets: np.ndarray) -> dict:
    """The distance of a graph's logits from its parent's, and its accuracy."""
    logits = run_onnx(path, pixels)
    return {**asdict(compare_logits(parent, logits)), "accuracy": float((logits.argmax(1) == targets).mean())}
