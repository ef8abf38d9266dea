"""A bundle, run by the project's own runtime, as a subject of `worker.py`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from logo_edge import Classifier, ImageError


def load(labels: list[str], bundle: str | None = None, **options) -> BundleSubject:
    """`options` are those of `Classifier.load`."""
    return BundleSubject(Classifier.load(bundle, **options), labels, options)


class BundleSubject:
    def __init__(self, classifier: Classifier, labels: list[str], options: dict):
        self._classifier, self._labels, self._options = classifier, labels, options

    def describe(self) -> dict:
        bundle = self._classifier.bundle
        return {
            "bundle": bundle.name, "size_bytes": bundle.size_bytes, "precision": bundle.model.precision,
            "input_px": bundle.input.size_px, "backend": self._options.get("backend", "onnxruntime"),
            "student": bundle.provenance.get("student", ""),
        }  # fmt: skip

    def probabilities(self, paths: list[str]) -> list[list[float]]:
        results = [self._checked(result) for result in self._classifier.classify_many(paths)]
        return [[result.probabilities[label] for label in self._labels] for result in results]

    def stages(self, paths: list[str], batch: int) -> dict[str, Callable[[int], object]]:
        classifier = self._classifier
        pixels = np.stack([classifier.read_pixels(path) for path in paths])
        count = len(paths)

        def query(index: int) -> list[int]:
            return [(index * batch + offset) % count for offset in range(batch)]

        def preprocess(index: int) -> object:
            return [classifier.read_pixels(paths[position]) for position in query(index)]

        def inference(index: int) -> object:
            return classifier.logits(pixels[query(index)])

        def end_to_end(index: int) -> object:
            if batch == 1:
                return classifier.classify(paths[index % count])
            chosen = [paths[position] for position in query(index)]
            return [self._checked(result) for result in classifier.classify_many(chosen, batch_size=batch)]

        return {"preprocess": preprocess, "inference": inference, "end_to_end": end_to_end}

    @staticmethod
    def _checked(result):
        if isinstance(result, ImageError):
            raise result
        return result
