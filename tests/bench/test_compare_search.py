"""The comparison of two searches: fronts of latency and accuracy."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "compare_search.py"


@pytest.fixture(scope="module")
def comparison():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("compare_search", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_hypervolume_is_the_share_of_the_box_that_is_dominated(comparison):
    reference = (4.0, 0.5)
    assert comparison.hypervolume([(2.0, 0.75)], reference) == pytest.approx(0.5 * 0.5)
    both = [(2.0, 0.75), (3.0, 1.0)]
    assert comparison.hypervolume(both, reference) == pytest.approx(0.25 + 0.25 * 0.5)
    assert comparison.hypervolume([*both, (3.5, 0.9), (5.0, 1.0), (1.0, 0.4)], reference) == pytest.approx(0.375)
    assert comparison.hypervolume([(0.0, 1.0)], reference) == pytest.approx(1)


def test_a_network_is_dominated_by_one_that_is_no_slower_and_no_worse(comparison):
    assert comparison.is_dominated((2.0, 0.8), [(2.0, 0.9)])
    assert not comparison.is_dominated((2.0, 0.8), [(2.0, 0.8)]), "itself, found by both"
    assert not comparison.is_dominated((2.0, 0.8), [(1.0, 0.7), (3.0, 0.9)])
