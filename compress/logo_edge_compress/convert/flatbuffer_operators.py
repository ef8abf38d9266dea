"""How each ONNX operator is written into a LiteRT flatbuffer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx

from logo_edge.errors import ExportError
from logo_edge_compress.convert.flatbuffer_writer import NHWC, Writer, signed
from logo_edge_compress.onnx.dequantize import RELU6, Grid, read_grid
from logo_edge_compress.onnx.graph import PIXELS

NCHW_TO_NHWC = {0: 0, 1: 3, 2: 1, 3: 2}


def _weights(writer: Writer, node: onnx.NodeProto, arrange: Callable, axis: int) -> tuple[int, int]:
    """The tensors of a layer's kernel, rearranged, with its scales along `axis`, and of its bias or zeros."""
    (source, kernel, *biases), count = [name for name in node.input if name], writer.shapes[node.output[0]][1]
    if not writer.integer_grid(node):
        bias = writer.array(biases[0]) if biases else np.zeros(count, np.float32)
        return writer.constant(kernel, arrange(writer.array(kernel))), writer.constant(f"{node.name}_bias", bias)
    grid = writer.grids[kernel]
    weight = writer.constant(kernel, arrange(grid.integers), replace(grid, axis=axis if grid.scale.ndim else None))
    zeros = Grid(writer.grids[source].scale * grid.scale, np.int32(0), 0, np.zeros(count, np.int32))
    bias = writer.grids[biases[0]] if biases else zeros
    return weight, writer.constant(biases[0] if biases else f"{node.name}_bias", bias.integers, replace(bias, axis=0))


