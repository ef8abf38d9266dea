"""The float graph of a QDQ graph: its weights, its ReLU6, its grids; and the PyTorch module of a float graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from logo_edge.bundle.record import DEFAULT_BUNDLE, read_bundle
from logo_edge.errors import ExportError
from logo_edge.images.load import load_image
from logo_edge.preprocess import preprocess
from logo_edge_compress.convert.inside.network import Network
from logo_edge_compress.onnx.dequantize import to_float
from logo_edge_compress.onnx.graph import LOGITS, PIXELS, PLANES

SHIPPED = DEFAULT_BUNDLE / "model.onnx"
CONTRACT = read_bundle(DEFAULT_BUNDLE).input
OUTPUTS = LOGITS, "epistemic", "embedding"


@pytest.fixture(scope="module")
def quantized() -> onnx.ModelProto:
    return onnx.load(SHIPPED)


@pytest.fixture(scope="module")
def converted(quantized) -> tuple[onnx.ModelProto, dict]:
    return to_float(quantized)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    samples = sorted((DEFAULT_BUNDLE.parent / "samples").glob("*.png"))
    return np.stack([preprocess(load_image(path), CONTRACT) for path in samples])


def run(model: onnx.ModelProto, pixels: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(list(OUTPUTS), {PIXELS: pixels})


def test_the_float_graph_computes_the_bundle_up_to_quantization(quantized, converted, pixels):
    model, _ = converted
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} >= {"Conv", "Clip", "Add", "Gemm"}
    assert "QuantizeLinear" not in {node.op_type for node in model.graph.node}
    for name, before, after, limit in zip(
        OUTPUTS, run(quantized, pixels), run(model, pixels), (0.3, 0.01, 1.0), strict=True
    ):
        assert before.shape == after.shape
        assert 0 < np.abs(before - after).max() < limit, name


def test_relu6_survives_where_the_quantizers_range_was_the_activation(converted, pixels):
    model, _ = converted
    clips = [node for node in model.graph.node if node.op_type == "Clip" and node.name.endswith("_relu6")]
    assert len(clips) == 22, "one of the stem, one of the first block, two of each of ten blocks"
    assert {node.input[0] for node in clips} == {f"{node.output[0]}_unclipped" for node in clips}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    for node in clips:
        probe.graph.output.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run([node.output[0] for node in clips], {PIXELS: pixels})
    assert min(value.min() for value in values) == 0
    assert max(value.max() for value in values) == 6, "some reach the end"


def test_weights_and_grids_are_those_of_the_quantized_graph(quantized, converted):
    model, grids = converted
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    integers = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    compared = 0
    for node in quantized.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in integers:
            grid = grids[node.output[0]]
            assert grid.integers is not None
            assert np.array_equal(grid.integers, integers[node.input[0]])
            shape = [-1, *[1] * (grid.integers.ndim - 1)]
            assert grid.axis == 0
            assert np.allclose(weights[node.output[0]], grid.integers * grid.scale.reshape(shape), rtol=1e-6, atol=0)
            compared += 1
    assert compared == 2 * 34, "kernel and bias of each layer"
    assert (float(grids[PLANES].scale), int(grids[PLANES].zero_point)) == (1 / 128, 127)
    assert grids["embedding"].integers is None
    low, high = grids[LOGITS].bounds
    assert low < 0 < high
    made = {name for node in model.graph.node for name in node.output}
    assert {name for name, grid in grids.items() if grid.integers is None} <= made


def test_a_float_graph_and_a_tensor_with_two_grids_are_refused(quantized, converted):
    with pytest.raises(ExportError, match="quantizes nothing"):
        to_float(converted[0])
    other = onnx.ModelProto()
    other.CopyFrom(quantized)
    node = next(node for node in other.graph.node if node.name == "logits_DequantizeLinear")
    node.input[1] = "view_scale"
    with pytest.raises(ExportError, match="logits_QuantizeLinear_Input has two grids"):
        to_float(other)


def test_the_module_computes_the_float_graph_from_pixels_and_from_planes(converted, pixels):
    model, _ = converted
    results = Network(model, PIXELS, OUTPUTS)(torch.from_numpy(pixels))
    for result, expected in zip(results, run(model, pixels), strict=True):
        assert np.abs(result.numpy() - expected).max() < 1e-4
    planes = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127) / 128
    network = Network(model, PLANES, (LOGITS,))
    assert torch.equal(network(planes), results[0])
    exported = torch.export.export(network, (planes[:1],)).module()
    assert torch.allclose(exported(planes[:1]), results[0][:1], atol=1e-5)


def test_a_module_of_unknown_operators_is_refused_with_their_list(converted):
    model = onnx.ModelProto()
    model.CopyFrom(converted[0])
    for node in model.graph.node:
        if node.op_type in ("Log", "ReduceMean"):
            node.op_type = f"Some{node.op_type}"
    with pytest.raises(ValueError, match="SomeLog, SomeReduceMean"):
        Network(model, PIXELS, OUTPUTS)
    with pytest.raises(ValueError, match="know: SomeReduceMean;"):
        Network(model, PIXELS, (LOGITS,))
