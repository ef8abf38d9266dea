"""An ONNX graph of this project, float or INT8 (QDQ) -> a LiteRT (TensorFlow Lite) flatbuffer, integer for integer.

No converter, as each would calibrate or round again: weights, biases, scales and zero points are copied. Maps are NHWC.
An operator runs in integers where its inputs are dequantized, its output is quantized at once, and LiteRT's integer
kernel rounds like ONNX Runtime's; otherwise in float between DEQUANTIZE and QUANTIZE. Needs ai-edge-litert for the
schema. LiteRT 8-bit quantization specification, https://ai.google.dev/edge/litert/conversion/tensorflow/quantization.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib import import_module

import onnx

from logo_edge.errors import ExportError, MissingExtraError
from logo_edge_compress.audit import Audit
from logo_edge_compress.convert.flatbuffer_operators import EMITTERS
from logo_edge_compress.convert.flatbuffer_writer import FROM_HALF, Writer
from logo_edge_compress.onnx.graph import attributes_of, fix_batch

NAMED = 4  # tensors in a message


def load_schema():
    """The Python classes of LiteRT's schema. Raises MissingExtraError without ai-edge-litert."""
    try:
        return import_module("ai_edge_litert.schema_py_generated")
    except ImportError as error:
        raise MissingExtraError("litert", "ai-edge-litert") from error


def write_flatbuffer(
    model: onnx.ModelProto,
    *,
    outputs: Sequence[str] = (),
    batch: int | None = None,
    half: bool = False,
    integers_only: bool = False,
) -> bytes:
    """The model as a .tflite: `pixels` (batch, S, S, C) uint8 -> its outputs, float32, under their names.

    `outputs` default to all of the graph. `batch` None: any, 1 until it is resized. `half`: float weights are stored in
    float16. `integers_only`: for microcontrollers; `pixels` are int8, shifted by -128, the outputs keep their integers,
    and an operator that would run in float is an error. Raises ExportError with the list of operators that are not
    known here, MissingExtraError without ai-edge-litert.
    """
    writer = Writer(
        fix_batch(model, batch or 1),
        load_schema(),
        outputs,
        resizable=batch is None,
        half=half,
        integers_only=integers_only,
    )
    if unknown := sorted({node.op_type for node in writer.nodes} - set(EMITTERS)):
        raise ExportError(
            f"the graph has operators that the conversion to LiteRT does not know: {', '.join(unknown)}; expected "
            f"{', '.join(sorted(EMITTERS))}"
        )
    pixels = writer.open_input()
    for node in writer.nodes:
        if not writer.fused.issuperset(node.output):
            EMITTERS[node.op_type](writer, node, attributes_of(node))
    if integers_only and writer.floats:
        more = f" and {len(writer.floats) - NAMED} more tensors" if len(writer.floats) > NAMED else ""
        raise ExportError(
            f"the graph computes {', '.join([*writer.floats][:NAMED])}{more} in float, and a microcontroller's has "
            "integers alone; export it for litert"
        )
    return writer.pack(pixels)


def audit(data: bytes, source: onnx.ModelProto) -> Audit:
    """The audit of a .tflite: each of its layers, under the name that it has in `source`, in the type of its input."""
    schema = load_schema()
    model = schema.ModelT.InitFromPackedBuf(data)
    kinds = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    layers_by_kernel = {node.input[1]: node.name for node in source.graph.node if node.op_type in ("Conv", "Gemm")}
    graph, layers, sizes = model.subgraphs[0], {}, Counter()
    operators = [names[model.operatorCodes[operator.opcodeIndex].builtinCode] for operator in graph.operators]
    for name, operator in zip(operators, graph.operators, strict=True):
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            pixels, kernel = (graph.tensors[index] for index in operator.inputs[:2])
            layers[layers_by_kernel[kernel.name.decode().removesuffix(FROM_HALF)]] = kinds[pixels.type]
    for tensor in graph.tensors:
        data = model.buffers[tensor.buffer].data
        sizes[kinds[tensor.type]] += 0 if data is None else len(data)
    return Audit(layers, dict(Counter(operators)), {kind: size for kind, size in sizes.items() if size})
