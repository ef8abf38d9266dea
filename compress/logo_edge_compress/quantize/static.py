"""An FP32 ONNX body -> static INT8 in QDQ form, calibrated on images of the train split, or dynamic INT8."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from logo_edge_compress.onnx.export import finish
from logo_edge_compress.onnx.graph import EVIDENCE, PLANES, attributes_of, save_model, shield_float_layers
from logo_edge_compress.quantize.equalise import equalise
from logo_edge_compress.quantize.rounding import correct_biases, kernel_scales, round_weights
from logo_edge_train.models import MEAN, SCALE

STRIDE = 16  # images whose activations are in memory at a time
PROBES = 64  # calibration images on which rounding and biases are fitted
LEARNED = ("Conv", "Gemm", "MatMul")  # the operators that hold a network's weights
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}


@contextmanager
def quiet_quantizer() -> Iterator[None]:
    """Suppresses what ONNX Runtime's quantizer prints, and its warnings to the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with redirect_stdout(None):
            yield
    finally:
        root.setLevel(level)


def quantize_body(
    body: Path,
    rounded: Path,
    pixels: np.ndarray,
    size_px: int,
    path: Path,
    *,
    method: str,
    reduce_range: bool,
    restored: tuple[str, ...] = (),
    ranges: Path | None = None,
) -> Path:
    """The body of `export_body`, whose `round_body` is `rounded`, as INT8 QDQ with a uint8 input, at `path`.

    pixels: (N, S, S, C) uint8, the calibration images. Activations are U8, weights S8 per output channel (see
    QuantizeConfig); in networks with attention only operators with weights are quantized. The layers named in
    `restored` stay in FP32, as does the small epistemic head. The activation ranges are stored in the JSON file
    `ranges`, and read if it exists. ONNX Runtime, "Quantize ONNX models".
    """
    model, base = onnx.load(body), onnx.load(rounded)
    kernels = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in base.graph.node:
        if node.name in restored:
            for tensor in base.graph.initializer:
                if tensor.name == node.input[1]:
                    tensor.CopyFrom(kernels[tensor.name])
    quantized = insert_qdq(
        base,
        kernel_scales(model, reduce_range=reduce_range),
        pixels,
        method=method,
        reduce_range=reduce_range,
        restored=restored,
        ranges=ranges,
    )
    quantized = correct_biases(quantized, model, _probes(pixels))
    finish(quantized, size_px, path)
    return path


