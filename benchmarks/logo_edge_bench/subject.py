"""A bundle, run by the project's own runtime, as a subject of `worker.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from logo_edge import Classifier, ImageError
from logo_edge.backends.base import ModelFile
from logo_edge_bench.systems import DEFAULT_BACKEND, precision_of


def load(labels: list[str], bundle: str | None = None, batch_size: int = 8, **options) -> BundleSubject:
    """`batch_size` is for the accuracy pass; `options` are those of `Classifier.load`."""
    return BundleSubject(Classifier.load(bundle, **options), labels, options, batch_size)


class BundleSubject:
    def __init__(self, classifier: Classifier, labels: list[str], options: dict, batch_size: int = 8):
        self._classifier, self._labels, self._options = classifier, labels, options
        self._batch_size = batch_size

    def describe(self) -> dict:
        bundle, size_bytes, precision = self._classifier.bundle, self._classifier.bundle.size_bytes, None
        if artifact := self._options.get("artifact"):  # replaces the bundle's model
            model = ModelFile.read(Path(artifact))
            size_bytes += len(model.data) + len(model.weights) - bundle.files[bundle.model.file].size_bytes
            precision = precision_of(artifact)
        return {
            "bundle": bundle.name,
            "size_bytes": size_bytes,
            "precision": precision or bundle.model.precision,
            "input_px": bundle.input.size_px,
            "backend": self._options.get("backend", DEFAULT_BACKEND),
            "student": bundle.provenance.get("student", ""),
        }

    def probabilities(self, paths: list[str]) -> list[list[float]]:
        results = map(self._checked, self._classifier.classify_many(paths, batch_size=self._batch_size))
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
