"""LiteRT (TensorFlow Lite) flatbuffers on the CPU by LiteRT and XNNPACK (extra `litert`)."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from logo_edge.backends.base import ModelFile, Resources
from logo_edge.errors import BundleError, ExportError, MissingExtraError
from logo_edge.machine import on_cores


class LiteRt:
    """A flatbuffer of `logo-edge export --format litert`, on the CPU. Each thread that runs it has its own copy."""

    name, library, suffixes = "litert", "ai_edge_litert", (".tflite",)
    survives_fork = True

    def __init__(self, model: ModelFile, resources: Resources):
        try:
            from ai_edge_litert import interpreter
        except ImportError as error:
            raise MissingExtraError("litert", "ai-edge-litert") from error
        self._open = lambda: interpreter.Interpreter(model_content=model.data, num_threads=resources.threads)
        self._name, self._cores = model.path.name, resources.cores
        self._local = threading.local()  # an interpreter serves one thread at a time
        try:
            opened = self._interpreter()
        except (RuntimeError, ValueError) as error:
            raise BundleError(f"{model.path}: LiteRT cannot load it: {error}") from error
        self._input = opened.get_input_details()[0]["index"]
        self._indices = {output["name"]: output["index"] for output in opened.get_output_details()}
        self.outputs = frozenset(self._indices)

    def _interpreter(self):
        if not hasattr(self._local, "interpreter"):
            self._local.interpreter, self._local.batch = self._open(), 0
        return self._local.interpreter

    def run(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        interpreter = self._interpreter()
        if self._local.batch != len(pixels):
            with on_cores(self._cores):  # XNNPACK starts its threads here
                try:
                    interpreter.resize_tensor_input(self._input, pixels.shape, strict=True)
                except RuntimeError as error:
                    raise ExportError(
                        f"{self._name} takes no batch of {len(pixels)}; export it again for such batches"
                    ) from error
                interpreter.allocate_tensors()
            self._local.batch = len(pixels)
        interpreter.set_tensor(self._input, pixels)
        interpreter.invoke()
        return [interpreter.get_tensor(self._indices[name]) for name in names]
