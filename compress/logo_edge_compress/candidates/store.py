"""A candidate: a student in one precision for one backend, stored under the key of everything that it was made from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file as load_arrays

from logo_edge_compress.candidates.pixels import FITTING, pixel_files
from logo_edge_compress.convert.environments import LOCKS
from logo_edge_compress.distill.distill import CHECKPOINT
from logo_edge_train.architecture import Architecture
from logo_edge_train.data.manifest import Manifest
from logo_edge_train.keys import artifact_key, file_hash, source_hash, versions
from logo_edge_train.runs import Run, write_json

MADE_WITH = ("numpy", "onnx", "onnxruntime", "torch")
CONVERTERS = {  # the package of a candidate's method or backend
    "nncf": "nncf",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "litert": "ai-edge-litert",
    "ncnn": "ncnn",
    "mnn": "MNN",
    "executorch": "executorch",
    "coreml": "coremltools",
}
STORED = ("status", "reason", "files", "record", "seconds")  # fields of a Candidate


@dataclass(frozen=True)
class Task:
    """What the candidates of one student have in common; `pixels` is the folder of `save_pixels`.

    For an ensemble, `student` is the largest of its members.
    """

    run: Run
    manifest: Manifest
    student: Architecture
    folder: Path
    pixels: Path
    title: str

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    @property
    def body(self) -> Path:
        """The ONNX graph that quantization begins with."""
        return self.folder / "body.onnx"

    @property
    def fp32(self) -> Path:
        return self.folder / "student-fp32.onnx"


@dataclass(frozen=True)
class Plan:
    """How to make a candidate: `make(task, plan, pixels, report)` returns an Artifact from `inputs` and `settings`.

    `fits`: it is also fitted on the train images among the pixels.
    """

    name: str  # also the name of its files: int8-percentile
    precision: str  # fp32, fp16, int8, or weights stored in fewer bits: int8-weights, int4-weights
    backend: str  # a name of BACKENDS
    make: Callable
    inputs: tuple[Path, ...]
    settings: dict = field(default_factory=dict)
    fits: bool = False


@dataclass(frozen=True)
class Candidate:
    """The outcome of a plan. `status` is made, refused (it disagrees with its parent), failed or not tried."""

    student: str
    name: str
    precision: str
    backend: str
    folder: Path
    status: str
    reason: str = ""
    files: dict[str, str] = field(default_factory=dict)  # name -> sha256
    record: dict = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def title(self) -> str:
        return f"{self.student}, {self.name}"

    @property
    def path(self) -> Path:
        """The file that the backend opens."""
        return self.folder / next(iter(self.files))

    @property
    def paths(self) -> list[Path]:
        return [self.folder / name for name in self.files]

    @property
    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths)

    @property
    def kl_nats(self) -> float:
        return self.record["parity"]["kl_nats"]

    def logits(self) -> dict[str, np.ndarray]:
        """(N, K) float32 by split, and by `outliers-FAMILY`."""
        return load_arrays(self.folder / f"{self.name}.logits")


def outcome(task: Task, plan: Plan, status: str, reason: str = "", **stored) -> Candidate:
    """The candidate of a plan with this status."""
    return Candidate(task.title, plan.name, plan.precision, plan.backend, task.folder, status, reason, **stored)


def candidate_key(task: Task, plan: Plan) -> str:
    """The key of the candidate: inputs, settings, the images that it is made and run on, and the code that makes it."""
    names = [path.stem for path in sorted(task.pixels.glob("*.npy")) if plan.fits or path.stem != FITTING]
    inputs = {path.name: path for path in plan.inputs} | pixel_files(task.pixels, *names)
    inputs |= {path.name: path for path in LOCKS.glob(f"{plan.backend}.txt")}
    settings = {**plan.settings, "name": plan.name, "make": plan.make.__qualname__}
    converters = [CONVERTERS[name] for name in (plan.backend, plan.settings.get("method")) if name in CONVERTERS]
    return artifact_key(inputs, settings, made_with(*converters))


def made_with(*packages: str) -> dict[str, str]:
    """The versions for an `artifact_key`: packages that make and run artifacts, `packages`, and this code."""
    return versions((*MADE_WITH, *packages)) | {"logo_edge_compress": source_hash(Path(__file__).parents[1])}


def read_candidate(task: Task, plan: Plan, key: str) -> Candidate | None:
    """The stored candidate; None where it has another key, or its files are missing or changed."""
    try:
        stored = json.loads(_record_path(task, plan).read_text(encoding="utf-8"))
        if stored.pop("key") != key:
            return None
        candidate = outcome(task, plan, **stored)
        if candidate.files:
            candidate.logits()
        same = all(file_hash(task.folder / name) == sha256 for name, sha256 in candidate.files.items())
        return candidate if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_candidate(task: Task, plan: Plan, key: str, candidate: Candidate) -> None:
    write_json(_record_path(task, plan), {"key": key, **{name: getattr(candidate, name) for name in STORED}})


def delete_candidate(task: Task, plan: Plan) -> None:
    """Deletes its record, so that no record names files that are being written."""
    _record_path(task, plan).unlink(missing_ok=True)


def _record_path(task: Task, plan: Plan) -> Path:
    return task.folder / f"{plan.name}.candidate.json"
