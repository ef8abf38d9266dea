"""An FP32 ONNX body -> static INT8 in QDQ form, calibrated on logos of the train split."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from logo_edge_compress.export import PLANES, add_uint8_front, save_model
from logo_edge_train.models import MEAN, SCALE

STRIDE = 16  # images whose activations are in memory at a time
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}


def quantize_body(
    body: Path, pixels: np.ndarray, size_px: int, path: Path, *, method: str, reduce_range: bool, float_convs: int = 0
) -> Path:
    """The body of `export_body` as INT8 QDQ with a uint8 front, at `path`.

    pixels: (N, S, S, 3) uint8, the calibration images. Activations are U8, weights S8 per output channel, 7 bits of it
    with `reduce_range`; the first `float_convs` convolutions stay FP32 (see QuantizeConfig). ONNX Runtime, "Quantize ONNX models".
    """
    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime's quantizer warns about its own defaults
    nodes = [node.name for node in onnx.load(body).graph.node if node.op_type == "Conv"][:float_convs]
    exact = {
        "scale": np.array(1 / SCALE, np.float32),
        "zero_point": np.array(MEAN, np.uint8),
        "quant_type": QuantType.QUInt8,
    }
    options = {"CalibStridedMinMax": min(STRIDE, len(pixels)), "QuantizeBias": True}
    if not nodes:
        options["TensorQuantOverrides"] = {PLANES: [exact]}
    stride = options["CalibStridedMinMax"]
    pixels = pixels[: len(pixels) // stride * stride]  # onnxruntime asks for whole strides
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "quantized.onnx"
        quantize_static(
            str(body), str(raw), _Pixels(pixels), quant_format=QuantFormat.QDQ, per_channel=True,
            reduce_range=reduce_range, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=METHODS[method],
            nodes_to_exclude=nodes, extra_options=options,
        )  # fmt: skip
        model = onnx.load(raw)
    add_uint8_front(model, size_px)
    save_model(model, path)
    return path


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
        return {PLANES: ((image.astype(np.float32) - MEAN) / SCALE).transpose(2, 0, 1)[None]}
