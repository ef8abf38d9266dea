"""A model of Intel's getitune as its users run it: Model API on OpenVINO; in its own environment."""

from __future__ import annotations

from pathlib import Path

import shared  # noqa: F401

# isort: split
import cv2
import openvino
from model_api.adapters import OpenvinoAdapter, create_core
from model_api.models import Model
from predictor import Predictor


def load(labels: list[str], model: str, size_px: int, threads: int) -> Getitune:
    cv2.setNumThreads(threads)
    return Getitune(labels, Path(model), size_px, threads)


class Getitune(Predictor):
    def __init__(self, labels: list[str], path: Path, size_px: int, threads: int):
        super().__init__(labels)
        self.path, self.size = path, size_px
        adapter = OpenvinoAdapter(
            create_core(), str(path), device="CPU", plugin_config={"INFERENCE_NUM_THREADS": str(threads)}
        )
        self.model = Model.create_model(adapter, configuration={"output_raw_scores": True})

    def describe(self) -> dict:
        return {
            "size_bytes": sum(self.path.with_suffix(suffix).stat().st_size for suffix in (".xml", ".bin")),
            "precision": "int8" if "optimized" in self.path.name else "fp32",
            "input_px": self.size,
            "backend": f"model_api, openvino {openvino.__version__}",
        }

    def predict(self, path: str):
        return self.model(cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB))

    def scores(self, result) -> dict[str, float]:
        return dict(zip(self.model.params.labels, result.raw_scores.tolist(), strict=True))
