"""The time left is promised by the recent pace, of items that count one by one or many at a time."""

from __future__ import annotations

from itertools import accumulate

import pytest

from logo_edge.pace import APART_S, MOST_S, Pace, clock


def promises(ends: list[float], total: int, every_s: float = 0.25) -> dict[float, int | None]:
    """Time -> the seconds left that are promised, for work whose items end at these times."""
    pace, promised, now_s = Pace(), {}, 0.0
    while now_s < ends[-1]:
        pace.see(sum(end <= now_s for end in ends), now_s)
        promised[now_s] = pace.left_s(total, now_s)
        now_s += every_s
    return promised


def test_an_even_pace_is_promised_to_the_second_without_the_time_before_the_first_item():
    promised = promises([20.0 + item for item in range(100)], 100)
    assert all(left is None for now_s, left in promised.items() if now_s < 21)
    assert all(abs(now_s + left - 119) <= 1.5 for now_s, left in promised.items() if now_s > 22)


@pytest.mark.parametrize(("before_s", "after_s"), [(0.5, 2.0), (2.0, 0.5)])
def test_a_pace_that_changed_is_noticed_well_before_the_end(before_s, after_s):
    half = [before_s * (item + 1) for item in range(200)]
    ends = half + [half[-1] + after_s * (item + 1) for item in range(200)]
    for now_s, left in promises(ends, 400).items():
        done, truth_s = sum(end <= now_s for end in ends), ends[-1] - now_s
        if done > 300:
            assert abs(left - truth_s) <= 0.1 * truth_s + 3, (now_s, left, truth_s)
            if done < 390:
                assert abs(now_s / done * (400 - done) - truth_s) > 0.3 * truth_s, "the mean of the whole is far off"


def test_items_that_end_four_at_a_time_promise_no_sudden_end():
    ends = [30.0 + 8 * (item // 4) for item in range(40)]
    promised = {now_s: left for now_s, left in promises(ends, 40).items() if left is not None}
    assert len(promised) > 200
    assert all(abs(now_s + left - ends[-1]) <= 1.5 for now_s, left in promised.items())


def test_an_item_that_lasts_lowers_the_pace_and_the_last_one_never_promises_an_end_that_passed():
    pace = Pace()
    for item in range(51):
        pace.see(item, float(item))
    assert pace.left_s(60, 50.5) == 10
    assert pace.left_s(60, 80.0) == 38, "9 are left after the current one, with which the latest 9 take 38 s"
    assert pace.left_s(51, 80.0) == 1


def test_the_last_seconds_are_not_promised_by_the_latest_item_alone():
    ends = list(accumulate([0.5, 0.5, 0.5, 0.5, 2.0, 2.0, 2.0, 2.0] * 12))
    promised = {now_s: left for now_s, left in promises(ends, 96).items() if now_s > ends[-1] - 10}
    assert len(promised) > 30
    assert all(abs(now_s + left - ends[-1]) <= 4 for now_s, left in promised.items())


def test_few_counts_are_kept_of_many_quick_items():
    pace = Pace()
    for item in range(100_000):
        pace.see(item, item / 100)
    assert 2 <= len(pace.rises) <= MOST_S / APART_S + 2
    assert abs(pace.left_s(110_000, 999.99) - 100) <= 1


def test_a_count_that_falls_begins_again():
    pace = Pace()
    for item in range(10):
        pace.see(item, float(item))
    pace.see(2, 10.0)
    assert pace.left_s(20, 10.0) is None
    pace.see(3, 20.0)
    pace.see(4, 30.0)
    assert pace.left_s(20, 30.0) == 160


def test_clock():
    assert [clock(seconds) for seconds in (None, 0, 59, 3723, 90_000)] == [
        "-:--:--",
        "0:00:00",
        "0:00:59",
        "1:02:03",
        "25:00:00",
    ]
