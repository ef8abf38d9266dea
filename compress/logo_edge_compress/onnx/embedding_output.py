"""A bundle's model -> the same with an output `embedding`, and the space in which logos are compared by it."""

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
from logo_edge_train.data.manifest import Manifest

SAMPLES = Path(logo_edge.__file__).parent / "samples"


def embed_bundle(bundle: Bundle, model: Path, work: Path, manifest: Manifest) -> tuple[Bundle, Path, dict[str, Path]]:
    """What `pack_bundle` packs, of a bundle and its model: both with an embedding, and embedding.npz, written to `work`.

    The space is fitted on the manifest's train split, its background is the calib split; without a train split, and of
    a graph whose features cannot be had, all stays as it is. Raises VerificationError where the added output changes a
    logit.
    """
    found = add_embedding(onnx.load(model))
    if found is None or len(manifest.split("train")) < 2:
        kept = {SPACE: bundle.folder / SPACE} if SPACE in bundle.files else {}
        return bundle, model, kept
    path = work / "model-embedding.onnx"
    save_model(found, path)
    samples = [preprocess(load_image(sample), bundle.input) for sample in sorted(SAMPLES.glob("*.png"))]
    before, after = (_outputs(graph, samples, LOGITS) for graph in (model, path))
    if not np.array_equal(before, after):
        raise VerificationError(
            f"{model}: with the output {EMBEDDING}, logits differ by up to {np.abs(before - after).max():.3g}; expected the "
            "very same. It is not packed; report it"
        )
    embeddings = [
        _outputs(
            path,
            (preprocess(load_image(manifest.image_path(row)), bundle.input) for row in manifest.split(split)),
            EMBEDDING,
        )
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
