"""NCNN's network and weights, for small ARM CPUs. No package has NCNN's INT8 tools, so its INT8 is written here.

The formats are those of NCNN 20261020: src/modelbin.cpp and `load_model` of each layer.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from logo_edge.backends.base import ModelFile, Resources
from logo_edge.backends.ncnn import FLOAT16, Ncnn
from logo_edge.errors import ExportError, MissingExtraError
from logo_edge.files import write_file
from logo_edge_compress.audit import Audit
from logo_edge_compress.convert.environments import run_converter
from logo_edge_compress.convert.request import Request
from logo_edge_compress.onnx.dequantize import Grid, to_float
from logo_edge_compress.onnx.graph import PIXELS, read_float_pixels, save_model
from logo_edge_compress.verify import EXPORTED, QUANTIZED, ROUNDED, compare_logits, open_artifact, run_artifact

MAGIC = "7767517"
FLOAT32, INT8 = (tag.to_bytes(4, "little") for tag in (0, 0x000D4B38))  # before weights
WEIGHTED = {"Convolution": ("6", "5"), "ConvolutionDepthWise": ("6", "5"), "InnerProduct": ("2", "1")}
"""Layers with weights -> the numbers of two parameters: how many weights, and whether there is a bias."""
OUTPUTS, INT8_TERM = "0", "8"  # numbers of parameters
QUANTIZED_KIND = "Convolution"
LARGEST = 127  # activations are symmetric
KEPT = 0.999  # quantile


@dataclass
class Layer:
    """A line of the network; `parameters` as in the text. `weights` (O, ...) and `bias` (O,) are float32."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    parameters: dict[str, str]
    weights: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    bias: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))


def convert(request: Request, model: onnx.ModelProto, graph: Path) -> dict:
    """Converts the ONNX file `graph` and returns the verification.

    INT8 has the integers of the parent's weights. Its activations are symmetric, so their ranges are those of the
    parent's quantizers or of the fitting pictures, whichever agrees better with the parent on the verifying ones.
    Raises ExportError where NCNN has no layer for an operator.
    """
    model, grids = to_float(onnx.load(graph)) if request.precision == "int8" else (onnx.load(graph), {})
    model = read_float_pixels(model)
    layers, weights = run_pnnx(request, model)
    path = request.path.with_suffix(".param")
    if request.precision != "int8":
        write_network(path, layers, weights)
        tolerance = EXPORTED if request.precision == "fp32" else ROUNDED
        verified = request.verify(open_artifact("ncnn", path), tolerance, path.name, "ncnn")
        return verified | request.audit(audit(path), path.name)
    read_weights(layers, weights)
    grids_by_layer = find_quantized(layers, model, grids)
    floats = ModelFile(path, network_text(layers).encode(), weights)
    ranges = {
        "quantizers": {name: max(map(abs, inputs.bounds)) for name, (inputs, _) in grids_by_layer.items()},
        "pictures": measure_ranges(floats, layers, grids_by_layer, request.images.fitting),
    }
    divergences = {}
    for kind in ranges:
        write_network(path, *quantize(layers, grids_by_layer, ranges[kind]))
        logits = run_artifact(open_artifact("ncnn", path), request.images.verifying, request.batch)
        divergences[kind] = compare_logits(request.parent, logits, multi_label=request.multi_label).kl_nats
    best = min(divergences, key=divergences.__getitem__)
    write_network(path, *quantize(layers, grids_by_layer, ranges[best]))
    verified = request.verify(open_artifact("ncnn", path), QUANTIZED, path.name, "ncnn")
    counted = request.audit(
        audit(path), path.name, left=[layer.name for layer in layers if layer.name not in grids_by_layer]
    )
    return verified | counted | {"ranges": best, "kl_nats_by_ranges": divergences}


