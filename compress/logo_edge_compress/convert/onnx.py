"""ONNX for ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import onnx

from logo_edge_compress.convert.request import Request
from logo_edge_compress.verify import EXPORTED, ROUNDED, open_onnx


def convert(request: Request, model: onnx.ModelProto, graph: Path) -> dict:
    """Writes the model and returns its verification."""
    path = request.save(model)
    return request.verify(
        open_onnx(path), ROUNDED if request.precision == "fp16" else EXPORTED, path.name, "onnxruntime"
    )
