"""Rounds weights and corrects biases so that INT8 changes the logits of logos as little as possible.

Logos have large flat areas, where the rounding errors of a kernel's taps add up instead of averaging out: after
rounding to the nearest value, an EfficientNet-Lite0 trained on logos kept only half of its decisions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper

from logo_edge_compress.onnx.graph import copy_model

BATCH = 8
LAYERS = ("Conv", "Gemm")
DAMPING = 0.01  # of the mean diagonal of H, added to it
INT8_LEVELS, REDUCED_LEVELS = 127, 64  # largest magnitude of a weight in onnxruntime's quantizer


def weight_levels(conv: onnx.NodeProto, *, reduce_range: bool) -> int:
    """The largest magnitude that a weight of this convolution may take as an integer.

    With `reduce_range` it is 64, so that two products of U8 x S8 fit the 16 bits in which CPUs without VNNI add them;
    onnxruntime's depthwise kernel adds in 32 bits and keeps 127.
    """
    return REDUCED_LEVELS if reduce_range and _attribute(conv, "group", 1) == 1 else INT8_LEVELS


def kernel_scales(body: onnx.ModelProto, *, reduce_range: bool) -> dict[str, np.ndarray]:
    """The INT8 grid of every convolution's kernel, by its name: one step per output channel, (C,) float32."""
    weights = {tensor.name: tensor for tensor in body.graph.initializer}
    scales = {}
    for conv in body.graph.node:
        if conv.op_type == "Conv":
            kernel = numpy_helper.to_array(weights[conv.input[1]])
            largest = np.abs(kernel).reshape(len(kernel), -1).max(axis=1)
            steps = np.where(largest > 0, largest, 1) / weight_levels(conv, reduce_range=reduce_range)
            scales[conv.input[1]] = steps.astype(np.float32)
    return scales


def round_weights(body: onnx.ModelProto, planes: np.ndarray, *, reduce_range: bool) -> onnx.ModelProto:
    """The body with the weights of every convolution rounded to their INT8 grid, one scale per output channel.

    Weights are rounded one after the other; the others, not yet rounded, compensate the change of the outputs. Optimal
    brain quantization: Frantar et al. 2023, arXiv:2210.17323. planes: (N, 3, S, S) float32, the inputs whose outputs
    are to be preserved. Layers without a bias get a bias of 0, for `correct_biases`.
    """
    scales = kernel_scales(body, reduce_range=reduce_range)
    body = copy_model(body)
    _add_missing_biases(body.graph)
    weights = {tensor.name: tensor for tensor in body.graph.initializer}
    convs = [node for node in body.graph.node if node.op_type == "Conv"]
    moments: dict[str, np.ndarray] = {}  # by convolution, (G, n, n): sums of products of its inputs' taps
    for tensors in run_tensors(body, planes, [conv.input[0] for conv in convs]):
        for conv in convs:
            taps = _taps(tensors[conv.input[0]], conv, weights[conv.input[1]].dims)
            moments[conv.name] = moments.get(conv.name, 0) + (taps @ taps.transpose(0, 2, 1)).astype(np.float64)
    for conv in convs:
        kernel = numpy_helper.to_array(weights[conv.input[1]])
        groups = kernel.reshape(len(moments[conv.name]), -1, int(np.prod(kernel.shape[1:]))).astype(np.float64)
        steps = scales[conv.input[1]].reshape(len(groups), -1)
        levels = weight_levels(conv, reduce_range=reduce_range)
        rounded = np.stack(
            [round_rows(rows, step, levels, h) for rows, step, h in zip(groups, steps, moments[conv.name], strict=True)]
        )
        tensor = numpy_helper.from_array(rounded.reshape(kernel.shape).astype(np.float32), conv.input[1])
        weights[conv.input[1]].CopyFrom(tensor)
    return body


def round_rows(rows: np.ndarray, scale: np.ndarray, levels: int, moments: np.ndarray) -> np.ndarray:
    """(R, n) weights as multiples (at most `levels`) of `scale` (R,), with (w - q) H (w - q) small; H: (n, n)."""
    damped = moments + np.eye(len(moments)) * (DAMPING * np.trace(moments) / len(moments) + 1e-9)
    order = np.argsort(-np.diag(damped), kind="stable")  # the strongest inputs first, while others can still compensate
    factor = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T  # (n, n), upper
    left, rounded = rows[:, order].copy(), np.empty_like(rows)
    for j, position in enumerate(order):
        rounded[:, position] = np.clip(np.round(left[:, j] / scale), -levels, levels) * scale
        error = (left[:, j] - rounded[:, position]) / factor[j, j]
        left[:, j + 1 :] -= error[:, None] * factor[j, j + 1 :]
    return rounded


