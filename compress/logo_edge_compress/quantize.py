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

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}


def quantize_body(body: Path, pixels: np.ndarray, size_px: int, path: Path, *, method: str, reduce_range: bool) -> Path:
    """The body of `export_body` as INT8 QDQ with a uint8 front, at `path`.

    pixels: (N, S, S, 3) uint8, the calibration images. Activations are U8, weights S8 per output channel, 7 bits of it
    with `reduce_range` (see QuantizeConfig). ONNX Runtime, "Quantize ONNX models".
    """
    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime's quantizer warns about its own defaults
    overrides = {
        PLANES: [
            {
                "scale": np.array(1 / SCALE, np.float32),
                "zero_point": np.array(MEAN, np.uint8),
                "quant_type": QuantType.QUInt8,
            }
        ]
    }
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "quantized.onnx"
        quantize_static(
            str(body), str(raw), _Pixels(pixels), quant_format=QuantFormat.QDQ, per_channel=True,
            reduce_range=reduce_range, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=METHODS[method],
            extra_options={"TensorQuantOverrides": overrides, "CalibMaxIntermediateOutputs": 64,
                           "QuantizeBias": True},
        )  # fmt: skip
        model = onnx.load(raw)
    add_uint8_front(model, size_px)
    save_model(model, path)
    return path


class _Pixels(CalibrationDataReader):
    """Streams the calibration images one by one, normalised."""

    def __init__(self, pixels: np.ndarray):
        self.pixels = iter(pixels)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.pixels, None)
        if image is None:
            return None
        return {PLANES: ((image.astype(np.float32) - MEAN) / SCALE).transpose(2, 0, 1)[None]}
