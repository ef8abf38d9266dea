"""A QDQ graph -> the float graph that it was quantized from, and the grid of every tensor that it quantizes.

For runtimes that take a float graph and the scales: they reproduce the bundle's INT8, where a calibration of their own
would make another network with other confidences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from logo_edge.errors import ExportError
from logo_edge_compress.onnx.graph import LOGITS, PLANES, add_constant, copy_model, drop_unused

RELU6, RELU6_SLACK = 6.0, 0.02  # a calibrated range that ends within 2 % of 6 is that of a ReLU6
CLIPPED = ("Conv", "Gemm", "Add")  # operators into whose quantizer an activation disappears


@dataclass(frozen=True)
class Grid:
    """real = (integer - zero_point) * scale. `scale` is one value, or one per index of `axis` of a weight.

    `integers` are those of a constant, None for an activation.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None = None
    integers: np.ndarray | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value of an activation."""
        limits = np.iinfo(self.zero_point.dtype)
        low, high = ((limit - float(self.zero_point)) * float(self.scale) for limit in (limits.min, limits.max))
        return low, high


def to_float(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Grid]]:
    """The float graph, and the grids by its tensors' names.

    Weights and biases are the dequantized integers, under the names of the dequantized tensors; activations keep the
    names that they have before quantization, and the pixels are normalised to PLANES as in an FP32 export. The range of
    a quantizer that begins at 0 is a ReLU that the quantization removed, or a ReLU6 if it ends at 6: it becomes a node
    again, and the tensor before it is named `NAME_unclipped`; so does the range of the logits, which pictures that are
    no logos leave, and its grid is that of both tensors. Raises ExportError where the graph has no Q/DQ pairs, or a
    tensor with two grids.
    """
    model = copy_model(model)
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    outputs = {output.name for output in graph.output}
    grids: dict[str, Grid] = {}
    renamed: dict[str, str] = {}  # dequantized tensor -> its float tensor
    nodes: list[onnx.NodeProto] = []

    def keep(tensor: str, node: onnx.NodeProto) -> None:
        grid = read_grid(node, constants)
        known = grids.setdefault(tensor, grid)
        if (known.scale, known.zero_point) != (grid.scale, grid.zero_point):
            raise ExportError(
                f"{node.name}: {tensor} has two grids, of the scales {known.scale:g} and {grid.scale:g}; expected a "
                "graph of `logo-edge compress`"
            )

    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            keep(node.input[0], node)
        elif node.op_type != "DequantizeLinear":
            nodes.append(node)
        elif node.input[0] in constants:
            grid = grids[node.output[0]] = read_grid(node, constants)
            graph.initializer.append(numpy_helper.from_array(dequantize(grid), node.output[0]))
        elif node.input[0] in makers and makers[node.input[0]].op_type == "QuantizeLinear":
            renamed[node.output[0]] = makers[node.input[0]].input[0]
            keep(renamed[node.output[0]], node)
        else:  # the pixels
            keep(PLANES, node)
            renamed[node.output[0]] = PLANES
            nodes.append(node)
    if grids.keys() <= {PLANES}:
        raise ExportError("the graph quantizes nothing; expected an INT8 graph of `logo-edge compress`")
    for name in renamed.keys() & outputs:  # a dequantized output gives its name to the float tensor
        tensor = renamed.pop(name)
        grids[name] = grids.pop(tensor)
        renamed = {key: name if value == tensor else value for key, value in renamed.items()} | {tensor: name}
    for node in nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    nodes = [part for node in nodes for part in _with_activation(graph, node, grids)]
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)
    return model, grids


def logits_grid(model: onnx.ModelProto) -> Grid | None:
    """The grid of the logits of a QDQ graph; None where they are float."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (node,) = (node for node in model.graph.node if LOGITS in node.output)
    return read_grid(node, constants) if node.op_type == "DequantizeLinear" else None


def read_grid(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> Grid:
    """The grid of a QuantizeLinear or DequantizeLinear."""
    scale, zero_point = (constants[name] for name in node.input[1:3])
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1) if scale.ndim else None
    return Grid(scale, zero_point, axis, constants.get(node.input[0]))


def dequantize(grid: Grid) -> np.ndarray:
    """The real values of a constant, float32, as ONNX Runtime computes them."""
    shape = [-1 if index == grid.axis else 1 for index in range(grid.integers.ndim)]
    scale, zero_point = (part.reshape(shape) if part.ndim else part for part in (grid.scale, grid.zero_point))
    return (grid.integers.astype(np.int32) - zero_point.astype(np.int32)).astype(np.float32) * scale


def _with_activation(graph: onnx.GraphProto, node: onnx.NodeProto, grids: dict[str, Grid]) -> list[onnx.NodeProto]:
    """The node and, where its quantizer was also its activation, that activation."""
    name = node.output[0]
    if node.op_type not in CLIPPED or name not in grids or (grids[name].bounds[0] != 0 and name != LOGITS):
        return [node]
    node.output[0] = f"{name}_unclipped"
    if name == LOGITS:
        kind, bounds = "range", grids[name].bounds
        grids[node.output[0]] = grids[name]
    elif abs(grids[name].bounds[1] - RELU6) > RELU6_SLACK * RELU6:
        return [node, helper.make_node("Relu", [node.output[0]], [name], name=f"{node.name}_relu")]
    else:
        kind, bounds = "relu6", (0.0, RELU6)
    limits = [f"{kind}_low", f"{kind}_high"]
    for limit, value in zip(limits, bounds, strict=True):
        add_constant(graph, limit, np.float32(value))
    return [node, helper.make_node("Clip", [node.output[0], *limits], [name], name=f"{node.name}_{kind}")]
