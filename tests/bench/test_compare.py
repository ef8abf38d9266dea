"""Results are compared only where they may be: by ratios to one yardstick, or in milliseconds on one machine."""

from __future__ import annotations

import copy

import pytest

from logo_edge.errors import BenchError
from logo_edge_bench.compare import compare_milliseconds, compare_ratios

MACHINE = {
    "cpu": "A",
    "isa": ["avx2"],
    "architecture": "x86_64",
    "cpus": 2,
    "governor": ["performance"],
    "boost": "0",
    "frequency_limits_mhz": [[800, 3000]],
    "power_mode": "",
    "gpu": "",
    "python": "3.11.7",
    "versions": {"onnxruntime": "1"},
}


def result(ratio=(0.9, 0.88, 0.92), accuracy=0.92, size_bytes=4_000_000, p50=(2.0, 1.9, 2.1)):
    def figure(value, low, high):
        return {"value": value, "low": low, "high": high}

    row = {
        "name": "ours",
        "batch": 1,
        "threads": 1,
        "backend": "onnxruntime",
        "precision": "int8",
        "spinning": False,
        "cpus": [0],
        "size_bytes": size_bytes,
        "accuracy": {"count": 531, "accuracy": {"value": accuracy}},
        "latency": {"end_to_end": {"p50_ms": figure(*p50)}},
    }
    return {
        "split": "test",
        "machine": copy.deepcopy(MACHINE),
        "method": {"name": "quick", "size_px": 192, "settle_within": 0.1},
        "rows": [row],
        "ratios": {"to": "by hand", "of": {"ours": figure(*ratio)}},
    }


def verdicts(changes):
    return {change.figure.split(",")[0]: change.verdict for change in changes}


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        ((0.9, 0.85, 0.95), "ok"),
        ((0.97, 0.95, 0.985), "ok"),
        ((0.98, 0.96, 1.0), "ok"),  # beyond the limit of 0.99 only by less than the interval tells
        ((1.1, 1.05, 1.15), "worse"),
        ((0.95, 0.8, 1.2), "undecided"),
        ((0.5, 0.4, 0.6), "ok"),
    ],
)
def test_a_ratio_is_worse_only_where_the_whole_interval_is_beyond_the_tolerance(ratio, verdict):
    assert verdicts(compare_ratios(result(), result(ratio=ratio), 0.1))["latency"] == verdict


def test_accuracy_and_size_are_held_too():
    changes = verdicts(compare_ratios(result(), result(accuracy=0.9, size_bytes=5_000_000), 0.1))
    assert changes == {"latency": "ok", "accuracy": "worse", "size_bytes": "worse"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda record: record["machine"].update(isa=["avx512_vnni"]), "instruction set"),
        (lambda record: record["ratios"].update(to="another"), "yardstick"),
        (lambda record: record.update(split="val"), "split"),
        (lambda record: record["method"].update(size_px=256), "size_px"),
        (lambda record: record["rows"][0]["accuracy"].update(count=1246), "ours, images: 531 / 1246"),
        (lambda record: record["rows"][0].update(threads=2), "ours, threads"),
        (lambda record: record["rows"][0].update(spinning=True), "ours, spinning"),
        (lambda record: record["rows"][0].update(precision="fp32"), "ours, precision"),
    ],
)
def test_ratios_measured_otherwise_are_refused_with_what_differs(change, named):
    other = result()
    change(other)
    with pytest.raises(BenchError, match=f"cannot be compared.*{named}"):
        compare_ratios(result(), other, 0.1)


def test_results_without_a_common_row_are_refused():
    other = result()
    other["rows"][0]["name"] = "theirs"
    with pytest.raises(BenchError, match="no row in common"):
        compare_ratios(result(), other, 0.1)


@pytest.mark.parametrize("key", ["cpu", "governor", "power_mode", "versions", "frequency_limits_mhz", "boost"])
def test_milliseconds_of_another_machine_are_refused(key):
    other = result()
    other["machine"][key] = "another"
    with pytest.raises(BenchError, match=f"cannot be compared.*{key}"):
        compare_milliseconds(result(), other)


def test_milliseconds_of_another_method_or_unsettled_ones_are_refused():
    other = result()
    other["method"]["settle_within"] = None
    with pytest.raises(BenchError, match="settle_within.*no milliseconds to compare"):
        compare_milliseconds(result(), other)


def test_milliseconds_of_one_machine_are_worse_where_the_intervals_lie_apart():
    assert verdicts(compare_milliseconds(result(), result(p50=(2.2, 2.05, 2.3)))) == {"end_to_end p50_ms": "ok"}
    assert verdicts(compare_milliseconds(result(), result(p50=(2.4, 2.2, 2.5)))) == {"end_to_end p50_ms": "worse"}
