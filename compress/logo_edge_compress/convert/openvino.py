"""OpenVINO's XML and weights, for Intel CPUs, GPUs and NPUs."""

from __future__ import annotations

from pathlib import Path

import onnx

from logo_edge.errors import MissingExtraError
from logo_edge_compress.convert.request import Request
from logo_edge_compress.onnx.graph import PIXELS
from logo_edge_compress.verify import EXPORTED, ROUNDED, open_artifact


def convert(request: Request, model: onnx.ModelProto, graph: Path) -> dict:
    """Converts the ONNX file `graph` and returns the verification. Raises MissingExtraError without OpenVINO."""
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino") from error
    path = request.path.with_suffix(".xml")
    converted = openvino.convert_model(graph)  # FP16 applies to weights only: devices choose their arithmetic
    if request.batch:
        converted.reshape({PIXELS: [request.batch, *converted.input(PIXELS).partial_shape[1:]]})
    openvino.save_model(converted, path, compress_to_fp16=request.precision == "fp16")
    tolerance = EXPORTED if request.precision == "fp32" else ROUNDED
    return request.verify(open_artifact("openvino", path), tolerance, path.name, "openvino")
