"""Proposes a label of the labelling guide from measurements, by an additive model that is small enough to read.

Each measurement has one piecewise-linear curve per class; the sum of the curves gives the logits. The curves lie in
data/proposal.json. They were fitted once, on the train split of the project's own labels.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from logo_edge.errors import DatasetError
from logo_edge_train.data.manifest import LogoRow, Manifest
from logo_edge_train.data.processes import map_in_processes
from logo_edge_train.metrics import wilson_interval
from logo_edge_train.organize.features import LogoMeasurements, measure_file

PROPOSER_FILE = Path(__file__).parents[1] / "data" / "proposal.json"
SURE_CONFIDENCE = 0.9  # from here on a proposal is right about as often as the annotators agree


@dataclass(frozen=True)
class Proposal:
    """The most likely label, its probability, and the probabilities of all classes (sum 1)."""

    label: str
    confidence: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Proposer:
    """For each measurement its knots, (J,), and the logits at the knots, (J, K), of K `classes`."""

    classes: tuple[str, ...]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]


@functools.cache
def load_proposer() -> Proposer:
    """The model in data/proposal.json."""
    document = json.loads(PROPOSER_FILE.read_text(encoding="utf-8"))
    curves = {name: (np.array(curve["knots"]), np.array(curve["logits"])) for name, curve in document["curves"].items()}
    return Proposer(tuple(document["classes"]), curves)


def proposal_classes() -> Sequence[str]:
    """The classes that can be proposed, those of the labelling guide."""
    return load_proposer().classes


def propose_label(measurements: LogoMeasurements) -> Proposal:
    """The most likely label of a logo with these measurements."""
    proposer, values = load_proposer(), asdict(measurements)
    logits = np.zeros(len(proposer.classes))
    for name, (knots, heights) in proposer.curves.items():
        logits += [np.interp(values[name], knots, heights[:, k]) for k in range(len(logits))]
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    best = int(probabilities.argmax())
    named = dict(zip(proposer.classes, probabilities.tolist(), strict=True))
    return Proposal(proposer.classes[best], float(probabilities[best]), named)


def place_on_curves(measured: Sequence[LogoMeasurements]) -> np.ndarray:
    """(N, J) float32, 0 to 1: the weights of the J knots of all curves, for each of N measured logos."""
    curves = load_proposer().curves
    columns = [np.array([getattr(measurements, name) for measurements in measured], float) for name in curves]
    hats = [_hats(column, knots) for column, (knots, _) in zip(columns, curves.values(), strict=True)]
    return np.hstack(hats).astype(np.float32)


def measure_proposal_accuracy(manifest: Manifest) -> dict:
    """Accuracy of the proposals on val and test, and recall per class, with Wilson 95 % intervals.

    `confident` is the accuracy of proposals of at least SURE_CONFIDENCE. The difference of `mean_confidence` and
    `accuracy` shows how well the confidences are calibrated.
    """
    report = {}
    for split in ("val", "test"):
        rows = _labelled(manifest, split)
        paths = manifest.image_paths(rows)
        proposals = [propose_label(m) for m in map_in_processes(measure_file, paths, title=f"Measuring {split}")]
        right = np.array([proposal.label == row.label for proposal, row in zip(proposals, rows, strict=True)])
        confidence = np.array([proposal.confidence for proposal in proposals])
        labels = np.array([row.label for row in rows])
        report[split] = {
            "accuracy": _share(right),
            "mean_confidence": round(float(confidence.mean()), 4),
            "recall": {name: _share(right[labels == name]) for name in manifest.classes},
            "confident": _share(right[confidence >= SURE_CONFIDENCE]),
        }
    return report


def _labelled(manifest: Manifest, split: str) -> list[LogoRow]:
    rows = [row for row in manifest.split(split) if row.label]
    if not rows:
        raise DatasetError(f"the manifest has no labelled row in the split {split}; expected at least one")
    return rows


def _share(right: np.ndarray) -> dict:
    return {**vars(wilson_interval(int(right.sum()), len(right))), "count": len(right)}


def _hats(values: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """(N, J): the weights of the J knots in the linear interpolation at each value."""
    return np.stack([np.interp(values, knots, unit) for unit in np.eye(len(knots))], 1)
