"""TensorRT engines on an NVIDIA GPU (extra `tensorrt`)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from logo_edge.backends.base import ModelFile, Resources
from logo_edge.errors import ExportError, MissingExtraError

PIXELS = "pixels"


class TensorRT:
    """An engine that `logo-edge export --format tensorrt` built on this machine, on its first GPU.

    Raises ExportError where the engine was built for another GPU or release.
    """

    name, library, suffixes = "tensorrt", "tensorrt", (".engine",)
    survives_fork = False  # CUDA belongs to the whole process

    def __init__(self, model: ModelFile, resources: Resources):
        need_tensorrt()
        import tensorrt as trt

        cuda = load_cuda()
        if not resources.spinning:
            checked(cuda.cudaSetDeviceFlags(cuda.cudaDeviceScheduleBlockingSync))
        engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(model.data)
        if engine is None:
            raise ExportError(
                f"{model.path} is no engine of this GPU and TensorRT {trt.__version__}; delete it and export again"
            )
        self._engine, self._context, self._cuda = engine, engine.create_execution_context(), cuda
        self._name, self._lock = model.path.name, threading.Lock()  # a context serves one thread at a time
        self.outputs = frozenset(
            name
            for name in map(engine.get_tensor_name, range(engine.num_io_tensors))
            if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT
        )

    def run(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        pixels = np.ascontiguousarray(pixels)
        with self._lock:
            if not self._context.set_input_shape(PIXELS, pixels.shape):
                raise ExportError(f"{self._name} takes no batch of {len(pixels)}; export it again for such batches")
            shapes = {name: sizes(self._context.get_tensor_shape(name)) for name in self.outputs}
            outputs = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
            self._execute({PIXELS: pixels}, outputs)
        return [outputs[name] for name in names]

    def _execute(self, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> None:
        """Runs the engine on `inputs` and fills `outputs`. Raises ExportError."""
        cuda, kinds, addresses = self._cuda, self._cuda.cudaMemcpyKind, {}
        try:
            for name, array in (inputs | outputs).items():
                addresses[name] = checked(cuda.cudaMalloc(array.nbytes))
                self._context.set_tensor_address(name, int(addresses[name]))
            for name, array in inputs.items():
                checked(cuda.cudaMemcpy(addresses[name], array.ctypes.data, array.nbytes, kinds.cudaMemcpyHostToDevice))
            stream = checked(cuda.cudaStreamCreate())
            if not self._context.execute_async_v3(int(stream)):
                raise ExportError(f"{self._name} failed to run; TensorRT's messages are above")
            checked(cuda.cudaStreamSynchronize(stream))
            checked(cuda.cudaStreamDestroy(stream))
            for name, array in outputs.items():
                checked(cuda.cudaMemcpy(array.ctypes.data, addresses[name], array.nbytes, kinds.cudaMemcpyDeviceToHost))
        finally:
            for address in addresses.values():
                cuda.cudaFree(address)


def need_tensorrt() -> None:
    """Raises MissingExtraError where TensorRT is not installed."""
    try:
        from tensorrt import Builder  # noqa: F401  # installed stubs alone make an empty package
    except ImportError as error:
        raise MissingExtraError("tensorrt", "tensorrt") from error


def load_cuda() -> Any:
    """The bindings of CUDA's runtime. Raises MissingExtraError."""
    try:
        return import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise MissingExtraError("tensorrt", "cuda-bindings") from error


def checked(result: tuple) -> Any:
    """The value of a call to CUDA, whose first item is its status. Raises ExportError where it failed."""
    status, *values = result
    if int(status):
        raise ExportError(
            f"CUDA says {status.name}; a TensorRT engine is built and run on a machine with an NVIDIA GPU"
        )
    return values[0] if values else None


def sizes(shape: Any) -> list[int]:
    """TensorRT's Dims as a list; Dims has a length and items but is no sequence."""
    return [shape[axis] for axis in range(len(shape))]