def audit(path: Path) -> Audit:
    """The audit of the network at `path` (.param); tags and paddings are counted with its float32 constants."""
    layers, data = read_layers(path.read_text(encoding="utf-8")), path.with_suffix(".bin").read_bytes()
    stored, sizes = "float16" if data.startswith(FLOAT16) else "float32", Counter()
    types = {}
    for layer in [layer for layer in layers if layer.kind in WEIGHTED]:
        kind = types[layer.name] = "int8" if layer.parameters.get(INT8_TERM, "0") != "0" else stored
        sizes[kind] += int(layer.parameters[WEIGHTED[layer.kind][0]]) * np.dtype(kind).itemsize
    sizes["float32"] += len(data) - sizes.total()
    return Audit(types, dict(Counter(layer.kind for layer in layers)), dict(sizes))


def run_pnnx(request: Request, model: onnx.ModelProto) -> tuple[list[Layer], bytes]:
    """The layers of the float graph, whose ends have the graph's names, and the content of its .bin file.

    Raises ExportError where pnnx left something out or NCNN lacks a layer: pnnx says neither by its exit status.
    """
    try:
        import ncnn
    except ImportError as error:
        raise MissingExtraError("ncnn", "ncnn") from error
    folder = request.path.parent / "ncnn"
    folder.mkdir()
    save_model(model, folder / "model.onnx")
    shape = [dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim]
    options = {"model": "model.onnx", "shape": shape, "half": request.precision == "fp16"}
    record = run_converter("ncnn", options, folder, python=request.converter_python)
    layers = read_layers((folder / "network.ncnn.param").read_text(encoding="utf-8"))
    unknown = sorted({layer.kind for layer in layers if ncnn.layer_to_index(layer.kind) < 0})
    if unknown or record["dropped"]:
        raise ExportError(
            f"pnnx converted {request.path.name} incompletely: NCNN {ncnn.__version__} has no layer "
            f"{', '.join(unknown) or '(it has all)'}; pnnx says {'; '.join(record['dropped']) or 'nothing'}. Export "
            "another format, or a network without these operators"
        )
    names = {"in0": PIXELS} | {f"out{index}": output.name for index, output in enumerate(model.graph.output)}
    for layer in layers:
        layer.inputs, layer.outputs = (
            [names.get(name, name) for name in blobs] for blobs in (layer.inputs, layer.outputs)
        )
    return layers, (folder / "network.ncnn.bin").read_bytes()


def read_layers(text: str) -> list[Layer]:
    """The layers of a .param file, in order, without weights."""
    layers = []
    for line in text.splitlines()[2:]:
        kind, name, inputs, outputs, *words = line.split()
        first, last = int(inputs), int(inputs) + int(outputs)
        parameters = dict(word.split("=", 1) for word in words[last:])
        layers.append(Layer(kind, name, words[:first], words[first:last], parameters))
    return layers


def network_text(layers: list[Layer]) -> str:
    """The .param file of these layers."""
    blobs = sum(len(layer.outputs) for layer in layers)
    lines = [MAGIC, f"{len(layers)} {blobs}"]
    for layer in layers:
        ends = [str(len(layer.inputs)), str(len(layer.outputs)), *layer.inputs, *layer.outputs]
        parameters = [f"{number}={value}" for number, value in layer.parameters.items()]
        lines.append(" ".join([layer.kind, layer.name, *ends, *parameters]))
    return "\n".join(lines) + "\n"


def write_network(path: Path, layers: list[Layer], weights: bytes) -> None:
    """Writes `path` (.param) and the .bin file beside it."""
    write_file(path, network_text(layers))
    write_file(path.with_suffix(".bin"), weights)


