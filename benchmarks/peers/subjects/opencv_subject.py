"""The bundle's own model in a hand-written loop of OpenCV and ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from by_hand import ByHand, softmax

from logo_edge.preprocess import detail_planes, detail_size


def load(labels: list[str], bundle: str, threads: int) -> OpenCv:
    cv2.setNumThreads(threads)
    return OpenCv(labels, Path(bundle), json.loads((Path(bundle) / "bundle.json").read_text(encoding="utf-8")), threads)


class OpenCv(ByHand):
    def __init__(self, labels: list[str], folder: Path, record: dict, threads: int):
        super().__init__(labels, record["labels"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.path, self.size, self.precision = (
            folder / record["model"]["file"],
            record["input"]["size_px"],
            record["model"]["precision"],
        )
        self.session = onnxruntime.InferenceSession(str(self.path), options, ["CPUExecutionProvider"])
        self.details = record["input"].get("details", False)
        self.input, self.output = record["model"]["input_name"], record["model"]["output_name"]

    def describe(self) -> dict:
        return {
            "size_bytes": self.path.stat().st_size,
            "precision": self.precision,
            "spinning": True,
            "input_px": self.size,
            "backend": f"opencv {cv2.__version__}, onnxruntime {onnxruntime.__version__}",
        }

    def read(self, path: str) -> np.ndarray:
        image = cv2.imread(path, cv2.IMREAD_UNCHANGED)
        if image.ndim == 2:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
        if image.shape[2] == 4:
            alpha = image[:, :, 3:].astype(np.float32) / 255
            image = (image[:, :, :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
        scale = self.size / max(image.shape[:2])
        width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        square = np.full((1, self.size, self.size, 3), 255, np.uint8)
        top, left = (self.size - height) // 2, (self.size - width) // 2
        square[0, top : top + height, left : left + width] = cv2.cvtColor(small, cv2.COLOR_BGR2RGB)
        if not self.details:
            return square
        large = cv2.resize(image, detail_size(image.shape[1::-1]), interpolation=cv2.INTER_AREA)
        planes = np.zeros((1, self.size, self.size, 4), np.uint8)
        planes[0, top : top + height, left : left + width] = cv2.resize(
            detail_planes(cv2.cvtColor(large, cv2.COLOR_BGR2RGB)), (width, height), interpolation=cv2.INTER_AREA
        )
        return np.concatenate([square, planes], axis=3)

    def classify(self, pixels: np.ndarray) -> np.ndarray:
        return softmax(self.session.run([self.output], {self.input: pixels})[0])
