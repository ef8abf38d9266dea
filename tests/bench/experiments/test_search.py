"""The comparison of two searches: fronts of latency and accuracy."""

from __future__ import annotations

import pytest

from logo_edge_bench.experiments import search


def test_the_hypervolume_is_the_share_of_the_box_that_is_dominated():
    reference = (4.0, 0.5)
    assert search.hypervolume([(2.0, 0.75)], reference) == pytest.approx(0.5 * 0.5)
    both = [(2.0, 0.75), (3.0, 1.0)]
    assert search.hypervolume(both, reference) == pytest.approx(0.25 + 0.25 * 0.5)
    assert search.hypervolume([*both, (3.5, 0.9), (5.0, 1.0), (1.0, 0.4)], reference) == pytest.approx(0.375)
    assert search.hypervolume([(0.0, 1.0)], reference) == pytest.approx(1)


def test_a_network_is_dominated_by_one_that_is_no_slower_and_no_worse():
    assert search.is_dominated((2.0, 0.8), [(2.0, 0.9)])
    assert not search.is_dominated((2.0, 0.8), [(2.0, 0.8)]), "itself, found by both"
    assert not search.is_dominated((2.0, 0.8), [(1.0, 0.7), (3.0, 0.9)])
