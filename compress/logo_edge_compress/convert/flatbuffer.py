"""An ONNX graph of this project, float or INT8 (QDQ) -> a LiteRT (TensorFlow Lite) flatbuffer, integer for integer.

No converter, as each would calibrate or round again: weights, biases, scales and zero points are copied. Maps are NHWC.
An operator runs in integers where its inputs are dequantized, its output is quantized at once, and LiteRT's integer
kernel rounds like ONNX Runtime's; otherwise in float between DEQUANTIZE and QUANTIZE. Needs ai-edge-litert for the
schema. LiteRT 8-bit quantization specification, https://ai.google.dev/edge/litert/conversion/tensorflow/quantization.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module

import numpy as np
import onnx
from onnx import numpy_helper

from logo_edge.errors import ExportError, MissingExtraError
from logo_edge_compress.audit import Audit
from logo_edge_compress.onnx.dequantize import RELU6, Grid, dequantize, read_grid
from logo_edge_compress.onnx.graph import LEAST_STORED, PIXELS, attributes_of, fix_batch

NHWC, NCHW_TO_NHWC = (0, 2, 3, 1), {0: 0, 1: 3, 2: 1, 3: 2}
IDENTIFIER, FROM_HALF = b"TFL3", "_from_float16"  # the latter ends the name of a tensor of halves as float32
NAMED = 4  # tensors in a message
INTEGER = ("Conv", "Gemm", "Add", "Mul", "MaxPool", "Concat")  # operators whose integer kernels round alike
ON_A_CHIP = (*INTEGER, "ReduceMean", "GlobalAveragePool", "HardSwish", "AveragePool")  # where there is no float at all
FUSING = ("Conv", "Gemm", "Add", "Mul", "MaxPool", "AveragePool")  # operators that can end in an activation
LAYOUT = ("Reshape", "Flatten", "Squeeze", "Identity")  # the same values in another shape
VERSIONS = {  # (float, int8) where an operator's version is not 1 for both
    "CONV_2D": (1, 3),
    "DEPTHWISE_CONV_2D": (1, 3),
    "FULLY_CONNECTED": (1, 12),  # 12: a scale per channel
    "ADD": (1, 2),
    "MUL": (1, 2),
    "MEAN": (1, 2),
    "MAX_POOL_2D": (1, 2),
    "AVERAGE_POOL_2D": (1, 2),
    "CONCATENATION": (1, 2),
    "PAD": (1, 2),
    "PADV2": (1, 2),
    "QUANTIZE": (1, 2),
    "DEQUANTIZE": (1, 2),
}


def load_schema():
    """The Python classes of LiteRT's schema. Raises MissingExtraError without ai-edge-litert."""
    try:
        return import_module("ai_edge_litert.schema_py_generated")
    except ImportError as error:
        raise MissingExtraError("litert", "ai-edge-litert") from error


def write_flatbuffer(
    model: onnx.ModelProto,
    *,
    outputs: Sequence[str] = (),
    batch: int | None = None,
    half: bool = False,
    integers_only: bool = False,
) -> bytes:
    """The model as a .tflite: `pixels` (batch, S, S, C) uint8 -> its outputs, float32, under their names.

    `outputs` default to all of the graph. `batch` None: any, 1 until it is resized. `half`: float weights are stored in
    float16. `integers_only`: for microcontrollers; `pixels` are int8, shifted by -128, the outputs keep their integers,
    and an operator that would run in float is an error. Raises ExportError with the list of operators that are not
    known here, MissingExtraError without ai-edge-litert.
    """
    return _Writer(fix_batch(model, batch or 1), load_schema(), batch is None, half, integers_only).write(outputs)