def insert_qdq(
    model: onnx.ModelProto,
    scales: dict[str, np.ndarray],
    pixels: np.ndarray,
    *,
    method: str,
    reduce_range: bool,
    only: tuple[str, ...] = (),
    restored: tuple[str, ...] = (),
    ranges: Path | None = None,
) -> onnx.ModelProto:
    """The body as QDQ, weights on the grids `scales` (kernel name -> (C,)); the other arguments as in `quantize_body`.

    `only` names the layers to quantize, with the ReLUs after them; empty: all. Images are streamed: STRIDE of them are
    in memory at a time.
    """
    exact = {
        "scale": np.array(1 / SCALE, np.float32),
        "zero_point": np.array(MEAN, np.uint8),
        "quant_type": QuantType.QUInt8,
    }
    excluded = (*restored, *evidence_nodes(model))
    names = {node.input[1] for node in model.graph.node if len(node.input) > 1 and node.name not in excluded}
    weights = {
        name: [
            {"quant_type": QuantType.QInt8, "axis": 0, "scale": np.array(step), "zero_point": np.array(0, np.int8)}
            for step in steps
        ]
        for name, steps in scales.items()
        if name in names
    }
    stride = min(STRIDE, len(pixels))
    options = {"CalibStridedMinMax": stride, "QuantizeBias": True, "TensorQuantOverrides": {PLANES: [exact], **weights}}
    types = None  # all supported
    if any(
        node.op_type == "Softmax" for node in model.graph.node
    ):  # the range of attention scores is too wide for 8 bits
        types, options["MatMulConstBOnly"] = list(LEARNED), True
    whole_strides = pixels[: len(pixels) // stride * stride]  # onnxruntime needs full strides
    with tempfile.TemporaryDirectory() as folder, quiet_quantizer():
        source, raw = Path(folder) / "body.onnx", Path(folder) / "quantized.onnx"
        onnx.save(model, source)
        quantize_static(
            str(source),
            str(raw),
            _Pixels(whole_strides),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[method],
            extra_options=options,
            op_types_to_quantize=types,
            nodes_to_quantize=[*only, *_relus_after(model, only)],
            nodes_to_exclude=list(excluded),
            calibration_cache_path=ranges,
        )
        return shield_float_layers(onnx.load(raw))


def quantize_dynamically(
    body: Path, size_px: int, path: Path, *, operators: tuple[str, ...] = ("MatMul", "Gemm"), reduce_range: bool
) -> Path:
    """The body with INT8 weights of these operators, whose inputs are quantized at run time, without calibration.

    For matrix products. ONNX Runtime's kernels for dynamic convolutions are slow, and use one range for all channels of
    an input; take static INT8 for those.
    """
    with tempfile.TemporaryDirectory() as folder, quiet_quantizer():
        raw = Path(folder) / "quantized.onnx"
        quantize_dynamic(
            str(body),
            str(raw),
            op_types_to_quantize=list(operators),
            per_channel=True,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(evidence_nodes(onnx.load(body))),
            extra_options={"MatMulConstBOnly": True},
        )
        model = onnx.load(raw)
    finish(model, size_px, path)
    return path


def evidence_nodes(model: onnx.ModelProto) -> tuple[str, ...]:
    """The names of the nodes that compute the evidence of a body: at most one."""
    return tuple(node.name for node in model.graph.node if set(node.output) & set(EVIDENCE.values()))


def depthwise_layers(model: onnx.ModelProto) -> tuple[str, ...]:
    """The names of the convolutions that read one channel for each that they write."""
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    return tuple(
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and attributes_of(node).get("group", 1) > 1 and shapes[node.input[1]][1] == 1
    )


def explain_range(reduce_range: bool, isa: list[str]) -> str:
    """A sentence on the number of bits of INT8 weights, for a CPU with these instruction sets."""
    has_vnni = any("vnni" in name for name in isa)
    if reduce_range:
        here = "this CPU has VNNI and could use 8" if has_vnni else "this CPU has none"
        return f"INT8 weights have 7 bits, because sums of 8-bit products saturate on CPUs without VNNI; {here}."
    here = "this CPU has VNNI" if has_vnni else "this CPU has none, so these figures include saturation"
    return f"INT8 weights have 8 bits; sums of their products saturate on CPUs without VNNI; {here}."


def round_body(body: Path, pixels: np.ndarray, path: Path, *, reduce_range: bool) -> Path:
    """The body with the weights of its convolutions on their INT8 grid, at `path`; see `rounding.round_weights`."""
    save_model(round_weights(onnx.load(body), _probes(pixels), reduce_range=reduce_range), path)
    return path


def equalise_body(body: Path, pixels: np.ndarray, path: Path) -> Path:
    """The body with equalised channels, at `path`; see `equalise.equalise`. pixels: (N, S, S, C) uint8."""
    save_model(equalise(onnx.load(body), to_planes(pixels)), path)
    return path


def _relus_after(model: onnx.ModelProto, layers: tuple[str, ...]) -> list[str]:
    """The names of the nodes that limit the layers' outputs; the quantizer turns them into the range of the output."""
    outputs = {name for node in model.graph.node if node.name in layers for name in node.output}
    return [node.name for node in model.graph.node if node.op_type in ("Clip", "Relu") and node.input[0] in outputs]


def to_planes(pixels: np.ndarray) -> np.ndarray:
    """(N, S, S, C) uint8 -> (N, C, S, S) float32, normalised for the body."""
    return np.ascontiguousarray(((pixels.astype(np.float32) - MEAN) / SCALE).transpose(0, 3, 1, 2))


def _probes(pixels: np.ndarray) -> np.ndarray:
    return to_planes(pixels[:: -(-len(pixels) // PROBES)])


class _Pixels(CalibrationDataReader):
    """Streams the calibration images one by one, normalised; onnxruntime sets the range of each stride."""

    def __init__(self, pixels: np.ndarray):
        self.pixels, self.remaining = pixels, iter(())

    def __len__(self) -> int:
        return len(self.pixels)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.remaining = iter(self.pixels[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.remaining, None)
        if image is None:
            return None
        return {PLANES: to_planes(image[None])}
