"""An FP32 ONNX body -> static INT8 in QDQ form, calibrated on logos of the train split."""

from __future__ import annotations

import logging
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from logo_edge_compress.export import add_uint8_front
from logo_edge_compress.graph import PLANES, save_model
from logo_edge_compress.rounding import correct_biases, kernel_scales, round_weights
from logo_edge_train.models import MEAN, SCALE

STRIDE = 16  # images whose activations are in memory at a time
PROBES = 64  # calibration images on which rounding and biases are fitted
LEARNED = ("Conv", "Gemm", "MatMul")  # the operators that hold a network's weights
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}


def quantize_body(
    body: Path, rounded: Path, pixels: np.ndarray, size_px: int, path: Path, *, method: str, reduce_range: bool
) -> Path:
    """The body of `export_body`, whose `round_body` is `rounded`, as INT8 QDQ with a uint8 front, at `path`.

    pixels: (N, S, S, 3) uint8, the calibration images. Activations are U8, weights S8 per output channel (see
    QuantizeConfig); with attention only what has weights is quantized. ONNX Runtime, "Quantize ONNX models".
    """
    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime's quantizer warns about its own defaults
    exact = {
        "scale": np.array(1 / SCALE, np.float32),
        "zero_point": np.array(MEAN, np.uint8),
        "quant_type": QuantType.QUInt8,
    }
    model = onnx.load(body)
    weights = {
        name: [
            {"quant_type": QuantType.QInt8, "axis": 0, "scale": np.array(step), "zero_point": np.array(0, np.int8)}
            for step in steps
        ]
        for name, steps in kernel_scales(model, reduce_range=reduce_range).items()
    }
    stride = min(STRIDE, len(pixels))
    options = {
        "CalibStridedMinMax": stride, "QuantizeBias": True, "TensorQuantOverrides": {PLANES: [exact], **weights}
    }  # fmt: skip
    types = None  # all that can be
    if any(node.op_type == "Softmax" for node in model.graph.node):  # scores of attention reach too far for 8 bits
        types, options["MatMulConstBOnly"] = list(LEARNED), True
    whole_strides = pixels[: len(pixels) // stride * stride]  # onnxruntime asks for them
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(None):
        raw = Path(folder) / "quantized.onnx"
        quantize_static(
            str(rounded), str(raw), _Pixels(whole_strides), quant_format=QuantFormat.QDQ, per_channel=True,
            reduce_range=reduce_range, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=METHODS[method], extra_options=options, op_types_to_quantize=types,
        )  # fmt: skip
        quantized = onnx.load(raw)
    quantized = correct_biases(quantized, model, _probes(pixels))
    add_uint8_front(quantized, size_px)
    save_model(quantized, path)
    return path


def round_body(body: Path, pixels: np.ndarray, path: Path, *, reduce_range: bool) -> Path:
    """The body with its convolutions' weights on their INT8 grid, at `path`; see `rounding.round_weights`."""
    save_model(round_weights(onnx.load(body), _probes(pixels), reduce_range=reduce_range), path)
    return path


def to_planes(pixels: np.ndarray) -> np.ndarray:
    """(N, S, S, 3) uint8 -> (N, 3, S, S) float32, normalised as the body reads it."""
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
