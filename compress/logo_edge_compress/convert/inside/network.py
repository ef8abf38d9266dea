"""A float ONNX graph of this project as a plain PyTorch module, for converters that read PyTorch.

Needs onnx, numpy and torch alone, so that it runs in a converter's environment. The operators serve quantization-aware
fine-tuning too (`quantize/qat.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.nn import functional


class Network(nn.Module):
    """Computes `outputs` of the graph from its tensor `source`: `pixels`, or `planes` (B, C, S, S), normalised.

    Several outputs are returned as a tuple. Paddings are fixed numbers, so that a converter can fold them. `operators`
    replace those below. Raises ValueError, with the list, where an operator is not known.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        source: str,
        outputs: tuple[str, ...],
        operators: dict[str, Callable[..., torch.Tensor]] | None = None,
    ):
        super().__init__()
        self.source, self.outputs = source, outputs
        self.nodes, needed = [], set(outputs)
        for node in reversed(model.graph.node):
            if needed.intersection(node.output) and source not in node.output:
                self.nodes.insert(0, node)
                needed.update(node.input)
        operators = OPERATORS | NATS | (operators or {})
        if unknown := sorted({node.op_type for node in self.nodes} - operators.keys()):
            raise ValueError(
                f"the graph has operators that this conversion does not know: {', '.join(unknown)}; expected "
                f"{', '.join(sorted(operators))}"
            )
        self.calls = [(operators[node.op_type], attributes_of(node)) for node in self.nodes]
        self.constants: dict[str, torch.Tensor | float] = {}
        for tensor in model.graph.initializer:
            if tensor.name not in needed:
                continue
            array = torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
            if array.ndim and array.is_floating_point():
                self.register_buffer(_key(tensor.name), array)
            else:  # a number, or sizes, which must be known when the module is traced
                self.constants[tensor.name] = array if array.ndim else array.item()

    def forward(self, values: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        known = {self.source: values, "": None, **self.constants}
        for node, (operator, attributes) in zip(self.nodes, self.calls, strict=True):
            inputs = [known[name] if name in known else getattr(self, _key(name)) for name in node.input]
            known[node.output[0]] = operator(attributes, *inputs)
        results = tuple(known[name] for name in self.outputs)
        return results if len(results) > 1 else results[0]


def attributes_of(node: onnx.NodeProto) -> dict:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _key(name: str) -> str:
    return name.replace(".", "/")  # a buffer's name has no dots


def _dequantize(_, inputs, scale, zero_point) -> torch.Tensor:
    return (inputs.float() - float(zero_point)) * float(scale)


def _conv(attributes: dict, inputs, weight, bias=None) -> torch.Tensor:
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right):
        inputs, top, left = functional.pad(inputs, (left, right, top, bottom)), 0, 0
    return functional.conv2d(
        inputs,
        weight,
        bias,
        attributes.get("strides", [1, 1]),
        (top, left),
        attributes.get("dilations", [1, 1]),
        attributes.get("group", 1),
    )


def _gemm(attributes: dict, inputs, weight, bias=None) -> torch.Tensor:
    return functional.linear(inputs, weight if attributes.get("transB", 0) else weight.T, bias)


def _max_pool(attributes: dict, inputs) -> torch.Tensor:
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    padded = functional.pad(inputs, (left, right, top, bottom), value=float("-inf"))
    return functional.max_pool2d(padded, attributes["kernel_shape"], attributes.get("strides", [1, 1]))


def _average_pool(attributes: dict, inputs) -> torch.Tensor:
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    kernel, strides = attributes["kernel_shape"], attributes.get("strides", [1, 1])
    ceil, with_pads = bool(attributes.get("ceil_mode", 0)), bool(attributes.get("count_include_pad", 0))
    if (top, left) == (bottom, right):
        return functional.avg_pool2d(inputs, kernel, strides, (top, left), ceil, with_pads)
    pooled, shares = (
        functional.avg_pool2d(functional.pad(values, (left, right, top, bottom)), kernel, strides, 0, ceil)
        for values in (inputs, torch.ones_like(inputs))
    )
    return pooled if with_pads else pooled / shares


def _clip(_, inputs, low=None, high=None) -> torch.Tensor:
    return torch.clamp(inputs, low, high)


def _mean(attributes: dict, inputs, axes=None) -> torch.Tensor:
    return inputs.mean(axes.tolist(), keepdim=bool(attributes.get("keepdims", 1)))


def _sum(attributes: dict, inputs, axes) -> torch.Tensor:
    return inputs.sum(axes.tolist(), keepdim=bool(attributes.get("keepdims", 1)))


def _max(_, first, second) -> torch.Tensor:
    return torch.maximum(first, second) if torch.is_tensor(second) else first.clamp(min=second)


def _reshape(_, inputs, shape) -> torch.Tensor:
    return inputs.reshape([size or inputs.shape[index] for index, size in enumerate(shape.tolist())])


def _hard_sigmoid(attributes: dict, inputs) -> torch.Tensor:
    return torch.clamp(attributes.get("alpha", 0.2) * inputs + attributes.get("beta", 0.5), 0, 1)


OPERATORS: dict[str, Callable[..., torch.Tensor]] = {
    "Transpose": lambda attributes, inputs: inputs.permute(attributes["perm"]),
    "Conv": _conv,
    "Gemm": _gemm,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "Clip": _clip,
    "Relu": lambda _, inputs: inputs.relu(),
    "HardSwish": lambda _, inputs: functional.hardswish(inputs),
    "HardSigmoid": _hard_sigmoid,
    "Sigmoid": lambda _, inputs: inputs.sigmoid(),
    "Add": lambda _, first, second: first + second,
    "Mul": lambda _, first, second: first * second,
    "ReduceMean": _mean,
    "GlobalAveragePool": lambda _, inputs: inputs.mean((2, 3), keepdim=True),
    "Flatten": lambda _, inputs: inputs.flatten(1),
    "Reshape": _reshape,
}
"""The operators of a network's body: f(attributes, inputs...)."""

NATS: dict[str, Callable[..., torch.Tensor]] = {
    "Concat": lambda attributes, *inputs: torch.cat(inputs, attributes["axis"]),
    "DequantizeLinear": _dequantize,  # of the pixels
    "Div": lambda _, first, second: first / second,
    "Exp": lambda _, inputs: inputs.exp(),
    "Identity": lambda _, inputs: inputs,
    "Log": lambda _, inputs: inputs.log(),
    "Max": _max,
    "Neg": lambda _, inputs: -inputs,
    "Reciprocal": lambda _, inputs: inputs.reciprocal(),
    "ReduceSum": _sum,
    "Softmax": lambda attributes, inputs: inputs.softmax(attributes.get("axis", -1)),
    "Squeeze": lambda _, inputs, axes: inputs.squeeze(axes.tolist()),
    "Sub": lambda _, first, second: first - second,
}
"""Those of the input and of the conversion of evidence to nats, which are never fine-tuned."""