def _pads(writer: Writer, node: onnx.NodeProto, attributes: dict, kernel: Sequence[int]) -> tuple[int, str]:
    """LiteRT's SAME or VALID, and the name of the input; it is padded before where the padding is neither.

    The padding of a pool is the smallest value, that of a convolution 0.
    """
    schema, source = writer.schema, node.input[0]
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    if not any((top, left, bottom, right)):
        return schema.Padding.VALID, source
    steps, dilations, same = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1]), []
    for size, step, width, dilation in zip(writer.shapes[source][2:], steps, kernel, dilations, strict=True):
        total = max((-(-size // step) - 1) * step + (width - 1) * dilation + 1 - size, 0)
        same.append((total // 2, total - total // 2))
    if [(top, bottom), (left, right)] == same:
        return schema.Padding.SAME, source
    grid = writer.grids[source] if source in writer.integers else None
    table = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
    inputs = [writer.integers[source] if grid else writer.real(source), writer.constant(f"{node.name}_pads", table)]
    if pool := node.op_type == "MaxPool":
        lowest = np.array([-128], np.int8) if grid else np.array([np.finfo(np.float32).min])
        inputs.append(writer.constant(f"{node.name}_lowest", lowest, grid))
    batch, height, width, channels = writer.shape(source)
    padded = f"{source}_padded_for_{node.name}"
    output = writer.output(padded, grid, (batch, height + top + bottom, width + left + right, channels))
    writer.operator("PADV2" if pool else "PAD", inputs, output)
    return schema.Padding.VALID, padded


def _conv(writer: Writer, node: onnx.NodeProto, attributes: dict) -> None:
    schema = writer.schema
    shape = writer.array(node.input[1]).shape
    groups, channels = attributes.get("group", 1), writer.shapes[node.input[0]][1]
    depthwise = groups == channels and groups > 1
    options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
    if depthwise:
        options.depthMultiplier = shape[0] // groups
        weight, bias = _weights(writer, node, lambda array: array.transpose(1, 2, 3, 0), 3)  # (1, H, W, O)
    else:
        weight, bias = _weights(writer, node, lambda array: array.transpose(NHWC), 0)  # (O, H, W, I)
    options.padding, source = _pads(writer, node, attributes, shape[2:])
    options.strideH, options.strideW = attributes.get("strides", [1, 1])
    options.dilationHFactor, options.dilationWFactor = attributes.get("dilations", [1, 1])
    writer.emit(node, "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", [source], options, weight, bias)


def _gemm(writer: Writer, node: onnx.NodeProto, attributes: dict) -> None:
    by_output = bool(attributes.get("transB", 0))
    weight, bias = _weights(writer, node, lambda array: array if by_output else array.T, 0)  # (O, I)
    writer.emit(node, "FULLY_CONNECTED", node.input[:1], writer.schema.FullyConnectedOptionsT(), weight, bias)


def _pool(writer: Writer, node: onnx.NodeProto, attributes: dict) -> None:
    """A pool; ONNX's ceil_mode is a padding at the end. LiteRT leaves padding out of means, as ONNX does by default."""
    options, largest = writer.schema.Pool2DOptionsT(), node.op_type == "MaxPool"
    pads, kernel, steps = [*attributes.get("pads", [0, 0, 0, 0])], attributes["kernel_shape"], attributes["strides"]
    before, after = writer.shapes[node.input[0]][2:], writer.shapes[node.output[0]][2:]
    for axis in (0, 1):
        covered = (after[axis] - 1) * steps[axis] + kernel[axis]
        pads[axis + 2] = max(covered - before[axis] - pads[axis], 0) if attributes.get("ceil_mode") else pads[axis + 2]
    options.padding, source = _pads(writer, node, {**attributes, "pads": pads}, kernel)
    if not largest and (source != node.input[0] or (any(pads) and attributes.get("count_include_pad"))):
        raise ExportError(f"{node.name}: AveragePool with pads {pads}; expected none, or even ones that do not count")
    options.filterHeight, options.filterWidth = kernel
    options.strideH, options.strideW = steps
    writer.emit(node, "MAX_POOL_2D" if largest else "AVERAGE_POOL_2D", [source], options)


def _reduce(writer: Writer, node: onnx.NodeProto, attributes: dict) -> None:
    rank = len(writer.shapes[node.input[0]])
    everywhere = node.op_type == "GlobalAveragePool"
    axes = [2, 3] if everywhere else [axis % rank for axis in writer.constants[node.input[1]].tolist()]
    options = writer.schema.ReducerOptionsT()
    options.keepDims = everywhere or bool(attributes.get("keepdims", 1))
    table = np.array([NCHW_TO_NHWC[axis] if rank == 4 else axis for axis in axes], np.int32)
    operator = "SUM" if node.op_type == "ReduceSum" else "MEAN"
    writer.emit(node, operator, node.input[:1], options, writer.constant(f"{node.name}_axes", table))


def _reshape(writer: Writer, node: onnx.NodeProto, attributes: dict) -> None:
    source, name = node.input[0], node.output[0]
    before, after = writer.shapes[source], writer.shapes[name]
    if len(before) == 4 and before[2:] != (1, 1):
        raise ExportError(f"{node.name}: {node.op_type} of a map of {before}; expected one that is pooled to (1, 1)")
    table = writer.constant(f"{name}_shape", np.array([-1 if writer.resizable else after[0], *after[1:]], np.int32))
    grid = writer.grids[source] if writer.integers_only and source in writer.integers else None
    index = writer.integers[source] if grid else writer.real(source)
    writer.operator("RESHAPE", [index, table], writer.output(name, grid), writer.schema.ReshapeOptionsT())


def _concat(writer: Writer, node: onnx.NodeProto, attributes: dict) -> None:
    options, rank = writer.schema.ConcatenationOptionsT(), len(writer.shapes[node.output[0]])
    axis = attributes["axis"] % rank
    options.axis = NCHW_TO_NHWC[axis] if rank == 4 else axis
    writer.emit(node, "CONCATENATION", node.input, options)


def _clip(writer: Writer, node: onnx.NodeProto, attributes: dict) -> None:
    low, high = writer.bounds(node)
    if (low, high) == (0.0, RELU6):
        return writer.emit(node, "RELU6", node.input[:1])
    name = node.output[0]
    above = writer.tensor(f"{name}_above", writer.shape(name), "FLOAT32")
    limits = [writer.constant(f"{name}_{limit:g}", np.array([limit], np.float32)) for limit in (low, high)]
    writer.operator("MAXIMUM", [writer.real(node.input[0]), limits[0]], above)
    writer.operator("MINIMUM", [above, limits[1]], writer.output(name))


def _hard_sigmoid(writer: Writer, node: onnx.NodeProto, attributes: dict) -> None:
    """relu6(x + 3) / 6, the only one that networks use."""
    if not np.allclose([attributes.get("alpha", 0.2), attributes.get("beta", 0.5)], [1 / 6, 0.5]):
        raise ExportError(f"{node.name}: HardSigmoid of {attributes}; expected alpha 1/6 and beta 1/2")
    name, options = node.output[0], writer.schema.AddOptionsT()
    options.fusedActivationFunction = writer.schema.ActivationFunctionType.RELU6
    shifted = writer.tensor(f"{name}_shifted", writer.shape(name), "FLOAT32")
    three, sixth = (writer.constant(f"{name}_{value:g}", np.array([value], np.float32)) for value in (3, 1 / 6))
    writer.operator("ADD", [writer.real(node.input[0]), three], shifted, options)
    writer.operator("MUL", [shifted, sixth], writer.output(name), writer.schema.MulOptionsT())


def _reciprocal(writer: Writer, node: onnx.NodeProto, attributes: dict) -> None:
    one = writer.constant(f"{node.output[0]}_1", np.array([1], np.float32))
    inputs = [one, writer.real(node.input[0])]
    writer.operator("DIV", inputs, writer.output(node.output[0]), writer.schema.DivOptionsT())


def _cast(writer: Writer, node: onnx.NodeProto, attributes: dict) -> None:
    """Weights that a bundle stores in float16, as float32."""
    if node.input[0] not in writer.constants:
        raise ExportError(f"{node.name}: casts {node.input[0]}; expected casts of constants alone")
    writer.constants[node.output[0]] = writer.constants[node.input[0]].astype(np.float32)


def _softmax(writer: Writer, node: onnx.NodeProto, attributes: dict) -> None:
    options = writer.schema.SoftmaxOptionsT()
    options.beta, rank = 1.0, len(writer.shapes[node.input[0]])
    if attributes.get("axis", -1) % rank != rank - 1 or rank == 4:
        raise ExportError(f"{node.name}: Softmax along {attributes} of rank {rank}; expected the last axis")
    writer.emit(node, "SOFTMAX", node.input, options)


def _quantize(writer: Writer, node: onnx.NodeProto, attributes: dict) -> None:
    """The integers of a tensor. Some operators give them; else the float values are quantized."""
    (name, *_), (quantized,) = node.input, node.output
    if name in writer.integers:
        writer.integers[quantized], writer.grids[quantized] = writer.integers[name], writer.grids[name]
    else:
        grid = signed(read_grid(node, writer.constants))
        writer.operator("QUANTIZE", [writer.real(name)], writer.output(quantized, grid, writer.shape(name)))


def _dequantize(writer: Writer, node: onnx.NodeProto, attributes: dict) -> None:
    """Nothing new: an operator in float dequantizes its inputs itself."""
    source, name = node.input[0], node.output[0]
    if source in writer.integers:
        writer.integers[name], writer.grids[name] = writer.integers[source], writer.grids[source]


def _plain(operator: str, options: str = "") -> Callable:
    """The emitter of an operator without attributes."""

    def emit(writer: Writer, node: onnx.NodeProto, attributes: dict) -> None:
        writer.emit(node, operator, node.input, getattr(writer.schema, f"{options}OptionsT")() if options else None)

    return emit


def _to_planes(writer: Writer, node: onnx.NodeProto, attributes: dict) -> None:
    """Nothing: the layout of the pixels is that of LiteRT's maps."""
    if node.input[0] != PIXELS:
        raise ExportError(f"{node.name}: transposes {node.input[0]}; expected no Transpose but that of the pixels")


EMITTERS: dict[str, Callable[[Writer, onnx.NodeProto, dict], None]] = {
    "Add": _plain("ADD", "Add"),
    "AveragePool": _pool,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "DequantizeLinear": _dequantize,
    "Div": _plain("DIV", "Div"),
    "Exp": _plain("EXP", "Exp"),
    "Flatten": _reshape,
    "Gemm": _gemm,
    "GlobalAveragePool": _reduce,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain("HARD_SWISH", "HardSwish"),
    "Identity": _reshape,
    "Log": _plain("LOG"),
    "Max": _plain("MAXIMUM", "MaximumMinimum"),
    "MaxPool": _pool,
    "Mul": _plain("MUL", "Mul"),
    "Neg": _plain("NEG", "Neg"),
    "QuantizeLinear": _quantize,
    "Reciprocal": _reciprocal,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "Relu": _plain("RELU"),
    "Reshape": _reshape,
    "Sigmoid": _plain("LOGISTIC"),
    "Softmax": _softmax,
    "Squeeze": _reshape,
    "Sub": _plain("SUB", "Sub"),
    "Transpose": _to_planes,
}
"""By ONNX operator, the function that adds it to the flatbuffer: f(writer, node, attributes)."""
