"""ONNX for ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import helper, numpy_helper

from logo_edge_compress.audit import Audit
from logo_edge_compress.convert.request import Request
from logo_edge_compress.verify import EXPORTED, ROUNDED, open_onnx

# the position of the weights among the inputs of operators with weights: as written, and as ONNX Runtime fuses them
FLOAT = dict.fromkeys(
    ("Conv", "ConvTranspose", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MatMulNBits"), 1
)
INTEGER = {
    "ConvInteger": 1,
    "DynamicQuantizeMatMul": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "QGemm": 3,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
}
WEIGHTS = FLOAT | INTEGER
UNPACKING = ("Cast", "DequantizeLinear", "Reshape", "Transpose")  # between stored weights and a layer


def convert(request: Request, model: onnx.ModelProto, graph: Path) -> dict:
    """Writes the model and returns its verification and audit."""
    path = request.save(model)
    tolerance = ROUNDED if request.precision == "fp16" else EXPORTED
    verified = request.verify(open_onnx(path), tolerance, path.name, "onnxruntime")
    return verified | request.audit(audit(path), path.name)


def audit(path: Path) -> Audit:
    """The audit of the graph that ONNX Runtime executes on this CPU: it writes what it makes of the file at `path`.

    Without the optimizations that only change the layout of float weights, which would rename them.
    """
    import onnxruntime

    model, options = onnx.load(path), onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "executed.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        executed = onnx.load(options.optimized_model_filepath)
    names = {tensor: node.name for node, tensors in layers_of(model) for tensor in tensors}
    types = {tensor.name: tensor.data_type for tensor in executed.graph.initializer}
    layers: dict[str, str] = {}
    for node, tensors in layers_of(executed):
        name = next((names[tensor] for tensor in tensors if tensor in names), node.name)
        is_half = types.get(tensors[0]) == onnx.TensorProto.FLOAT16
        layers[name] = "int8" if node.op_type in INTEGER else "float16" if is_half else "float32"
    return Audit(layers, dict(Counter(node.op_type for node in executed.graph.node)), constant_bytes(model))


def audit_pairs(model: onnx.ModelProto) -> Audit:
    """The audit of a graph as it is written: a layer computes in INT8 where both its inputs are dequantized integers.

    So TensorRT reads Q/DQ pairs. Operators are counted as nodes.
    """
    makers = {output: node for node in model.graph.node for output in node.output}
    layers = {}
    for node, _ in layers_of(model):
        inputs = [makers[name].op_type if name in makers else "" for name in node.input[:2]]
        layers[node.name] = "int8" if inputs == ["DequantizeLinear"] * 2 or node.op_type in INTEGER else "float32"
    return Audit(layers, dict(Counter(node.op_type for node in model.graph.node)), constant_bytes(model))


def layers_of(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, tuple[str, str]]]:
    """The nodes with weights, each with the tensors of its weights: as stored, and as the node reads them."""
    constants = {tensor.name for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type not in WEIGHTS:
            continue
        read = stored = node.input[WEIGHTS[node.op_type]]
        while stored in makers and makers[stored].op_type in UNPACKING:
            stored = makers[stored].input[0]
        if stored in constants:
            yield node, (stored, read)


def constant_bytes(model: onnx.ModelProto) -> dict[str, int]:
    """The bytes of the graph's constants by type."""
    sizes: Counter = Counter()
    for tensor in model.graph.initializer:
        sizes[helper.tensor_dtype_to_np_dtype(tensor.data_type).name] += len(numpy_helper.to_array(tensor).tobytes())
    return dict(sizes)
