"""The space in which embeddings are compared; a bundle holds it in embedding.npz.

A classifier's features separate its classes and differ little between images of one class. Centred and whitened (scaled
to variance 1 along the main directions of the training images), their cosine distinguishes images; the figures are in
docs/results/bundles.md. `fit_space` fits it when a bundle is packed.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from logo_edge.bundle.record import EMBEDDING, Bundle
from logo_edge.errors import BundleError, ImageError
from logo_edge.images.load import ImageSource
from logo_edge.likeness.parts import split_drawing
from logo_edge.model import Model
from logo_edge.preprocess import letterboxed_size, preprocess

SPACE = "embedding.npz"
DIRECTIONS = 96  # at most
BACKGROUND = 512  # images, at most
STEPS = 31  # on either side of zero, to which directions are rounded: 6 bits lose nothing on val
BATCH = 8
MAX_SIDE_PX = 1024  # of an image before it is split into parts


@dataclass(frozen=True)
class EmbeddingSpace:
    """`mean` (D,), `directions` (d, D), and `background` (n, d): held-out images as vectors of length 1."""

    mean: np.ndarray
    directions: np.ndarray
    background: np.ndarray

    def project(self, embeddings: np.ndarray) -> np.ndarray:
        """(N, d) float32 of length 1, of (N, D) embeddings; their dot products are similarities, -1 to 1."""
        return unit((embeddings - self.mean) @ self.directions.T)


def unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors of the last axis scaled to length 1; those of length 0 stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def fit_space(learned: np.ndarray, background: np.ndarray) -> EmbeddingSpace:
    """The space of (N, D) embeddings of training images; `background` (n, D) are those of held-out images."""
    mean = learned.mean(0, dtype=np.float64)
    variances, vectors = np.linalg.eigh(np.cov(learned.T.astype(np.float64)))
    count = min(DIRECTIONS, len(learned) - 1, len(variances))
    scale = np.sqrt(np.maximum(variances[::-1][:count], 1e-6 * variances[-1]))
    whole = EmbeddingSpace(
        mean.astype(np.float32),
        _rounded((vectors[:, ::-1][:, :count] / scale).T, STEPS),
        np.zeros((0, count), np.float32),
    )
    kept = background[:: -(-len(background) // BACKGROUND)]
    return EmbeddingSpace(whole.mean, whole.directions, _rounded(whole.project(kept), 127))


def write_space(space: EmbeddingSpace, path: Path) -> None:
    """Writes the space as an .npz: `mean` in float32, the rest in int8 with a scale per row. Deterministic."""
    arrays = {"mean": space.mean}
    for name, rows, steps in (("directions", space.directions, STEPS), ("background", space.background, 127)):
        scale = _scale(rows, steps)
        arrays[name], arrays[f"{name}_scale"] = np.round(rows / scale).astype(np.int8), scale.astype(np.float32)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_space(bundle: Bundle) -> EmbeddingSpace:
    """The space of a bundle. Raises BundleError where it is missing or damaged."""
    if SPACE not in bundle.files or EMBEDDING not in bundle.model.optional_outputs:
        raise BundleError(
            f"{bundle.folder}: has no embeddings to compare images by; pack it again with `logo-edge calibrate "
            f"{bundle.folder}` (extra compress), or take the default bundle"
        )
    path, data = bundle.folder / SPACE, bundle.read(SPACE)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            mean = arrays["mean"]
            directions, background = (arrays[name] * arrays[f"{name}_scale"] for name in ("directions", "background"))
    except (OSError, ValueError, KeyError, EOFError, MemoryError, TypeError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path}: cannot be read ({error!r}); copy or pack the bundle again") from error
    shapes = mean.shape, directions.shape, background.shape
    fits = mean.ndim == 1 and directions.ndim == background.ndim == 2 and directions.shape[1:] == mean.shape
    if not fits or background.shape[1] != len(directions) or not len(background):
        raise BundleError(f"{path}: shapes {shapes}; expected (D,), (d, D) and (n, d). Copy or pack the bundle again")
    if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in (mean, directions, background)):
        raise BundleError(f"{path}: expected finite float32 numbers; copy or pack the bundle again")
    return EmbeddingSpace(mean, directions, background)


def embed_many(
    model: Model, space: EmbeddingSpace, sources: Iterable[ImageSource]
) -> Iterator[np.ndarray | ImageError]:
    """(d,) float32 of length 1 for each source, in order; a bad image gives its ImageError at its position."""
    remaining = iter(sources)
    while batch := list(islice(remaining, BATCH)):
        images = [_pixels_or_error(model, source) for source in batch]
        readable = [pixels for pixels in images if isinstance(pixels, np.ndarray)]
        vectors = iter(space.project(model.embeddings(np.stack(readable))) if readable else ())
        yield from (next(vectors) if isinstance(pixels, np.ndarray) else pixels for pixels in images)


def embed_parts(model: Model, space: EmbeddingSpace, image: Image.Image) -> np.ndarray:
    """(1 or 3, d) float32 of length 1: the whole image and, where it has a gap, its two parts.

    Packages draw a brand as its mark, its name or both; the three vectors together match each of these.
    """
    if max(image.size) > MAX_SIDE_PX:
        image = image.resize(letterboxed_size(image.size, MAX_SIDE_PX), Image.Resampling.BILINEAR, reducing_gap=3.0)
    parts = split_drawing(image)
    parts = parts[:1] if parts[1] is image else parts
    pixels = np.stack([preprocess(part, model.bundle.input) for part in parts])
    return space.project(model.embeddings(pixels))


def rank(query: np.ndarray, vectors: np.ndarray) -> list[tuple[int, float]]:
    """(index, similarity, -1 to 1) of each of (N, d) vectors of length 1, the most similar to (d,) `query` first."""
    similarities = vectors @ query
    return [(int(index), float(similarities[index])) for index in np.argsort(-similarities, kind="stable")]


def _pixels_or_error(model: Model, source: ImageSource) -> np.ndarray | ImageError:
    try:
        return model.read_pixels(source)
    except ImageError as error:
        return error


def _scale(rows: np.ndarray, steps: int) -> np.ndarray:
    """(N, 1): the step of each row, of which its largest value is `steps`."""
    return np.maximum(np.abs(rows).max(1, keepdims=True, initial=0) / steps, 1e-12).astype(np.float32)


def _rounded(rows: np.ndarray, steps: int) -> np.ndarray:
    """(N, D) float32, rounded to the values that a file can hold."""
    scale = _scale(rows, steps)
    return np.round(rows / scale).astype(np.int8) * scale
