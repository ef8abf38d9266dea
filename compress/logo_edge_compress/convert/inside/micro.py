"""Runs a flatbuffer in TensorFlow Lite for Microcontrollers, and measures the arena that it needs."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import numpy as np
from exchange import read_request, write_record
from tflite_micro import runtime


def printed_by(function) -> str:
    """What native code writes to stderr meanwhile."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            function()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        return file.read().decode()


if __name__ == "__main__":
    request = read_request()
    model = Path(request["model"]).read_bytes()
    interpreter = runtime.Interpreter.from_bytes(model, arena_size=request["arena_bytes"])
    outputs = []
    for pixels in np.load(request["pixels"]):
        interpreter.set_input(pixels[None], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0)[0])
    sizes = re.findall(r"Arena allocation (\w+) (\d+) bytes", printed_by(interpreter.print_allocations))
    file = Path(request["folder"], "integers.npy")
    np.save(file, np.stack(outputs))
    write_record(request, [file], arena={name: int(size) for name, size in sizes})
