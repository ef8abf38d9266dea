"""MNN's model, for phones. INT8 by writing the bundle's grids into the float model, through MNN's JSON form."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from logo_edge.errors import ExportError, VerificationError
from logo_edge.files import json_text, write_file
from logo_edge_compress.audit import Audit
from logo_edge_compress.convert.environments import run_converter
from logo_edge_compress.convert.request import Request
from logo_edge_compress.onnx.dequantize import Grid, to_float
from logo_edge_compress.onnx.graph import read_float_pixels, save_model
from logo_edge_compress.verify import EXPORTED, ROUNDED, open_artifact

CONVOLUTIONS = ("Convolution", "ConvolutionDepthwise")
DENSE = "__matmul_converted"  # MNN's suffix of a dense layer's tensor
LOWEST, LARGEST = -128, 127
FINE = 1024  # parts of a step of the output, in which the bias of a channel without weights is stored
TABLE = bytes([0]) + np.arange(LOWEST, LARGEST + 1).astype(np.int8).tobytes()  # 256 values; weights are indices


def convert(request: Request, model: onnx.ModelProto, graph: Path) -> dict:
    """Converts the ONNX file `graph` and returns the verification.

    In fp16 the weights alone are halves. INT8 has the grids of the parent; MNN adds zero points to its integer biases,
    where they are rounded, so a value may be a step off.
    """
    model, grids = to_float(onnx.load(graph)) if request.precision == "int8" else (onnx.load(graph), {})
    model = read_float_pixels(model)
    folder = request.path.parent / "mnn"
    folder.mkdir()
    save_model(model, folder / "model.onnx")
    half = ["--fp16"] if request.precision == "fp16" else []
    _run(request, folder, "ONNX", "model.onnx", "--MNNModel", "model.mnn", *half)
    left = []
    if grids:
        _run(request, folder, "MNN", "model.mnn", "--JsonFile", "model.json")
        described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        left = transfer_grids(described, model, grids)
        write_file(folder / "int8.json", json_text(described))
        _run(request, folder, "JSON", "int8.json", "--MNNModel", "model.mnn")
    path = request.path.with_suffix(".mnn")
    (folder / "model.mnn").rename(path)
    tolerance = EXPORTED if request.precision == "fp32" else ROUNDED
    verified = request.verify(open_artifact("mnn", path), tolerance, path.name, "MNN")
    _run(request, folder, "MNN", str(path), "--JsonFile", "written.json")
    counted = audit(json.loads((folder / "written.json").read_text(encoding="utf-8")))
    return verified | request.audit(counted, path.name, left=left)


def audit(described: dict) -> Audit:
    """The audit of the model that MNN's JSON describes."""
    types, sizes = {}, Counter()
    for op in described["oplists"]:
        main = op.get("main", {})
        if op["type"] in CONVOLUTIONS:
            quantized = main.get("quanParameter", {})
            integers = "symmetricQuan" in main and bool(quantized.get("buffer"))
            kind = types[op["name"]] = "int8" if integers else "float16" if quantized.get("buffer") else "float32"
            sizes[kind] += len(quantized.get("buffer", []))
            sizes["float32"] += 4 * (len(main.get("weight", [])) + len(main["bias"]) + len(quantized.get("alpha", [])))
        sizes["float32"] += 4 * len(main.get("float32s", []))
    return Audit(types, dict(Counter(op["type"] for op in described["oplists"])), dict(sizes))


def _run(request: Request, folder: Path, kind: str, source: str, *target: str) -> None:
    """Runs the converter on `source` of this kind. Raises ExportError where it made no file."""
    options = ["-f", kind, "--modelFile", source, *target]
    (folder / target[1]).unlink(missing_ok=True)
    record = run_converter("mnn", {"options": options, "file": target[1]}, folder, python=request.converter_python)
    if not record["files"]:
        raise ExportError(
            f"MNN made no {target[1]} of {source}, and did not say so by its status; export another format"
        )


