"""The interface of logo_edge_bench/worker.py over `read` and `classify`, for the hand-written subjects."""

from __future__ import annotations

import numpy as np
from PIL import Image


class ByHand:
    """`read(path)` gives the network's input, (1, ...); `classify(input)` gives (B, K) probabilities.

    `labels` are those of the run, `own` those of the model, in its order.
    """

    def __init__(self, labels: list[str], own: list[str]):
        self.order = [own.index(label) for label in labels]

    def probabilities(self, paths: list[str]) -> list[list[float]]:
        return [np.asarray(self.classify(self.read(path)))[0][self.order].tolist() for path in paths]

    def stages(self, paths: list[str], batch: int):
        inputs = [self.read(path) for path in paths]

        def query(index: int) -> range:
            return range(index * batch, (index + 1) * batch)

        def joined(index: int, read) -> object:
            parts = [read(position % len(paths)) for position in query(index)]
            return parts[0] if batch == 1 else self.join(parts)

        return {
            "preprocess": lambda index: joined(index, lambda position: self.read(paths[position])),
            "inference": lambda index: self.classify(joined(index, lambda position: inputs[position])),
            "end_to_end": lambda index: self.classify(
                joined(index, lambda position: self.read(paths[position]))
            ).argmax(1),
        }

    def join(self, parts: list) -> object:
        return np.concatenate(parts)


def letterbox(path: str, size_px: int) -> Image.Image:
    """The picture on a white square of that side, by Pillow."""
    image = Image.open(path, formats=("PNG", "JPEG", "WEBP")).convert("RGBA")
    image.thumbnail((size_px, size_px))
    square = Image.new("RGB", (size_px, size_px), "white")
    square.paste(image, ((size_px - image.width) // 2, (size_px - image.height) // 2), image)
    return square


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))
