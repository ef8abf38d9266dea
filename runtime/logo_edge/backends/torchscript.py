"""TorchScript modules on the CPU by PyTorch (extra `torchscript`)."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence

import numpy as np

from logo_edge.backends.base import ModelFile, Resources
from logo_edge.errors import BundleError, MissingExtraError
from logo_edge.machine import on_cores


class TorchScript:
    """A module of `logo-edge export --format torchscript`, on the CPU; logits are its only output.

    Its threads are PyTorch's, which the whole process shares.
    """

    name, library, suffixes = "torchscript", "torch", (".pt",)
    survives_fork = False  # PyTorch's OpenMP threads belong to the whole process
    outputs: frozenset[str] = frozenset()

    def __init__(self, model: ModelFile, resources: Resources):
        try:
            import torch
        except ImportError as error:
            raise MissingExtraError("torchscript", "torch") from error
        torch.set_num_threads(resources.threads)
        try:
            self._module = torch.jit.load(io.BytesIO(model.data)).eval()
        except RuntimeError as error:
            raise BundleError(f"{model.path}: PyTorch cannot load it: {error}") from error
        self._torch, self._cores, self._local = torch, resources.cores, threading.local()

    def run(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        if len(names) != 1:
            raise BundleError(f"a TorchScript module gives logits alone, not {', '.join(names)}; take another backend")
        cores = None if hasattr(self._local, "started") else self._cores  # OpenMP has a pool for each calling thread
        with on_cores(cores), self._torch.inference_mode():
            self._local.started = True
            return [self._module(self._torch.from_numpy(np.ascontiguousarray(pixels))).numpy()]