class _Writer:
    """One graph on its way into the flatbuffer.

    A tensor of the ONNX graph exists as float, as integers, or both: `floats` and `integers` hold their indices by
    ONNX name.
    """

    def __init__(self, model: onnx.ModelProto, schema, resizable: bool, half: bool, integers_only: bool):
        self.graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        self.schema, self.resizable, self.half, self.integers_only = schema, resizable, half, integers_only
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        values = [*self.graph.value_info, *self.graph.input, *self.graph.output]
        self.shapes = {
            value.name: tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim) for value in values
        }
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.floats: dict[str, int] = {}
        self.integers: dict[str, int] = {}
        self.grids = {  # of constants, and of `integers`
            node.output[0]: read_grid(node, self.constants)
            for node in self.graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in self.constants
        }
        self.fused: set[str] = set()  # outputs of activations that were fused into the node before
        self.tensors, self.buffers, self.operators = [], [schema.BufferT()], []
        self.codes: dict[tuple[str, int], int] = {}

    def write(self, outputs: Sequence[str]) -> bytes:
        self.outputs = tuple(outputs) or tuple(output.name for output in self.graph.output)
        needed, nodes = set(self.outputs), []
        for node in reversed(self.graph.node):
            if needed.intersection(node.output):
                nodes.insert(0, node)
                needed.update(node.input)
        self.consumers = {
            name: [node for node in consumers if node in nodes] for name, consumers in self.consumers.items()
        }
        known = {*EMITTERS, "QuantizeLinear", "DequantizeLinear"}
        if unknown := sorted({node.op_type for node in nodes} - known):
            raise ExportError(
                f"the graph has operators that the conversion to LiteRT does not know: {', '.join(unknown)}; expected "
                f"{', '.join(sorted(known))}"
            )
        pixels = self._open_input()
        for node in nodes:
            if node.op_type == "QuantizeLinear":
                self._quantize(node)
            elif node.op_type == "DequantizeLinear":
                self._dequantize(node)
            elif not self.fused.issuperset(node.output):
                EMITTERS[node.op_type](self, node, attributes_of(node))
        if self.integers_only and self.floats:
            more = f" and {len(self.floats) - NAMED} more tensors" if len(self.floats) > NAMED else ""
            raise ExportError(
                f"the graph computes {', '.join([*self.floats][:NAMED])}{more} in float, and a microcontroller's has "
                "integers alone; export it for litert"
            )
        find = self.integers.__getitem__ if self.integers_only else self.real
        results = [find(name) for name in self.outputs]
        for name, index in zip(self.outputs, results, strict=True):
            self.tensors[index].name = name
        return self._pack(pixels, results)

    def _open_input(self) -> int:
        """The tensor `pixels`, and the planes that it holds."""
        shape, path = self.shapes[PIXELS], [PIXELS]
        for operator in ("Transpose", "DequantizeLinear"):
            users = self.consumers.get(path[-1], [])
            if [user.op_type for user in users] != [operator]:
                raise ExportError(
                    f"the graph does not begin with a {operator} of {path[-1]}; expected one of this project"
                )
            path.append(users[0].output[0])
        grid, planes = read_grid(users[0], self.constants), path[-1]
        shifted, kind = signed(grid), "INT8" if self.integers_only else "UINT8"
        pixels = self.tensor(PIXELS, shape, kind, shifted if self.integers_only else grid)
        self.integers[planes], self.grids[planes] = pixels, shifted
        if self.integers_only:
            return pixels
        if all(self.integer_grid(user) for user in self.consumers[planes]):
            self.operator("QUANTIZE", [pixels], self.output(planes, shifted, shape))
        else:
            del self.integers[planes], self.grids[planes]
            self.operator("DEQUANTIZE", [pixels], self.output(planes, None, shape))
        return pixels

    def output(self, name: str, grid: Grid | None = None, shape: Sequence[int] | None = None) -> int:
        """The index of the new tensor of the ONNX tensor `name`: integers on the grid, float without one."""
        index = self.tensor(name, self.shape(name) if shape is None else shape, "INT8" if grid else "FLOAT32", grid)
        if grid:
            self.integers[name], self.grids[name] = index, grid
        else:
            self.floats[name] = index
        return index

    def _quantize(self, node: onnx.NodeProto) -> None:
        """The integers of a tensor: those that its operator has given, or its float values quantized."""
        (name, *_), (quantized,) = node.input, node.output
        if name in self.integers:
            self.integers[quantized], self.grids[quantized] = self.integers[name], self.grids[name]
        else:
            grid = signed(read_grid(node, self.constants))
            self.operator("QUANTIZE", [self.real(name)], self.output(quantized, grid, self.shape(name)))

    def _dequantize(self, node: onnx.NodeProto) -> None:
        source, name = node.input[0], node.output[0]
        if source in self.integers:
            self.integers[name], self.grids[name] = self.integers[source], self.grids[source]

    def real(self, name: str) -> int:
        """The float tensor of this name, dequantized if needed."""
        if name not in self.floats:
            if name in self.integers:
                source = self.integers[name]
                self.operator("DEQUANTIZE", [source], self.output(name, None, self.tensors[source].shape))
            else:
                array = self.array(name)
                array = array[None] if array.ndim == 3 else array
                self.floats[name] = self.constant(name, array.transpose(NHWC) if array.ndim == 4 else array)
        return self.floats[name]

    def array(self, name: str) -> np.ndarray:
        """The float values of a constant, which may be stored as integers."""
        return dequantize(self.grids[name]) if name in self.grids else self.constants[name]

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self.shapes[name]
        return tuple(shape[axis] for axis in NHWC) if len(shape) == 4 else shape

    def emit(self, node: onnx.NodeProto, operator: str, inputs: Sequence[str], options=None, *more: int) -> None:
        """One operator that computes a node's output from these inputs, in integers where it can.

        `more` are tensors of constants, after the inputs. An activation that alone reads the output is fused.
        """
        name, grid = node.output[0], self.integer_grid(node)
        if node.op_type in FUSING:
            options.fusedActivationFunction, name = self._activation(node)
            self.fused.add(name)
        tensors = [self.integers[source] if grid else self.real(source) for source in inputs]
        self.operator(operator, [*tensors, *more], self.output(name, grid), options)

    def integer_grid(self, node: onnx.NodeProto) -> Grid | None:
        """The grid of the node's output where it runs in integers; None where it runs in float."""
        if node.op_type not in (ON_A_CHIP if self.integers_only else INTEGER):
            return None
        sources = node.input[:1] if node.op_type == "ReduceMean" else [name for name in node.input if name]
        layer = node.op_type in ("Conv", "Gemm")  # whose weights and bias are constants
        if not all(name in (self.grids if layer and name != sources[0] else self.integers) for name in sources):
            return None
        grid = self._output_grid(self._activation(node)[1] if node.op_type in FUSING else node.output[0])
        if grid is None or node.op_type not in ("MaxPool", "AveragePool", "Concat"):
            return grid
        same = {(float(other.scale), int(other.zero_point)) for other in (grid, *map(self.grids.get, sources))}
        return grid if len(same) == 1 else None  # these kernels do not rescale

    def _output_grid(self, name: str) -> Grid | None:
        users = self.consumers.get(name, [])
        if name in self.outputs or not users:
            return None
        if all(user.op_type == "QuantizeLinear" for user in users):
            return signed(read_grid(users[0], self.constants))
        if self.integers_only and len(users) == 1 and users[0].op_type in LAYOUT:
            return self._output_grid(users[0].output[0])
        return None

    def _activation(self, node: onnx.NodeProto) -> tuple[int, str]:
        """The activation that can be fused into the node, and the name of the output after it."""
        kinds, name = self.schema.ActivationFunctionType, node.output[0]
        users = self.consumers.get(name, [])
        if name not in self.outputs and len(users) == 1:
            if users[0].op_type == "Relu":
                return kinds.RELU, users[0].output[0]
            if users[0].op_type == "Clip" and self.bounds(users[0]) == (0.0, RELU6):
                return kinds.RELU6, users[0].output[0]
        return kinds.NONE, name

    def bounds(self, clip: onnx.NodeProto) -> tuple[float, float]:
        low, high = (self.constants.get(name) for name in (*clip.input[1:], "", "")[:2])
        return -np.inf if low is None else float(low), np.inf if high is None else float(high)

    def constant(self, name: str, array: np.ndarray, grid: Grid | None = None) -> int:
        """A tensor with these values; float ones are stored in float16 for `half`, where that saves bytes."""
        kinds = {"float32": "FLOAT32", "float16": "FLOAT16", "int8": "INT8", "int32": "INT32"}
        buffer = self.schema.BufferT()
        large = array.dtype == np.float32 and array.size >= LEAST_STORED
        halve = self.half and large and np.abs(array).max() <= np.finfo(np.float16).max
        stored = array.astype(np.float16) if halve else array
        buffer.data = np.frombuffer(np.ascontiguousarray(stored).tobytes(), np.uint8)
        index = self.tensor(name, array.shape, kinds[str(stored.dtype)], grid, constant=True)
        self.tensors[index].buffer = len(self.buffers)
        self.buffers.append(buffer)
        if stored.dtype == array.dtype:
            return index
        real = self.tensor(f"{name}{FROM_HALF}", array.shape, "FLOAT32", constant=True)
        self.operator("DEQUANTIZE", [index], real, self.schema.DequantizeOptionsT())
        return real

    def tensor(
        self, name: str, shape: Sequence[int], kind: str, grid: Grid | None = None, *, constant: bool = False
    ) -> int:
        """The index of a new tensor. Its first axis is the batch, unless it is a constant."""
        tensor = self.schema.TensorT()
        tensor.name, tensor.type = name, getattr(self.schema.TensorType, kind)
        tensor.shape = np.array(shape, np.int32)
        tensor.hasRank = True
        if self.resizable and not constant and len(tensor.shape):
            tensor.shapeSignature = np.array([-1, *tensor.shape[1:]], np.int32)
        if grid is not None:
            parameters = self.schema.QuantizationParametersT()
            parameters.scale = np.atleast_1d(grid.scale).astype(np.float32)
            zeros = np.broadcast_to(np.atleast_1d(grid.zero_point), parameters.scale.shape)
            parameters.zeroPoint = zeros.astype(np.int64)
            parameters.quantizedDimension = grid.axis or 0
            tensor.quantization = parameters
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def operator(self, name: str, inputs: Sequence[int], output: int, options=None) -> None:
        schema, operator = self.schema, self.schema.OperatorT()
        kinds = {self.tensors[index].type for index in (*inputs, output) if index >= 0}
        version = VERSIONS.get(name, (1, 1))[schema.TensorType.INT8 in kinds]
        operator.opcodeIndex = self.codes.setdefault((name, version), len(self.codes))
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.operators.append(operator)

    def _pack(self, pixels: int, results: list[int]) -> bytes:
        import flatbuffers  # comes with ai-edge-litert

        schema = self.schema
        graph = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = "main", self.tensors, self.operators
        graph.inputs, graph.outputs = np.array([pixels], np.int32), np.array(results, np.int32)
        model, signature = schema.ModelT(), schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs, signature.outputs = [], []
        for maps, names, indices in (
            (signature.inputs, [PIXELS], [pixels]),
            (signature.outputs, self.outputs, results),
        ):
            for name, index in zip(names, indices, strict=True):
                item = schema.TensorMapT()
                item.name, item.tensorIndex = name, index
                maps.append(item)
        model.version, model.description, model.subgraphs = 3, "logo-edge", [graph]
        model.buffers, model.signatureDefs, model.operatorCodes = self.buffers, [signature], []
        for name, version in self.codes:
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(schema.BuiltinOperator, name)
            code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
            model.operatorCodes.append(code)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())


