"""An ONNX graph of this project, FP32 or INT8, -> an ExecuTorch program for XNNPACK.

INT8 is transferred exactly: each QuantizeLinear and DequantizeLinear becomes PyTorch's, with the scale and zero point
of the graph, so that there is no calibration. The range of a quantizer is its ReLU6, here as there. (The module is not
named executorch, because it would hide that package, which has no `__init__.py`.)
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import torch
import torchao.quantization.pt2e  # noqa: F401  # registers torch.ops.quantized_decomposed
from exchange import read_request, write_record
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader, _get_schema_bytes
from executorch.exir import to_edge_transform_and_lower
from executorch.exir._serialize._flatbuffer import _flatc_decompile
from network import Network
from onnx import helper, numpy_helper
from torch.nn import functional

LAYERS = "XNNConv2d", "XNNDepthwiseConv2d", "XNNFullyConnected", "XNNBatchMatrixMultiply", "XNNConvTranspose2d"
TYPES = {"fp32": ("float32", 4), "qint8": ("int8", 1), "qcint8": ("int8", 1)}
TYPES |= {"qint32": ("int32", 4), "qcint32": ("int32", 4)}  # XNNPACK's -> NumPy's, and its bytes
INTEGERS = ["qint8", "qcint8", "qint8"]  # input, weights, output
INT8 = -128, 127, torch.int8  # XNNPACK's integers; those of the graph are uint8, 128 higher


def rewrite(model: onnx.ModelProto) -> None:
    """Rewrites the graph with what XNNPACK has, in place; the values stay the same to the last bit.

    Scales and bounds become attributes. Each use of a quantized tensor gets a DequantizeLinear of its own, since
    XNNPACK fuses it with that use. Uneven paddings become Pad, because PyTorch's convolutions have none, and its result
    is quantized again. Biases become float; XNNPACK finds their integers again.
    """
    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    columns = {
        value.name: value.type.tensor_type.shape.dim[-1].dim_value
        for value in inferred
        if value.type.tensor_type.shape.dim
    }
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    dequantizers: dict[str, onnx.NodeProto] = {}
    nodes: list[onnx.NodeProto] = []

    def add_constant(name: str, values: np.ndarray) -> str:
        constants[name] = values
        return name

    def grid(node: onnx.NodeProto) -> dict:
        scale, zero_point = (constants[name] for name in node.input[1:3])
        shift = 128 if zero_point.dtype == np.uint8 else 0
        return {"scale": float(scale), "zero_point": int(zero_point) - shift}

    def dequantize(name: str) -> str:
        """A new name of the tensor, with a DequantizeLinear of its own."""
        node, new = dequantizers[name], f"{name}/{len(nodes)}"
        values, scale, zero_point = (constants.get(tensor) for tensor in node.input)
        if values is not None and scale.ndim:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            points = add_constant(f"{node.input[2]}/int64", zero_point.astype(np.int64))
            nodes.append(helper.make_node("DequantizeWeights", [*node.input[:2], points], [new], axis=axis))
        elif values is not None or node.input[0] != "pixels_nchw":
            nodes.append(helper.make_node("DequantizeLinear", node.input[:1], [new], **grid(node)))
        else:
            bounds = {"scale": float(scale), "mean": float(zero_point)}
            nodes.append(helper.make_node("NormalisePixels", node.input[:1], [new], **bounds))
        return new

    def quantize_again(node: onnx.NodeProto, name: str) -> None:
        """Inserts Pad, if the convolution has uneven paddings, QuantizeLinear and DequantizeLinear before the node."""
        attributes = {attribute.name: attribute for attribute in node.attribute}
        values, pads = node.input[0], list(attributes["pads"].ints)
        if uneven := pads[:2] != pads[2:]:
            nodes.append(helper.make_node("Pad", [values], [f"{values}/padded"], pads=pads))
            attributes["pads"].ints[:], values = [0] * 4, f"{values}/padded"
        if uneven or dequantizers[name].input[0] == "pixels_nchw":
            nodes.append(helper.make_node("QuantizeLinear", [values], [f"{values}/q"], **grid(dequantizers[name])))
            nodes.append(
                helper.make_node("DequantizeLinear", [f"{values}/q"], [f"{values}/dq"], **grid(dequantizers[name]))
            )
            node.input[0] = f"{values}/dq"

    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            values, scale = constants.get(node.input[0]), constants[node.input[1]]
            if values is not None and values.dtype == np.int32:
                add_constant(node.output[0], values.astype(np.float32) * scale)
            else:
                dequantizers[node.output[0]] = node
            continue
        quantized = [name for name in node.input if name in dequantizers]
        for index, name in enumerate(node.input):
            if name in dequantizers:
                node.input[index] = dequantize(name)
        if node.op_type == "QuantizeLinear":
            node = helper.make_node("QuantizeLinear", node.input[:1], node.output, **grid(node))
        elif node.op_type == "Conv" and len(quantized) == 2:
            quantize_again(node, quantized[0])
        elif node.op_type == "Reciprocal":
            node = helper.make_node("Div", [add_constant("one", np.ones(1, np.float32)), *node.input], node.output)
        elif node.op_type == "ReduceSum":
            ones = add_constant("ones", np.ones((1, columns[node.input[0]]), np.float32))
            node = helper.make_node("Gemm", [node.input[0], ones], node.output, transB=1)
        nodes.append(node)
    for output in graph.output:
        if output.name in dequantizers:
            nodes.append(helper.make_node("Identity", [dequantize(output.name)], [output.name]))
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items())


def _quantize(attributes: dict, values: torch.Tensor) -> torch.Tensor:
    grid = attributes["scale"], attributes["zero_point"]
    return torch.ops.quantized_decomposed.quantize_per_tensor(values, *grid, *INT8)


def _dequantize(attributes: dict, values: torch.Tensor) -> torch.Tensor:
    grid = attributes["scale"], attributes["zero_point"]
    return torch.ops.quantized_decomposed.dequantize_per_tensor(values, *grid, *INT8)


def _dequantize_weights(attributes: dict, values, scale, zero_point) -> torch.Tensor:
    axis = attributes["axis"]
    return torch.ops.quantized_decomposed.dequantize_per_channel(values, scale, zero_point, axis, *INT8)


def _pad(attributes: dict, values: torch.Tensor) -> torch.Tensor:
    top, left, bottom, right = attributes["pads"]
    return functional.pad(values, (left, right, top, bottom))


OPERATORS = {
    "DequantizeLinear": _dequantize,
    "DequantizeWeights": _dequantize_weights,
    "NormalisePixels": lambda attributes, values: (values.float() - attributes["mean"]) * attributes["scale"],
    "Pad": _pad,
    "QuantizeLinear": _quantize,
}


def read_types(path: Path) -> tuple[dict[str, str], dict[str, int]]:
    """The type in which XNNPACK computes each convolution and matrix product of a program, and the bytes of constants.

    The layers are in order of execution, the bytes by type.
    """
    program = path.read_bytes()
    payload = program[program.index(XNNHeader.EXPECTED_MAGIC) - XNNHeader.MAGIC_OFFSET.start :]
    header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "schema.fbs").write_bytes(_get_schema_bytes())
        (folder / "graph.bin").write_bytes(payload[header.flatbuffer_offset :][: header.flatbuffer_size])
        _flatc_decompile(name, str(folder / "schema.fbs"), str(folder / "graph.bin"))
        text = (folder / "graph.json").read_text(encoding="utf-8")
    graph = json.loads(re.sub(r": -?(inf|nan)\b", ": null", text))  # which JSON does not know
    types, sizes = {}, Counter()
    for value in graph["xvalues"]:
        tensor = value["xvalue_union"].get("tensor_value", value["xvalue_union"])
        kind = types[tensor["id_out"]] = tensor["datatype"].removeprefix("xnn_datatype_")
        if tensor["constant_buffer_idx"]:
            name, width = TYPES[kind]
            sizes[name] += width * math.prod(tensor["dims"])
    layers = {}
    for node in graph["xnodes"]:
        kind, ports = node["xnode_union_type"], node["xnode_union"]
        if kind in LAYERS:
            used = [types[ports[port]] for port in ("input1_id", "filter_id", "output_id")]
            layers[f"{kind} {len(layers)}"] = "int8" if used == INTEGERS else "float32"
    return layers, dict(sizes)


def convert(model: onnx.ModelProto, batch: int, path: Path) -> dict:
    """Writes the program for `batch` images and returns how often it has each operator."""
    rewrite(model)
    outputs = tuple(output.name for output in model.graph.output)
    sizes = [dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim]
    network = Network(model, model.graph.input[0].name, outputs, OPERATORS).eval()
    program = torch.export.export(network, (torch.zeros(batch, *sizes[1:], dtype=torch.uint8),))
    edge = to_edge_transform_and_lower(
        program, partitioner=[XnnpackPartitioner()], constant_methods={"output_names": list(outputs)}
    )
    nodes = edge.exported_program().graph_module.graph.nodes
    operators = Counter(node.target.__name__ for node in nodes if node.op == "call_function")
    path.write_bytes(edge.to_executorch().buffer)
    return dict(operators)


if __name__ == "__main__":
    request = read_request()
    file = Path(request["folder"], request["file"])
    operators = convert(onnx.load(request["graph"]), request["batch"], file)
    layers, sizes = read_types(file)
    write_record(request, [file], operators=operators, layers=layers, bytes=sizes)
