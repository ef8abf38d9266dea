"""An exported timm network in ONNX Runtime, by hand, with Pillow and NumPy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
from by_hand import ByHand, letterbox, sigmoid, softmax


def load(labels: list[str], model: str, about: str, threads: int) -> Onnx:
    return Onnx(labels, Path(model), json.loads(Path(about).read_text()), threads)


class Onnx(ByHand):
    def __init__(self, labels: list[str], path: Path, about: dict, threads: int):
        super().__init__(labels, about["labels"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        self.path, self.size = path, about["size_px"]
        self.activate = sigmoid if about.get("multi_label") else softmax

    def describe(self) -> dict:
        return {
            "size_bytes": self.path.stat().st_size,
            "precision": self.path.stem,
            "spinning": True,
            "input_px": self.size,
            "backend": f"onnxruntime {onnxruntime.__version__}",
        }

    def read(self, path: str) -> np.ndarray:
        square = letterbox(path, self.size)
        return ((np.asarray(square, np.float32) - 127.0) / 128.0).transpose(2, 0, 1)[None]

    def classify(self, planes: np.ndarray) -> np.ndarray:
        return self.activate(self.session.run(None, {"planes": planes})[0])
