"""In CI: the default bundle against the committed baseline, by ratios to the yardstick of each run."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from logo_edge.errors import BenchError
from logo_edge_bench.bench import read_result
from logo_edge_bench.commands import bench

BASELINE = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "baseline.json"
TOLERANCE = 0.25
UNDECIDED = 3


def test_the_baseline_holds_ratios_alone():
    baseline = read_result(BASELINE)
    assert baseline["method"]["settle_within"] is None
    assert baseline["split"] == "test"
    assert len(baseline["ratios"]["of"]) >= 1
    assert not any("latency" in row for row in baseline["rows"])


@pytest.mark.slow
def test_the_default_bundle_is_no_slower_larger_or_less_accurate_than_its_baseline():
    from logo_edge_train.fetch import LABELS, fetch_logos

    options = [
        "--manifest",
        LABELS,
        "--images",
        fetch_logos().folder,
        "--ratios",
        "--against",
        BASELINE,
        "--tolerance",
        TOLERANCE,
    ]
    done = CliRunner().invoke(bench, list(map(str, options)))
    if isinstance(done.exception, BenchError) and "cannot be compared" in str(done.exception):
        pytest.skip(f"the baseline is of another kind of machine: {done.exception}")
    if done.exit_code == UNDECIDED:
        pytest.skip(f"this machine is too busy to decide: {done.output[-600:]}")
    assert done.exit_code == 0, done.output
    assert "latency, ratio to the yardstick" in done.output
