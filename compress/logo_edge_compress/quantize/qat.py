"""Quantization-aware fine-tuning of the graph that ships, with its FP32 parent as the teacher.

The INT8 QDQ file is read as a PyTorch network that computes the same as ONNX Runtime, fitted with straight-through
gradients (Bengio et al. 2013, arXiv:1308.3432; Jacob et al. 2018, arXiv:1712.05877), and its integers are written back.
Scales and zero points do not change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from logo_edge.bundle.record import EPISTEMIC
from logo_edge.errors import VerificationError
from logo_edge_compress.convert.inside.network import OPERATORS
from logo_edge_compress.distill.distill import OF_ALL_STUDENTS, Student, fit_to_teachers
from logo_edge_compress.onnx.graph import EVIDENCE, LOGITS, attributes_of, save_model
from logo_edge_compress.quantize.rounding import weight_levels
from logo_edge_train.data.manifest import Manifest
from logo_edge_train.models import Answer
from logo_edge_train.runs import Run
from logo_edge_train.tracker import stem_of

TUNED_BY = ("quantize.finetune", "distill")  # the recipe's settings that fine-tuning depends on
NO_FURTHER_TARGETS = {"feature_weight": 0.0, "attention_weight": 0.0, "relation_weight": 0.0}
# the settings of the distillation that fine-tuning replaces, and those that it does not use
REPLACED = {"hard_weight": 0.0, "panel_share": 0.0, "teachers_per_batch": 0, "views": 0, **NO_FURTHER_TARGETS}
UNUSED = ("pretrained", "start_from_teacher", "prune", "fit", *REPLACED)
NOT_TUNED_BY = (*OF_ALL_STUDENTS, *(f"distill.{name}" for name in UNUSED))


def finetune(
    artifact: Path,
    student: Student,
    run: Run,
    manifest: Manifest,
    path: Path,
    *,
    key: str,
    report: Callable[[dict], None],
) -> Path:
    """The INT8 artifact with its weights and biases fine-tuned, at `path`.

    The only teacher is the FP32 student that it was made from, on the data of the distillation. The fit runs on the CPU
    in float32, where fake quantization is exact. An interrupted fit is resumed if `key`, the artifact_key of its
    inputs, is the same.
    """
    recipe, contract = run.recipe, student.architecture.contract
    model = onnx.load(artifact)
    network = QuantizedNetwork(model, reduce_range=recipe.quantize.reduce_range)
    config = replace(recipe.distill, fit=recipe.quantize.finetune, **REPLACED)
    state = path.with_name(f"{path.stem}-{key[:12]}.state")
    network, _ = fit_to_teachers(
        network,
        f"INT8 {student.architecture}",
        stem_of("int8", path.parent),
        [(student.network, contract)],
        run,
        manifest,
        config,
        contract,
        state=state,
        device=torch.device("cpu"),
        key=key,
        report=report,
    )
    network.write_integers(model)
    save_model(model, path)
    for state in path.parent.glob(f"{path.stem}-*.state"):  # also those of other settings that were interrupted
        state.unlink()
    return path


def unknown_operators(model: onnx.ModelProto) -> list[str]:
    """The operators of the graph that a QuantizedNetwork does not know, such as those of attention."""
    return sorted(
        {node.op_type for node in _learned_nodes(model)} - OPERATORS.keys() - {"QuantizeLinear", "DequantizeLinear"}
    )


def _learned_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """All nodes except those that convert evidence to nats, which have nothing to learn."""
    return [node for node in model.graph.node if not node.name.startswith(f"{EPISTEMIC}/")]


class QuantizedNetwork(nn.Module):
    """(B, S, S, 3) pixels of 0 to 255 -> (B, K) logits, computed like an INT8 QDQ model of this project."""

    def __init__(self, model: onnx.ModelProto, *, reduce_range: bool):
        """Raises VerificationError where the model has an operator that is not supported here."""
        super().__init__()
        self.nodes = _learned_nodes(model)
        if unknown := unknown_operators(model):
            raise VerificationError(
                f"the INT8 graph has operators that fine-tuning does not know: {', '.join(unknown)}"
            )
        self.source, self.target = model.graph.input[0].name, LOGITS
        outputs = {name for node in self.nodes for name in node.output}
        self.evidence = next((name for name in EVIDENCE.values() if name in outputs), None)
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.constants = {name: torch.from_numpy(np.array(array)) for name, array in constants.items()}
        self.learned, self.grids = nn.ParameterDict(), {}
        layers = {name: node for node in self.nodes for name in node.input if node.op_type in ("Conv", "Gemm")}
        for node in self.nodes:
            if node.op_type == "DequantizeLinear" and node.input[0] in constants:
                self._learn(node, constants, layers[node.output[0]], reduce_range)
            elif node.op_type == "Gemm":
                for name in set(node.input[1:]) & self.constants.keys():  # not quantized: biases, the epistemic head
                    self.learned[_key(name)] = nn.Parameter(self.constants.pop(name))
        self.quantized = {name for node in self.nodes if node.op_type == "QuantizeLinear" for name in node.output}

    def _learn(self, node: onnx.NodeProto, constants: dict, layer: onnx.NodeProto, reduce_range: bool) -> None:
        """Turns the dequantized integers of `node` into a parameter; weights stay on their grid, biases are free."""
        integers, scale, _ = (constants[name] for name in node.input)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1) if scale.ndim else 0
        shape = [-1 if index == axis else 1 for index in range(integers.ndim)] if scale.ndim else []
        real = integers.astype(np.float32) * scale.reshape(shape)
        self.learned[_key(node.output[0])] = nn.Parameter(torch.from_numpy(real))
        if integers.dtype == np.int8:
            levels = weight_levels(layer, reduce_range=reduce_range)
            steps = torch.from_numpy(np.broadcast_to(scale, integers.shape[axis : axis + 1]).astype(np.float32).copy())
            self.grids[node.output[0]] = steps, torch.zeros(len(steps), dtype=torch.int32), axis, levels

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.answer(pixels).logits

    def answer(self, pixels: torch.Tensor) -> Answer:
        """The logits and, for a student with an epistemic head, its evidence."""
        values: dict[str, torch.Tensor] = {self.source: pixels.float(), **self.constants}
        for node in self.nodes:
            if node.op_type == "DequantizeLinear":
                values[node.output[0]] = self._dequantize(node, values)
            elif node.op_type == "QuantizeLinear":
                scale, zero = (self.constants[name] for name in node.input[1:3])
                low, high = (0, 255) if zero.dtype == torch.uint8 else (-128, 127)
                values[node.output[0]] = torch.fake_quantize_per_tensor_affine(
                    values[node.input[0]], float(scale), int(zero), low, high
                )
            else:
                inputs = [self._value(name, values) for name in node.input]
                values[node.output[0]] = OPERATORS[node.op_type](attributes_of(node), *inputs)
        return Answer(values[self.target], None, None, values[self.evidence] if self.evidence else None)

    def _value(self, name: str, values: dict[str, torch.Tensor]) -> torch.Tensor | None:
        if not name:
            return None
        return values[name] if name in values else self.learned[_key(name)]

    def _dequantize(self, node: onnx.NodeProto, values: dict[str, torch.Tensor]) -> torch.Tensor:
        name = node.output[0]
        if name in self.grids:
            steps, zeros, axis, levels = self.grids[name]
            return torch.fake_quantize_per_channel_affine(self.learned[_key(name)], steps, zeros, axis, -levels, levels)
        if _key(name) in self.learned:
            return self.learned[_key(name)]
        if node.input[0] in self.quantized:  # a fake-quantized value is already real
            return values[node.input[0]]
        scale, zero = (float(self.constants[part]) for part in node.input[1:3])
        return (values[node.input[0]] - zero) * scale  # the pixels

    def write_integers(self, model: onnx.ModelProto) -> None:
        """Writes the learned weights and biases, on their grids, into the model that the network was read from."""
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "DequantizeLinear" and _key(node.output[0]) in self.learned:
                real = self.learned[_key(node.output[0])].detach()
                if node.output[0] in self.grids:
                    steps, _, axis, levels = self.grids[node.output[0]]
                    shape = [-1 if index == axis else 1 for index in range(real.ndim)]
                    integers = (real / steps.reshape(shape)).round().clamp(-levels, levels).to(torch.int8)
                else:
                    integers = (real.double() / self.constants[node.input[1]].double()).round().to(torch.int32)
                tensors[node.input[0]].CopyFrom(numpy_helper.from_array(integers.numpy(), node.input[0]))
            elif node.op_type == "Gemm":
                for name in set(node.input[1:]) & tensors.keys():
                    tensors[name].CopyFrom(numpy_helper.from_array(self.learned[_key(name)].detach().numpy(), name))


def _key(name: str) -> str:
    return name.replace(".", "/")  # a parameter's name has no dots
