"""ONNX graphs and OpenVINO IR on the CPU by OpenVINO (extra `openvino`)."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from logo_edge.backends.base import ModelFile, Resources
from logo_edge.errors import BundleError, MissingExtraError

if TYPE_CHECKING:
    from openvino import Core

_CORES: dict[str, Core] = {}


def open_core() -> Core:
    """The Core of this process, which is never closed. Raises MissingExtraError without OpenVINO.

    A Core's CPU plugin gives its thread a stack for signals and takes it away at its end (OpenVINO 2026.4). Of two
    Cores, the one that ends last would set the other's, which is freed: the next signal would end the process.
    """
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino") from error
    if "core" not in _CORES:
        _CORES.setdefault("core", openvino.Core())  # of two threads' Cores one stays; the other has no plugin yet
    return _CORES["core"]


class OpenVino:
    """An ONNX graph or OpenVINO IR on the CPU, in float32 where it is not INT8. Its threads never spin."""

    name, library, suffixes = "openvino", "openvino", (".onnx", ".xml")
    survives_fork = True

    def __init__(self, model: ModelFile, resources: Resources):
        core = open_core()
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": resources.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
        }
        try:
            network = core.read_model(io.BytesIO(model.data), io.BytesIO(model.weights))
            self._compiled = core.compile_model(network, "CPU", settings)
        except RuntimeError as error:
            raise BundleError(f"{model.path}: OpenVINO cannot load it: {error}") from error
        self.outputs = frozenset().union(*(output.names for output in self._compiled.outputs))
        self._local = threading.local()  # a request serves one thread at a time

    def run(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
        request.infer([np.ascontiguousarray(pixels)])
        return [request.get_tensor(name).data.copy() for name in names]
