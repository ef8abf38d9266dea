"""ONNX -> LiteRT flatbuffer: every operator computes the same, integers are copied, nothing runs in float unasked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from logo_edge.backends.base import ModelFile, Resources
from logo_edge.backends.choose import open_backend
from logo_edge.bundle.record import DEFAULT_BUNDLE, read_bundle
from logo_edge.errors import ExportError
from logo_edge_compress.convert.flatbuffer import audit, load_schema, write_flatbuffer
from logo_edge_compress.onnx.dequantize import to_float
from logo_edge_compress.onnx.graph import store_float16

SHIPPED = DEFAULT_BUNDLE / "model.onnx"
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (3, 9, 8, 4), np.uint8)


def weight(*shape: int) -> np.ndarray:
    return RANDOM.normal(0, 0.3, shape).astype(np.float32)


def small_graph(nodes: list[tuple], constants: dict[str, np.ndarray], result: str) -> onnx.ModelProto:
    """pixels (batch, 9, 8, 4) -> `planes` (batch, 4, 9, 8) -> the nodes (operator, inputs, output, attributes)."""
    constants = {"step": np.float32(1 / 128), "middle": np.uint8(127), **constants}
    made = [
        helper.make_node("Transpose", ["pixels"], ["turned"], perm=[0, 3, 1, 2]),
        helper.make_node("DequantizeLinear", ["turned", "step", "middle"], ["planes"]),
        *(
            helper.make_node(operator, inputs.split(), [output], name=f"node_{output}", **attributes)
            for operator, inputs, output, attributes in nodes
        ),
    ]
    graph = helper.make_graph(
        made,
        "small",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 9, 8, 4])],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)  # gives the output its shape


def run_both(model: onnx.ModelProto, pixels: np.ndarray = PIXELS, **options) -> tuple[np.ndarray, np.ndarray]:
    """The first output by ONNX Runtime and by LiteRT, in ONNX's layout."""
    name = model.graph.output[0].name
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run([name], {"pixels": pixels})
    (result,) = open_litert(write_flatbuffer(model, **options)).run(pixels, [name])
    return expected, result.transpose(0, 3, 1, 2) if result.ndim == 4 else result


def open_litert(data: bytes):
    return open_backend("litert", ModelFile(Path("small.tflite"), data), Resources())


def after_pooling(*nodes: tuple) -> list[tuple]:
    return [("ReduceMean", "planes axes", "mean", {"keepdims": 0}), *nodes]