def signed(grid: Grid) -> Grid:
    """The grid for int8 of the same real values, where it was one for uint8."""
    if grid.zero_point.dtype != np.uint8:
        return grid
    return Grid(grid.scale, np.int8(int(grid.zero_point) - 128), grid.axis, grid.integers)


def _weights(writer: _Writer, node: onnx.NodeProto, arrange: Callable, axis: int) -> tuple[int, int]:
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


def _pads(writer: _Writer, node: onnx.NodeProto, attributes: dict, kernel: Sequence[int]) -> tuple[int, str]:
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


def _conv(writer: _Writer, node: onnx.NodeProto, attributes: dict) -> None:
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


def _gemm(writer: _Writer, node: onnx.NodeProto, attributes: dict) -> None:
    by_output = bool(attributes.get("transB", 0))
    weight, bias = _weights(writer, node, lambda array: array if by_output else array.T, 0)  # (O, I)
    writer.emit(node, "FULLY_CONNECTED", node.input[:1], writer.schema.FullyConnectedOptionsT(), weight, bias)


def _pool(writer: _Writer, node: onnx.NodeProto, attributes: dict) -> None:
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


def _reduce(writer: _Writer, node: onnx.NodeProto, attributes: dict) -> None:
    rank = len(writer.shapes[node.input[0]])
    everywhere = node.op_type == "GlobalAveragePool"
    axes = [2, 3] if everywhere else [axis % rank for axis in writer.constants[node.input[1]].tolist()]
    options = writer.schema.ReducerOptionsT()
    options.keepDims = everywhere or bool(attributes.get("keepdims", 1))
    table = np.array([NCHW_TO_NHWC[axis] if rank == 4 else axis for axis in axes], np.int32)
    operator = "SUM" if node.op_type == "ReduceSum" else "MEAN"
    writer.emit(node, operator, node.input[:1], options, writer.constant(f"{node.name}_axes", table))


