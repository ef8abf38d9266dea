"""Core ML programs for Apple's systems, in FP16 or with 8-bit weights. They are converted and checked here, not run."""

from __future__ import annotations

import platform
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import onnx

from logo_edge.errors import ExportError, MissingExtraError, VerificationError
from logo_edge_compress.audit import Audit
from logo_edge_compress.convert.environments import INSIDE, run_converter
from logo_edge_compress.convert.request import Request
from logo_edge_compress.onnx.dequantize import to_float
from logo_edge_compress.onnx.graph import save_model
from logo_edge_compress.verify import QUANTIZED, ROUNDED, open_onnx

READ_BACK = "-readback.onnx"  # ends the name of the program as it was saved, in ONNX
NOT_RUN = "Core ML runs on Apple's systems alone; the figures are those of the saved program with FP32 arithmetic"


def convert(request: Request, model: onnx.ModelProto, graph: Path) -> dict:
    """Converts the ONNX file `graph`, its weights alone in 8 bits if it is INT8, and returns the verification.

    Raises MissingExtraError without coremltools, ExportError for another release of it and on Linux for ARM, where pip
    would install 4.0b3, which knows no such programs.
    """
    if platform.system() == "Linux" and platform.machine() != "x86_64":
        raise ExportError(
            f"coremltools 9.0 has no package for Linux on {platform.machine()}; convert on Linux x86-64 or macOS"
        )
    if request.batch not in (None, 1):
        raise ExportError(f"--batch {request.batch}: a Core ML program takes one picture; leave it out")
    if request.converter_python is None and find_spec("coremltools") is None:
        raise MissingExtraError("coreml", "coremltools")
    stem = request.path.name
    with tempfile.TemporaryDirectory() as folder:
        if request.precision == "int8":
            graph = Path(folder) / "float.onnx"
            save_model(to_float(model)[0], graph)
        record = run_converter(
            "coreml",
            {"graph": str(graph), "precision": request.precision, "stem": stem},
            request.path.parent,
            python=request.converter_python or Path(sys.executable),
            lock=INSIDE / "coreml.txt",
        )
    wide = [layer for layer, kind in record["weights"].items() if kind != "int8"]
    if request.precision == "int8" and (wide or not record["weights"]):
        raise VerificationError(
            f"{stem} has weights that are not stored in 8 bits: {', '.join(wide) or 'no layer was found'}; it is not "
            "packed; report it"
        )
    tolerance = QUANTIZED if request.precision == "int8" else ROUNDED
    path = request.path.with_name(f"{stem}{READ_BACK}")
    request.say(f"not run: {NOT_RUN}")
    return {
        "audit": Audit(record["layers"], record["operators"], record["bytes"]).record(),
        "ports": record["ports"],
        "not_done": f"not run: {NOT_RUN}",
        **request.verify(open_onnx(path), tolerance, path.name, "onnxruntime, on the program read back"),
    }
