"""What every format needs to convert a graph and to verify the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from logo_edge_compress.onnx.graph import fix_batch, save_model
from logo_edge_compress.verify import Forward, Tolerance, run_artifact, verify


@dataclass(frozen=True)
class Images:
    """(N, S, S, 3) uint8 each: `fitting` to choose settings on, `verifying` to compare artifact and parent on."""

    fitting: np.ndarray
    verifying: np.ndarray


@dataclass(frozen=True)
class Request:
    """One artifact to make, at `path` (which has no suffix yet).

    `batch` None: any batch size. `parent`: the (N, K) logits on `images.verifying` of the model that it is made from.
    `converter_python`: the Python that runs the converter, for `run_converter`; None: one of ours.
    """

    precision: str
    batch: int | None
    path: Path
    images: Images
    say: Callable[[str], None]
    parent: np.ndarray | None = None
    converter_python: Path | None = None

    def save(self, model: onnx.ModelProto) -> Path:
        """Writes the model as ONNX, with the batch size that was asked for."""
        path = self.path.with_suffix(".onnx")
        save_model(fix_batch(model, self.batch) if self.batch else model, path)
        return path

    def verify(self, forward: Forward, tolerance: Tolerance, name: str, backend: str) -> dict:
        """The verification's part of the artifact's record. Raises VerificationError where it is out of tolerance."""
        parity = verify(self.parent, run_artifact(forward, self.images.verifying, self.batch), tolerance, name)
        return {"verified_by": backend, "parity": asdict(parity), "tolerance": asdict(tolerance)}
