"""What every format needs to convert a graph and to verify the result."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnx

from logo_edge_compress.audit import Audit, refuse_float
from logo_edge_compress.onnx.graph import fix_batch, save_model
from logo_edge_compress.verify import Forward, Tolerance, compare_steps, run_artifact, verify


@dataclass(frozen=True)
class Images:
    """(N, S, S, 3) uint8 each: `fitting` to choose settings on, `verifying` to compare artifact and parent on.

    `whole_val`: those to verify on are all images of the val split. `fitted_on` describes those to fit on for a record.
    """

    fitting: np.ndarray
    verifying: np.ndarray
    whole_val: bool = False
    fitted_on: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """One artifact to make, at `path` (which has no suffix yet).

    `batch` None: any batch size. `parent`: the (N, K) logits on `images.verifying` of the model that it is made from.
    `left_in_float`: the layers of that model that compute in float, though it is INT8.
    `converter_python`: the Python that runs the converter, for `run_converter`; None: one of ours. `multi_label`: see
    `compare_logits`.
    """

    precision: str
    batch: int | None
    path: Path
    images: Images
    say: Callable[[str], None]
    parent: np.ndarray | None = None
    left_in_float: frozenset[str] = frozenset()
    converter_python: Path | None = None
    multi_label: bool = False

    def save(self, model: onnx.ModelProto) -> Path:
        """Writes the model as ONNX, with the batch size that was asked for."""
        path = self.path.with_suffix(".onnx")
        save_model(fix_batch(model, self.batch) if self.batch else model, path)
        return path

    def verify(
        self, forward: Forward, tolerance: Tolerance, name: str, backend: str, *, step: float | None = None
    ) -> dict:
        """The verification's part of the artifact's record. Raises VerificationError where it is out of tolerance.

        `step`: see `verify_logits`.
        """
        logits = run_artifact(forward, self.images.verifying, self.batch)
        return self.verify_logits(logits, tolerance, name, backend, step=step)

    def verify_logits(
        self, logits: np.ndarray, tolerance: Tolerance, name: str, backend: str, *, step: float | None = None
    ) -> dict:
        """As `verify`, of the artifact's (N, K) logits on `images.verifying`.

        With the `step` of the parent's quantized logits, the record also has the comparison of `compare_steps`, and
        whether the artifact may share its parent's calibration: where it is equal and `images.verifying` are all of
        val.
        """
        record = {"verified_by": backend, "tolerance": asdict(tolerance)}
        record["parity"] = asdict(verify(self.parent, logits, tolerance, name, multi_label=self.multi_label))
        if step is not None:
            steps = compare_steps(self.parent, logits, step)
            record["steps"] = {**asdict(steps), "shares_calibration": steps.is_transfer and self.images.whole_val}
        return record

    def audit(self, audit: Audit, name: str, *, left: Collection[str] = ()) -> dict:
        """The audit's part of the artifact's record.

        Raises VerificationError where an INT8 artifact computes in float in layers that are neither in `left_in_float`
        nor in `left`.
        """
        if self.precision == "int8":
            refuse_float(audit, name, left=self.left_in_float.union(left))
        return {"audit": audit.record()}
