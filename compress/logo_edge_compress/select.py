"""Which candidate ships: the user's limits, what dominates what, and the choice in one sentence. By val alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from logo_edge_compress.timing import Cost, is_slower

TIED = 0.05  # relative: two measurements of one latency differ by as much; sizes that close count as equal


@dataclass(frozen=True)
class Limits:
    """The limits that the user sets; None: no limit. Shares in percentage points."""

    size_mb: float | None = None
    latency_ms: float | None = None
    accuracy_drop: float | None = None  # from the teachers' accuracy, on val
    ece: float | None = None  # bias-corrected, on val

    def describe(self) -> str:
        """The limits in words; empty if there are none."""
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
    """A candidate with its figures on val after calibration on calib, as shares of 1. `correct`: (N,) bool, by image.

    `accuracy_drop`: accuracy of the teachers minus its own; `ood`: AUROC of the logo score against outliers, by family;
    `cost`: None where it was not measured here.
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
    """A limit that a candidate does not meet; `excess`: by which share of the limit, to find the nearest candidate."""

    text: str
    excess: float


@dataclass(frozen=True)
class Choice:
    """The chosen row or None, the sentence that gives the reason, and the misses of every row by its title."""

    row: Row | None
    sentence: str
    misses: dict[str, list[Miss]]


def find_misses(row: Row, limits: Limits) -> list[Miss]:
    """The limits that the row does not meet."""
    checks = {
        "size": (row.size_bytes / 1e6, limits.size_mb, "{:.2f} MB"),
        "latency": (row.cost.p50_ms if row.cost else None, limits.latency_ms, "{:.2f} ms"),
        "accuracy drop": (100 * row.accuracy_drop, limits.accuracy_drop, "{:.1f} points"),
        "ECE": (100 * row.ece, limits.ece, "{:.1f} %"),
    }
    misses = []
    for name, (value, limit, form) in checks.items():
        if limit is None:
            continue
        if value is None:
            misses.append(Miss(f"{name} not measured here (limit {form.format(limit)})", float("inf")))
        elif not value <= limit:
            least = {"accuracy drop": 1.0, "ECE": 1.0}.get(name, 1e-9)  # points: a limit of 0 cannot be divided by
            misses.append(
                Miss(f"{name} {form.format(value)} (limit {form.format(limit)})", (value - limit) / max(limit, least))
            )
    return misses


def add_carried(rows: list[Row], carry: tuple[str, ...], beside: dict[str, int]) -> tuple[list[Row], dict[str, str]]:
    """Each row with the size of all models of its bundle, and title -> why one cannot be carried.

    These are the candidates of its student in `carry` and, in bytes by title, the graph that is packed `beside` it.
    """
    sizes = {(row.student, row.name): row.size_bytes for row in rows}
    whole, unable = [], {}
    for row in rows:
        others = [name for name in carry if name != row.name]
        if missing := [name for name in others if (row.student, name) not in sizes]:
            unable[row.title] = f"{', '.join(missing)}, which it should carry, was not made"
        size_bytes = row.size_bytes + beside[row.title] + sum(sizes.get((row.student, name), 0) for name in others)
        whole.append(replace(row, size_bytes=size_bytes))
    return whole, unable


def find_dominators(rows: list[Row]) -> dict[str, str]:
    """Title -> title of the most accurate row that dominates it; rows that are not dominated are left out.

    A row dominates another if it is no worse in accuracy, p50 and size and better in one of them. A row without a
    latency is compared by the other two.
    """
    dominators = {}
    for row in rows:
        others = [other for other in rows if other is not row and _dominates(other, row)]
        if others:
            dominators[row.title] = max(
                others, key=lambda other: (other.accuracy, -other.size_bytes, other.title)
            ).title
    return dominators


def find_slow_int8(rows: list[Row]) -> dict[str, str]:
    """Title -> why an INT8 row is refused: the FP32 graph of its student is faster here, in the same backend."""
    fp32 = {(row.student, row.backend): row for row in rows if row.precision == "fp32" and row.cost}
    reasons = {}
    for row in rows:
        parent = fp32.get((row.student, row.backend))
        if row.precision == "int8" and row.cost and parent and is_slower(row.cost, parent.cost):
            reasons[row.title] = (
                f"slower than FP32 on this machine: {row.cost.p50_ms:.2f} ms against {parent.cost.p50_ms:.2f} ms"
            )
    return reasons


