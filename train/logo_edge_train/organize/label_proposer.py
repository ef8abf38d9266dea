"""Measurements -> a proposed label of the labelling guide, by an additive model that is small enough to read.

Each measurement has one piecewise-linear curve per class; the sum of the curves gives the logits. The curves lie in
data/proposal.json and were fitted by `fit_proposer` on the train split of the project's own labels.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image

from logo_edge.errors import DatasetError
from logo_edge.files import write_file
from logo_edge.images.load import load_image
from logo_edge_train.data.manifest import LogoRow, Manifest
from logo_edge_train.metrics import wilson_interval
from logo_edge_train.organize.features import LogoMeasurements, map_over_images, measure_file, measure_logo

PROPOSER_FILE = Path(__file__).parents[1] / "data" / "proposal.json"
SURE_CONFIDENCE = 0.9  # from here on a proposal is right about as often as the annotators agree
KNOTS = 5
RIDGE = 1.0  # on the curves' values, against a log-likelihood summed over the images


@dataclass(frozen=True)
class Proposal:
    """The likeliest label, its probability, and the probabilities of all classes (they sum to 1)."""

    label: str
    confidence: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Proposer:
    """For each measurement its knots, (J,), and its logits there, (J, K); K `classes`."""

    classes: tuple[str, ...]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]


@functools.cache
def load_proposer(path: Path = PROPOSER_FILE) -> Proposer:
    document = json.loads(path.read_text(encoding="utf-8"))
    curves = {name: (np.array(curve["knots"]), np.array(curve["logits"])) for name, curve in document["curves"].items()}
    return Proposer(tuple(document["classes"]), curves)


def proposal_classes() -> Sequence[str]:
    """The classes that can be proposed: those of the labelling guide."""
    return load_proposer().classes


def propose_label(measurements: LogoMeasurements, proposer: Proposer | None = None) -> Proposal:
    """The label that such measurements had most often among the project's own logos."""
    proposer = proposer or load_proposer()
    values = asdict(measurements)
    logits = np.zeros(len(proposer.classes))
    for name, (knots, heights) in proposer.curves.items():
        logits += [np.interp(values[name], knots, heights[:, k]) for k in range(len(logits))]
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    best = int(probabilities.argmax())
    named = dict(zip(proposer.classes, probabilities.tolist(), strict=True))
    return Proposal(proposer.classes[best], float(probabilities[best]), named)


def place_on_curves(measured: Sequence[LogoMeasurements]) -> np.ndarray:
    """(N, J) float32, 0 to 1: the weight of each knot of the proposer's curves in each of the measurements."""
    curves = load_proposer().curves
    columns = [np.array([getattr(measurements, name) for measurements in measured], float) for name in curves]
    hats = [_hats(column, knots) for column, (knots, _) in zip(columns, curves.values(), strict=True)]
    return np.hstack(hats).astype(np.float32)


def measure_proposal_accuracy(manifest: Manifest, renders_dir: Path) -> dict:
    """How often the proposal is the label, on val and test: accuracy and recall per class, Wilson 95 % intervals.

    `confident` counts only proposals of at least SURE_CONFIDENCE. `mean_confidence` beside `accuracy` shows how far
    the confidences can be believed.
    """
    report = {}
    for split in ("val", "test"):
        rows = _labelled(manifest, split)
        paths = manifest.image_paths(rows, renders_dir)
        found = [propose_label(m) for m in map_over_images(measure_file, paths, title=f"Measuring {split}")]
        right = np.array([proposal.label == row.label for proposal, row in zip(found, rows, strict=True)])
        confidence = np.array([proposal.confidence for proposal in found])
        labels = np.array([row.label for row in rows])
        report[split] = {
            "accuracy": _share(right),
            "mean_confidence": round(float(confidence.mean()), 4),
            "recall": {name: _share(right[labels == name]) for name in manifest.classes},
            "confident": _share(right[confidence >= SURE_CONFIDENCE]),
        }
    return report