AXES = {"axes": np.array([2, 3]), "last": np.array([1])}
CASES = {
    "conv": ([("Conv", "planes w b", "y", {"pads": [1, 1, 1, 1]})], {"w": weight(6, 4, 3, 3), "b": weight(6)}),
    "conv, stride 2, odd and even side": (
        [("Conv", "planes w", "y", {"pads": [1, 1, 1, 1], "strides": [2, 2]})],
        {"w": weight(6, 4, 3, 3)},
    ),
    "conv, uneven pads": ([("Conv", "planes w", "y", {"pads": [0, 1, 2, 0]})], {"w": weight(6, 4, 3, 3)}),
    "conv, dilated": (
        [("Conv", "planes w", "y", {"pads": [2, 2, 2, 2], "dilations": [2, 2]})],
        {"w": weight(5, 4, 3, 3)},
    ),
    "depthwise": ([("Conv", "planes w b", "y", {"group": 4})], {"w": weight(4, 1, 3, 3), "b": weight(4)}),
    "depthwise, two a channel": ([("Conv", "planes w", "y", {"group": 4})], {"w": weight(8, 1, 3, 3)}),
    "grouped conv": ([("Conv", "planes w", "y", {"group": 2})], {"w": weight(6, 2, 3, 3)}),
    "relu after conv": ([("Conv", "planes w", "x", {}), ("Relu", "x", "y", {})], {"w": weight(6, 4, 1, 1)}),
    "relu6 after conv": (
        [("Conv", "planes w", "x", {}), ("Clip", "x zero six", "y", {})],
        {"w": 9 * weight(6, 4, 1, 1), "zero": np.float32(0), "six": np.float32(6)},
    ),
    "a relu whose input is read again": (
        [("Conv", "planes w", "x", {}), ("Relu", "x", "z", {}), ("Sub", "x z", "y", {})],
        {"w": weight(6, 4, 1, 1)},
    ),
    "clip": ([("Clip", "planes low high", "y", {})], {"low": np.float32(-0.2), "high": np.float32(0.4)}),
    "max pool with pads": (
        [("MaxPool", "planes", "y", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]})],
        {},
    ),
    "average pool": ([("AveragePool", "planes", "y", {"kernel_shape": [2, 2], "strides": [2, 2]})], {}),
    "average pool of an odd side, rounded up": (
        [("AveragePool", "planes", "y", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1})],
        {},
    ),
    "max pool of an odd side, rounded up": (
        [("MaxPool", "planes", "y", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1})],
        {},
    ),
    "global pool": ([("GlobalAveragePool", "planes", "y", {})], {}),
    "hard swish": ([("HardSwish", "planes", "y", {})], {}),
    "squeeze and excite": (
        [
            ("GlobalAveragePool", "planes", "g", {}),
            ("HardSigmoid", "g", "h", {"alpha": 1 / 6, "beta": 0.5}),
            ("Mul", "planes h", "y", {}),
        ],
        {},
    ),
    "sigmoid": ([("Sigmoid", "planes", "y", {})], {}),
    "add of a constant by channel": ([("Add", "planes c", "y", {})], {"c": weight(1, 4, 1, 1)}),
    "concat of channels": ([("Concat", "planes planes", "y", {"axis": 1})], {}),
    "dense": (after_pooling(("Gemm", "mean w b", "y", {"transB": 1})), {**AXES, "w": weight(3, 4), "b": weight(3)}),
    "dense, not transposed": (after_pooling(("Gemm", "mean w", "y", {})), {**AXES, "w": weight(4, 3)}),
    "softmax, log and the rest of nats": (
        after_pooling(
            ("Softmax", "mean", "p", {"axis": 1}),
            ("Exp", "p", "e", {}),
            ("Reciprocal", "e", "r", {}),
            ("Log", "e", "l", {}),
            ("Neg", "l", "n", {}),
            ("Max", "n r", "m", {}),
            ("Div", "m e", "d", {}),
            ("ReduceSum", "d last", "s", {"keepdims": 1}),
            ("Squeeze", "s last", "y", {}),
        ),
        AXES,
    ),
    "flatten": ([("GlobalAveragePool", "planes", "g", {}), ("Flatten", "g", "y", {})], {}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_operator_computes_in_litert_what_it_computes_in_onnx_runtime(case):
    nodes, constants = CASES[case]
    expected, result = run_both(small_graph(nodes, constants, "y"))
    assert expected.shape == result.shape
    assert np.ptp(expected) > 0
    assert np.abs(expected - result).max() < 1e-5


def test_an_activation_is_fused_only_where_nothing_else_reads_its_input():
    graphs = {name: small_graph(*CASES[name], "y") for name in CASES}
    operators = {name: audit(write_flatbuffer(graph), graph).operators for name, graph in graphs.items()}
    assert operators["relu6 after conv"] == {"DEQUANTIZE": 1, "CONV_2D": 1}
    assert operators["a relu whose input is read again"]["RELU"] == 1
    assert "PAD" not in operators["conv"]
    assert operators["conv, stride 2, odd and even side"]["PAD"] == 1
    assert operators["max pool with pads"]["PADV2"] == 1


class Quantized:
    """A small QDQ graph in the making: every output gets a quantizer of its own."""

    def __init__(self):
        self.nodes: list[tuple] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(self, operator: str, inputs: str, name: str, scale: float, zero_point: int, **attributes) -> None:
        """The node, and `name`, its output after quantization to uint8."""
        self.constants |= {f"{name}_scale": np.float32(scale), f"{name}_zero": np.uint8(zero_point)}
        grid = f"{name}_scale {name}_zero"
        self.nodes += [
            (operator, inputs, f"{name}_raw", attributes),
            ("QuantizeLinear", f"{name}_raw {grid}", f"{name}_integers", {}),
            ("DequantizeLinear", f"{name}_integers {grid}", name, {}),
        ]

    def kernel(self, name: str, *shape: int) -> None:
        """INT8 weights of 7 bits: ONNX Runtime's sums of 8-bit products saturate on CPUs without VNNI."""
        scales = RANDOM.uniform(0.006, 0.02, shape[0]).astype(np.float32)
        self.constants |= {f"{name}_values": RANDOM.integers(-64, 65, shape, np.int8), f"{name}_scales": scales}
        self.constants[f"{name}_zeros"] = np.zeros(shape[0], np.int8)
        self.nodes.append(("DequantizeLinear", f"{name}_values {name}_scales {name}_zeros", name, {"axis": 0}))


def test_a_graph_of_quantized_operators_runs_in_integers_to_the_step():
    graph = Quantized()
    graph.kernel("w", 6, 4, 3, 3)
    graph.kernel("v", 6, 1, 3, 3)
    graph.add("Conv", "planes w", "a", 0.05, 120, strides=[2, 2], pads=[1, 1, 1, 1])
    graph.add("Conv", "a v", "b", 0.04, 0, group=6, pads=[1, 1, 1, 1])
    graph.add("MaxPool", "b", "c", 0.04, 0, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    graph.add("Add", "b c", "d", 0.06, 3)
    graph.add("Mul", "d a", "e", 0.3, 100)
    graph.add("Concat", "e d", "f", 0.3, 100, axis=1)
    model = small_graph(graph.nodes, graph.constants, "f")
    data = write_flatbuffer(model)
    operators = audit(data, model).operators
    assert {name: operators[name] for name in ("CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "ADD", "MUL")} == {
        "CONV_2D": 1,
        "DEPTHWISE_CONV_2D": 1,
        "MAX_POOL_2D": 1,
        "ADD": 1,
        "MUL": 1,
    }
    assert set(audit(data, model).layers.values()) == {"int8"}
    assert operators["DEQUANTIZE"] == 3, "the two inputs of the Concat, whose grids differ, and the output"
    expected, result = run_both(model)
    steps = np.rint(np.abs(expected - result) / 0.3)
    assert len(np.unique(expected)) > 20
    assert steps.max() <= 1
    assert (steps == 0).mean() > 0.98


@pytest.fixture(scope="module")
def shipped() -> onnx.ModelProto:
    return onnx.load(SHIPPED)


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    contract = read_bundle(DEFAULT_BUNDLE).input
    shape = contract.size_px, contract.size_px, contract.channels
    return np.random.default_rng(3).integers(0, 256, (8, *shape), np.uint8)


def test_the_shipped_int8_keeps_every_integer_scale_and_zero_point(shipped):
    schema = load_schema()
    model = schema.ModelT.InitFromPackedBuf(write_flatbuffer(shipped))
    tensors = {tensor.name.decode(): tensor for tensor in model.subgraphs[0].tensors}
    _, grids = to_float(shipped)
    compared = 0
    for name, grid in grids.items():
        if grid.integers is None:
            continue
        tensor = tensors[name]
        values = np.frombuffer(model.buffers[tensor.buffer].data.tobytes(), grid.integers.dtype)
        if grid.integers.ndim == 4:
            order = (1, 2, 3, 0) if grid.integers.shape[1] == 1 else (0, 2, 3, 1)
            assert np.array_equal(values.reshape(tensor.shape), grid.integers.transpose(order)), name
        else:
            assert np.array_equal(values, grid.integers.ravel()), name
        assert np.array_equal(tensor.quantization.scale, grid.scale)
        compared += 1
    assert compared == 2 * 34
    zero_points = {
        int(tensor.quantization.zeroPoint[0])
        for tensor in tensors.values()
        if tensor.type == schema.TensorType.INT8 and tensor.quantization.scale.size == 1
    }
    assert len(zero_points) > 5
    assert -128 in zero_points, "the lower end of a ReLU6"


def test_the_shipped_int8_gives_every_output_and_its_logits_to_the_step(shipped, noise):
    backend = open_litert(write_flatbuffer(shipped))
    names = ["logits", "epistemic", "embedding"]
    assert backend.outputs == set(names)
    session = onnxruntime.InferenceSession(shipped.SerializeToString(), providers=["CPUExecutionProvider"])
    expected, results = session.run(names, {"pixels": noise}), backend.run(noise, names)
    steps = np.rint(np.abs(expected[0] - results[0]) / 0.032948)
    assert steps.max() <= 1
    assert (steps.max(1) == 0).mean() >= 0.75
    for name, one, other, limit in zip(names[1:], expected[1:], results[1:], (0.005, 0.3), strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() < limit, name


def test_float_and_half_weights_compute_the_float_graph(shipped, noise):
    model, _ = to_float(shipped)
    expected, result = run_both(model, noise)
    assert np.abs(expected - result).max() < 1e-4
    whole, half = write_flatbuffer(model), write_flatbuffer(model, half=True)
    assert len(half) < 0.55 * len(whole)
    assert np.abs(expected - open_litert(half).run(noise, ["logits"])[0]).max() < 0.05
    stored = store_float16(model)
    assert np.abs(open_litert(write_flatbuffer(stored)).run(noise, ["logits"])[0] - expected).max() < 0.05


def test_a_fixed_batch_takes_no_other(shipped, noise):
    backend = open_litert(write_flatbuffer(shipped, batch=2))
    assert backend.run(noise[:2], ["logits"])[0].shape == (2, 4)
    with pytest.raises(ExportError, match=r"small\.tflite takes no batch of 3; export it again"):
        backend.run(noise[:3], ["logits"])


def test_integers_alone_are_what_a_microcontroller_gets(shipped):
    data = write_flatbuffer(shipped, outputs=("logits",), batch=1, integers_only=True)
    assert audit(data, shipped).operators == {
        "CONV_2D": 22,
        "DEPTHWISE_CONV_2D": 11,
        "ADD": 6,
        "MEAN": 1,
        "RESHAPE": 1,
        "FULLY_CONNECTED": 1,
    }
    schema = load_schema()
    graph = schema.ModelT.InitFromPackedBuf(data).subgraphs[0]
    assert {tensor.type for tensor in graph.tensors} == {schema.TensorType.INT8, schema.TensorType.INT32}
    with pytest.raises(ExportError, match=r"in float, and a microcontroller's has integers alone"):
        write_flatbuffer(shipped, outputs=("epistemic",), batch=1, integers_only=True)


def test_the_audit_names_the_layers_as_the_onnx_graph_does_and_counts_bytes(shipped):
    counted = audit(write_flatbuffer(shipped), shipped)
    assert len(counted.layers) == 35
    assert counted.float_layers == ["node_linear_1"], "the epistemic head, which is never quantized"
    assert set(counted.layers.values()) == {"int8", "float32"}
    model, _ = to_float(shipped)
    half = audit(write_flatbuffer(model, half=True), model)
    assert half.layers == dict.fromkeys(counted.layers, "float32")
    assert half.bytes["float16"] > 20 * half.bytes["float32"]
    weights = sum(tensor.integers.size for tensor in to_float(shipped)[1].values() if tensor.integers is not None)
    assert counted.bytes["int8"] + counted.bytes["int32"] / 4 == pytest.approx(weights, abs=40)


def test_what_is_not_known_is_refused_with_its_list(shipped):
    model = small_graph([("Erf", "planes", "x", {}), ("Tanh", "x", "y", {})], {}, "y")
    with pytest.raises(ExportError, match="does not know: Erf, Tanh; expected .*Conv"):
        write_flatbuffer(model)
    model = small_graph([("Flatten", "planes", "y", {})], {}, "y")
    with pytest.raises(ExportError, match=r"node_y: Flatten of a map"):
        write_flatbuffer(model)
    model.graph.node[0].op_type = "Identity"
    with pytest.raises(ExportError, match="begin with a Transpose of pixels"):
        write_flatbuffer(model)
