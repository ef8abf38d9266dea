"""A bundle with ONNX Runtime's CUDA provider: the project's preprocessing and decision around a session on the GPU.

Not run so far, for lack of a Jetson.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime

from logo_edge import Bundle, Classifier
from logo_edge.errors import BenchError
from logo_edge_bench.subject import BundleSubject


def load(labels: list[str], bundle: str) -> BundleSubject:
    """Raises BenchError where CUDA does not run the graph: ONNX Runtime would silently use the CPU."""
    return BundleSubject(CudaClassifier.load(bundle, self_test=True), labels, {"backend": "onnxruntime CUDA"})


class CudaClassifier(Classifier):
    """A classifier with the backend `Cuda`."""

    def __init__(self, bundle: Bundle, **options):
        super().__init__(bundle, **options)
        self._backend = Cuda(bundle)


class Cuda:
    """A backend like those of `logo_edge.backends`."""

    def __init__(self, bundle: Bundle):
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(bundle.read(bundle.model.file), providers=providers)
        self._input = bundle.model.input_name
        if self._session.get_providers()[0] != "CUDAExecutionProvider":
            raise BenchError(
                f"ONNX Runtime offers {self._session.get_providers()}; expected CUDA first. Is CUDA installed?"
            )

    def run(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        return self._session.run(list(names), {self._input: pixels})
