"""The shipped bundle in MNN: INT8 with the grids of the bundle, near it on every drawing, with all outputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import logo_edge
from logo_edge import Classifier
from logo_edge.errors import ExportError
from logo_edge.images.load import load_image
from logo_edge.preprocess import preprocess
from logo_edge_compress.convert import mnn as converting
from logo_edge_compress.convert.export import export_artifact
from logo_edge_compress.convert.request import Images
from logo_edge_compress.convert.source import read_source
from logo_edge_compress.onnx.dequantize import to_float
from logo_edge_compress.onnx.graph import read_float_pixels

pytest.importorskip("MNN", reason="needs MNN: make setup installs it")

SHIPPED = Path(logo_edge.__file__).parent / "default_bundle"
SAMPLES = sorted((Path(logo_edge.__file__).parent / "samples").glob("*.png"))


@pytest.mark.slow
@pytest.mark.network
def test_int8_has_the_grids_of_the_bundle_and_gives_its_golden_vectors_and_outputs(tmp_path):
    contract = read_source(SHIPPED).input
    drawings = np.stack([preprocess(load_image(path), contract) for path in SAMPLES])
    images = Images(drawings, np.concatenate([drawings, drawings[:, ::-1], drawings[:, :, ::-1]]))
    record = export_artifact(read_source(SHIPPED), "mnn", "int8", None, tmp_path, images, say=print)
    path = tmp_path / "default-int8-mnn.mnn"
    assert set(record["files"]) == {path.name}
    assert record["audit"]["layers"] == {"float32": 1, "int8": 34}
    assert len(record["audit"]["float_layers"]) == 1, "the epistemic output's, which the bundle has in float too"
    assert record["parity"]["mean_difference"] < 0.04, "about a step of the logits"
    classifier, graph = Classifier.load(SHIPPED, backend="mnn", artifact=path), Classifier.load(SHIPPED)
    assert classifier.run_vectors() == 8
    assert np.abs(classifier.embeddings(drawings) - graph.embeddings(drawings)).mean() < 0.1
    for sample in SAMPLES:
        assert classifier.classify(sample).epistemic == pytest.approx(graph.classify(sample).epistemic, abs=0.02)


def test_a_layer_that_the_graph_does_not_name_is_refused():
    model, grids = to_float(onnx.load(SHIPPED / "model.onnx"))
    layer = {"type": "Convolution", "name": "new", "inputIndexes": [0], "outputIndexes": [1], "main": {"bias": []}}
    described = {"tensorName": ["pixels", "fused_otherwise"], "oplists": [layer]}
    with pytest.raises(ExportError, match="a layer 'new' that the graph has not"):
        converting.transfer_grids(described, read_float_pixels(model), grids)


def test_weights_are_indices_of_a_table_of_all_integers():
    _, grids = to_float(onnx.load(SHIPPED / "model.onnx"))
    kernel = next(grid for grid in grids.values() if grid.integers is not None and grid.integers.ndim == 4)
    inputs = next(grid for grid in grids.values() if grid.integers is None)
    fields = converting._quantized(inputs, kernel, inputs)
    assert json.loads(json.dumps(fields)) == fields
    content = np.array(fields["quanParameter"]["buffer"], np.int8).tobytes()
    rows, columns = np.frombuffer(content[1:5], np.uint16)
    assert rows * columns == kernel.integers.size
    table, indices = np.frombuffer(content[6:262], np.int8), np.frombuffer(content[262:], np.uint8)
    assert np.array_equal(table[indices], kernel.integers.ravel())
