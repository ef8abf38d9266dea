"""A LiteRT (TensorFlow Lite) flatbuffer, for Android, Linux boards and Apple devices."""

from __future__ import annotations

from pathlib import Path

import onnx

from logo_edge.files import write_file
from logo_edge_compress.convert.flatbuffer import audit, write_flatbuffer
from logo_edge_compress.convert.request import Request
from logo_edge_compress.onnx.dequantize import logits_grid
from logo_edge_compress.verify import EXPORTED, ROUNDED, open_artifact


def convert(request: Request, model: onnx.ModelProto, graph: Path) -> dict:
    """Writes the ONNX file `graph` as a flatbuffer, with all its outputs, and returns the verification and audit.

    In fp16 the weights alone are halves: each device chooses its arithmetic. Raises MissingExtraError without LiteRT.
    """
    path, source = request.path.with_suffix(".tflite"), onnx.load(graph)
    data = write_flatbuffer(source, batch=request.batch, half=request.precision == "fp16")
    write_file(path, data)
    tolerance = EXPORTED if request.precision == "fp32" else ROUNDED
    grid = logits_grid(source)
    step = None if grid is None else float(grid.scale)
    verified = request.verify(open_artifact("litert", path), tolerance, path.name, "ai-edge-litert", step=step)
    return verified | request.audit(audit(data, source), path.name)