def fit_proposer(manifest: Manifest, renders_dir: Path) -> dict:
    """The document of data/proposal.json, fitted on the train split; the same document for the same images.

    Every logo is measured as rendered, as a JPEG on white, small, and as a small JPEG, so that a user's files fit too.
    """
    rows = _labelled(manifest, "train")
    jobs = [(path, kind) for path in manifest.image_paths(rows, renders_dir) for kind in VARIANTS]
    measured = map_over_images(_measure_variant, jobs, title="Measuring train")
    names = [field.name for field in fields(LogoMeasurements)]
    values = np.array([[getattr(m, name) for name in names] for m in measured], float)  # (N, F)
    knots = [np.unique(np.quantile(column, np.linspace(0, 1, KNOTS)).round(4)) for column in values.T]
    basis = np.hstack([_hats(column, at) for column, at in zip(values.T, knots, strict=True)])  # (N, sum of knots)
    truth = np.array([row.label for row in rows for _ in VARIANTS])[:, None] == np.array(manifest.classes)  # (N, K)
    weights = _fit_logits(basis, truth.astype(float))
    ends = np.cumsum([len(at) for at in knots])
    return {
        "classes": list(manifest.classes),
        "fitted_on": f"{len(rows)} logos of the train split, {len(VARIANTS)} variants each",
        "curves": {
            name: {"knots": at.tolist(), "logits": weights[end - len(at) : end].round(3).tolist()}
            for name, at, end in zip(names, knots, ends, strict=True)
        },
    }


def write_proposer(document: dict, path: Path = PROPOSER_FILE) -> None:
    """Writes the fitted document, one measurement a line, whole or not at all."""
    curves = ",\n".join(f"    {json.dumps(name)}: {json.dumps(curve)}" for name, curve in document["curves"].items())
    head = ",\n".join(f"  {json.dumps(key)}: {json.dumps(document[key])}" for key in document if key != "curves")
    write_file(path, f'{{\n{head},\n  "curves": {{\n{curves}\n  }}\n}}\n')


def _labelled(manifest: Manifest, split: str) -> list[LogoRow]:
    rows = [row for row in manifest.split(split) if row.label]
    if not rows:
        raise DatasetError(f"the manifest has no labelled row in the split {split}; expected at least one")
    return rows


def _share(right: np.ndarray) -> dict:
    return {**vars(wilson_interval(int(right.sum()), len(right))), "count": len(right)}


def _as_rendered(image: Image.Image) -> Image.Image:
    return image


def _as_jpeg(image: Image.Image, quality: int = 85) -> Image.Image:
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image.convert("RGBA"))
    buffer = io.BytesIO()
    paper.convert("RGB").save(buffer, "JPEG", quality=quality)
    return load_image(buffer.getvalue(), fast=False)


def _as_small(image: Image.Image, long_side_px: int = 96) -> Image.Image:
    scale = long_side_px / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image.resize(size, Image.Resampling.LANCZOS)


def _as_small_jpeg(image: Image.Image) -> Image.Image:
    return _as_jpeg(_as_small(image, 160), 80)


VARIANTS = (_as_rendered, _as_jpeg, _as_small, _as_small_jpeg)


def _measure_variant(job: tuple[Path, object]) -> LogoMeasurements:
    path, variant = job
    return measure_logo(variant(load_image(path)))


def _hats(values: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """(N, J): the weights of the J knots in the linear interpolation at each value."""
    return np.stack([np.interp(values, knots, unit) for unit in np.eye(len(knots))], 1)


def _fit_logits(basis: np.ndarray, truth: np.ndarray, steps: int = 30) -> np.ndarray:
    """(P, K) weights of the ridge-penalised multinomial logistic regression, by Newton's method.

    basis is (N, P), truth (N, K) one-hot.
    """
    inputs, classes = basis.shape[1], truth.shape[1]
    weights = np.zeros((inputs, classes))
    for _ in range(steps):
        logits = basis @ weights
        probabilities = np.exp(logits - logits.max(1, keepdims=True))
        probabilities /= probabilities.sum(1, keepdims=True)
        gradient = basis.T @ (probabilities - truth) + RIDGE * weights
        hessian = RIDGE * np.eye(inputs * classes)
        for i in range(classes):
            for j in range(classes):
                spread = probabilities[:, i] * ((i == j) - probabilities[:, j])  # (N,)
                block = slice(i * inputs, (i + 1) * inputs), slice(j * inputs, (j + 1) * inputs)
                hessian[block] += basis.T @ (basis * spread[:, None])
        step = np.linalg.solve(hessian, gradient.T.ravel()).reshape(classes, inputs).T
        weights -= step
        if np.abs(step).max() < 1e-6:
            break
    return weights
