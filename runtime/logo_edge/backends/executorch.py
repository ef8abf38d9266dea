"""ExecuTorch programs on the CPU by ExecuTorch and XNNPACK (extra `executorch`)."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from logo_edge.backends.base import ModelFile, Resources
from logo_edge.errors import BundleError, MissingExtraError


class ExecuTorch:
    """A program of `logo-edge export --format executorch`, on the CPU.

    It takes one batch size, mostly 1: other batches run in parts, the last one filled up. Its threads are XNNPACK's,
    which the whole process shares: their number and cores are those of the program opened last. A program keeps a
    pointer to the threads that it was loaded with, so all are loaded again after these were replaced.
    """

    name, library, suffixes = "executorch", "executorch", (".pte",)
    survives_fork = False  # XNNPACK's threads belong to the whole process, as PyTorch's do
    _lock = threading.Lock()  # a program serves one thread at a time, and none while the threads are replaced
    _pools, _cores = 0, None  # how often they were, and the cores of the last ones

    def __init__(self, model: ModelFile, resources: Resources):
        try:
            import torch
            from executorch.extension.pybindings import portable_lib
        except ImportError as error:
            raise MissingExtraError("executorch", error.name or "executorch") from error
        # a program reads the bytes as long as it lives, and does not own them: `_load` does
        self._torch, self._load = torch, lambda: portable_lib._load_for_executorch_from_buffer(model.data)
        with self._lock:
            if (portable_lib._threadpool_get_thread_count(), self._cores) != (resources.threads, resources.cores):
                portable_lib._unsafe_reset_threadpool(resources.threads)
                ExecuTorch._pools, ExecuTorch._cores = self._pools + 1, resources.cores
            try:
                self._program, self._pool = self._load(), ExecuTorch._pools
                self._names = tuple(self._program.run_method("output_names"))
                self._batch = self._program.method_meta("forward").input_tensor_meta(0).sizes()[0]
            except RuntimeError as error:
                raise BundleError(f"{model.path}: ExecuTorch cannot load it: {error}") from error
        self.outputs = frozenset(self._names)

    def run(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        count = len(pixels)
        filled = np.concatenate([pixels, np.zeros((-count % self._batch, *pixels.shape[1:]), np.uint8)])
        parts = []
        for start in range(0, count, self._batch):
            part = self._torch.from_numpy(filled[start : start + self._batch])
            with self._lock:
                if self._pool != ExecuTorch._pools:
                    self._program, self._pool = self._load(), ExecuTorch._pools
                parts.append(self._program.run_method("forward", (part,)))  # copies of the outputs
        outputs = dict(zip(self._names, zip(*parts, strict=True), strict=True))
        return [np.concatenate([part.numpy() for part in outputs[name]])[:count] for name in names]
