"""Which candidate ships: the user's limits, what dominates what, and the choice in one sentence. By val alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from logo_edge_compress.timing import Cost, is_slower

TIED = 0.05  # of a latency: so much two measurements of one artifact differ; of a size: no matter


@dataclass(frozen=True)
class Limits:
    """What the user asks for; None: no matter. Shares in points of 100."""

    size_mb: float | None = None
    latency_ms: float | None = None
    accuracy_drop: float | None = None  # against the teachers, on val
    ece: float | None = None  # bias-corrected, on val

    def describe(self) -> str:
        """The limits in words; empty where there are none."""
        return ", ".join(
            text.format(value)
            for text, value in (
                ("at most {:g} MB", self.size_mb),
                ("at most {:g} ms", self.latency_ms),
                ("at most {:g} points below the teachers", self.accuracy_drop),
                ("ECE at most {:g} %", self.ece),
            )
            if value is not None
        )


@dataclass(frozen=True)
class Row:
    """A candidate with its figures on val, calibrated on calib: shares of 1. `correct` is (N,) bool, logo by logo.

    `accuracy_drop` is what the teachers have more; `ood` the AUROC of the logo score against pictures that are no logos, by
    family; `cost` None where it was not measured here.
    """

    student: str
    name: str
    precision: str
    backend: str
    size_bytes: int
    accuracy: float
    accuracy_sure: float
    worst_recall: float
    accuracy_drop: float
    nll: float
    ece: float
    calibration_error: float
    ood: dict[str, float]
    correct: np.ndarray
    cost: Cost | None

    @property
    def title(self) -> str:
        return f"{self.student}, {self.name}"


@dataclass(frozen=True)
class Miss:
    """One limit that a candidate does not meet; `excess` is by how much of the limit, to tell the nearest."""

    text: str
    excess: float


@dataclass(frozen=True)
class Choice:
    """The chosen row, or None; the sentence that says why; the misses of every row by its title."""

    row: Row | None
    sentence: str
    misses: dict[str, list[Miss]]


def find_misses(row: Row, limits: Limits) -> list[Miss]:
    """Which limits the row does not meet."""
    found = {
        "size": (row.size_bytes / 1e6, limits.size_mb, "{:.2f} MB"),
        "latency": (row.cost.p50_ms if row.cost else None, limits.latency_ms, "{:.2f} ms"),
        "accuracy drop": (100 * row.accuracy_drop, limits.accuracy_drop, "{:.1f} points"),
        "ECE": (100 * row.ece, limits.ece, "{:.1f} %"),
    }
    misses = []
    for name, (value, limit, form) in found.items():
        if limit is None:
            continue
        if value is None:
            misses.append(Miss(f"{name} not measured here (limit {form.format(limit)})", float("inf")))
        elif not value <= limit:
            least = {"accuracy drop": 1.0, "ECE": 1.0}.get(name, 1e-9)  # points; a limit of 0 has no share
            misses.append(
                Miss(f"{name} {form.format(value)} (limit {form.format(limit)})", (value - limit) / max(limit, least))
            )
    return misses


def find_dominators(rows: list[Row]) -> dict[str, str]:
    """Title -> that of a row which is no worse in accuracy, p50 and size, and better in one; undominated ones are left out.

    Of several the most accurate. Rows without a latency are compared by the other two.
    """
    found = {}
    for row in rows:
        others = [other for other in rows if other is not row and _dominates(other, row)]
        if others:
            found[row.title] = max(others, key=lambda other: (other.accuracy, -other.size_bytes, other.title)).title
    return found


def find_slow_int8(rows: list[Row]) -> dict[str, str]:
    """Title -> why an INT8 row is refused: its student's FP32 graph is faster on this machine, by the same backend."""
    plain = {(row.student, row.backend): row for row in rows if row.precision == "fp32" and row.cost}
    found = {}
    for row in rows:
        parent = plain.get((row.student, row.backend))
        if row.precision == "int8" and row.cost and parent and is_slower(row.cost, parent.cost):
            found[row.title] = (
                f"slower than FP32 on this machine: {row.cost.p50_ms:.2f} ms against {parent.cost.p50_ms:.2f} ms"
            )
    return found


