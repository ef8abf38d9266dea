"""A PyTorch student -> an ONNX graph, or a TorchScript module, that reads uint8 images."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.shape_inference import quant_pre_process

from logo_edge.bundle.record import EPISTEMIC
from logo_edge.files import replacing
from logo_edge_compress.onnx.graph import EVIDENCE, LOGITS, OPSET, PIXELS, PLANES, save_model, shield_float_layers
from logo_edge_train.models import MEAN, SCALE, Body, LogoNetwork, open_attention
from logo_edge_train.models.epistemic import EVIDENCE_RANGE


def export_onnx(network: LogoNetwork, size_px: int, path: Path, *, body: Path | None = None) -> Path:
    """The network at `path` as FP32 ONNX, `pixels` (batch, S, S, C) uint8 -> `logits` (batch, K) float32.

    With an epistemic head it also has the output `epistemic` (batch,) float32, in nats. If `body` is given, the graph
    of `export_body`, which quantization begins with, is kept there.
    """
    exported = body or path.with_suffix(".body.onnx")
    export_body(network, size_px, exported)
    finish(onnx.load(exported), size_px, path)
    if body is None:
        exported.unlink()
    return path


def finish(model: onnx.ModelProto, size_px: int, path: Path) -> None:
    """Adds the uint8 input and the epistemic output to a body, in any precision, and writes it."""
    add_uint8_front(model, size_px)
    add_epistemic(model)
    save_model(shield_float_layers(model), path)


def export_torchscript(network: LogoNetwork, size_px: int, path: Path) -> Path:
    """The network at `path` as a traced and frozen TorchScript module of the same contract as the ONNX graph.

    PyTorch has deprecated TorchScript; programs built on libtorch still need it.
    """
    pixels = torch.randint(0, 256, (2, size_px, size_px, network.channels), dtype=torch.uint8)
    with open_attention(network), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its deprecation, and about fixed shapes, which verification would find
        traced = torch.jit.freeze(torch.jit.trace(network.eval(), pixels, check_trace=False))
        with replacing(path) as part:
            torch.jit.save(traced, str(part))
    return path


def export_body(network: LogoNetwork, size_px: int, path: Path) -> None:
    """The backbone alone, `planes` (batch, C, S, S) normalised float32 -> `logits`, with batch-norm folded.

    With an epistemic head it also has the output EVIDENCE. The conversion to nats must not be quantized, so
    `add_epistemic` adds it last.
    """
    outputs = (LOGITS, *([EVIDENCE[network.epistemic.kind]] if network.epistemic else []))
    export_module(Body(network), torch.zeros(2, network.channels, size_px, size_px), path, outputs)


def export_module(
    module: torch.nn.Module, planes: torch.Tensor, path: Path, outputs: tuple[str, ...] = (LOGITS,)
) -> None:
    """Any part of a network, `planes` (batch, ...) of the given shape -> `outputs`, with batch-norm folded.

    If PyTorch's exporter fails, the module is traced by the older exporter, with a warning.
    """
    raw = path.with_suffix(".raw.onnx")
    with open_attention(module):  # the exporter cannot decompose the fused kernel
        try:
            program = torch.onnx.export(
                module.eval(),
                (planes,),
                dynamo=True,
                input_names=[PLANES],
                output_names=list(outputs),
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
                verbose=False,
            )
            program.save(str(raw), include_initializers=True, keep_initializers_as_inputs=False, external_data=False)
        except torch.onnx.errors.OnnxExporterError as error:
            warnings.warn(f"exported by tracing, since the new exporter failed: {error}", stacklevel=2)
            torch.onnx.export(
                module,
                (planes,),
                str(raw),
                dynamo=False,
                input_names=[PLANES],
                output_names=list(outputs),
                opset_version=OPSET,
                dynamic_axes={name: {0: "batch"} for name in (PLANES, *outputs)},
            )
    quant_pre_process(str(raw), str(path), skip_symbolic_shape=True)
    raw.unlink()


def add_uint8_front(model: onnx.ModelProto, size_px: int) -> None:
    """Replaces the float input by uint8 pixels; (x - 127) / 128 becomes a DequantizeLinear, exact in both precisions.

    In a quantized graph the first QuantizeLinear is removed if it has the same parameters: the pixels are its output.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    first = next((node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == PLANES), None)
    if first and [float(numpy_helper.to_array(constants[name])) for name in first.input[1:3]] != [1 / SCALE, MEAN]:
        first = None
    nodes = [helper.make_node("Transpose", [PIXELS], ["pixels_nchw"], name="to_planes", perm=[0, 3, 1, 2])]
    if first is None:
        graph.initializer.append(numpy_helper.from_array(np.float32(1 / SCALE), "pixel_scale"))
        graph.initializer.append(numpy_helper.from_array(np.uint8(MEAN), "pixel_zero_point"))
        inputs = ["pixels_nchw", "pixel_scale", "pixel_zero_point"]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [PLANES], name="normalise"))
    else:
        for node in graph.node:
            node.input[:] = ["pixels_nchw" if name == first.output[0] else name for name in node.input]
        graph.node.remove(first)
    for index, node in enumerate(nodes):
        graph.node.insert(index, node)
    channels = graph.input[0].type.tensor_type.shape.dim[1].dim_value
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["batch", size_px, size_px, channels]))


