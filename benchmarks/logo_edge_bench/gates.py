"""Gates: limits of accuracy, worst class, calibration, latency and size that a released bundle must keep together.

A file of gates is TOML: `accuracy = 0.93`, `size_mb = 4`, `[recall]` with `complex = 0.8`. A missing key is no limit.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import numpy as np

from logo_edge.classifier import Classifier
from logo_edge.decision import calibrated_logits
from logo_edge.errors import RecipeError
from logo_edge.timing import measure_latency
from logo_edge_train.data.manifest import Manifest, labelled_rows, targets_of
from logo_edge_train.metrics import summarize


@dataclass(frozen=True)
class Gates:
    """Fractions of 1, nats, megabytes and milliseconds; None is no limit.

    `accuracy`, `accuracy_sure`, `worst_recall` and the classes of `recall` are minima, the others maxima.
    `calibration_error` is bias-corrected, `ece` the plain estimate; latencies are of one forward pass on one thread.
    """

    accuracy: float | None = None
    accuracy_sure: float | None = None
    worst_recall: float | None = None
    calibration_error: float | None = None
    ece: float | None = None
    nll: float | None = None
    size_mb: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    recall: dict[str, float] | None = None


AT_LEAST = ("accuracy", "accuracy_sure", "worst_recall")
LATENCIES = ("p50_ms", "p99_ms")


@dataclass(frozen=True)
class Check:
    """One gate: the measured value (`found`) and its limit."""

    name: str
    found: float
    limit: float
    at_least: bool

    @property
    def holds(self) -> bool:
        return self.found >= self.limit if self.at_least else self.found <= self.limit  # NaN holds neither


def read_gates(path: Path) -> Gates:
    """The gates of a TOML file. Raises RecipeError, naming the key, for one that is unknown or not a number."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"{path}: {reason}; expected a TOML file of gates, such as accuracy = 0.93") from error
    known = ", ".join(sorted(field.name for field in fields(Gates)))
    if not table:
        raise RecipeError(f"{path}: no gates; expected at least one of {known}")
    for key, value in table.items():
        if key not in Gates.__dataclass_fields__:
            raise RecipeError(f"{path}: unknown gate {key!r}; expected one of {known}")
        numbers = list(value.values()) if key == "recall" and isinstance(value, dict) else [value]
        if (key == "recall") != isinstance(value, dict) or not all(map(_is_number, numbers)):
            raise RecipeError(f"{path}: {key} is {value!r}; expected a number (recall: a table of numbers by class)")
    return Gates(**table)


def check_gates(gates: Gates, figures: dict) -> list[Check]:
    """Compares the figures of `measure_bundle` with every gate. Raises RecipeError for a recall of an unknown class."""
    accuracy = figures["accuracy"]
    recall = {label: figure["value"] for label, figure in accuracy["recall"].items()}
    values = {
        "accuracy": accuracy["accuracy"]["value"],
        "accuracy_sure": accuracy["accuracy_sure"]["value"],
        "worst_recall": min(recall.values()),
        "calibration_error": accuracy["calibration_error_debiased"]["value"],
        "ece": accuracy["ece"],
        "nll": accuracy["nll"],
        "size_mb": figures["size_bytes"] / 1e6,
        **{name: figures["latency"]["inference"][name] for name in LATENCIES},
    }
    limits = {name: limit for name in values if (limit := getattr(gates, name)) is not None}
    checks = [Check(name, values[name], float(limit), name in AT_LEAST) for name, limit in limits.items()]
    for label, limit in (gates.recall or {}).items():
        if label not in recall:
            raise RecipeError(f"gate recall.{label}: no such class; expected one of {', '.join(recall)}")
        checks.append(Check(f"recall.{label}", recall[label], float(limit), True))
    return checks


def measure_bundle(
    folder: Path | None, manifest: Manifest, *, split: str, runs: int, public_key: Path | None = None
) -> dict:
    """The figures of a bundle for its gates, measured in this process: accuracy, calibration, size, one forward pass.

    Raises DatasetError where the split has no labelled images.
    """
    classifier = Classifier.load(folder, public_key=public_key)
    multi_label = classifier.bundle.calibration.multi_label
    rows = labelled_rows(manifest, split, classifier.labels, "the bundle's", multi_label=multi_label)
    pixels = [classifier.read_pixels(manifest.image_path(row))[None] for row in rows]
    logits = np.concatenate([classifier.logits(image) for image in pixels])
    bundle, calibration = classifier.bundle, classifier.bundle.calibration
    calibrated = calibrated_logits(logits, calibration.temperature, calibration.scaling, multi_label=multi_label)
    sure = np.array([row.sure for row in rows], bool)
    latency = measure_latency(lambda: classifier.logits(pixels[0]), runs=runs)
    return {
        "bundle": bundle.name,
        "size_bytes": bundle.size_bytes,
        "split": split,
        "accuracy": summarize(calibrated, targets_of(rows, classifier.labels), sure, 1.0, classifier.labels),
        "latency": {"inference": asdict(latency)},
    }


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
