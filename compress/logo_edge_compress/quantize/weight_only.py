"""An FP32 ONNX body -> a graph whose weights are stored in 8 or 4 bits, with all arithmetic in FP32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from logo_edge.errors import VerificationError
from logo_edge_compress.onnx.export import finish
from logo_edge_compress.quantize.rounding import INT8_LEVELS
from logo_edge_compress.quantize.static import LEARNED, evidence_nodes, quiet_quantizer


def store_int8(body: Path, size_px: int, path: Path) -> Path:
    """The body with S8 weights per output channel and all arithmetic in FP32: a quarter of the size, any operator."""
    model = onnx.load(body)
    _store_int8(model)
    finish(model, size_px, path)
    return path


def store_int4(body: Path, size_px: int, path: Path, *, block: int = 32) -> Path:
    """As `store_int8`, but with the weights of matrix products in 4 bits, one scale for every `block` of them.

    Only ONNX Runtime reads such files. Raises VerificationError where there is no matrix product; convolutions do not
    count.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(body)
    excluded = list(evidence_nodes(model))
    with quiet_quantizer():
        quantizer = MatMulNBitsQuantizer(
            model, block_size=block, is_symmetric=True, accuracy_level=4, nodes_to_exclude=excluded
        )
        quantizer.process()
    model = quantizer.model.model
    if all(node.op_type != "MatMulNBits" for node in model.graph.node):
        raise VerificationError(
            f"{body.name} has no matrix product to store in 4 bits; take weights-int8 or static INT8"
        )
    _store_int8(model)
    finish(model, size_px, path)
    return path


def _store_int8(model: onnx.ModelProto) -> None:
    """Converts each FP32 weight of a layer to S8, read through a DequantizeLinear."""
    graph, excluded = model.graph, evidence_nodes(model)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    layers = [node for node in graph.node if node.op_type in LEARNED and node.name not in excluded]
    for index, (name, node) in enumerate({node.input[1]: node for node in layers if node.input[1] in tensors}.items()):
        kernel = numpy_helper.to_array(tensors[name])
        transposed = node.op_type == "Gemm" and any(part.name == "transB" and part.i for part in node.attribute)
        axis = 0 if node.op_type == "Conv" or transposed else kernel.ndim - 1
        others = tuple(other for other in range(kernel.ndim) if other != axis)
        steps = np.maximum(np.abs(kernel).max(others), 1e-12).astype(np.float32) / INT8_LEVELS
        shape = [-1 if dim == axis else 1 for dim in range(kernel.ndim)]
        integers = np.round(kernel / steps.reshape(shape)).astype(np.int8)
        graph.initializer.remove(tensors[name])
        graph.initializer.append(numpy_helper.from_array(integers, f"{name}_s8"))
        graph.initializer.append(numpy_helper.from_array(steps, f"{name}_scale"))
        inputs = [f"{name}_s8", f"{name}_scale"]
        graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, [name], name=f"read_{index}", axis=axis))