def add_epistemic(model: onnx.ModelProto) -> None:
    """Replaces the output EVIDENCE (batch, 1), if there is one, by `epistemic` (batch,), in nats, always in float32.

    ONNX has no digamma operator; its asymptotic series at a + 2, with two steps of the recurrence, is within 1e-4 nats
    of `models.epistemic_nats`.
    """
    graph, nodes = model.graph, []
    outputs = [(kind, output) for output in graph.output for kind, name in EVIDENCE.items() if output.name == name]
    if not outputs:
        return
    ((kind, evidence),) = outputs

    def constant(value) -> str:
        array = np.asarray(value)
        name = f"{EPISTEMIC}/{array.dtype}_{array.ravel()[0]:g}"
        if all(tensor.name != name for tensor in graph.initializer):
            graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def add(operator: str, *inputs: str, out: str | None = None, **attributes) -> str:
        name = f"{EPISTEMIC}/{len(nodes)}_{operator}"
        nodes.append(helper.make_node(operator, list(inputs), [out or name], name=name, **attributes))
        return out or name

    def number(value: float) -> str:
        return constant(np.float32(value))

    axis = constant(np.array([1], np.int64))
    if kind == "dispersion":
        logits = next(output for output in graph.output if output.name == LOGITS)
        most = np.log(logits.type.tensor_type.shape.dim[1].dim_value)
        column = add("Mul", add("Sigmoid", evidence.name), number(most))  # (B, 1)
    else:
        precision = add("Exp", add("Clip", evidence.name, *map(number, EVIDENCE_RANGE)))  # (B, 1)
        alphas = add("Max", add("Mul", add("Softmax", LOGITS, axis=1), precision), number(1e-12))  # (B, K)
        a = add("Concat", alphas, precision, axis=1)  # (B, K + 1)
        z = add("Add", a, number(2))
        r = add("Reciprocal", z)
        square = add("Mul", r, r)
        # digamma(a + 1) - log a = log(z / a) - 1 / (a + 1) - r / 2 - r^2 / 12 + r^4 / 120, where z = a + 2, r = 1 / z
        tail = add("Mul", square, add("Sub", add("Mul", square, number(1 / 120)), number(1 / 12)))
        tail = add("Sub", tail, add("Mul", r, number(1 / 2)))
        tail = add("Sub", tail, add("Reciprocal", add("Add", a, number(1))))
        excess = add("Add", add("Log", add("Div", z, a)), tail)
        weighted = add("Mul", excess, add("Concat", alphas, add("Neg", precision), axis=1))
        column = add("Div", add("ReduceSum", weighted, axis, keepdims=1), precision)
    add("Squeeze", add("Max", column, number(0)), axis, out=EPISTEMIC)
    graph.node.extend(nodes)
    graph.output.remove(evidence)
    graph.output.append(helper.make_tensor_value_info(EPISTEMIC, TensorProto.FLOAT, ["batch"]))
