"""A PyTorch student -> an ONNX graph, or a TorchScript module, that reads uint8 logos."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.shape_inference import quant_pre_process

from logo_edge_compress.graph import LOGITS, OPSET, PIXELS, PLANES, save_model
from logo_edge_train.models import MEAN, SCALE, LogoNetwork, open_attention


def export_onnx(network: LogoNetwork, size_px: int, path: Path) -> Path:
    """The network at `path` as FP32 ONNX, `pixels` (batch, S, S, 3) uint8 -> `logits` (batch, K) float32."""
    body = path.with_suffix(".body.onnx")
    export_body(network, size_px, body)
    model = onnx.load(body)
    add_uint8_front(model, size_px)
    save_model(model, path)
    body.unlink()
    return path


def export_torchscript(network: LogoNetwork, size_px: int, path: Path) -> Path:
    """The network at `path` as a traced and frozen TorchScript module of the same contract as the ONNX graph.

    PyTorch has deprecated TorchScript; it is for programs that are built on libtorch.
    """
    pixels = torch.randint(0, 256, (2, size_px, size_px, 3), dtype=torch.uint8)
    with open_attention(network), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of its deprecation, and of shapes that tracing fixes: verification finds those
        traced = torch.jit.freeze(torch.jit.trace(network.eval(), pixels, check_trace=False))
        part = path.with_suffix(".part")
        torch.jit.save(traced, str(part))
    os.replace(part, path)
    return path


def export_body(network: LogoNetwork, size_px: int, path: Path) -> None:
    """The backbone alone, `planes` (batch, 3, S, S) normalised float32 -> `logits`, with batch-norm folded."""
    export_module(network.backbone, torch.zeros(2, 3, size_px, size_px), path)


def export_module(module: torch.nn.Module, planes: torch.Tensor, path: Path) -> None:
    """Any part of a network, `planes` (batch, ...) of the given shape -> `logits`, with batch-norm folded.

    What PyTorch's exporter cannot take apart is traced by its predecessor, with a warning.
    """
    raw = path.with_suffix(".raw.onnx")
    with open_attention(module):  # the exporter cannot take the fused kernel apart
        try:
            program = torch.onnx.export(
                module.eval(), (planes,), dynamo=True, input_names=[PLANES], output_names=[LOGITS],
                opset_version=OPSET, dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},), verbose=False,
            )  # fmt: skip
            program.save(str(raw), include_initializers=True, keep_initializers_as_inputs=False, external_data=False)
        except torch.onnx.errors.OnnxExporterError as error:
            warnings.warn(f"exported by tracing, since the new exporter failed: {error}", stacklevel=2)
            torch.onnx.export(
                module, (planes,), str(raw), dynamo=False, input_names=[PLANES], output_names=[LOGITS],
                opset_version=OPSET, dynamic_axes={PLANES: {0: "batch"}, LOGITS: {0: "batch"}},
            )  # fmt: skip
    quant_pre_process(str(raw), str(path), skip_symbolic_shape=True)
    raw.unlink()


def add_uint8_front(model: onnx.ModelProto, size_px: int) -> None:
    """Replaces the float input by uint8 pixels; (x - 127) / 128 becomes a DequantizeLinear, exact in both precisions.

    In a quantized graph the first QuantizeLinear goes: the pixels are the quantized values already.
    """
    graph = model.graph
    first = next((node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == PLANES), None)
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
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["batch", size_px, size_px, 3]))
