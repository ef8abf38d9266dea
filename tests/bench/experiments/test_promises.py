"""Promises of a calibration on simulated logos."""

from __future__ import annotations

from logo_edge_bench.experiments import compression_tables, promises


def test_prediction_sets_cover_and_modes_promise_nothing_with_too_few_logos():
    result = promises.measure(sets=2, mode_sets=4)
    for levels in result["coverage"].values():
        assert all(abs(one["coverage"] - float(level)) < 0.06 for level, one in levels.items())
    strict = result["modes"]["at_risk"]["0.03"]
    assert strict["100"] == {"promised": 0, "broken": 0}
    assert strict["696"]["promised"] == 4
    assert "one half of calib" in compression_tables.promises(result)