def choose(rows: list[Row], limits: Limits, refused: dict[str, str], *, by_size: bool) -> Choice:
    """The cheapest of the rows that meet the limits and are as accurate as the best of them, as far as val can tell.

    As accurate: within one standard error of the most accurate (`is_as_accurate`; Breiman et al. 1984). The cheapest
    has the lowest p50; among those within TIED of it, the smallest file; among those within TIED of that, the best
    accuracy. With `by_size`, or if none was timed, the file size decides first. A row that was not timed is left out if
    others were.
    """
    misses = {row.title: find_misses(row, limits) for row in rows}
    able = [row for row in rows if row.title not in refused]
    fitting = [row for row in able if not misses[row.title]]
    if not fitting:
        return Choice(None, _explain_none(able, misses, limits, refused), misses)
    best = max(fitting, key=lambda row: (row.accuracy, -row.nll, row.title))
    as_accurate = [row for row in fitting if is_as_accurate(row, best)]
    timed = [row for row in as_accurate if row.cost]
    by_size = by_size or not timed
    cheap = as_accurate if by_size else _least(timed, lambda row: row.cost.p50_ms)
    chosen = max(_least(cheap, lambda row: row.size_bytes), key=lambda row: (row.accuracy, -row.nll, row.title))
    return Choice(chosen, _explain(chosen, best, as_accurate, fitting, rows, limits, by_size), misses)


def is_as_accurate(row: Row, best: Row) -> bool:
    """Whether the best row's lead in correct images is at most one standard error.

    The standard error under equal accuracy is the root of the number of images on which only one of both is right
    (McNemar 1947).
    """
    only_best, only_row = int((best.correct & ~row.correct).sum()), int((row.correct & ~best.correct).sum())
    return only_best - only_row <= (only_best + only_row) ** 0.5


def _least(rows: list[Row], cost: Callable[[Row], float]) -> list[Row]:
    """The rows within TIED of the lowest cost."""
    least = min(map(cost, rows))
    return [row for row in rows if cost(row) <= (1 + TIED) * least]


def _dominates(one: Row, other: Row) -> bool:
    pairs = [(one.accuracy, other.accuracy), (-one.size_bytes, -other.size_bytes)]
    if one.cost and other.cost:
        pairs.append((-one.cost.p50_ms, -other.cost.p50_ms))
    return all(mine >= theirs for mine, theirs in pairs) and any(mine > theirs for mine, theirs in pairs)


def _explain(
    chosen: Row, best: Row, as_accurate: list[Row], fitting: list[Row], rows: list[Row], limits: Limits, by_size: bool
) -> str:
    speed = f", {chosen.cost.p50_ms:.2f} ms" if chosen.cost else ""
    summary = f"{chosen.title}: {chosen.accuracy:.1%} on val{speed}, {chosen.size_bytes / 1e6:.2f} MB"
    if described := limits.describe():
        meets = f"{len(fitting)} of {len(rows)} candidates meet the limits ({described})"
    else:
        meets = f"{len(fitting)} of {len(rows)} candidates may ship, as no limit was given"
    if len(fitting) == 1:
        subject = f"of the {len(rows)} candidates only it" if len(rows) > 1 else "the only candidate"
        return f"{summary}; {subject} {f'meets the limits ({described})' if described else 'may ship'}."
    if len(as_accurate) == 1:
        return f"{summary}; {meets}, and it is the most accurate by more than one standard error."
    how = "smallest" if by_size else "fastest (and of equally fast ones the smallest)"
    other = (
        f"the most accurate, {best.title} with {best.accuracy:.1%}" if best is not chosen else "it, the most accurate"
    )
    untimed = 0 if by_size else sum(row.cost is None for row in as_accurate)
    left_out = f"; {untimed} of them could not be timed and were left out" if untimed else ""
    tied = f"the {len(as_accurate)} that val cannot distinguish from {other}"
    return f"{summary}; {meets}, and it is the {how} of {tied}{left_out}."


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