def _reshape(writer: _Writer, node: onnx.NodeProto, attributes: dict) -> None:
    source, name = node.input[0], node.output[0]
    before, after = writer.shapes[source], writer.shapes[name]
    if len(before) == 4 and before[2:] != (1, 1):
        raise ExportError(f"{node.name}: {node.op_type} of a map of {before}; expected one that is pooled to (1, 1)")
    table = writer.constant(f"{name}_shape", np.array([-1 if writer.resizable else after[0], *after[1:]], np.int32))
    grid = writer.grids[source] if writer.integers_only and source in writer.integers else None
    index = writer.integers[source] if grid else writer.real(source)
    writer.operator("RESHAPE", [index, table], writer.output(name, grid), writer.schema.ReshapeOptionsT())


def _concat(writer: _Writer, node: onnx.NodeProto, attributes: dict) -> None:
    options, rank = writer.schema.ConcatenationOptionsT(), len(writer.shapes[node.output[0]])
    axis = attributes["axis"] % rank
    options.axis = NCHW_TO_NHWC[axis] if rank == 4 else axis
    writer.emit(node, "CONCATENATION", node.input, options)


def _clip(writer: _Writer, node: onnx.NodeProto, attributes: dict) -> None:
    low, high = writer.bounds(node)
    if (low, high) == (0.0, RELU6):
        return writer.emit(node, "RELU6", node.input[:1])
    name = node.output[0]
    above = writer.tensor(f"{name}_above", writer.shape(name), "FLOAT32")
    limits = [writer.constant(f"{name}_{limit:g}", np.array([limit], np.float32)) for limit in (low, high)]
    writer.operator("MAXIMUM", [writer.real(node.input[0]), limits[0]], above)
    writer.operator("MINIMUM", [above, limits[1]], writer.output(name))