def read_weights(layers: list[Layer], data: bytes) -> None:
    """Gives each layer its weights and bias from the content of a FP32 .bin file.

    Raises ExportError where they do not fill the file: another layer has weights too.
    """
    position = 0
    for layer in layers:
        if layer.kind in WEIGHTED:
            count, biased = (layer.parameters.get(number, "0") for number in WEIGHTED[layer.kind])
            rows = int(layer.parameters[OUTPUTS])
            tag, position = data[position : position + len(FLOAT32)], position + len(FLOAT32)
            if tag != FLOAT32:
                break
            layer.weights = np.frombuffer(data, np.float32, int(count), position).reshape(rows, -1)
            position += layer.weights.nbytes
            layer.bias = np.frombuffer(data, np.float32, rows * int(biased), position)
            position += layer.bias.nbytes
    else:
        if position == len(data):
            return
    kinds = ", ".join(sorted({layer.kind for layer in layers} - WEIGHTED.keys()))
    raise ExportError(
        f"the network's weights do not end where those of {', '.join(WEIGHTED)} do; among {kinds} are layers whose "
        "weights this INT8 does not know. Export it in fp32 or fp16"
    )


def find_quantized(layers: list[Layer], model: onnx.ModelProto, grids: dict[str, Grid]) -> dict[str, tuple[Grid, Grid]]:
    """Name of layer -> the grids of its input and weights, of the convolutions that the parent quantizes.

    pnnx gives layers other names, so a convolution is known by its weights. Depthwise convolutions stay float, because
    NCNN computes them faster so, and dense layers, which are the last few weights. Raises ExportError where one is
    missing.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    by_weights, dense = {}, 0
    for node in [node for node in model.graph.node if node.op_type == "Conv"]:
        inputs, kernel = node.input[:2]
        if {inputs, kernel} <= grids.keys() and not grids[kernel].zero_point.any():
            by_weights[len(constants[kernel]), constants[kernel].tobytes()] = grids[inputs], grids[kernel]
            dense += all(attribute.i == 1 for attribute in node.attribute if attribute.name == "group")
    quantized = {
        layer.name: by_weights[weights]
        for layer in layers
        if layer.kind == QUANTIZED_KIND and (weights := (len(layer.weights), layer.weights.tobytes())) in by_weights
    }
    if not dense or len(quantized) != dense:
        raise ExportError(
            f"pnnx has {len(quantized)} of the {dense} quantized convolutions with the weights of the parent; expected "
            "all, and one at least. Export it in fp32 or fp16"
        )
    return quantized


def measure_ranges(
    floats: ModelFile, layers: list[Layer], quantized: dict[str, tuple[Grid, Grid]], pictures: np.ndarray
) -> dict[str, float]:
    """Name of layer -> the largest of the quantiles KEPT of |input|, one of each (S, S, C) uint8 picture."""
    inputs = {layer.name: layer.inputs[0] for layer in layers if layer.name in quantized}
    network, largest = Ncnn(floats, Resources()), dict.fromkeys(inputs, 0.0)
    for picture in pictures:
        values = network.run(picture[None], list(inputs.values()))
        for name, array in zip(inputs, values, strict=True):
            largest[name] = max(largest[name], float(np.quantile(np.abs(array), KEPT)))
    return largest


def quantize(
    layers: list[Layer], quantized: dict[str, tuple[Grid, Grid]], ranges: dict[str, float]
) -> tuple[list[Layer], bytes]:
    """The INT8 network: its layers, and the content of its .bin file. `ranges`: the largest |input| by layer."""
    written, parts = [], []
    for layer in layers:
        if layer.name not in quantized:
            written.append(layer)
            parts += [FLOAT32, layer.weights.tobytes(), layer.bias.tobytes()] if layer.kind in WEIGHTED else []
            continue
        _, grid = quantized[layer.name]
        integers = grid.integers.astype(np.int8).tobytes()
        scales = np.broadcast_to(1 / grid.scale.astype(np.float32), len(layer.weights))
        written.append(replace(layer, parameters=layer.parameters | {INT8_TERM: "2"}))
        parts += [INT8, integers, bytes(-len(integers) % 4), layer.bias.tobytes()]
        parts += [scales.tobytes(), np.float32(LARGEST / ranges[layer.name]).tobytes()]
    return written, b"".join(parts)
