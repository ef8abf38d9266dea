"""The tensors and operators of a LiteRT flatbuffer: which exist as float, which as integers, and what computes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from logo_edge.errors import ExportError
from logo_edge_compress.onnx.dequantize import RELU6, Grid, dequantize, read_grid
from logo_edge_compress.onnx.graph import LEAST_STORED, PIXELS

NHWC = (0, 2, 3, 1)
IDENTIFIER, FROM_HALF = b"TFL3", "_from_float16"  # the latter ends the name of a tensor of halves as float32
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


class Writer:
    """One graph that is written into the flatbuffer. `nodes` holds only the nodes that the outputs need.

    A tensor of the ONNX graph exists as float, as integers, or both: `floats` and `integers` hold their indices by
    ONNX name.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        schema,
        outputs: Sequence[str],
        *,
        resizable: bool,
        half: bool,
        integers_only: bool,
    ):
        self.graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        self.schema, self.resizable, self.half, self.integers_only = schema, resizable, half, integers_only
        self.outputs = tuple(outputs) or tuple(output.name for output in self.graph.output)
        self.nodes = self._needed_nodes()
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        values = [*self.graph.value_info, *self.graph.input, *self.graph.output]
        self.shapes = {
            value.name: tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim) for value in values
        }
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
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

    def _needed_nodes(self) -> list[onnx.NodeProto]:
        needed, nodes = set(self.outputs), []
        for node in reversed(self.graph.node):
            if needed.intersection(node.output):
                nodes.insert(0, node)
                needed.update(node.input)
        return nodes

    def open_input(self) -> int:
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

    def pack(self, pixels: int) -> bytes:
        """The flatbuffer, from the tensor `pixels` to the outputs."""
        import flatbuffers  # comes with ai-edge-litert

        schema, find = self.schema, self.integers.__getitem__ if self.integers_only else self.real
        results = [find(name) for name in self.outputs]
        for name, index in zip(self.outputs, results, strict=True):
            self.tensors[index].name = name
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
