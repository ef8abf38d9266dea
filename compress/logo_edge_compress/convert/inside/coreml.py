"""A float ONNX graph of this project -> a Core ML program, in FP16 or with 8-bit weights; and that program read back.

Core ML runs on Apple's systems alone. Elsewhere the program is checked as it was saved: it is loaded from its package
and written as ONNX, operator by operator, with the weights that it stores.
"""

from __future__ import annotations

import shutil
import zipfile
from collections import Counter
from pathlib import Path

import coremltools as ct
import numpy as np
import onnx
import torch
from coremltools.converters.mil.frontend.milproto.load import load as load_program
from coremltools.converters.mil.mil import Var
from coremltools.converters.mil.mil.types import nptype_from_builtin
from coremltools.optimize.coreml import OpLinearQuantizerConfig, OptimizationConfig, linear_quantize_weights
from exchange import read_request, write_record
from network import Network
from onnx import TensorProto, helper, numpy_helper

PIXELS, PLANES, OPSET = "pixels", "planes", 18
TAKEN = "taken"  # what the program calls pixels, in float
MODEL, WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights"  # in a package
UNARY = {"exp": "Exp", "log": "Log", "relu": "Relu", "sigmoid": "Sigmoid", "identity": "Identity", "cast": "Identity"}
BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "real_div": "Div", "maximum": "Max"}


def convert(model: onnx.ModelProto, precision: str) -> ct.models.MLModel:
    """The program for one image, which Core ML takes as a picture if it has 3 channels, else as an array of numbers.

    Numbers become FP16, and the conversion of evidence to nats, whose tensors have no planes, stays in FP32.
    """
    outputs = [output.name for output in model.graph.output]
    _, side, _, channels = (dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim)
    if channels == 3:
        source, shape = PLANES, (1, channels, side, side)
        values = {
            tensor.name: float(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer if not tensor.dims
        }
        (front,) = (node for node in model.graph.node if PLANES in node.output)
        scale, mean = (values[name] for name in front.input[1:3])
        bias = [-mean * scale] * channels
        taken = ct.ImageType(PIXELS, shape, scale=scale, bias=bias, color_layout=ct.colorlayout.RGB)
    else:
        source, shape = PIXELS, (1, side, side, channels)
        taken = ct.TensorType(PIXELS, shape, dtype=np.float32)
    network = Network(model, source, tuple(outputs)).eval()
    with torch.no_grad():
        traced = torch.jit.trace(network, torch.zeros(shape), check_trace=False)
    program = ct.convert(
        traced,
        inputs=[taken],
        outputs=[ct.TensorType(name, dtype=np.float32) for name in outputs],
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=ct.transform.FP16ComputePrecision(op_selector=_is_half),
        skip_model_load=True,
    )
    if precision == "int8":
        config = OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0)
        program = linear_quantize_weights(program, OptimizationConfig(global_config=config))
    return program


def _is_half(operation) -> bool:
    return operation.op_type == "linear" or len(operation.outputs[0].shape) == 4


def zip_package(package: Path, file: Path) -> None:
    """Writes the folder `package` as one file, whose bytes depend on the content alone."""
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(path for path in package.rglob("*") if path.is_file()):
            archive.writestr(zipfile.ZipInfo(str(path.relative_to(package.parent))), path.read_bytes())


def read_back(package: Path) -> tuple[onnx.ModelProto, dict]:
    """The saved program as ONNX, and its figures.

    These are its ports, how often it has each operator, the type in which each convolution and matrix product computes
    and the type of its weights, and the bytes of constants by type. Raises ValueError, with the list, where the program
    has an operator that is not read here.
    """
    spec = ct.models.MLModel(str(package), skip_model_load=True).get_spec()
    block = load_program(spec, spec.specificationVersion, str(package / WEIGHTS)).functions["main"]
    writer = Writer(block)
    for operation in block.operations:
        writer.add(operation)
    if writer.unknown:
        raise ValueError(f"the program has operators that are not read back: {', '.join(sorted(writer.unknown))}")
    description = spec.description
    ports = {port.name: port.type.WhichOneof("Type") for port in [*description.input, *description.output]}
    layers, weights, sizes = {}, {}, Counter()
    for operation in block.operations:
        if operation.op_type in ("conv", "linear"):
            stored = operation.weight.op.inputs.get("quantized_data", operation.weight)
            layers[operation.name] = np.dtype(nptype_from_builtin(operation.outputs[0].dtype)).name
            weights[operation.name] = stored.val.dtype.name
        for value in operation.inputs.values():
            if isinstance(value, Var) and isinstance(value.val, np.ndarray):
                sizes[value.val.dtype.name] += value.val.nbytes
    operators = dict(Counter(operation.op_type for operation in block.operations))
    figures = {"ports": ports, "operators": operators, "layers": layers, "weights": weights, "bytes": dict(sizes)}
    return writer.model(), figures


