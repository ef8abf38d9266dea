"""Adds the output `embedding` to a bundle's model, and fits the space in which images are compared by it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

import logo_edge
from logo_edge.bundle.record import EMBEDDING, Bundle
from logo_edge.errors import VerificationError
from logo_edge.images.load import load_image
from logo_edge.likeness.space import SPACE, fit_space, write_space
from logo_edge.preprocess import preprocess
from logo_edge_compress.onnx.graph import LOGITS, PIXELS, add_embedding, save_model
from logo_edge_train.data.images import each_pixels
from logo_edge_train.data.manifest import Manifest

SAMPLES = Path(logo_edge.__file__).parent / "samples"


def embed_bundle(bundle: Bundle, model: Path, work: Path, manifest: Manifest) -> tuple[Bundle, Path, dict[str, Path]]:
    """The bundle and its model with an embedding, and embedding.npz, for `pack_bundle`; files are written to `work`.

    The space is fitted on the manifest's train split, its background is the calib split. Without a train split, or if
    the graph's features are not accessible, nothing changes. Raises VerificationError where the added output changes a
    logit.
    """
    embedding_model = add_embedding(onnx.load(model))
    if embedding_model is None or len(manifest.split("train")) < 2:
        return bundle, model, {SPACE: bundle.folder / SPACE} if SPACE in bundle.files else {}
    path = work / "model-embedding.onnx"
    save_model(embedding_model, path)
    samples = [preprocess(load_image(sample), bundle.input) for sample in sorted(SAMPLES.glob("*.png"))]
    before, after = (_outputs(graph, samples, LOGITS) for graph in (model, path))
    if not np.array_equal(before, after):
        raise VerificationError(
            f"{model}: with the output {EMBEDDING}, logits differ by up to {np.abs(before - after).max():.3g}; "
            "expected no difference. It is not packed; report it"
        )
    embeddings = [
        _outputs(path, each_pixels(manifest.split(split), manifest, bundle.input), EMBEDDING)
        for split in ("train", "calib")
    ]
    write_space(fit_space(*embeddings), work / SPACE)
    outputs = tuple(dict.fromkeys((*bundle.model.optional_outputs, EMBEDDING)))
    return replace(bundle, model=replace(bundle.model, optional_outputs=outputs)), path, {SPACE: work / SPACE}


def _outputs(path: Path, pixels: Iterable[np.ndarray], name: str) -> np.ndarray:
    """(N, ...) of one output of an ONNX file, image by image, as devices run it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run([name], {PIXELS: image[None]})[0] for image in pixels])
