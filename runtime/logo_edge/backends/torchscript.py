"""TorchScript modules on the CPU by PyTorch (extra `torchscript`)."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from logo_edge.backends.base import ModelFile, Resources
from logo_edge.errors import BundleError, MissingExtraError


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
        self._torch = torch

    def run(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        if len(names) != 1:
            raise BundleError(f"a TorchScript module gives logits alone, not {', '.join(names)}; take another backend")
        with self._torch.inference_mode():
            return [self._module(self._torch.from_numpy(np.ascontiguousarray(pixels))).numpy()]
