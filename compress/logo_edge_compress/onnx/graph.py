"""The ONNX graphs of this project: their names and versions, how they are written and converted.

Needs onnx and numpy, not torch, so that a device can convert a graph.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from logo_edge.bundle.record import EMBEDDING, EPISTEMIC
from logo_edge.files import write_file

OPSET = 18
IR_VERSION = 10  # read by onnxruntime >= 1.20
LEAST_STORED = 64  # values; casting fewer saves nothing
PIXELS, PLANES, LOGITS = "pixels", "planes", "logits"
# by kind of head, the output that `epistemic` is computed from
EVIDENCE = {"dirichlet": "log_precision", "dispersion": "dispersion_logit"}


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Checks the model and writes it in one step, without debugging information."""
    model.ir_version = min(model.ir_version, IR_VERSION)
    model.doc_string = ""
    del model.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    used = {"", *(node.domain for node in model.graph.node)}
    for opset in [opset for opset in model.opset_import if opset.domain not in used]:
        model.opset_import.remove(opset)
    onnx.checker.check_model(model, full_check=True)
    write_file(path, model.SerializeToString())


def fix_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The model for batches of exactly this size; before, the first dimension of inputs and outputs is free."""
    model = copy_model(model)
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return model


def add_embedding(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model with an output `embedding` (batch, D) float32: the input of its last layer, before quantization.

    No computation is added. None where the logits do not come from a layer of rank 2.
    """
    model = copy_model(model)
    graph = model.graph
    if any(output.name == EMBEDDING for output in graph.output):
        return model
    makers = {output: node for node in graph.node for output in node.output}
    name = LOGITS
    while name in makers and makers[name].op_type not in ("Gemm", "MatMul"):
        name = makers[name].input[0]
    if name not in makers:
        return None
    name = makers[name].input[0]
    while name in makers and makers[name].op_type in ("QuantizeLinear", "DequantizeLinear", "Identity", "Dropout"):
        name = makers[name].input[0]
    values = onnx.shape_inference.infer_shapes(model).graph.value_info
    shapes = {value.name: value.type.tensor_type for value in values}
    if name not in shapes or len(shapes[name].shape.dim) != 2 or shapes[name].elem_type != TensorProto.FLOAT:
        return None
    width = shapes[name].shape.dim[1].dim_value
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [EMBEDDING if other == name else other for other in names]
    graph.output.append(helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["batch", width]))
    return model if width else None


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The FP32 model with weights and arithmetic in float16; it still reads uint8 pixels and returns float32 outputs.

    The conversion of evidence to nats stays in float32, because it needs the precision.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    exact = [node.name for node in model.graph.node if node.name.startswith(f"{EPISTEMIC}/")]
    model = convert_float_to_float16(
        copy_model(model), keep_io_types=True, op_block_list=["DequantizeLinear"], node_block_list=exact
    )
    _sort_nodes(model.graph)  # the converter appends its casts
    return model