def transfer_grids(described: dict, model: onnx.ModelProto, grids: dict[str, Grid]) -> list[str]:
    """Writes the grids of the float graph `model` into the model that MNN's JSON describes; the layers left in float.

    MNN keeps the graph's names of tensors. Its JSON has six decimals of a float, so every constant is written again.
    Raises ExportError where a layer is not known by its name, VerificationError where a pooling is quantized.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    names = [name.removesuffix(DENSE) for name in described["tensorName"]]
    sources = {index: op for op in described["oplists"] for index in op.get("outputIndexes", [])}
    left, described_grids = [], {}

    def graph_name(index: int) -> str:
        while sources[index]["type"] == "ConvertTensor":
            (index,) = sources[index]["inputIndexes"]
        return names[index]

    for op in described["oplists"]:
        main, ends = op.get("main", {}), [*op.get("inputIndexes", []), *op.get("outputIndexes", [])]
        if op["type"] in CONVOLUTIONS:
            output = names[ends[-1]]
            node = makers.get(output)
            while node and node.op_type in ("Clip", "Relu"):
                node = makers.get(node.input[0])
            if node is None or node.op_type not in ("Conv", "Gemm") or len(node.input) < 3:
                raise ExportError(f"MNN has a layer {op['name']!r} that the graph has not; export it in fp32 or fp16")
            inputs, kernel, bias = node.input[:3]
            main["bias"] = constants[bias].tolist()
            if {inputs, kernel, output} <= grids.keys():
                main.pop("weight")
                main |= _quantized(grids[inputs], grids[kernel], grids[output])
                common = main["common"]
                common["relu"], common["relu6"] = common["relu"] or common["relu6"], False  # the grid ends at 6
                described_grids |= {ends[0]: grids[inputs], ends[-1]: grids[output]}
            else:
                main["weight"] = constants[kernel].ravel().tolist()
                left.append(op["name"])
        elif op["type"] == "Const" and "float32s" in main and op["name"] in constants:
            main["float32s"] = constants[op["name"]].ravel().tolist()
        elif op["type"] == "Pooling" and names[ends[-1]] in grids:
            raise VerificationError(
                f"MNN's INT8 pools wrongly ({op['name']}, as measured with 3.6.1); export it in fp32 or fp16"
            )
        elif op["type"] == "BinaryOp" and {graph_name(index) for index in ends} <= grids.keys():
            if grids[names[ends[-1]]].bounds[0] == 0:
                main["activationType"] = 0  # the grid is its ReLU; MNN's own clips at the integer 0, not the zero point
            described_grids |= {index: grids[graph_name(index)] for index in ends}
    described["extraTensorDescribe"] = [
        {
            "index": index,
            "quantInfo": {
                "scale": float(grid.scale),
                "zero": float(_zero_point(grid)),
                "min": float(LOWEST),
                "max": float(LARGEST),
                "type": "DT_INT8",
            },
        }
        for index, grid in sorted(described_grids.items())
    ]
    return left


def _quantized(inputs: Grid, kernel: Grid, output: Grid) -> dict:
    """The fields of an INT8 layer: its integers as indices of a table, its scales and zero points."""
    rows = len(kernel.integers)
    columns = kernel.integers.size // rows
    width = 2 if columns < 1 << 16 else 4
    sizes = b"".join(size.to_bytes(width, "little") for size in (rows, columns))
    scales = np.array(np.broadcast_to(kernel.scale, rows), np.float64)
    # MNN divides zero points by a scale, so that of a channel without weights would make them overflow
    scales[~kernel.integers.reshape(rows, -1).any(1)] = float(output.scale) / float(inputs.scale) / FINE
    indices = (kernel.integers.astype(np.int16).ravel() - LOWEST).astype(np.uint8).tobytes()
    return {
        "quanParameter": {
            "buffer": np.frombuffer(bytes([2]) + sizes + TABLE + indices, np.int8).tolist(),
            "alpha": scales.tolist(),
            "type": 1,
            "quantScale": 1.0,
            "aMaxOrBits": 8,
            "scaleIn": float(inputs.scale),
            "scaleOut": float(output.scale),
            "shapeInt32": width == 4,
        },
        "symmetricQuan": {
            "method": "DEFAULT",
            "nbits": 8,
            "zeroPoint": _zero_point(inputs),
            "outputZeroPoint": _zero_point(output),
            "clampMin": LOWEST,
            "clampMax": LARGEST,
            "outputDataType": "DT_INT8",
        },
    }


def _zero_point(grid: Grid) -> int:
    """The zero point in MNN's signed integers, of a grid of unsigned ones."""
    return int(grid.zero_point) - np.iinfo(grid.zero_point.dtype).min + LOWEST
