"""A flatbuffer of integers alone for TensorFlow Lite for Microcontrollers (TFLM), and the same as a C array."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx

from logo_edge.errors import ExportError
from logo_edge.files import folder_beside, write_file
from logo_edge_compress.convert.environments import run_converter
from logo_edge_compress.convert.flatbuffer import audit, write_flatbuffer
from logo_edge_compress.convert.flatbuffer_writer import signed
from logo_edge_compress.convert.request import Request
from logo_edge_compress.onnx.dequantize import Grid, logits_grid
from logo_edge_compress.onnx.graph import LOGITS
from logo_edge_compress.verify import ROUNDED

RESOLVER = {  # of TFLM's MicroMutableOpResolver, for the operators that such a graph may have
    "ADD": "AddAdd",
    "AVERAGE_POOL_2D": "AddAveragePool2D",
    "CONCATENATION": "AddConcatenation",
    "CONV_2D": "AddConv2D",
    "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D",
    "FULLY_CONNECTED": "AddFullyConnected",
    "HARD_SWISH": "AddHardSwish",
    "MAX_POOL_2D": "AddMaxPool2D",
    "MEAN": "AddMean",
    "MUL": "AddMul",
    "PAD": "AddPad",
    "PADV2": "AddPadV2",
    "RESHAPE": "AddReshape",
}
CHIPS = {  # kB of flash (external where it is usual) and of RAM, by their data sheets
    "RP2040 (Pico)": (2048, 264),
    "RP2350 (Pico 2)": (4096, 520),
    "ESP32-S3": (8192, 512),
    "ESP32-P4": (16384, 768),
    "nRF52840": (1024, 256),
    "nRF5340": (1024, 512),
    "STM32F746": (1024, 340),
    "STM32H743": (2048, 1024),
    "i.MX RT1062 (Teensy 4.1)": (7936, 1024),
    "RA8D1": (2048, 1024),
    "Apollo4 Plus": (2048, 2816),
}
CODE_KB, OTHER_RAM_KB = 150, 48  # an estimate of TFLM, its kernels and a small program; of its stack and a camera line
ARENA_BYTES = 16 << 20  # while the arena is measured
LINE = 20  # bytes in a line of the C array


def convert(request: Request, model: onnx.ModelProto, graph: Path) -> dict:
    """Writes the INT8 ONNX file `graph` as .tflite and .h, and returns its audit and verification by TFLM.

    The record lists the operators, the bytes of TFLM's arena (on a 64-bit machine with the reference kernels; a chip
    needs fewer for pointers, and optimized kernels more for scratch) and the chips that could hold both.
    """
    source, path = onnx.load(graph), request.path.with_suffix(".tflite")
    data = write_flatbuffer(source, outputs=(LOGITS,), batch=1, integers_only=True)
    counted = audit(data, source)
    operators = counted.operators
    if unknown := sorted(operators.keys() - RESOLVER.keys()):
        raise ExportError(f"{path.name} has operators that we do not know of TFLM: {', '.join(unknown)}")
    write_file(path, data)
    grid = signed(logits_grid(source))
    logits, arena = run_tflm(
        path, request.images.verifying, float(grid.scale), int(grid.zero_point), python=request.converter_python
    )
    record = request.verify_logits(logits, ROUNDED, path.name, "tflite-micro", step=float(grid.scale))
    write_file(request.path.with_suffix(".h"), c_array(data, operators, arena["total"], grid))
    return {
        **record,
        **request.audit(counted, path.name),
        "arena_bytes": arena,
        "fits": [name for name, (flash, ram) in CHIPS.items() if _fits(len(data), arena["total"], flash, ram)],
        "batch": 1,
        "pixels": {"dtype": "int8", "offset": -128},
        "output": {"scale": float(grid.scale), "zero_point": int(grid.zero_point)},
    }


def _fits(model_bytes: int, arena_bytes: int, flash_kb: int, ram_kb: int) -> bool:
    return model_bytes / 1024 + CODE_KB <= flash_kb and arena_bytes / 1024 + OTHER_RAM_KB <= ram_kb


def run_tflm(
    path: Path, pixels: np.ndarray, scale: float, zero_point: int, *, python: Path | None = None
) -> tuple[np.ndarray, dict[str, int]]:
    """The (N, K) float32 logits that TFLM's interpreter gives for (N, S, S, C) uint8 pixels, and its arena's bytes.

    `scale` and `zero_point` are those of the model's output, `python` is as in `run_converter`.
    """
    with folder_beside(path) as folder:
        np.save(folder / "pixels.npy", (pixels.astype(np.int16) - 128).astype(np.int8))
        arguments = {"model": str(path), "pixels": str(folder / "pixels.npy"), "arena_bytes": ARENA_BYTES}
        record = run_converter("micro", arguments, folder, python=python)
        integers = np.load(folder / "integers.npy")
    return (integers.astype(np.float32) - zero_point) * np.float32(scale), record["arena"]


def c_array(data: bytes, operators: Iterable[str], arena_bytes: int, grid: Grid) -> str:
    """The flatbuffer as a C and C++ header."""
    lines = [", ".join(f"0x{byte:02x}" for byte in data[start : start + LINE]) for start in range(0, len(data), LINE)]
    calls = [f"//   resolver.{RESOLVER[name]}();" for name in sorted(operators)]
    newline, body = "\n", ",\n  ".join(lines)
    return f"""// Written by `logo-edge export --format tflm`. sha256 of the array: {hashlib.sha256(data).hexdigest()}
//
// input   int8 (1, S, S, C): each byte of `pixels` minus 128
// output  int8 (1, K): logit = (value - ({int(grid.zero_point)})) * {float(grid.scale)!r}f, before temperature
//
//   tflite::MicroMutableOpResolver<{len(calls)}> resolver;
{newline.join(calls)}
#ifndef LOGO_EDGE_MODEL_H
#define LOGO_EDGE_MODEL_H

#define LOGO_EDGE_ARENA_BYTES {arena_bytes}  // measured on a 64-bit machine with TFLM's reference kernels

#ifdef __cplusplus
alignas(16)
#else
_Alignas(16)
#endif
static const unsigned char logo_edge_model[{len(data)}] = {{
  {body}
}};

#endif
"""