def store_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The FP32 model with its weights stored in float16 and cast back at load: half the bytes, the same speed."""
    model = copy_model(model)
    graph, casts = model.graph, []
    for tensor in [tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT]:
        values = numpy_helper.to_array(tensor)
        if values.size < LEAST_STORED or not np.isfinite(values.astype(np.float16)).all():
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_float16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    for index, node in enumerate(casts):
        graph.node.insert(index, node)
    return model


def read_float_pixels(model: onnx.ModelProto) -> onnx.ModelProto:
    """The FP32 model with the input `pixels` (1, C, S, S) float32 from 0 to 255, for converters that read no uint8."""
    model = fix_batch(model, 1)
    graph = model.graph
    (to_planes,) = [node for node in graph.node if node.op_type == "Transpose" and node.input[0] == PIXELS]
    (normalise,) = [node for node in graph.node if to_planes.output[0] in node.input]
    nodes = _normalise(graph, normalise, PIXELS)
    nodes += [node for node in graph.node if node not in (to_planes, normalise)]
    del graph.node[:]
    graph.node.extend(nodes)
    _, height, width, channels = (size.dim_value for size in graph.input[0].type.tensor_type.shape.dim)
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, [1, channels, height, width]))
    drop_unused(graph)
    return model


def to_tensorrt(model: onnx.ModelProto, kept_range: float = 1.0) -> onnx.ModelProto:
    """The model for TensorRT: the same weights, with the types and quantization that its parser accepts.

    TensorRT can only cast uint8, and quantizes to S8 with a zero point of 0. So pixels are cast and then normalised; U8
    activations become S8 with the larger half of their range on 127 steps; biases become float. A Relu that was
    expressed by the lower end of a U8 range is added as a node again. onnx-tensorrt, docs/operators.md, 10.15.

    Activations lose up to one bit. `kept_range` is the share of their range that the steps cover; less gives finer
    steps.
    """
    model = copy_model(model)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] == PIXELS:
            nodes += [helper.make_node("Cast", [PIXELS], ["pixels_float"], name="cast_pixels", to=TensorProto.FLOAT)]
            node.input[0] = "pixels_float"
        elif node.op_type == "DequantizeLinear" and _is_int32(constants.get(node.input[0])):
            integers, scale = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
            bias = (integers * scale.astype(np.float64)).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(bias, node.output[0]))
            continue
        elif node.op_type == "DequantizeLinear" and node.input[0] == "pixels_nchw":
            nodes += _normalise(graph, node, "pixels_nchw")
            continue
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            nodes += _make_symmetric(graph, node, constants, kept_range)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)
    return model


def shield_float_layers(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model; in a QDQ graph a Clip, which changes no value, stands before each layer whose weights are float.

    Without it ONNX Runtime rounds such weights to 8 bits, with one scale for all channels: its optimizer
    WeightBiasQuantization does so for a Conv or Gemm between a DequantizeLinear and a QuantizeLinear.
    """
    if all(node.op_type != "QuantizeLinear" for node in model.graph.node):
        return model
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        maker = makers.get(node.input[0]) if node.op_type in ("Conv", "Gemm") and node.input[1] in constants else None
        if maker is not None and maker.op_type == "DequantizeLinear":
            scale, zero_point = (constants[name] for name in maker.input[1:3])
            limits = np.iinfo(zero_point.dtype)
            clip = helper.make_node("Clip", [node.input[0]], [f"{node.name}_input"], name=f"{node.name}_shield")
            for side, limit in (("least", limits.min), ("most", limits.max)):
                clip.input.append(f"{clip.name}_{side}")
                add_constant(model.graph, clip.input[-1], np.float32((limit - np.float32(zero_point)) * scale))
            node.input[0] = clip.output[0]
            nodes.append(clip)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def attributes_of(node: onnx.NodeProto) -> dict:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def copy_model(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _normalise(graph: onnx.GraphProto, node: onnx.NodeProto, pixels: str) -> list[onnx.NodeProto]:
    """A Sub and a Mul of the float tensor `pixels`, in place of the DequantizeLinear `node` of uint8 pixels."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    scale, zero_point = (numpy_helper.to_array(constants[name]) for name in node.input[1:3])
    add_constant(graph, "pixel_mean", np.float32(zero_point))
    add_constant(graph, "pixel_step", np.float32(scale))
    return [
        helper.make_node("Sub", [pixels, "pixel_mean"], ["pixels_centred"], name="centre"),
        helper.make_node("Mul", ["pixels_centred", "pixel_step"], [node.output[0]], name="scale"),
    ]


def _sort_nodes(graph: onnx.GraphProto) -> None:
    """Sorts the nodes topologically."""
    waiting, nodes = list(graph.node), []
    known = {value.name for value in [*graph.input, *graph.initializer]} | {""}
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        assert ready, "the graph has a cycle"
        nodes += ready
        known.update(name for node in ready for name in node.output)
        waiting = [node for node in waiting if not known.issuperset(node.output)]
    del graph.node[:]
    graph.node.extend(nodes)


def _make_symmetric(
    graph: onnx.GraphProto, node: onnx.NodeProto, constants: dict, kept_range: float
) -> list[onnx.NodeProto]:
    """Changes one Q or DQ node from U8 to symmetric S8, in place; returns the nodes that must precede it."""
    scale, zero_point = (numpy_helper.to_array(constants[name]) for name in node.input[1:3])
    if zero_point.dtype != np.uint8:
        return []
    below, above = float(zero_point) * float(scale), (255 - float(zero_point)) * float(scale)
    names = f"{node.input[1]}_s8", f"{node.input[2]}_s8"
    add_constant(graph, names[0], np.float32(kept_range * max(below, above) / 127))
    add_constant(graph, names[1], np.int8(0))
    node.input[1:3] = names
    if node.op_type == "DequantizeLinear" or below > 0:
        return []
    relu = helper.make_node("Relu", [node.input[0]], [f"{node.output[0]}_relu"], name=f"{node.name}_relu")
    node.input[0] = relu.output[0]
    return [relu]


def _is_int32(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and tensor.data_type == TensorProto.INT32


def add_constant(graph: onnx.GraphProto, name: str, value: np.generic) -> None:
    if all(tensor.name != name for tensor in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
