"""Ultralytics' classifier as its users call it: `YOLO(weights).predict(path)`; in its own environment."""

from __future__ import annotations

from pathlib import Path

import shared  # noqa: F401

# isort: split
import onnxruntime
import torch
import ultralytics
from predictor import Predictor
from ultralytics import YOLO
from ultralytics.utils import torch_utils


def load(labels: list[str], model: str, size_px: int, threads: int) -> Yolo:
    torch_utils.NUM_THREADS = (
        threads  # Ultralytics passes it to PyTorch at the first prediction; default: the cores less one
    )
    torch.set_num_threads(threads)
    limit_sessions(threads)
    return Yolo(labels, Path(model), size_px, threads)


def limit_sessions(threads: int) -> None:
    """Limits the threads of all later sessions of ONNX Runtime.

    Ultralytics opens its session without options, with a thread for every core.
    """
    opened = onnxruntime.InferenceSession

    def limited(model, options=None, **settings):
        options = options or onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return opened(model, options, **settings)

    onnxruntime.InferenceSession = limited


class Yolo(Predictor):
    def __init__(self, labels: list[str], path: Path, size_px: int, threads: int):
        super().__init__(labels)
        self.path, self.size, self.threads = path, size_px, threads
        self.model = YOLO(str(path), task="classify")

    def describe(self) -> dict:
        onnx = self.path.suffix == ".onnx"
        kind = f"onnxruntime {onnxruntime.__version__}" if onnx else f"torch {torch.__version__}"
        return {
            "size_bytes": self.path.stat().st_size,
            "precision": "fp32",
            "input_px": self.size,
            "threads": self.threads,
            "spinning": onnx,
            "backend": f"ultralytics {ultralytics.__version__}, {kind}",
        }

    def predict(self, path: str):
        return self.model.predict(path, imgsz=self.size, device="cpu", verbose=False)[0]

    def scores(self, result) -> dict[str, float]:
        return {result.names[index]: value for index, value in enumerate(result.probs.data.tolist())}
