"""Ultralytics' classifier as its users call it: `YOLO(weights).predict(path)`; in its own environment."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import torch
import ultralytics
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


class Yolo:
    """Its files have no transparency: they are flattened before it sees them, which is not timed, to its advantage."""

    def __init__(self, labels: list[str], path: Path, size_px: int, threads: int):
        self.path, self.size, self.labels, self.threads = path, size_px, labels, threads
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

    def probabilities(self, paths: list[str]) -> list[list[float]]:
        probabilities = []
        for path in self.flat(paths):
            result = self.predict(path)
            by_label = {result.names[index]: value for index, value in enumerate(result.probs.data.tolist())}
            probabilities.append([by_label[label] for label in self.labels])
        return probabilities

    def stages(self, paths: list[str], batch: int):
        files = self.flat(paths)

        def end_to_end(index: int) -> object:
            chosen = [files[position % len(files)] for position in range(index * batch, (index + 1) * batch)]
            return [self.predict(path).probs.top1 for path in chosen]

        return {"end_to_end": end_to_end}

    @staticmethod
    def flat(paths: list[str]) -> list[str]:
        """Copies on white in a temporary folder that ends with the process."""
        import tempfile

        from PIL import Image

        folder = Path(tempfile.mkdtemp(prefix="yolo-flat-"))
        written = []
        for index, path in enumerate(paths):
            image = Image.open(path, formats=("PNG", "JPEG", "WEBP")).convert("RGBA")
            square = Image.new("RGB", image.size, "white")
            square.paste(image, mask=image)
            square.save(folder / f"{index:05d}.png")
            written.append(str(folder / f"{index:05d}.png"))
        return written
