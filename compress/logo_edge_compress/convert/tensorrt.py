"""ONNX for TensorRT, and a TensorRT engine: built on the device that will run it, and stored for the next time.

For TensorRT 10 (Jetson) and 11: the network is strongly typed, so the graph decides the precision, and neither
calibrators nor precision flags, which 11 has removed, are needed. Type-checked against tensorrt-stubs.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import onnx
from onnx import TensorProto

from logo_edge.backends.tensorrt import checked, load_cuda, need_tensorrt, sizes
from logo_edge.errors import ExportError, MissingExtraError, VerificationError
from logo_edge.files import write_file
from logo_edge_compress.convert.onnx import audit_pairs
from logo_edge_compress.convert.request import Request
from logo_edge_compress.onnx.graph import PIXELS, save_model, to_tensorrt
from logo_edge_compress.verify import EXPORTED, QUANTIZED, ROUNDED, compare_logits, open_artifact, open_onnx, run_onnx
from logo_edge_train.keys import file_hash

KEPT_RANGES = (1.0, 0.98, 0.96, 0.94, 0.92)  # tried for S8 activations
STEM = 1  # layers: the one that reads the pixels stays in float, as they are normalised and not quantized
ON_THE_DEVICE = (
    "Build it on the device that will run it, with TensorRT 10.3 or later: on a Jetson JetPack 6.1, 6.2 or 7 (6.0 has "
    "TensorRT 8.6). Copy the .onnx there and run the line above in its folder; JetPack has trtexec in "
    "/usr/src/tensorrt/bin. Or run this command there, which verifies the engine too. The graph is strongly typed: its "
    "types and its Q/DQ pairs set the precision, so add no --int8, --fp16 or --calib"
)
BATCHES = 1, 8, 32  # smallest, optimal, largest; for a graph with a free batch size
OPSETS = range(9, 21)  # read by TensorRT 10.3, the oldest in JetPack 6

# The operators up to opset 18 that docs/operators.md of onnx-tensorrt 10.15 marks as supported.
OPERATORS = frozenset(
    "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast CastLike Ceil Celu "
    "Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout "
    "Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gemm GlobalAveragePool "
    "GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GRU HardSigmoid HardSwish Hardmax Identity If "
    "InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LRN LSTM "
    "LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression "
    "NonZero Not OneHot Or Pad Pow PRelu QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum "
    "ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize "
    "ReverseSequence RNN RoiAlign Round Scan ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size "
    "Slice Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu "
    "Unsqueeze Upsample Where Xor".split()
)

# The inputs that the same page wants as constants: axes, and the number of results.
CONSTANT_INPUTS = {"CumSum": 1, "Slice": 3, "Squeeze": 1, "TopK": 1, "Unsqueeze": 1} | {
    name: 1 for name in OPERATORS if name.startswith("Reduce")
}


def convert(request: Request, model: onnx.ModelProto, graph: Path) -> dict:
    """Writes the ONNX that TensorRT 10 and 11 parse and returns its verification, by ONNX Runtime on the CPU.

    Raises ExportError where TensorRT would refuse it.
    """
    record: dict = {}
    if request.precision == "int8":
        images, path = request.images.fitting, request.path.with_suffix(".onnx")
        request.say(f"choosing the range of S8 activations on {len(images)} images")
        parent, kl_nats = run_onnx(graph, images), {}
        for share in KEPT_RANGES:
            save_model(to_tensorrt(model, share), path)
            kl_nats[share] = compare_logits(parent, run_onnx(path, images), multi_label=request.multi_label).kl_nats
        record["kept_range"] = min(kl_nats, key=kl_nats.__getitem__)
    model = to_tensorrt(model, record.get("kept_range", 1.0))
    path = request.save(model)
    if problems := unsupported_operators(model):
        raise ExportError(f"TensorRT would refuse {path.name}: {'; '.join(problems)}; take --format onnx or openvino")
    tolerance = {"fp32": EXPORTED, "fp16": ROUNDED, "int8": QUANTIZED}[request.precision]
    verified = request.verify(open_onnx(path), tolerance, path.name, "onnxruntime")
    counted = audit_pairs(model)
    return record | verified | request.audit(counted, path.name, left=list(counted.layers)[:STEM])


def make_engine(request: Request, folder: Path) -> dict:
    """Builds the engine in `folder` and verifies it, or says why it cannot be built; one that disagrees is deleted."""
    path = request.path.with_suffix(".onnx")
    request.say(f"without Python: {trtexec_line(onnx.load(path), path, path.stem + '.engine')}")
    if reason := why_no_engine():
        request.say(f"not done: no engine was built or run here. {reason}. {ON_THE_DEVICE}")
        return {"engine": None, "not_done": f"no engine was built or run: {reason}"}
    engine = build_engine(path, folder)
    tolerance = QUANTIZED if request.precision == "int8" else ROUNDED  # on GPUs FP32 is TF32
    try:
        record = request.verify(open_artifact("tensorrt", engine), tolerance, engine.name, "tensorrt")
    except VerificationError:
        engine.unlink()
        raise
    return {"engine": {"file": f"{folder.name}/{engine.name}", "sha256": file_hash(engine), **record}}


def unsupported_operators(model: onnx.ModelProto) -> list[str]:
    """What TensorRT's ONNX parser would refuse, one line each; empty if its documented support covers the graph."""
    graph, problems = model.graph, []
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    constants = {"", *types, *(node.output[0] for node in graph.node if node.op_type == "Constant")}
    weights = {  # name -> the constant that it is, or that it is dequantized from
        **{name: name for name in types},
        **{node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"},
    }
    bytes_in = {value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.UINT8}
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version not in OPSETS:
            problems.append(f"opset {opset.version}; TensorRT 10.3 reads {OPSETS.start} to {OPSETS.stop - 1}")
    for node in graph.node:
        where = f"{node.op_type} {node.name!r}"
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            problems.append(f"{where}: TensorRT has no such operator")
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero_point = node.input[2] if len(node.input) > 2 else ""
            if types.get(zero_point) != TensorProto.INT8 or arrays[zero_point].any():
                problems.append(f"{where}: TensorRT quantizes to S8 with a zero point of 0 only")
            scale = arrays.get(node.input[1])
            if scale is None or not (scale > 0).all():
                problems.append(f"{where}: TensorRT wants scales that are constants above 0")
            elif scale.size > 1 and node.input[0] not in types:
                problems.append(f"{where}: TensorRT quantizes activations with one scale, not one per channel")
        elif node.op_type in ("Conv", "ConvTranspose"):
            kernel = arrays.get(weights.get(node.input[1], ""))
            if kernel is None or kernel.ndim not in (4, 5):
                problems.append(f"{where}: TensorRT wants constant weights of 2 or 3 dimensions")
        elif not constants.issuperset(node.input[CONSTANT_INPUTS.get(node.op_type, len(node.input)) :][:1]):
            problems.append(f"{where}: TensorRT wants {node.input[CONSTANT_INPUTS[node.op_type]]!r} as a constant")
        elif node.op_type != "Cast" and bytes_in.intersection(node.input):
            problems.append(f"{where}: TensorRT can only cast uint8 pixels")
    return problems


def engine_name(gpu: str, version: str, model: bytes) -> str:
    """The file name of an engine, which is valid for this GPU, TensorRT and model (with its batch sizes) only."""
    digest = hashlib.sha256(repr(BATCHES).encode() + model).hexdigest()
    return f"{_slug(gpu)}-trt{version}-{digest[:16]}.engine"


def trtexec_line(model: onnx.ModelProto, path: Path, engine: str) -> str:
    """The command that builds the same engine without Python."""
    words = [
        "trtexec",
        f"--onnx={path.name}",
        "--stronglyTyped",
        f"--saveEngine={engine}",
        "--timingCacheFile=timing.cache",
    ]
    shape = [dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim]
    if not shape[0]:
        for name, batch in zip(("min", "opt", "max"), BATCHES, strict=True):
            words.append(f"--{name}Shapes={PIXELS}:{'x'.join(map(str, [batch, *shape[1:]]))}")
    return " ".join(words)


def build_engine(path: Path, folder: Path) -> Path:
    """The engine of the ONNX file at `path` for this machine's GPU, in `folder`; built unless it exists.

    Timings of kernels are stored next to it, so that the next model is built faster. Raises MissingExtraError where
    TensorRT or CUDA's bindings are missing, ExportError where there is no GPU or TensorRT refuses the model.
    """
    need_tensorrt()
    import tensorrt as trt

    gpu, data = gpu_name(), path.read_bytes()
    engine = folder / engine_name(gpu, trt.__version__, data)
    if engine.exists():
        return engine
    folder.mkdir(parents=True, exist_ok=True)
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(data):
        errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise ExportError(f"TensorRT {trt.__version__} refuses {path.name}: {errors}; report it with this message")
    config = builder.create_builder_config()
    timings = folder / f"{_slug(gpu)}-trt{trt.__version__}.timing"
    cache = config.create_timing_cache(timings.read_bytes() if timings.exists() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    pixels = network.get_input(0)
    if pixels.shape[0] == -1:
        profile, image = builder.create_optimization_profile(), sizes(pixels.shape)[1:]
        smallest, usual, largest = (trt.Dims([batch, *image]) for batch in BATCHES)
        profile.set_shape(PIXELS, smallest, usual, largest)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"TensorRT {trt.__version__} built no engine of {path.name} on {gpu}; its messages are above")
    write_file(engine, bytes(plan))
    write_file(timings, bytes(cache.serialize()))
    return engine


def why_no_engine() -> str:
    """Why no engine can be built on this machine: a missing library or GPU; empty if it can."""
    try:
        need_tensorrt()
        gpu_name()
    except (MissingExtraError, ExportError) as error:
        return str(error)
    return ""


def gpu_name() -> str:
    """The name of the first GPU. Raises MissingExtraError without CUDA's bindings, ExportError without a GPU."""
    name = checked(load_cuda().cudaGetDeviceProperties(0)).name
    return (name.decode() if isinstance(name, bytes) else name).rstrip("\0")


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