class Writer:
    """Collects ONNX nodes and constants, all float32, of operations of a program; one image becomes any batch."""

    def __init__(self, block):
        (self.taken,) = block.inputs.values()
        self.results = block.outputs
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.unknown: set[str] = set()
        if self.taken.shape[1] == 3:
            self._write("Transpose", [PIXELS], "planes", perm=[0, 3, 1, 2])
        self._write("Cast", ["planes" if self.nodes else PIXELS], TAKEN, to=TensorProto.FLOAT)

    def add(self, operation) -> None:
        """Adds what the operation computes. One that is not known here is collected in `unknown`."""
        kind, (result, *_), inputs = operation.op_type, operation.outputs, operation.inputs
        settings = {name: getattr(value, "val", None) for name, value in inputs.items()}
        if kind == "const":
            return
        if kind.startswith("constexpr_"):
            self.constants[result.name] = operation.materialized_val_inference().astype(np.float32)
        elif kind == "conv":
            top, bottom, left, right = settings["pad"] if settings["pad_type"] == "custom" else [0] * 4
            sizes = {"strides": settings["strides"], "dilations": settings["dilations"], "group": settings["groups"]}
            sizes |= {"pads": [top, left, bottom, right]}
            self._write("Conv", self._names(inputs, "x", "weight", "bias"), result.name, **sizes)
        elif kind == "linear":
            self._write("Gemm", self._names(inputs, "x", "weight", "bias"), result.name, transB=1)
        elif kind in UNARY:
            self._write(UNARY[kind], self._names(inputs, "x"), result.name)
        elif kind in BINARY:
            self._write(BINARY[kind], self._names(inputs, "x", "y"), result.name)
        elif kind in ("clip", "relu6"):
            bounds = [settings.get("alpha", 0.0), settings.get("beta", 6.0)]
            names = [self._constant(f"{result.name}/{index}", np.float32(bound)) for index, bound in enumerate(bounds)]
            self._write("Clip", [*self._names(inputs, "x"), *names], result.name)
        elif kind == "inverse":
            epsilon = self._constant(f"{result.name}/epsilon", np.float32(settings["epsilon"]))
            self._write("Add", [*self._names(inputs, "x"), epsilon], f"{result.name}/sum")
            self._write("Reciprocal", [f"{result.name}/sum"], result.name)
        elif kind in ("reduce_mean", "reduce_sum", "squeeze"):
            axes = self._constant(f"{result.name}/axes", np.array(settings["axes"], np.int64))
            operator = {"reduce_mean": "ReduceMean", "reduce_sum": "ReduceSum", "squeeze": "Squeeze"}[kind]
            keep = {} if kind == "squeeze" else {"keepdims": int(settings["keep_dims"])}
            self._write(operator, [*self._names(inputs, "x"), axes], result.name, **keep)
        elif kind == "reshape":
            shape = self._constant(f"{result.name}/shape", np.array([0, *settings["shape"][1:]], np.int64))
            self._write("Reshape", [*self._names(inputs, "x"), shape], result.name)
        elif kind == "pad":
            rank, pairs = len(result.shape), np.reshape(settings["pad"], (-1, 2))  # of the last axes
            pads = np.concatenate([np.zeros((rank - len(pairs), 2), np.int64), pairs]).T.ravel()
            names = [*self._names(inputs, "x"), self._constant(f"{result.name}/pads", pads.astype(np.int64))]
            self._write("Pad", names, result.name)
        elif kind == "transpose":
            self._write("Transpose", self._names(inputs, "x"), result.name, perm=settings["perm"])
        elif kind == "softmax":
            self._write("Softmax", self._names(inputs, "x"), result.name, axis=settings["axis"])
        elif kind == "concat":
            names = [self._name(value) for value in inputs["values"]]
            self._write("Concat", names, result.name, axis=settings["axis"])
        else:
            self.unknown.add(kind)

    def model(self) -> onnx.ModelProto:
        _, *sizes = self.taken.shape
        sizes = [*sizes[1:], sizes[0]] if sizes[0] == 3 else sizes
        results = [
            helper.make_tensor_value_info(result.name, TensorProto.FLOAT, ["batch", *result.shape[1:]])
            for result in self.results
        ]
        pixels = helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["batch", *sizes])
        constants = [numpy_helper.from_array(values, name) for name, values in self.constants.items()]
        graph = helper.make_graph(self.nodes, "coreml", [pixels], results, constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])

    def _name(self, variable) -> str:
        """The tensor of a variable, with its values if it is a constant."""
        if variable.val is not None:
            self._constant(variable.name, np.asarray(variable.val, np.float32))
        return TAKEN if variable is self.taken else variable.name

    def _names(self, inputs: dict, *names: str) -> list[str]:
        return [self._name(inputs[name]) for name in names if inputs.get(name) is not None]

    def _constant(self, name: str, values: np.ndarray) -> str:
        self.constants[name] = np.asarray(values)
        return name

    def _write(self, operator: str, inputs: list[str], result: str, **attributes) -> None:
        attributes = {
            name: value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
            for name, value in attributes.items()
        }
        self.nodes.append(helper.make_node(operator, inputs, [result], name=result, **attributes))


if __name__ == "__main__":
    request = read_request()
    folder, stem = Path(request["folder"]), request["stem"]
    package = folder / f"{stem}.mlpackage"
    convert(onnx.load(request["graph"]), request["precision"]).save(str(package))
    model, figures = read_back(package)
    files = [folder / f"{stem}.mlpackage.zip", folder / f"{stem}-readback.onnx"]
    zip_package(package, files[0])
    shutil.rmtree(package)
    onnx.save(model, files[1])
    write_record(request, files, **figures)
