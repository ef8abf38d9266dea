"""INT8 of networks with depthwise layers: equalised channels, depthwise layers in FP32, and when they are tried."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from logo_edge.errors import VerificationError
from logo_edge_compress.candidates.plan import make_candidates
from logo_edge_compress.candidates.store import Task, outcome
from logo_edge_compress.convert.onnx import audit_pairs
from logo_edge_compress.onnx.export import finish
from logo_edge_compress.onnx.graph import LOGITS, OPSET, PLANES, save_model
from logo_edge_compress.quantize.equalise import LEAST_SCALE, equalise
from logo_edge_compress.quantize.rounding import kernel_scales, run_tensors
from logo_edge_compress.quantize.static import depthwise_layers, equalise_body, insert_qdq, quantize_body, to_planes
from logo_edge_compress.verify import compare_logits, run_onnx
from logo_edge_train.architecture import Architecture
from logo_edge_train.recipe_io import recipe_from_dict

SIZE, CHANNELS = 16, 16
SPREAD = np.geomspace(1 / 40, 1, CHANNELS).astype(np.float32)  # of the channels' values; the last ones saturate ReLU6
PIXELS = np.random.default_rng(1).integers(0, 256, (32, SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    """A file: convolution, ReLU6, depthwise, ReLU6, convolution, mean; small channels count as much as large ones."""
    random = np.random.default_rng(0)

    def uneven(*shape: int) -> np.ndarray:
        return random.normal(0, 1, shape).astype(np.float32)

    expand = 6 * uneven(CHANNELS, 3, 1, 1) * SPREAD[:, None, None, None]
    depthwise, project = uneven(CHANNELS, 1, 3, 3), uneven(4, CHANNELS, 1, 1) / SPREAD[None, :, None, None]
    constants = {
        "expand.weight": expand,
        "expand.bias": uneven(CHANNELS) * SPREAD,
        "depthwise.weight": depthwise,
        "depthwise.bias": uneven(CHANNELS) * SPREAD,
        "project.weight": project,
        "project.bias": uneven(4),
        "low": np.float32(0),
        "high": np.float32(6),
        "axes": np.array([2, 3], np.int64),
    }
    nodes = [
        helper.make_node("Conv", [PLANES, "expand.weight", "expand.bias"], ["a"], name="expand"),
        helper.make_node("Clip", ["a", "low", "high"], ["b"], name="relu6_1"),
        helper.make_node(
            "Conv", ["b", "depthwise.weight", "depthwise.bias"], ["c"], name="depthwise", group=CHANNELS, pads=[1] * 4
        ),
        helper.make_node("Clip", ["c", "low", "high"], ["d"], name="relu6_2"),
        helper.make_node("Conv", ["d", "project.weight", "project.bias"], ["e"], name="project"),
        helper.make_node("ReduceMean", ["e", "axes"], [LOGITS], name="mean", keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "body",
        [helper.make_tensor_value_info(PLANES, TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    path = tmp_path_factory.mktemp("uneven") / "body.onnx"
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)]), path)
    return path


def largest_by_channel(model: onnx.ModelProto, name: str) -> np.ndarray:
    """(C,) of the named tensor on the pictures."""
    return np.max([tensors[name].max((0, 2, 3)) for tensors in run_tensors(model, to_planes(PIXELS), [name])], 0)


def test_equalised_channels_fill_the_range_of_a_depthwise_layer_and_the_logits_stay(body):
    model = onnx.load(body)
    equalised = equalise(model, to_planes(PIXELS))
    before, after = (largest_by_channel(graph, "b") for graph in (model, equalised))
    assert before.min() < 0.1 * before.max()
    assert after.max() == pytest.approx(before.max()) == pytest.approx(6)
    assert np.allclose(after, np.minimum(6, before / LEAST_SCALE), rtol=1e-4)
    before, after = (largest_by_channel(graph, "d") for graph in (model, equalised))
    assert (after >= before * (1 - 1e-5)).all()
    assert after.max() == before.max()
    assert after.min() > 2 * before.min()
    (logits,), (again,) = (
        [np.concatenate([tensors[LOGITS] for tensors in run_tensors(graph, to_planes(PIXELS), [LOGITS])])]
        for graph in (model, equalised)
    )
    assert np.ptp(logits) > 1
    assert np.allclose(logits, again, atol=1e-3)


def test_int8_is_closer_to_its_parent_with_equalised_channels_and_leaves_depthwise_layers_in_float(body, tmp_path):
    finish(onnx.load(body), SIZE, tmp_path / "fp32.onnx")
    parent = run_onnx(tmp_path / "fp32.onnx", PIXELS)
    settings = {"method": "minmax", "reduce_range": True}
    left = depthwise_layers(onnx.load(body))
    assert left == ("depthwise",)

    def differ(name: str, source, restored=()) -> float:
        path = quantize_body(source, source, PIXELS, SIZE, tmp_path / name, restored=restored, **settings)
        assert audit_pairs(onnx.load(path)).float_layers == list(restored)
        return compare_logits(parent, run_onnx(path, PIXELS)).mean_difference

    plain = differ("plain.onnx", body)
    equalised = differ("equalised.onnx", equalise_body(body, PIXELS, tmp_path / "body-equalised.onnx"))
    assert equalised < 0.7 * plain
    assert differ("left.onnx", body, left) < plain


@pytest.mark.parametrize("restored", [("depthwise",), ("expand",), ("project",), ("expand", "project")])
def test_onnx_runtime_s_optimizers_leave_the_weights_of_float_layers_as_they_are(body, restored, tmp_path):
    path = quantize_body(
        body, body, PIXELS, SIZE, tmp_path / "left.onnx", method="minmax", reduce_range=True, restored=restored
    )
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (logits,) = onnxruntime.InferenceSession(path, plain).run([LOGITS], {"pixels": PIXELS})
    assert np.ptp(logits) > 1
    assert np.abs(run_onnx(path, PIXELS) - logits).max() < 0.05, "a rounded layer differs by 0.3 and more"


def test_a_layer_that_is_quantized_alone_ends_at_its_relu(body):
    model = onnx.load(body)
    scales = kernel_scales(model, reduce_range=True)
    alone = insert_qdq(model, scales, PIXELS, method="minmax", reduce_range=True, only=("expand",))
    assert [node.name for node in alone.graph.node if node.op_type == "Clip"] == ["depthwise_shield", "relu6_2"]


def test_a_graph_without_two_convolutions_in_a_row_is_refused(body):
    model = onnx.load(body)
    for node in model.graph.node:
        if node.op_type == "Clip":
            node.op_type, node.input[:] = "Sigmoid", node.input[:1]
    with pytest.raises(VerificationError, match="no two convolutions in a row"):
        equalise(model, to_planes(PIXELS))


@pytest.mark.parametrize(
    ("quantize", "agrees", "tried"),
    [
        ({}, None, ["int8-equalised", "int8-depthwise-fp32", "int8-mixed"]),
        ({}, "int8-equalised", ["int8-equalised"]),
        ({}, "int8-depthwise-fp32", ["int8-equalised", "int8-depthwise-fp32"]),
        ({"equalise": "off", "mixed": "off"}, None, ["int8-depthwise-fp32"]),
        ({"mixed": "always"}, "int8-equalised", ["int8-equalised", "int8-mixed"]),
    ],
)
def test_careful_candidates_are_tried_in_turn_until_an_int8_agrees(tmp_path, quantize, agrees, tried):
    run = SimpleNamespace(recipe=recipe_from_dict({"quantize": quantize}))
    task, methods = Task(run, None, Architecture("it", SIZE), tmp_path, tmp_path, "it"), {}

    def make(plan):
        methods[plan.name] = plan.settings.get("method")
        agreement = {"files": {"it.onnx": "1"}, "record": {"parity": {"kl_nats": 0.1}}} if plan.name == agrees else {}
        return outcome(task, plan, "made" if agreement or plan.precision != "int8" else "refused", **agreement)

    names = [candidate.name for candidate in make_candidates(task, set(), make)]
    assert names == ["fp32", "fp16", "int8-minmax", "int8-percentile", *tried]
    assert {methods[name] for name in tried} == {"minmax"}
