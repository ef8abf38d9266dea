"""A model gets the output `embedding`, with unchanged logits, and its bundle the space to compare by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from logo_edge import Classifier, read_bundle
from logo_edge.bundle.record import DEFAULT_BUNDLE, EMBEDDING
from logo_edge.likeness.space import SPACE, read_space
from logo_edge_compress.onnx.embedding_output import SAMPLES, embed_bundle
from logo_edge_compress.onnx.graph import LOGITS, PIXELS, add_embedding
from logo_edge_compress.pack import pack_bundle
from logo_edge_train.data.manifest import LogoRow, Manifest

BUNDLES = {"default": DEFAULT_BUNDLE, "robust": Path(__file__).parents[2] / "runtime" / "bundles" / "robust"}


def run(model: onnx.ModelProto, pixels: np.ndarray, name: str) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([name], {PIXELS: pixels})[0]


@pytest.mark.parametrize("name", BUNDLES)
def test_the_committed_models_give_the_very_logits_that_they_give_without_an_embedding(name):
    classifier = Classifier.load(BUNDLES[name])
    model = onnx.load(classifier.bundle.model_path)
    bare = onnx.load(classifier.bundle.model_path)
    bare.graph.output.remove(bare.graph.output[-1])
    outputs = [output.name for output in model.graph.output]
    assert (outputs[0], outputs[-1]) == (LOGITS, EMBEDDING)
    samples = sorted(SAMPLES.glob("*.png"))
    assert len(samples) == 8
    for sample in samples:
        pixels = classifier.read_pixels(sample)[None]
        np.testing.assert_array_equal(run(model, pixels, LOGITS), run(bare, pixels, LOGITS))
    embedding_model = add_embedding(bare)  # the name is there, of what is no output any more
    assert [output.name for output in embedding_model.graph.output] == outputs
    assert len(embedding_model.graph.node) == len(model.graph.node)
    np.testing.assert_array_equal(run(embedding_model, pixels, EMBEDDING), classifier.embeddings(pixels))


def test_the_embedding_is_what_the_last_layer_reads(fake_model):
    model = add_embedding(onnx.load_from_string(fake_model()))
    pixels = np.full((2, 16, 16, 3), (10, 20, 30), np.uint8)
    np.testing.assert_allclose(run(model, pixels, EMBEDDING), [[10, 20, 30]] * 2)
    assert add_embedding(model).SerializeToString() == model.SerializeToString()


def test_a_graph_without_a_last_layer_has_no_embedding(fake_model):
    model = onnx.load_from_string(fake_model())
    layer = next(node for node in model.graph.node if node.op_type == "MatMul")
    layer.op_type = "Add"
    assert add_embedding(model) is None


def logos(folder: Path, splits: dict[str, int]) -> Manifest:
    random, rows = np.random.default_rng(0), []
    for split, count in splits.items():
        for index in range(count):
            name = f"{split}-{index}.png"
            Image.new("RGB", (9, 9), tuple(random.integers(0, 256, 3).tolist())).save(folder / name)
            rows.append(LogoRow("files", "", name, name, "red", split=split))
    return Manifest(tuple(rows), folder)


def test_a_bundle_is_packed_with_its_space(fake_bundle, tmp_path):
    plain = read_bundle(fake_bundle())
    manifest = logos(tmp_path, {"train": 30, "calib": 25})
    described, model, extra = embed_bundle(plain, plain.model_path, tmp_path, manifest)
    left = tmp_path / ".packed-killed.parts"
    (left / "bundle").mkdir(parents=True)
    packed = pack_bundle(described, model, tmp_path / "packed", extra)
    assert not left.exists(), "of a process that was killed"
    assert packed.model.optional_outputs == (EMBEDDING,)
    space = read_space(packed)
    assert (space.mean.shape, space.background.shape) == ((3,), (25, 3))
    again, model, extra = embed_bundle(packed, packed.model_path, tmp_path, logos(tmp_path, {"calib": 3}))
    assert (again, model, extra) == (packed, packed.model_path, {SPACE: packed.folder / SPACE})  # kept
