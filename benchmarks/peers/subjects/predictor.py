"""The interface of logo_edge_bench/worker.py over a package's own predictor, which reads files and decides.

Such packages ignore transparency: their files are flattened before they see them, which is not timed, to their
advantage.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image


class Predictor:
    """`predict(path)` gives the package's result, `scores(result)` its {label: probability}."""

    def __init__(self, labels: list[str]):
        self.labels = labels

    def probabilities(self, paths: list[str]) -> list[list[float]]:
        scores = [self.scores(self.predict(path)) for path in flatten(paths)]
        return [[by_label[label] for label in self.labels] for by_label in scores]

    def stages(self, paths: list[str], batch: int):
        files = flatten(paths)

        def end_to_end(index: int) -> object:
            chosen = [files[position % len(files)] for position in range(index * batch, (index + 1) * batch)]
            return [self.predict(path) for path in chosen]

        return {"end_to_end": end_to_end}


def flatten(paths: list[str]) -> list[str]:
    """Copies on white in a temporary folder that ends with the process."""
    folder = Path(tempfile.mkdtemp(prefix="flat-"))
    written = []
    for index, path in enumerate(paths):
        image = Image.open(path, formats=("PNG", "JPEG", "WEBP")).convert("RGBA")
        square = Image.new("RGB", image.size, "white")
        square.paste(image, mask=image)
        square.save(folder / f"{index:05d}.png")
        written.append(str(folder / f"{index:05d}.png"))
    return written