def correct_biases(quantized: onnx.ModelProto, body: onnx.ModelProto, planes: np.ndarray) -> onnx.ModelProto:
    """The QDQ graph with each layer's INT32 bias shifted, in order, so that the means of its channels are preserved.

    Nagel et al. 2019, arXiv:1906.04721, with measured means. planes: (N, 3, S, S) float32, read by both graphs.
    """
    quantized = copy_model(quantized)
    constants = {tensor.name: tensor for tensor in quantized.graph.initializer}
    makers = {name: node for node in quantized.graph.node for name in node.output}
    outputs = {node.name: node.output[0] for node in body.graph.node}
    layers = [
        node
        for node in quantized.graph.node
        if node.op_type in LAYERS and len(node.input) == 3 and node.input[2] in makers  # a float bias is exact
    ]
    targets = _channel_means(body, planes, [outputs[layer.name] for layer in layers])
    for layer, mean in zip(layers, targets, strict=True):
        (now,) = _channel_means(quantized, planes, [layer.output[0]])
        integers, scale = (constants[name] for name in makers[layer.input[2]].input[:2])
        shift = np.round((mean - now) / numpy_helper.to_array(scale))
        shifted = np.clip(numpy_helper.to_array(integers) + shift, -(2**31) + 1, 2**31 - 1).astype(np.int32)
        integers.CopyFrom(numpy_helper.from_array(shifted, integers.name))
    return quantized


def run_tensors(model: onnx.ModelProto, planes: np.ndarray, names: list[str]) -> Iterator[dict[str, np.ndarray]]:
    """The named tensors of the graph, without graph optimization, batch by batch."""
    import onnxruntime

    source = model.graph.input[0].name
    outputs = [name for name in dict.fromkeys(names) if name != source]
    if not outputs:  # a graph without nodes cannot be run
        yield from ({source: planes[start : start + BATCH]} for start in range(0, len(planes), BATCH))
        return
    probe = _upstream(model, outputs)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for start in range(0, len(planes), BATCH):
        batch = planes[start : start + BATCH]
        yield {source: batch, **dict(zip(outputs, session.run(outputs, {source: batch}), strict=True))}


def _add_missing_biases(graph: onnx.GraphProto) -> None:
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type not in LAYERS or len(node.input) > 2 or node.input[1] not in weights:
            continue
        transposed = node.op_type == "Gemm" and not _attribute(node, "transB", 0)
        bias = np.zeros(weights[node.input[1]].dims[1 if transposed else 0], np.float32)
        graph.initializer.append(numpy_helper.from_array(bias, f"{node.name}.bias"))
        node.input.append(f"{node.name}.bias")


def _channel_means(model: onnx.ModelProto, planes: np.ndarray, names: list[str]) -> list[np.ndarray]:
    """The mean of each named tensor, (B, C) or (B, C, H, W), by channel: (C,) float64."""
    sums = [0.0] * len(names)
    for tensors in run_tensors(model, planes, names):
        for index, name in enumerate(names):
            tensor = tensors[name].astype(np.float64)
            sums[index] = sums[index] + tensor.reshape(*tensor.shape[:2], -1).mean(axis=2).sum(axis=0)
    return [total / len(planes) for total in sums]


def _upstream(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """The part of the model that the named tensors depend on, with those as its outputs."""
    needed, nodes = set(names), []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    constants = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    graph = helper.make_graph(nodes[::-1], "upstream", model.graph.input, outputs, constants)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _taps(tensor: np.ndarray, conv: onnx.NodeProto, shape) -> np.ndarray:
    """The inputs of each weight of a convolution: (B, C, H, W) -> (G, C / G * kh * kw, B * H' * W') float32."""
    top, left, bottom, right = _attribute(conv, "pads", [0, 0, 0, 0])
    down, across = _attribute(conv, "strides", [1, 1])
    padded = np.pad(tensor, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = sliding_window_view(padded, tuple(shape[2:]), (2, 3))[:, :, ::down, ::across]  # (B, C, H', W', kh, kw)
    groups = _attribute(conv, "group", 1)
    return windows.transpose(1, 4, 5, 0, 2, 3).reshape(
        groups, -1, windows.size // tensor.shape[1] // shape[2] // shape[3]
    )


def _attribute(node: onnx.NodeProto, name: str, default):
    return next((helper.get_attribute_value(part) for part in node.attribute if part.name == name), default)
