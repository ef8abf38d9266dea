"""A bundle with ONNX Runtime's CUDA provider: the project's preprocessing and decision around a session on the GPU.

NOT RUN SO FAR: this project has had no Jetson.
"""

from __future__ import annotations

import onnxruntime

from logo_edge import Classifier
from logo_edge.errors import BenchError
from logo_edge_bench.subject import BundleSubject


def load(labels: list[str], bundle: str) -> BundleSubject:
    """Raises BenchError where CUDA does not take the graph: ONNX Runtime would run it on the CPU without a word."""
    classifier = CudaClassifier.load(bundle)
    return BundleSubject(classifier, labels, {"backend": "onnxruntime CUDA"})


class CudaClassifier(Classifier):
    """The same but for the forward pass."""

    def __init__(self, bundle, **options):
        super().__init__(bundle, **options)
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        self._cuda = onnxruntime.InferenceSession(str(bundle.model_path), providers=providers)
        if self._cuda.get_providers()[0] != "CUDAExecutionProvider":
            raise BenchError(
                f"ONNX Runtime offers {self._cuda.get_providers()}; expected CUDA first. Is CUDA installed?"
            )

    def logits(self, pixels):
        return self._cuda.run([self.bundle.model.output_name], {self.bundle.model.input_name: pixels})[0]
