"""Verifies on real logos that an artifact agrees with the model that it was made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from logo_edge.backends.base import ModelFile, Resources
from logo_edge.backends.choose import open_backend
from logo_edge.bundle.record import EPISTEMIC
from logo_edge.errors import VerificationError
from logo_edge.probabilities import log_sigmoid, sigmoid, softmax
from logo_edge_compress.onnx.graph import LOGITS

BATCH = 32
Forward = Callable[[np.ndarray], np.ndarray]  # any artifact: (B, S, S, 3) uint8 -> (B, K) float32


@dataclass(frozen=True)
class Parity:
    """The difference between the logits of an artifact and its parent. `kl_nats`: mean KL(parent || artifact).

    Multi-label, `kl_nats` is the sum over the labels, and the agreement is twice the labels that both give, over those
    of the parent and those of the artifact (Dice 1945), at a probability of 1 / 2.
    """

    max_difference: float
    mean_difference: float
    top1_agreement: float
    kl_nats: float
    images: int


@dataclass(frozen=True)
class Tolerance:
    """The largest differences that are accepted. Rounding moves FP32 logits a little, INT8 logits more."""

    mean_difference: float
    top1_agreement: float
    kl_nats: float


@dataclass(frozen=True)
class Steps:
    """The difference between two artifacts' logits on one grid, in its steps.

    `equal_share`: of the images, those with all logits equal.
    """

    equal_share: float
    largest: int
    top1_agreement: float
    images: int

    @property
    def is_transfer(self) -> bool:
        """Whether the artifact reproduces its parent so closely that the parent's calibration holds for it."""
        return self.equal_share >= LEAST_EQUAL and self.largest <= 1 and self.top1_agreement == 1


LEAST_EQUAL = 0.97  # of images, by an exact transfer of scales to another runtime
EXPORTED = Tolerance(mean_difference=1e-3, top1_agreement=0.999, kl_nats=1e-4)
ROUNDED = Tolerance(mean_difference=0.1, top1_agreement=0.99, kl_nats=2e-3)  # float16, or another runtime's INT8
QUANTIZED = Tolerance(mean_difference=0.5, top1_agreement=0.96, kl_nats=0.05)
LEAST_RANK_CORRELATION = 0.9  # of an INT8 artifact's epistemic uncertainty


def compare_logits(parent: np.ndarray, artifact: np.ndarray, *, multi_label: bool = False) -> Parity:
    """parent, artifact: (N, K) float32."""
    difference = np.abs(parent - artifact)
    if multi_label:
        own = sigmoid(parent)
        divergence = (own * (log_sigmoid(parent) - log_sigmoid(artifact))).sum(1)
        divergence += ((1 - own) * (log_sigmoid(-parent) - log_sigmoid(-artifact))).sum(1)
        given, own_given = parent > 0, artifact > 0
        agreement = 2 * (given & own_given).sum() / (given.sum() + own_given.sum()) if (given | own_given).any() else 1
    else:
        before, after = softmax(parent), softmax(artifact)
        divergence = (before * (np.log(np.maximum(before, 1e-12)) - np.log(np.maximum(after, 1e-12)))).sum(1)
        agreement = (parent.argmax(1) == artifact.argmax(1)).mean()
    return Parity(
        float(difference.max()), float(difference.mean()), float(agreement), float(divergence.mean()), len(parent)
    )


def compare_steps(parent: np.ndarray, artifact: np.ndarray, step: float) -> Steps:
    """parent, artifact: (N, K) float32 logits, multiples of `step`."""
    steps = np.rint(np.abs(parent - artifact) / step).max(1)
    agreement = (parent.argmax(1) == artifact.argmax(1)).mean()
    return Steps(float((steps == 0).mean()), int(steps.max()), float(agreement), len(parent))


def verify(
    parent: np.ndarray, artifact: np.ndarray, tolerance: Tolerance, name: str, *, multi_label: bool = False
) -> Parity:
    """The parity of the two; raises VerificationError where it is out of tolerance or not finite."""
    parity = compare_logits(parent, artifact, multi_label=multi_label)
    fits = (
        parity.mean_difference <= tolerance.mean_difference
        and parity.top1_agreement + 1 / parity.images
        >= tolerance.top1_agreement  # one flip may be chance on few images
        and parity.kl_nats <= tolerance.kl_nats
    )
    if not fits:  # also where a figure is NaN
        raise VerificationError(
            f"{name} differs from its parent on {parity.images} real images: mean difference of logits "
            f"{parity.mean_difference:.3g} (at most {tolerance.mean_difference}), top-1 agreement "
            f"{parity.top1_agreement:.1%} (at least {tolerance.top1_agreement:.1%}), KL {parity.kl_nats:.3g} nats "
            f"(at most {tolerance.kl_nats}). It is not packed; try more calibration images or another method"
        )
    return parity


def verify_epistemic(parent: np.ndarray, artifact: np.ndarray, least: float, name: str) -> float:
    """Spearman's correlation of both (N,) outputs `epistemic`; raises VerificationError below `least`.

    Only the ranking matters: it is used to order pictures, and thresholds are fitted to the artifact's own output.
    """
    if np.ptp(parent) == 0 and np.ptp(artifact) == 0:
        return 1.0
    correlation = rank_correlation(parent, artifact) if np.ptp(parent) and np.ptp(artifact) else 0.0
    if not (correlation >= least and np.isfinite(artifact).all()):
        raise VerificationError(
            f"{name}: its `epistemic` ranks {len(parent)} pictures differently from its parent: rank correlation "
            f"{correlation:.3f}; expected at least {least}. It is not packed; try more calibration images or another "
            "method"
        )
    return correlation


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's correlation of two (N,) arrays; ties share their mean rank. Without SciPy, which devices lack."""
    ranks = []
    for values in (one, other):
        _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[group])
    return float(np.corrcoef(ranks)[0, 1])


def has_epistemic(path: Path) -> bool:
    """Whether an ONNX file has the output `epistemic`."""
    import onnx

    return any(output.name == EPISTEMIC for output in onnx.load(path, load_external_data=False).graph.output)


def run_onnx(
    path: Path, pixels: np.ndarray, *, output: str = LOGITS, threads: int = 2, batch_size: int = BATCH
) -> np.ndarray:
    """(N, K) float32 logits of an ONNX file of this project on (N, S, S, 3) uint8 pixels, or another output of it."""
    forward = open_onnx(path, output=output, threads=threads)
    return np.concatenate([forward(pixels[start : start + batch_size]) for start in range(0, len(pixels), batch_size)])


def run_artifact(forward: Forward, pixels: np.ndarray, batch: int | None) -> np.ndarray:
    """(N, K) logits in batches of `batch`; None: one batch of one image, then larger ones."""
    bounds = range(0, len(pixels), batch) if batch else [0, *range(1, len(pixels), BATCH)]
    return np.concatenate(
        [forward(pixels[start:stop]) for start, stop in zip(bounds, [*bounds[1:], len(pixels)], strict=True)]
    )


def open_onnx(path: Path, *, output: str = LOGITS, threads: int = 2) -> Forward:
    """The function that runs an ONNX file in ONNX Runtime, for one of its outputs."""
    return open_artifact("onnxruntime", path, output=output, threads=threads)


def open_artifact(backend: str, path: Path, *, output: str = LOGITS, threads: int = 2) -> Forward:
    """The function that returns one output of the artifact at `path`. Raises as `open_backend`."""
    opened = open_backend(backend, ModelFile.read(path), Resources(threads))
    return lambda pixels: opened.run(pixels, [output])[0]
