"""ExecuTorch programs for XNNPACK, for phones and boards: FP32, and INT8 with the scales of the INT8 graph."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import onnx

from logo_edge.errors import ExportError, MissingExtraError
from logo_edge_compress.audit import Audit
from logo_edge_compress.convert.environments import INSIDE, run_converter
from logo_edge_compress.convert.request import Request
from logo_edge_compress.onnx.dequantize import logits_grid
from logo_edge_compress.verify import EXPORTED, ROUNDED, open_artifact

DELEGATE = "executorch_call_delegate"


def convert(request: Request, model: onnx.ModelProto, graph: Path) -> dict:
    """Converts the ONNX file `graph` for one batch size, 1 if none is given, and returns verification and audit.

    Raises MissingExtraError without ExecuTorch, whose one package converts and runs, ExportError where XNNPACK takes
    the network in more than one part: what lies between runs in slow kernels.
    """
    if find_spec("executorch") is None:
        raise MissingExtraError("executorch", "executorch")
    path = request.path.with_suffix(".pte")
    made = run_converter(
        "executorch",
        {"graph": str(graph), "batch": request.batch or 1, "file": path.name},
        path.parent,
        python=request.converter_python or Path(sys.executable),
        script=INSIDE / "xnnpack.py",
        lock=INSIDE / "xnnpack.txt",
    )
    operators = made["operators"]
    if operators.get(DELEGATE) != 1:
        raise ExportError(
            f"{path.name} calls XNNPACK {operators.get(DELEGATE, 0)} times; expected once. It has {operators}; an "
            "operator that XNNPACK lacks splits the network. Take --format onnx or litert"
        )
    grid = logits_grid(model)
    tolerance, step = (EXPORTED, None) if grid is None else (ROUNDED, float(grid.scale))
    verified = request.verify(open_artifact("executorch", path), tolerance, path.name, "executorch", step=step)
    counted = Audit(made["layers"], operators, made["bytes"])
    sums = sum(node.op_type == "ReduceSum" for node in model.graph.node)  # which become products with ones
    left = counted.float_layers[: len(request.left_in_float) + sums]
    return verified | request.audit(counted, path.name, left=left)
