"""OpenVINO's XML and weights, for Intel CPUs, GPUs and NPUs."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import onnx

from logo_edge.backends.openvino import open_core
from logo_edge.errors import MissingExtraError
from logo_edge_compress.audit import Audit
from logo_edge_compress.convert.request import Request
from logo_edge_compress.onnx.graph import PIXELS
from logo_edge_compress.verify import EXPORTED, ROUNDED, open_artifact

LAYERS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")  # as its CPU plugin names them
TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"} | {
    f"{sign}{bits}": f"{'u' if sign == 'u' else ''}int{bits}" for sign in "iu" for bits in (8, 32, 64)
}
STEM = 1  # layers: the plugin runs the one that reads the pixels in float, as their zero point is not 0


def convert(request: Request, model: onnx.ModelProto, graph: Path) -> dict:
    """Converts the ONNX file `graph` and returns the verification. Raises MissingExtraError without OpenVINO."""
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino") from error
    path = request.path.with_suffix(".xml")
    converted = read_graph(graph)  # FP16 applies to weights only: devices choose their arithmetic
    if request.batch:
        converted.reshape({PIXELS: [request.batch, *converted.input(PIXELS).partial_shape[1:]]})
    openvino.save_model(converted, path, compress_to_fp16=request.precision == "fp16")
    tolerance = EXPORTED if request.precision == "fp32" else ROUNDED
    verified = request.verify(open_artifact("openvino", path), tolerance, path.name, "openvino")
    counted = audit(path)
    return verified | request.audit(counted, path.name, left=list(counted.layers)[:STEM])


def read_graph(graph: Path) -> Any:
    """The ONNX file as an openvino.Model. A file that is refused leaves the root logger as it was, unlike OpenVINO."""
    import openvino

    root = logging.getLogger()
    level, filters = root.level, list(root.filters)
    try:
        return openvino.convert_model(graph)
    finally:
        root.setLevel(level)
        root.filters[:] = filters


def audit(path: Path) -> Audit:
    """The audit of the graph that OpenVINO's CPU plugin executes here, of the XML file at `path`."""
    core = open_core()
    network = core.read_model(path)
    executed = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).get_runtime_model()
    layers, operators, sizes = {}, Counter(), Counter()
    for operator in executed.get_ordered_ops():
        info = {key: str(value.value) for key, value in operator.get_rt_info().items()}
        kind, precision = info["layerType"], TYPES.get(info["runtimePrecision"], info["runtimePrecision"])
        operators[f"{kind} {precision}"] += 1
        if kind in LAYERS:
            name = info["originalLayersNames"].split(",")[0].removesuffix("/WithoutBiases")
            layers[name or operator.get_friendly_name()] = precision
    for constant in network.get_ops():
        if constant.get_type_name() == "Constant":
            sizes[TYPES.get(constant.get_element_type().to_string())] += constant.get_byte_size()
    return Audit(layers, dict(operators), dict(sizes))