def _hard_sigmoid(writer: _Writer, node: onnx.NodeProto, attributes: dict) -> None:
    """relu6(x + 3) / 6, the only one that networks use."""
    if not np.allclose([attributes.get("alpha", 0.2), attributes.get("beta", 0.5)], [1 / 6, 0.5]):
        raise ExportError(f"{node.name}: HardSigmoid of {attributes}; expected alpha 1/6 and beta 1/2")
    name, options = node.output[0], writer.schema.AddOptionsT()
    options.fusedActivationFunction = writer.schema.ActivationFunctionType.RELU6
    shifted = writer.tensor(f"{name}_shifted", writer.shape(name), "FLOAT32")
    three, sixth = (writer.constant(f"{name}_{value:g}", np.array([value], np.float32)) for value in (3, 1 / 6))
    writer.operator("ADD", [writer.real(node.input[0]), three], shifted, options)
    writer.operator("MUL", [shifted, sixth], writer.output(name), writer.schema.MulOptionsT())


def _reciprocal(writer: _Writer, node: onnx.NodeProto, attributes: dict) -> None:
    one = writer.constant(f"{node.output[0]}_1", np.array([1], np.float32))
    inputs = [one, writer.real(node.input[0])]
    writer.operator("DIV", inputs, writer.output(node.output[0]), writer.schema.DivOptionsT())


