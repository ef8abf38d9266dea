"""The cost of INT8 layer by layer, and the layers to leave in FP32."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from logo_edge_compress.onnx.export import finish
from logo_edge_compress.quantize.rounding import kernel_scales
from logo_edge_compress.quantize.static import LEARNED, depthwise_layers, evidence_nodes, insert_qdq, quantize_body
from logo_edge_compress.verify import Parity, Tolerance, compare_logits, run_onnx
from logo_edge_train.metrics import is_correct
from logo_edge_train.runs import write_json


@dataclass(frozen=True)
class Layer:
    """One layer quantized alone, all others in FP32: KL(FP32 || this) of the logits in nats, and accuracy, on val."""

    name: str
    operator: str
    weights: int
    kl_nats: float
    accuracy: float


def measure_sensitivity(
    body: Path,
    rounded: Path,
    pixels: np.ndarray,
    val_pixels: np.ndarray,
    val_targets: np.ndarray,
    size_px: int,
    record: Path,
    *,
    method: str,
    reduce_range: bool,
    say: Callable[[str], None] = lambda text: None,
) -> list[Layer]:
    """Every layer with weights, in the order of the graph; its weights as in `rounded`, its inputs in U8.

    Each result is written to the JSON file `record` at once, and read from there. pixels: (N, S, S, 3) uint8 of train;
    val_pixels and val_targets, (N,) or multi-label (N, K): the images to measure on.
    """
    model, grid = onnx.load(body), onnx.load(rounded)
    kernels = {tensor.name: tensor for tensor in grid.graph.initializer}
    names = {tensor.name for tensor in model.graph.initializer}
    layers = [
        node
        for node in model.graph.node
        if node.op_type in LEARNED and node.input[1] in names and node.name not in evidence_nodes(model)
    ]
    depthwise = depthwise_layers(model)
    done = (
        {layer["name"]: Layer(**layer) for layer in json.loads(record.read_text())["layers"]} if record.exists() else {}
    )
    if done.keys() >= {layer.name for layer in layers}:
        return [done[layer.name] for layer in layers]
    scratch, ranges = record.with_suffix(".onnx"), record.with_suffix(".ranges.json")
    finish(onnx.load(body), size_px, scratch)
    parent = run_onnx(scratch, val_pixels)
    for layer in layers:
        if layer.name in done:
            continue
        alone = onnx.load(body)
        weight = next(tensor for tensor in alone.graph.initializer if tensor.name == layer.input[1])
        weight.CopyFrom(kernels[weight.name])
        quantized = insert_qdq(
            alone,
            kernel_scales(model, reduce_range=reduce_range),
            pixels,
            method=method,
            reduce_range=reduce_range,
            only=(layer.name,),
            ranges=ranges,
        )
        finish(quantized, size_px, scratch)
        logits = run_onnx(scratch, val_pixels)
        result = Layer(
            layer.name,
            f"depthwise {layer.op_type}" if layer.name in depthwise else layer.op_type,
            int(np.prod(weight.dims)),
            compare_logits(parent, logits, multi_label=val_targets.ndim == 2).kl_nats,
            float(is_correct(logits, val_targets).mean()),
        )
        done[layer.name] = result
        say(f"  {result.name}: KL {result.kl_nats:.5f} nats, {result.accuracy:.1%}")
        write_json(record, {"layers": [asdict(result) for result in done.values()]})
    scratch.unlink()
    ranges.unlink(missing_ok=True)
    return [done[layer.name] for layer in layers]


def mix_precision(
    layers: list[Layer],
    body: Path,
    rounded: Path,
    pixels: np.ndarray,
    val_pixels: np.ndarray,
    size_px: int,
    path: Path,
    *,
    method: str,
    reduce_range: bool,
    tolerance: Tolerance,
    most: int,
    multi_label: bool = False,
) -> tuple[tuple[str, ...], Parity]:
    """Writes the INT8 body with as few layers in FP32 as `tolerance` allows; returns their names and the parity.

    The number of layers is doubled, starting with none, until val is within the tolerance, or `most` is reached.
    """
    order = [layer.name for layer in sorted(layers, key=lambda layer: -layer.kl_nats)]
    fp32, ranges = path.with_suffix(".whole.onnx"), path.with_suffix(".ranges.json")
    finish(onnx.load(body), size_px, fp32)
    parent = run_onnx(fp32, val_pixels)
    counts = [0, *(2**power for power in range(most.bit_length()) if 2**power < most), most]
    for count in counts:
        restored = tuple(order[:count])
        quantize_body(
            body,
            rounded,
            pixels,
            size_px,
            path,
            method=method,
            reduce_range=reduce_range,
            restored=restored,
            ranges=ranges,
        )
        parity = compare_logits(parent, run_onnx(path, val_pixels), multi_label=multi_label)
        if (
            parity.kl_nats <= tolerance.kl_nats
            and parity.top1_agreement >= tolerance.top1_agreement
            and parity.mean_difference <= tolerance.mean_difference
        ):
            break
    fp32.unlink()
    ranges.unlink(missing_ok=True)
    return restored, parity
