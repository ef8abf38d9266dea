"""Scales channels between two convolutions such that all of them use the one INT8 grid of their activations.

In networks with depthwise convolutions the values of some channels stay far below those of others, and so have a few of
256 levels. Cross-layer equalisation: Nagel et al. 2019, arXiv:1906.04721. Here weights have a grid per output channel,
so the first range is measured on the activations (Meller et al. 2019, arXiv:1902.01917), not read from the weights.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import numpy_helper

from logo_edge.errors import VerificationError
from logo_edge_compress.onnx.graph import attributes_of, copy_model
from logo_edge_compress.quantize.rounding import run_tensors

LEAST_SCALE = 1 / 16  # of a channel that is hardly used on the images: more would clip it on others


def equalise(body: onnx.ModelProto, planes: np.ndarray) -> onnx.ModelProto:
    """The body with the channels between pairs of convolutions divided by scales, which the second one multiplies by.

    planes: (N, C, S, S) float32. A scale is at least the share of the tensor's range that its channel uses on `planes`,
    so no value there exceeds the range, a ReLU6 clips nothing more, and the logits are unchanged. Raises
    VerificationError where no convolution feeds only one other, directly or through a ReLU or ReLU6.
    """
    body = copy_model(body)
    pairs = _pairs(body)
    if not pairs:
        raise VerificationError(
            "the graph has no two convolutions in a row whose channels could be equalised; take another candidate"
        )
    weights = {tensor.name: tensor for tensor in body.graph.initializer}
    names = [second.input[0] for _, second in pairs]
    ranges: dict[str, np.ndarray] = {}  # by tensor, (C,)
    for tensors in run_tensors(body, planes, names):
        for name in names:
            ranges[name] = np.maximum(ranges.get(name, 0), np.abs(tensors[name]).max((0, 2, 3)))
    for first, second in pairs:
        largest = ranges[second.input[0]]
        shares = np.maximum(largest / max(largest.max(), np.finfo(np.float32).tiny), LEAST_SCALE)
        kernel = numpy_helper.to_array(weights[second.input[1]])
        groups = attributes_of(second).get("group", 1)
        grouped = kernel.reshape(groups, len(kernel) // groups, kernel.shape[1], -1)  # (G, O / G, I / G, kh * kw)
        scales = _choose_scales(shares, grouped).astype(np.float32)
        _replace(weights[second.input[1]], (grouped * scales.reshape(groups, 1, -1, 1)).reshape(kernel.shape))
        for name in first.input[1:]:
            values = numpy_helper.to_array(weights[name])
            _replace(weights[name], values / scales.reshape(-1, *[1] * (values.ndim - 1)))
    return body


def _choose_scales(shares: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The scales of (I,) channels that use `shares` of the range; kernel: (G, O / G, I / G, taps) of the second layer.

    A depthwise kernel has a grid for each channel, so it costs nothing to fill the range. Others have one grid for all
    inputs of an output: there both ranges become equal, as in equation 11 of Nagel et al.
    """
    if kernel.shape[2] == 1:
        return shares
    largest = np.abs(kernel).max(3)  # (G, O / G, I / G)
    rows = largest.max(2, keepdims=True)
    used = (largest / np.where(rows > 0, rows, 1)).max(1).ravel()  # (I,), the most that a channel uses of a grid
    return np.clip(np.sqrt(shares / np.maximum(used, LEAST_SCALE)), shares, 1)


def _pairs(body: onnx.ModelProto) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Two convolutions each, of which the second is all that reads the first, directly or through a ReLU or ReLU6."""
    graph = body.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(output.name for output in graph.output)
    pairs = []
    for second in graph.node:
        if second.op_type != "Conv":
            continue
        chain = [second.input[0]]
        first = makers.get(chain[0])
        if first is not None and (first.op_type == "Relu" or _clips_at_zero(first, constants)):
            chain.append(first.input[0])
            first = makers.get(chain[1])
        if first is None or first.op_type != "Conv":
            continue
        tensors = [*chain, *first.input[1:], second.input[1]]
        if all(readers[name] == 1 for name in tensors) and constants.keys() >= {*first.input[1:], second.input[1]}:
            pairs.append((first, second))
    return pairs


def _clips_at_zero(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> bool:
    """Whether the node is a Clip from 0, such as ReLU6."""
    if node.op_type != "Clip" or len(node.input) < 2 or node.input[1] not in constants:
        return False
    return bool((constants[node.input[1]] == 0).all())


def _replace(tensor: onnx.TensorProto, values: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