def _cast(writer: _Writer, node: onnx.NodeProto, attributes: dict) -> None:
    """Weights that a bundle stores in float16, as float32."""
    if node.input[0] not in writer.constants:
        raise ExportError(f"{node.name}: casts {node.input[0]}; expected casts of constants alone")
    writer.constants[node.output[0]] = writer.constants[node.input[0]].astype(np.float32)


def _softmax(writer: _Writer, node: onnx.NodeProto, attributes: dict) -> None:
    options = writer.schema.SoftmaxOptionsT()
    options.beta, rank = 1.0, len(writer.shapes[node.input[0]])
    if attributes.get("axis", -1) % rank != rank - 1 or rank == 4:
        raise ExportError(f"{node.name}: Softmax along {attributes} of rank {rank}; expected the last axis")
    writer.emit(node, "SOFTMAX", node.input, options)


def _plain(operator: str, options: str = "") -> Callable:
    """The emitter of an operator without attributes."""

    def emit(writer: _Writer, node: onnx.NodeProto, attributes: dict) -> None:
        writer.emit(node, operator, node.input, getattr(writer.schema, f"{options}OptionsT")() if options else None)

    return emit


def _to_planes(writer: _Writer, node: onnx.NodeProto, attributes: dict) -> None:
    """Nothing: the layout of the pixels is that of LiteRT's maps."""
    if node.input[0] != PIXELS:
        raise ExportError(f"{node.name}: transposes {node.input[0]}; expected no Transpose but that of the pixels")


EMITTERS: dict[str, Callable[[_Writer, onnx.NodeProto, dict], None]] = {
    "Add": _plain("ADD", "Add"),
    "AveragePool": _pool,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
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


def audit(data: bytes, source: onnx.ModelProto) -> Audit:
    """The audit of a .tflite: each of its layers, under the name that it has in `source`, in the type of its input."""
    schema = load_schema()
    model = schema.ModelT.InitFromPackedBuf(data)
    kinds = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    layers_by_kernel = {node.input[1]: node.name for node in source.graph.node if node.op_type in ("Conv", "Gemm")}
    graph, layers, sizes = model.subgraphs[0], {}, Counter()
    operators = [names[model.operatorCodes[operator.opcodeIndex].builtinCode] for operator in graph.operators]
    for name, operator in zip(operators, graph.operators, strict=True):
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            pixels, kernel = (graph.tensors[index] for index in operator.inputs[:2])
            layers[layers_by_kernel[kernel.name.decode().removesuffix(FROM_HALF)]] = kinds[pixels.type]
    for tensor in graph.tensors:
        data = model.buffers[tensor.buffer].data
        sizes[kinds[tensor.type]] += 0 if data is None else len(data)
    return Audit(layers, dict(Counter(operators)), {kind: size for kind, size in sizes.items() if size})
