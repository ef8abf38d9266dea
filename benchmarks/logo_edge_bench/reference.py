"""The yardstick of a run: a bundle's model in a few hand-written lines of Pillow and ONNX Runtime.

It never changes, unlike the runtime: ratios to it are comparable between versions and, much more than
milliseconds, between machines. It letterboxes on white, does not calibrate and never abstains. Detail planes and
crops come from the runtime's code without C.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
from PIL import Image

from logo_edge.bundle.record import DEFAULT_BUNDLE, Bundle, read_bundle
from logo_edge.preprocess import CROP, preprocess_by_pillow


def load(labels: list[str], bundle: str | None = None, threads: int = 1, public_key: str | None = None) -> HandWritten:
    return HandWritten(read_bundle(bundle or DEFAULT_BUNDLE, public_key=public_key), labels, threads)


class HandWritten:
    def __init__(self, bundle: Bundle, labels: list[str], threads: int):
        self.bundle = bundle
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(self.bundle.model_path), options, ["CPUExecutionProvider"])
        self.order = [self.bundle.labels.index(label) for label in labels]

    def describe(self) -> dict:
        size_bytes = self.bundle.files[self.bundle.model.file].size_bytes
        return {
            "size_bytes": size_bytes,
            "precision": self.bundle.model.precision,
            "backend": "onnxruntime",
            "input_px": self.bundle.input.size_px,
            "spinning": True,
        }

    def read(self, path: str) -> np.ndarray:
        """(S, S, C) uint8."""
        size = self.bundle.input.size_px
        image = Image.open(path, formats=("PNG", "JPEG", "WEBP")).convert("RGBA")
        if self.bundle.input.details or self.bundle.input.fit == CROP:
            flat = Image.new("RGB", image.size, "white")
            flat.paste(image, mask=image)
            return preprocess_by_pillow(flat, self.bundle.input)
        image.thumbnail((size, size), Image.Resampling.BILINEAR)
        square = Image.new("RGB", (size, size), "white")
        square.paste(image, ((size - image.width) // 2, (size - image.height) // 2), image)
        return np.asarray(square)

    def classify(self, pixels: np.ndarray) -> np.ndarray:
        """(B, K) probabilities of (B, S, S, C) uint8."""
        (logits,) = self.session.run([self.bundle.model.output_name], {self.bundle.model.input_name: pixels})
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        return exponentials / exponentials.sum(1, keepdims=True)

    def probabilities(self, paths: list[str]) -> list[list[float]]:
        return [self.classify(self.read(path)[None])[0][self.order].tolist() for path in paths]

    def stages(self, paths: list[str], batch: int) -> dict[str, Callable[[int], object]]:
        pixels = np.stack([self.read(path) for path in paths])

        def query(index: int) -> list[int]:
            return [(index * batch + offset) % len(paths) for offset in range(batch)]

        return {
            "preprocess": lambda index: [self.read(paths[position]) for position in query(index)],
            "inference": lambda index: self.classify(pixels[query(index)]),
            "end_to_end": lambda index: self.classify(
                np.stack([self.read(paths[position]) for position in query(index)])
            ).argmax(1),
        }
