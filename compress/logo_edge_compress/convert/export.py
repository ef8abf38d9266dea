"""A bundle, or the run it was made from -> a verified artifact for another runtime (`logo-edge export`).

Every format keeps the bundle's contract: `pixels` (batch, S, S, 3) uint8 RGB -> `logits` (batch, K) float32 before
temperature, normalisation inside.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import onnx as onnx_library

from logo_edge.errors import ExportError
from logo_edge.files import changing, folder_beside, json_text, write_file
from logo_edge_compress.audit import CHOSEN_IN_FLOAT, refuse_float
from logo_edge_compress.convert import coreml, executorch, litert, mnn, ncnn, onnx, openvino, tensorrt, tflm
from logo_edge_compress.convert.request import Images, Request
from logo_edge_compress.convert.source import Source
from logo_edge_compress.onnx.graph import PIXELS, to_float16
from logo_edge_compress.verify import run_onnx
from logo_edge_train.keys import file_hash, versions

GRAPH_FORMATS = {
    "onnx": onnx,
    "openvino": openvino,
    "tensorrt": tensorrt,
    "litert": litert,
    "tflm": tflm,
    "ncnn": ncnn,
    "mnn": mnn,
    "executorch": executorch,
    "coreml": coreml,
}  # made from an ONNX graph
FORMATS = (*GRAPH_FORMATS, "torchscript")
FITTED = ("tensorrt", "ncnn")  # formats whose INT8 has ranges of its own
PRECISIONS = ("fp32", "fp16", "int8")
LONGEST = 60  # letters of a name, which may take four bytes each of the 255 that a file's name has
LACKS = {"executorch": "fp16", "coreml": "fp32"}  # the precision that a format does not have
SUFFIX_OF_FILES = (".onnx", ".xml", ".bin", ".pt", ".tflite", ".h", ".param", ".mnn", ".pte", ".zip")
VERSIONED = (
    "logo-edge",
    "onnx",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "ai-edge-litert",
    "ncnn",
    "MNN",
    "torch",
    "executorch",
)


def export_artifact(
    source: Source,
    kind: str,
    precision: str,
    batch: int | None,
    out: Path,
    images: Images,
    *,
    say: Callable[[str], None],
    converter_python: Path | None = None,
) -> dict:
    """The record of the artifact in folder `out`, also written next to it as JSON: hashes, parity, versions.

    All files are made and verified in a temporary folder, and renamed to `out` at the end if they pass, by one process
    at a time. The old record and its files are deleted first and the new record written last, so that neither a record
    nor a library meets the files of two exports. `batch` None: any
    batch size. `converter_python`: see `environments.check_environment`. Raises VerificationError where the artifact
    disagrees with its parent, ExportError where the source has no such precision or TensorRT would refuse it,
    MissingExtraError where the format's library is missing.
    """
    check_request(source, kind, precision, batch)
    out.mkdir(parents=True, exist_ok=True)
    stem = "-".join([file_name(source.name), precision, *([f"batch{batch}"] if batch else []), kind])
    with folder_beside(out / "export") as temporary:
        further = {"converter_python": converter_python, "multi_label": source.multi_label}
        request = Request(precision, batch, temporary / stem, images, say, **further)
        if kind == "torchscript":
            from logo_edge_compress.convert import torchscript  # only this format needs PyTorch

            converted = torchscript.convert(request, source)
        else:
            graph = _take_graph(source, precision, temporary)
            model = onnx_library.load(graph)
            if precision == "int8":
                counted = onnx.audit_pairs(model)
                refuse_float(counted, graph.name, share=CHOSEN_IN_FLOAT)
                request = replace(request, left_in_float=frozenset(counted.float_layers))
            request = replace(request, parent=run_onnx(graph, images.verifying))
            if precision == "fp16":
                model = to_float16(model)
            converted = GRAPH_FORMATS[kind].convert(request, model, graph)
            converted["parent"] = {"file": graph.name, "sha256": file_hash(graph)}
        if kind == "tensorrt":
            converted |= tensorrt.make_engine(request, out / "engines")
        files = sorted(file for file in temporary.iterdir() if file.suffix in SUFFIX_OF_FILES)
        record = {
            "format": kind,
            "precision": precision,
            "batch": batch or "dynamic",
            "source": source.name,
            "input": {"name": PIXELS, "layout": "NHWC", "dtype": "uint8", "colour": "RGB", **asdict(source.input)},
            "files": {file.name: {"sha256": file_hash(file), "size_bytes": file.stat().st_size} for file in files},
            **({"fitting": images.fitted_on} if is_fitted(kind, precision) else {}),
            **converted,
            "versions": versions(VERSIONED),
        }
        record_path = temporary / f"{stem}.json"
        write_file(record_path, json_text(record))
        with changing(out / record_path.name):
            for file in (record_path, *files):
                (out / file.name).unlink(missing_ok=True)
            for file in (*files, record_path):
                os.replace(file, out / file.name)
    return record


def file_name(name: str) -> str:
    """The name of a bundle or run, which may be any text such as `../v1.2`, as a part of a file name without suffix."""
    return re.sub(r"[^\w+-]+", "-", name)[:LONGEST].strip("-") or "unnamed"


def is_fitted(kind: str, precision: str) -> bool:
    """Whether the artifact is fitted on images, and does not take all its scales from its parent."""
    return precision == "int8" and kind in FITTED


def _take_graph(source: Source, precision: str, folder: Path) -> Path:
    """The graph that the artifact is made from; for a bundle, a copy of the bytes whose hash was checked.

    Raises BundleError where the bundle's file has changed.
    """
    graph = source.graphs[_source_precision(precision)]
    if source.bundle is None:
        return graph
    copy = folder / "parent" / graph.name
    copy.parent.mkdir()
    copy.write_bytes(source.bundle.read(graph.name))
    return copy


def check_request(source: Source, kind: str, precision: str, batch: int | None) -> None:
    """Raises ExportError where the source cannot give this format, precision or batch."""
    if kind == "torchscript":
        if source.student is None:
            raise ExportError(
                f"{source.name} is a bundle, which holds no PyTorch network; TorchScript is made from a run: "
                "logo-edge export RUN --format torchscript"
            )
        if precision != "fp32" or batch:
            raise ExportError("TorchScript modules are FP32 and take any batch; leave out --precision and --batch")
    elif kind == "tflm" and (precision != "int8" or batch not in (None, 1)):
        raise ExportError("tflm is INT8 and takes one image at a time; leave out --precision and --batch")
    elif kind in ("ncnn", "mnn") and batch not in (None, 1):
        raise ExportError(f"{kind} takes one image at a time, as the runtime gives it any batch; leave out --batch")
    elif LACKS.get(kind) == precision:
        others = " or ".join(other for other in PRECISIONS if other != precision)
        raise ExportError(f"--precision {precision}: {kind} artifacts are {others}")
    elif _source_precision(precision) not in source.graphs:
        raise ExportError(
            f"{source.name} holds its model in {', '.join(source.graphs)} only, and {precision} is made from "
            f"{_source_precision(precision)}; give the run that the bundle was compressed from: logo-edge export RUN"
        )


def _source_precision(precision: str) -> str:
    """The precision of the graph that an artifact of `precision` is made from."""
    return "fp32" if precision == "fp16" else precision
