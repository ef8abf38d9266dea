"""The shipped bundle in NCNN: INT8 with its own weights, further outputs, its own calibration; what pnnx drops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import logo_edge
from logo_edge import Classifier
from logo_edge.errors import ExportError
from logo_edge.images.load import load_image
from logo_edge.preprocess import preprocess
from logo_edge_compress.convert import ncnn as converting
from logo_edge_compress.convert.export import export_artifact
from logo_edge_compress.convert.request import Images
from logo_edge_compress.convert.source import read_source

pytest.importorskip("ncnn", reason="needs NCNN: make setup installs it")

SHIPPED = Path(logo_edge.__file__).parent / "default_bundle"
SAMPLES = sorted((Path(logo_edge.__file__).parent / "samples").glob("*.png"))


@pytest.fixture(scope="module")
def images() -> Images:
    contract = read_source(SHIPPED).input
    drawings = np.stack([preprocess(load_image(path), contract) for path in SAMPLES])
    turned = np.concatenate([drawings, drawings[:, ::-1], drawings[:, :, ::-1], drawings.swapaxes(1, 2)])
    return Images(drawings, turned)


@pytest.fixture(scope="module")
def exported(images, tmp_path_factory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("exported")
    return export_artifact(read_source(SHIPPED), "ncnn", "int8", None, folder, images, say=print), folder


@pytest.mark.slow
@pytest.mark.network
def test_int8_runs_with_the_bundles_weights_and_gives_its_golden_vectors_and_outputs(exported, images):
    record, folder = exported
    path = folder / "default-int8-ncnn.param"
    assert set(record["files"]) == {path.name, path.with_suffix(".bin").name}
    assert record["audit"]["layers"] == {"float32": 13, "int8": 22}
    assert record["audit"]["operators"]["ConvolutionDepthWise"] == 11
    assert record["audit"]["bytes"]["int8"] > 0.6e6
    assert record["ranges"] in record["kl_nats_by_ranges"].keys() == {"quantizers", "pictures"}
    classifier, graph = Classifier.load(SHIPPED, backend="ncnn", artifact=path), Classifier.load(SHIPPED)
    assert classifier.run_vectors() == 8
    pixels = images.verifying
    assert (classifier.logits(pixels).argmax(1) == graph.logits(pixels).argmax(1)).mean() > 0.95
    for one, other in zip(classifier.embeddings(pixels), graph.embeddings(pixels), strict=True):
        assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.95
    for path in SAMPLES:
        one, other = classifier.classify(path), graph.classify(path)
        assert one.epistemic == pytest.approx(other.epistemic, abs=0.03)


@pytest.mark.slow
@pytest.mark.network
def test_the_integers_in_the_file_are_the_bundles(exported):
    _, folder = exported
    content = (folder / "default-int8-ncnn.bin").read_bytes()
    graph = onnx.load(SHIPPED / "model.onnx").graph
    kernels = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    sources = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    integers = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    dense = [integers[sources[kernel]] for kernel in kernels if integers[sources[kernel]].shape[1] > 1]
    assert len(dense) == 22
    assert all(kernel.tobytes() in content for kernel in dense)


@pytest.mark.slow
@pytest.mark.network
def test_what_ncnn_lacks_is_refused_though_pnnx_ends_with_status_0(images, tmp_path, monkeypatch):
    def with_unknown(model):
        model = whole(model)
        (last,) = [node for node in model.graph.node if "logits" in node.output]
        for node in model.graph.node:
            node.input[:] = ["before" if name == "logits" else name for name in node.input]
        last.output[0] = "before"
        model.graph.node.append(helper.make_node("Hardmax", ["before"], ["logits"], name="last"))
        return model

    whole = converting.read_float_pixels
    monkeypatch.setattr(converting, "read_float_pixels", with_unknown)
    with pytest.raises(ExportError, match="incompletely.*Hardmax"):
        export_artifact(read_source(SHIPPED), "ncnn", "int8", None, tmp_path, images, say=print)
    assert list(tmp_path.iterdir()) == []


def test_ncnn_takes_no_batch(images, tmp_path):
    with pytest.raises(ExportError, match="leave out --batch"):
        export_artifact(read_source(SHIPPED), "ncnn", "int8", 8, tmp_path, images, say=print)


def test_weights_of_a_layer_that_the_writer_does_not_know_are_refused():
    text = "7767517\n2 2\nInput input 0 1 pixels\nPReLU act 1 1 pixels logits 0=3\n"
    with pytest.raises(ExportError, match="Input, PReLU are layers whose weights"):
        converting.read_weights(converting.read_layers(text), bytes(12))
    assert converting.network_text(converting.read_layers(text)) == text