def choose(rows: list[Row], limits: Limits, refused: dict[str, str], *, by_size: bool) -> Choice:
    """The cheapest of the rows that meet the limits and are as accurate as the best of them, as far as val can tell.

    That is: within one standard error of the most accurate (`is_as_accurate`; Breiman et al. 1984). Cheap is a
    low p50, of those within TIED of it a small file, and of those within TIED of that the most accurate; with `by_size`,
    or where none of them was timed, a small file alone. A row that was not timed is no candidate beside those that were.
    """
    misses = {row.title: find_misses(row, limits) for row in rows}
    able = [row for row in rows if row.title not in refused]
    fitting = [row for row in able if not misses[row.title]]
    if not fitting:
        return Choice(None, _explain_none(able, misses, limits, refused), misses)
    best = max(fitting, key=lambda row: (row.accuracy, -row.nll, row.title))
    alike = [row for row in fitting if is_as_accurate(row, best)]
    timed = [row for row in alike if row.cost]
    by_size = by_size or not timed
    cheap = alike if by_size else _least(timed, lambda row: row.cost.p50_ms)
    chosen = max(_least(cheap, lambda row: row.size_bytes), key=lambda row: (row.accuracy, -row.nll, row.title))
    return Choice(chosen, _explain(chosen, best, alike, fitting, rows, limits, by_size), misses)


def is_as_accurate(row: Row, best: Row) -> bool:
    """Whether the logos that only the best is right on outnumber those that only the row is by one standard error at most.

    That of their difference where both are as good: the root of how many they differ on (McNemar 1947).
    """
    only_best, only_row = int((best.correct & ~row.correct).sum()), int((row.correct & ~best.correct).sum())
    return only_best - only_row <= (only_best + only_row) ** 0.5


def _least(rows: list[Row], cost: Callable[[Row], float]) -> list[Row]:
    """Those within TIED of the least cost."""
    least = min(map(cost, rows))
    return [row for row in rows if cost(row) <= (1 + TIED) * least]


def _dominates(one: Row, other: Row) -> bool:
    pairs = [(one.accuracy, other.accuracy), (-one.size_bytes, -other.size_bytes)]
    if one.cost and other.cost:
        pairs.append((-one.cost.p50_ms, -other.cost.p50_ms))
    return all(mine >= theirs for mine, theirs in pairs) and any(mine > theirs for mine, theirs in pairs)


def _explain(
    chosen: Row, best: Row, alike: list[Row], fitting: list[Row], rows: list[Row], limits: Limits, by_size: bool
) -> str:
    speed = f", {chosen.cost.p50_ms:.2f} ms" if chosen.cost else ""
    told = f"{chosen.title}: {chosen.accuracy:.1%} on val{speed}, {chosen.size_bytes / 1e6:.2f} MB"
    if wanted := limits.describe():
        meets = f"{len(fitting)} of {len(rows)} candidates meet the limits ({wanted})"
    else:
        meets = f"{len(fitting)} of {len(rows)} candidates may ship, as no limit was given"
    if len(fitting) == 1:
        whom = f"of the {len(rows)} candidates it alone" if len(rows) > 1 else "the one candidate, it"
        return f"{told}; {whom} {f'meets the limits ({wanted})' if wanted else 'may ship'}."
    if len(alike) == 1:
        return f"{told}; {meets}, and it is the most accurate by more than val leaves open."
    how = "smallest" if by_size else "fastest (and of equally fast ones the smallest)"
    other = (
        f"the most accurate, {best.title} with {best.accuracy:.1%}" if best is not chosen else "it, the most accurate"
    )
    untimed = 0 if by_size else sum(row.cost is None for row in alike)
    left_out = f"; {untimed} of them could not be timed and were left out" if untimed else ""
    return f"{told}; {meets}, and it is the {how} of the {len(alike)} that val cannot tell from {other}{left_out}."


def _explain_none(able: list[Row], misses: dict[str, list[Miss]], limits: Limits, refused: dict[str, str]) -> str:
    if not able:
        reasons = "; ".join(f"{title}: {reason}" for title, reason in refused.items())
        return f"no candidate may ship{': ' + reasons if reasons else ''}"
    nearest = min(able, key=lambda row: (max(miss.excess for miss in misses[row.title]), -row.accuracy, row.title))
    lines = [f"no candidate meets the limits ({limits.describe()}). Nearest: {nearest.title}"]
    for row in sorted(able, key=lambda row: row is not nearest):
        lines.append(f"  {row.title}: {', '.join(miss.text for miss in misses[row.title])}")
    lines += [f"  {title}: {reason}" for title, reason in refused.items()]
    return "\n".join(lines)
