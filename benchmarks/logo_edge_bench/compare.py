"""Comparison with an earlier run: by ratios to the yardstick of each run, or in milliseconds on one machine.

Ratios within one run hardly depend on how busy or fast the machine is; they are what CI compares.
"""

from __future__ import annotations

from dataclasses import dataclass

from logo_edge.errors import BenchError
from logo_edge_bench.machine import differences

ACCURACY_TOLERANCE = 0.005  # of 1; another CPU may change the label of a logo or two
ROW_KEYS = ("batch", "threads", "backend", "precision", "spinning")
METHOD_KEYS = ("size_px",)


@dataclass(frozen=True)
class Change:
    """One figure of one row, then and now, with the 95 % interval of now; `ratio` is now divided by then."""

    row: str
    figure: str
    then: float
    now: float
    low: float
    high: float
    verdict: str  # ok, worse, or undecided: the interval holds the limit and is wider than the tolerance

    @property
    def ratio(self) -> float:
        return self.now / self.then


def compare_ratios(then: dict, now: dict, tolerance: float) -> list[Change]:
    """Latency by ratio to the yardstick, accuracy (where there are labels) and size of every row that both have.

    A row is worse where even the low end of its interval is above 1 + tolerance times the earlier value. Raises
    BenchError where the results have no row in common, or these differ: yardstick, instruction set, split, size of the
    images, and each row's number of images, backend, precision, threads, batch and spinning.
    """
    problems = [
        f"{key}: {one} / {other}"
        for key, one, other in [
            ("yardstick", then["ratios"]["to"], now["ratios"]["to"]),
            ("instruction set", then["machine"]["isa"], now["machine"]["isa"]),
            ("split", then["split"], now["split"]),
            *((key, then["method"][key], now["method"][key]) for key in METHOD_KEYS),
        ]
        if one != other
    ]
    old, new = _by_name(then), _by_name(now)
    common = [name for name in old if name in new and name in then["ratios"]["of"]]
    for name in common:
        counts = [row["accuracy"]["count"] if "accuracy" in row else 0 for row in (old[name], new[name])]
        problems += [f"{name}, images: {counts[0]} / {counts[1]}"] if counts[0] != counts[1] else []
        problems += [
            f"{name}, {key}: {old[name][key]} / {new[name][key]}"
            for key in ROW_KEYS
            if old[name][key] != new[name][key]
        ]
    _refuse(problems)
    if not common:
        raise BenchError(f"no row in common: the earlier result has {', '.join(old)}; this one {', '.join(new)}")
    changes = []
    for name in common:
        before, after = then["ratios"]["of"][name]["value"], now["ratios"]["of"][name]
        changes.append(_latency_change(name, before, after, tolerance))
        if "accuracy" in new[name]:
            was, share = (row["accuracy"]["accuracy"]["value"] for row in (old[name], new[name]))
            verdict = "worse" if share < was - ACCURACY_TOLERANCE else "ok"
            changes.append(Change(name, "accuracy", was, share, share, share, verdict))
        size, was = new[name]["size_bytes"], old[name]["size_bytes"]
        changes.append(
            Change(name, "size_bytes", was, size, size, size, "worse" if size > was * (1 + tolerance) else "ok")
        )
    return changes


def compare_milliseconds(then: dict, now: dict) -> list[Change]:
    """The end-to-end medians of every row that both results have; verdicts by the intervals alone.

    Raises BenchError, naming all that differs, where the results were not measured alike on one machine.
    """
    problems = differences(then["machine"], now["machine"])
    problems += [
        f"method, {key}: {then['method'][key]} / {now['method'][key]}"
        for key in then["method"]
        if then["method"][key] != now["method"][key]
    ]
    if None in (then["method"]["settle_within"], now["method"]["settle_within"]):
        problems.append("method: a run of --ratios has no milliseconds to compare")
    old, new = _by_name(then), _by_name(now)
    common = [name for name in old if name in new]
    for name in common:
        problems += [
            f"{name}, {key}: {old[name][key]} / {new[name][key]}"
            for key in (*ROW_KEYS, "cpus")
            if old[name][key] != new[name][key]
        ]
    _refuse(problems)
    changes = []
    for name in common:
        before, after = (row["latency"]["end_to_end"]["p50_ms"] for row in (old[name], new[name]))
        verdict = "worse" if after["low"] > before["high"] else "ok"
        changes.append(
            Change(name, "end_to_end p50_ms", before["value"], after["value"], after["low"], after["high"], verdict)
        )
    return changes


def _latency_change(name: str, before: float, after: dict, tolerance: float) -> Change:
    limit = before * (1 + tolerance)
    if after["low"] > limit:
        verdict = "worse"
    elif after["high"] > limit and after["high"] - after["low"] > tolerance * after["value"]:
        verdict = "undecided"
    else:
        verdict = "ok"
    return Change(name, "latency, ratio to the yardstick", before, after["value"], after["low"], after["high"], verdict)


def _by_name(result: dict) -> dict[str, dict]:
    return {row["name"]: row for row in result["rows"]}


def _refuse(problems: list[str]) -> None:
    if problems:
        raise BenchError(
            "the results cannot be compared, for these differ (then / now): "
            + "; ".join(problems)
            + ". Measure both again under the same conditions"
        )
