"""ONNX graphs on the CPU by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from logo_edge.backends.base import ModelFile, Resources
from logo_edge.errors import BundleError


class OnnxRuntime:
    """An ONNX graph on the CPU."""

    name, library, suffixes = "onnxruntime", "onnxruntime", (".onnx",)
    survives_fork = True

    def __init__(self, model: ModelFile, resources: Resources):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = resources.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(resources.spinning)))
        options.add_session_config_entry("mlas.disable_kleidiai", str(int(not resources.kleidiai)))
        try:
            self.session = onnxruntime.InferenceSession(model.data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            raise BundleError(f"{model.path}: ONNX Runtime cannot load it: {error}") from error
        self._input = self.session.get_inputs()[0].name
        self.outputs = frozenset(output.name for output in self.session.get_outputs())

    def run(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        return cast("list[np.ndarray]", self.session.run(names, {self._input: pixels}))  # graphs of tensors alone
