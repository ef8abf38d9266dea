"""Limits that the artifact that ships must keep, all at once: accuracy, worst class, calibration, latency, size.

A file of gates is TOML: `accuracy = 0.93`, `size_mb = 4`, `[recall]` with `complex = 0.8`. What is left out is not asked.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from logo_edge.errors import RecipeError


@dataclass(frozen=True)
class Gates:
    """Fractions of 1, nats, megabytes and milliseconds; None is not asked.

    `accuracy`, `accuracy_sure`, `worst_recall` and the classes of `recall` are least values, the others greatest ones.
    `calibration_error` is bias-corrected, `ece` the plain plug-in; latencies are of one forward pass on one thread.
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
    """One gate: what was asked and what was found."""

    name: str
    found: float
    limit: float
    at_least: bool

    @property
    def holds(self) -> bool:
        return self.found >= self.limit if self.at_least else self.found <= self.limit  # NaN holds neither


def read_gates(path: Path) -> Gates:
    """The gates of a TOML file. Raises RecipeError, naming the key, for one that is unknown or no number."""
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
    """Every gate against the figures of `bench.measure_bundle`. Raises RecipeError for the recall of an unknown class."""
    accuracy = figures["accuracy"]
    recall = {name: entry["value"] for name, entry in accuracy["recall"].items()}
    found = {
        "accuracy": accuracy["accuracy"]["value"],
        "accuracy_sure": accuracy["accuracy_sure"]["value"],
        "worst_recall": min(recall.values()),
        "calibration_error": accuracy["calibration_error_debiased"]["value"],
        "ece": accuracy["ece"],
        "nll": accuracy["nll"],
        "size_mb": figures["size_bytes"] / 1e6,
        **{name: figures["latency"]["inference"][name] for name in LATENCIES},
    }
    asked = {name: limit for name in found if (limit := getattr(gates, name)) is not None}
    checks = [Check(name, found[name], float(limit), name in AT_LEAST) for name, limit in asked.items()]
    for name, limit in (gates.recall or {}).items():
        if name not in recall:
            raise RecipeError(f"gate recall.{name}: no such class; expected one of {', '.join(recall)}")
        checks.append(Check(f"recall.{name}", recall[name], float(limit), True))
    return checks


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
