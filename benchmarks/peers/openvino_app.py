"""Reference: OpenVINO's own benchmark_app on the graphs alone, without files or decisions.

It runs after the other systems, because a separate program cannot be interleaved with them. It
measures the default bundle's graph and, where they are trained, those of the timm peer.

    python benchmarks/peers/openvino_app.py measure
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import peer

from logo_edge.bundle.record import DEFAULT_BUNDLE, read_bundle
from logo_edge.errors import LogoEdgeError
from logo_edge_bench.bench import Preset
from logo_edge_bench.systems import System

NAME = "openvino-app"
TIMES = {"median_ms": "Median", "average_ms": "Average", "max_ms": "Max"}
UNITS = {"us": 1e-3, "ms": 1.0}  # in milliseconds; below a millisecond it prints microseconds
FIGURES = {"count": r"Count:\s+(\d+) iterations", "per_s": r"Throughput:\s+([\d.]+) FPS"}


def train(data: peer.Data, work: Path, epochs: int | None) -> None:
    print(f"{NAME}: nothing to train")


def systems(work: Path, threads: int) -> list[System]:
    return []


def extra(work: Path, preset: Preset, threads: int) -> dict:
    """{openvino_benchmark_app: figures by graph}."""
    graphs = {"default bundle": read_bundle(DEFAULT_BUNDLE).model_path}
    for path in sorted(work.parent.glob("timm/*/*.onnx")):
        graphs[f"timm {path.parent.name} {path.stem}"] = path
    seconds = round(preset.rounds * preset.window_s) or 1
    return {"openvino_benchmark_app": {name: run_app(path, threads, seconds) for name, path in graphs.items()}}


def run_app(path: Path, threads: int, seconds: int) -> dict:
    """What benchmark_app prints of one graph with a batch of 1 and one request at a time. Raises LogoEdgeError."""
    program = shutil.which("benchmark_app", path=str(Path(sys.executable).parent)) or shutil.which("benchmark_app")
    if program is None:
        raise LogoEdgeError("benchmark_app is not installed; it comes with: pip install 'logo-edge[openvino]'")
    (model_input,) = onnx.load(path, load_external_data=False).graph.input
    shape = ",".join(str(axis.dim_value or 1) for axis in model_input.type.tensor_type.shape.dim)
    command = [
        program,
        "-m",
        str(path),
        "-d",
        "CPU",
        "-api",
        "sync",
        "-hint",
        "none",
        "-nthreads",
        str(threads),
        "-shape",
        f"{model_input.name}[{shape}]",
        "-data_shape",
        f"{model_input.name}[{shape}]",
        "-t",
        str(seconds),
        "-infer_precision",
        "f32",
    ]
    quiet = {**os.environ, "CI": "true"}  # the one variable that keeps OpenVINO from reporting each import
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)
    if done.returncode:
        raise LogoEdgeError(f"{' '.join(command)} gave status {done.returncode}: {(done.stdout + done.stderr)[-600:]}")
    return parse(done.stdout)


def parse(text: str) -> dict[str, float]:
    """The figures of benchmark_app's report, times in milliseconds. Raises LogoEdgeError where one is not there."""
    times = {name: re.search(rf"{label}:\s+([\d.]+) (us|ms)", text) for name, label in TIMES.items()}
    counts = {name: re.search(pattern, text) for name, pattern in FIGURES.items()}
    if missing := [name for name, match in (times | counts).items() if match is None]:
        raise LogoEdgeError(f"benchmark_app printed no {', '.join(missing)}: {text[-600:]}")
    return {name: float(match[1]) * UNITS[match[2]] for name, match in times.items()} | {
        name: float(match[1]) for name, match in counts.items()
    }


if __name__ == "__main__":
    peer.main(sys.modules[__name__])
