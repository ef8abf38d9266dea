"""Static INT8 by NNCF: with its bias correction, or with layers restored to FP32 until the accuracy holds.

An alternative to `static.quantize_body`, for graphs on which that loses too much.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx

from logo_edge.errors import MissingExtraError
from logo_edge_compress.onnx.export import finish
from logo_edge_compress.onnx.graph import LOGITS, PLANES, copy_model
from logo_edge_compress.quantize.static import evidence_nodes, to_planes
from logo_edge_compress.verify import run_onnx
from logo_edge_train.metrics import is_correct


class _TimeUp(Exception):
    """The accuracy-aware search has used its minutes."""


def quantize_with_nncf(body: Path, pixels: np.ndarray, size_px: int, path: Path, *, reduce_range: bool) -> Path:
    """The body as INT8 QDQ by NNCF with its accurate bias correction, at `path`; pixels: (N, S, S, 3) uint8, of train.

    Raises MissingExtraError without NNCF.
    """
    nncf, model = _import_nncf(), onnx.load(body)
    with redirect_stdout(None):
        quantized = _correct_biases(
            partial(
                nncf.quantize,
                model,
                _planes(nncf, pixels),
                advanced_parameters=_advanced(nncf, reduce_range),
                **_options(nncf, model, len(pixels)),
            )
        )
    finish(quantized, size_px, path)
    return path


def restore_with_nncf(
    body: Path,
    pixels: np.ndarray,
    val_pixels: np.ndarray,
    val_targets: np.ndarray,
    size_px: int,
    path: Path,
    *,
    max_drop: float,
    minutes: float,
    reduce_range: bool,
) -> tuple[Path, bool]:
    """The same with layers restored to FP32 until val accuracy drops by at most `max_drop`; and whether it does.

    After `minutes` the most accurate model so far is used. val_pixels: (N, S, S, 3) uint8, val_targets: (N,),
    multi-label (N, K).
    """
    import onnxruntime

    nncf, model = _import_nncf(), onnx.load(body)
    fp32_accuracies, tried = [], []  # tried: (accuracy, model) of quantized ones
    end = time.monotonic() + 60 * minutes

    def validate(candidate: onnx.ModelProto, items: Iterable[int]) -> tuple[float, list[float]]:
        if tried and time.monotonic() > end:
            raise _TimeUp
        session = onnxruntime.InferenceSession(candidate.SerializeToString(), providers=["CPUExecutionProvider"])
        right = [
            is_correct(
                session.run([LOGITS], {PLANES: to_planes(val_pixels[index : index + 1])})[0],
                val_targets[index : index + 1],
            )[0]
            for index in items
        ]
        accuracy = float(np.mean(right))
        if not any(node.op_type == "QuantizeLinear" for node in candidate.graph.node):
            fp32_accuracies.append(accuracy)
        elif len(right) == len(val_targets):  # else NNCF ranks layers on a part of them
            tried.append((accuracy, copy_model(candidate)))
        return accuracy, [float(hit) for hit in right]

    advanced = nncf.quantization.advanced_parameters.AdvancedAccuracyRestorerParameters(num_ranking_workers=1)
    try:
        with redirect_stdout(None):
            quantized = _correct_biases(
                partial(
                    nncf.quantize_with_accuracy_control,
                    model,
                    _planes(nncf, pixels),
                    _planes(nncf, val_pixels),
                    validate,
                    max_drop=max_drop,
                    drop_type=nncf.DropType.ABSOLUTE,
                    advanced_quantization_parameters=_advanced(nncf, reduce_range),
                    advanced_accuracy_restorer_parameters=advanced,
                    **_options(nncf, model, len(pixels)),
                )
            )
    except _TimeUp:
        from nncf.onnx.quantization.quantize_model import compress_quantize_weights_transformation

        quantized = max(tried, key=lambda pair: pair[0])[1]
        compress_quantize_weights_transformation(quantized)  # the last step of NNCF: weights become integers
    finish(quantized, size_px, path)
    accuracy = is_correct(run_onnx(path, val_pixels), val_targets).mean()
    return path, bool(accuracy >= fp32_accuracies[0] - max_drop)


def _correct_biases(quantize: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    """The model with accurate bias correction; with the fast one if NNCF cuts the graph so that it does not load."""
    try:
        return quantize(fast_bias_correction=False)
    except RuntimeError:  # by ONNX Runtime, on the cut graph
        return quantize(fast_bias_correction=True)


def _planes(nncf: ModuleType, pixels: np.ndarray):
    """The images one by one, normalised on access."""
    return nncf.Dataset(list(range(len(pixels))), lambda index: {PLANES: to_planes(pixels[index : index + 1])})


def _options(nncf: ModuleType, model: onnx.ModelProto, images: int) -> dict:
    attends = any(node.op_type == "Softmax" for node in model.graph.node)
    return {
        "subset_size": images,
        "target_device": nncf.TargetDevice.CPU,
        "preset": nncf.QuantizationPreset.MIXED,
        "model_type": nncf.ModelType.TRANSFORMER if attends else None,
        "ignored_scope": nncf.IgnoredScope(names=list(evidence_nodes(model))),
    }


def _advanced(nncf: ModuleType, reduce_range: bool):
    advanced = nncf.quantization.advanced_parameters
    fix = advanced.OverflowFix.ENABLE if reduce_range else advanced.OverflowFix.DISABLE
    return advanced.AdvancedQuantizationParameters(overflow_fix=fix)


def _import_nncf() -> ModuleType:
    try:
        import nncf
        import nncf.quantization.advanced_parameters
    except ImportError as error:
        raise MissingExtraError("compress", "nncf") from error
    logging.getLogger("nncf").setLevel(logging.ERROR)  # set_log_level also changes its handlers, which may be others'
    return nncf
