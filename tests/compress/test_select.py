"""Which candidate ships: limits, dominance, INT8 that is slower, and the choice with its sentence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from logo_edge_compress.select import (
    Limits,
    Row,
    add_carried,
    choose,
    find_dominators,
    find_misses,
    find_slow_int8,
    is_as_accurate,
)
from logo_edge_compress.timing import Cost, is_slower

LOGOS = 400


def cost(p50_ms: float, rounds: tuple[float, ...] | None = None) -> Cost:
    return Cost(p50_ms, p50_ms, p50_ms, p50_ms, 11, rounds or (p50_ms,) * 11, 50.0)


def row(student: str, name: str, *, right: int, megabytes: float, ms: float | None, ece: float = 0.02) -> Row:
    """A candidate that is right on the first `right` of the logos; the teachers are on 380."""
    correct = np.arange(LOGOS) < right
    return Row(
        student,
        name,
        name.partition("-")[0],
        "onnxruntime",
        int(megabytes * 1e6),
        right / LOGOS,
        right / LOGOS,
        0.8,
        (380 - right) / LOGOS,
        0.3,
        ece,
        ece,
        {},
        correct,
        None if ms is None else cost(ms),
    )


LARGE = row("large@128", "fp32", right=372, megabytes=13.5, ms=8.0)
LARGE8 = row("large@128", "int8-tuned", right=371, megabytes=3.8, ms=4.5)
SMALL = row("small@96", "fp32", right=371, megabytes=2.0, ms=0.4)
SMALL8 = row("small@96", "int8-minmax", right=371, megabytes=0.6, ms=0.7)
WEAK = row("weak@64", "fp32", right=320, megabytes=0.3, ms=0.1)
ROWS = [LARGE, LARGE8, SMALL, SMALL8, WEAK]
ALONE = dict.fromkeys((row.title for row in ROWS), 0)


def test_the_fastest_candidate_is_chosen_among_those_as_accurate_as_the_best():
    choice = choose(ROWS, Limits(), find_slow_int8(ROWS), by_size=False)
    assert choice.row is SMALL, "weak is faster, but less accurate by more than chance"
    assert choice.sentence == (
        "small@96, fp32: 92.8% on val, 0.40 ms, 2.00 MB; 4 of 5 candidates may ship, as no limit was given, and it is "
        "the fastest (and of equally fast ones the smallest) of the 3 that val cannot distinguish from the most "
        "accurate, large@128, fp32 with 93.0%."
    )


def test_what_is_carried_counts_as_size_and_must_exist():
    carrying, unable = add_carried(ROWS, ("fp32",), ALONE)
    sizes = {row.title: row.size_bytes for row in carrying}
    assert sizes["large@128, int8-tuned"] == 17_300_000
    assert sizes["large@128, fp32"] == 13_500_000
    assert unable == {}
    assert [len(find_misses(row, Limits(size_mb=2.2))) for row in carrying if row.student == "small@96"] == [0, 1]
    _, unable = add_carried(ROWS, ("int8-tuned",), ALONE)
    assert unable["small@96, fp32"] == "int8-tuned, which it should carry, was not made"
    assert "large@128, fp32" not in unable
    choice = choose(ROWS, Limits(), unable, by_size=False)
    assert choice.row is LARGE8, "the quickest that can carry it"


def test_candidates_differ_if_one_is_right_on_enough_logos_where_the_other_is_wrong():
    best = replace(SMALL, correct=np.arange(LOGOS) < 372)
    assert is_as_accurate(replace(SMALL, correct=np.arange(LOGOS) < 371), best), "one logo is chance"
    assert not is_as_accurate(replace(SMALL, correct=np.arange(LOGOS) < 366), best)
    moved = np.roll(best.correct, 10)  # wrong on ten others, right on ten more
    moved[20:24] = False
    assert is_as_accurate(replace(SMALL, correct=moved), best), "14 against 10"


def test_of_equally_fast_candidates_the_smallest_is_chosen():
    half = replace(SMALL, name="fp16", precision="fp16", size_bytes=1_000_000, cost=cost(0.41))
    assert choose([SMALL, half, LARGE], Limits(), {}, by_size=False).row is half
    better = replace(half, name="int8", size_bytes=1_040_000, nll=0.2)
    assert choose([SMALL, half, better, LARGE], Limits(), {}, by_size=False).row is better, (
        "of equally small ones the best"
    )
    far = replace(half, cost=cost(0.5))
    assert choose([SMALL, far, LARGE], Limits(), {}, by_size=False).row is SMALL


def test_where_size_counts_or_nothing_was_measured_the_smallest_is_chosen():
    assert choose(ROWS, Limits(), {}, by_size=True).row is SMALL8
    unmeasured = [replace(candidate, cost=None) for candidate in ROWS]
    assert choose(unmeasured, Limits(), {}, by_size=False).row.name == "int8-minmax"


def test_one_row_that_could_not_be_timed_does_not_turn_the_choice_from_speed_to_size():
    tiny = replace(SMALL, name="int8-broken", size_bytes=100_000, cost=None)
    choice = choose([*ROWS, tiny], Limits(), {}, by_size=False)
    assert choice.row is SMALL, "the fastest, though another is smaller"
    assert "the fastest (and of equally fast ones the smallest)" in choice.sentence
    assert choice.sentence.endswith("; 1 of them could not be timed and were left out.")
    assert choose([*ROWS, tiny], Limits(), {}, by_size=True).row is tiny, "where size counts, time does not"


@pytest.mark.parametrize(
    ("limits", "missed"),
    [
        (Limits(size_mb=1.9), "size 2.00 MB (limit 1.90 MB)"),
        (Limits(latency_ms=0.3), "latency 0.40 ms (limit 0.30 ms)"),
        (Limits(accuracy_drop=2.0), "accuracy drop 2.2 points (limit 2.0 points)"),
        (Limits(ece=1.5), "ECE 2.0 % (limit 1.5 %)"),
    ],
)
def test_a_limit_that_is_missed_is_named_with_both_figures(limits, missed):
    assert [miss.text for miss in find_misses(SMALL, limits)] == [missed]
    assert find_misses(SMALL, Limits(2.0, 0.4, 2.25, 2.0)) == [], "what is just met is met"


def test_a_latency_that_was_not_measured_meets_no_limit():
    (miss,) = find_misses(replace(SMALL, cost=None), Limits(latency_ms=100.0))
    assert miss.text == "latency not measured here (limit 100.00 ms)"


def test_the_limits_decide_before_accuracy_does():
    choice = choose(ROWS, Limits(size_mb=1.2), {}, by_size=False)
    assert choice.row is SMALL8
    assert set(choice.misses) == {candidate.title for candidate in ROWS}
    assert [candidate.title for candidate in ROWS if not choice.misses[candidate.title]] == [SMALL8.title, WEAK.title]


def test_where_none_meets_the_limits_the_nearest_is_named_and_what_each_misses():
    choice = choose(ROWS, Limits(size_mb=0.55, accuracy_drop=3.0), {}, by_size=False)
    assert choice.row is None
    lines = choice.sentence.splitlines()
    assert lines[0] == (
        "no candidate meets the limits (at most 0.55 MB, at most 3 points below the teachers). Nearest: "
        "small@96, int8-minmax"
    )
    assert lines[1] == "  small@96, int8-minmax: size 0.60 MB (limit 0.55 MB)"
    assert "  weak@64, fp32: accuracy drop 15.0 points (limit 3.0 points)" in lines
    assert len(lines) == 1 + len(ROWS)


def test_int8_that_is_slower_than_its_own_fp32_is_refused_with_the_reason():
    refused = find_slow_int8(ROWS)
    assert refused == {"small@96, int8-minmax": "slower than FP32 on this machine: 0.70 ms against 0.40 ms"}
    tight = choose(ROWS, Limits(size_mb=0.7, accuracy_drop=5.0), refused, by_size=False)
    assert tight.row is None
    assert "small@96, int8-minmax: slower than FP32" in tight.sentence


def test_a_difference_within_the_noise_is_not_called_slower():
    plain = (1.0,) * 11
    assert not is_slower(cost(1.0, (1.01,) * 8 + (0.99,) * 3), cost(1.0, plain))
    assert is_slower(cost(1.0, (1.01,) * 9 + (0.99,) * 2), cost(1.0, plain))
    assert not is_slower(cost(1.0, plain), cost(1.0, plain)), "equal is not slower"


def test_a_row_is_dominated_by_one_that_is_no_worse_in_anything_and_better_in_something():
    assert find_dominators(ROWS) == {LARGE8.title: SMALL8.title}, "as accurate, faster and smaller"
    twin = replace(SMALL, name="fp32-again")
    assert SMALL.title not in find_dominators([SMALL, twin]), "equals do not dominate each other"


def test_test_logos_have_no_part_in_the_choice():
    """A row holds figures of val alone, and the choice sees nothing but rows."""
    assert {name for name in Row.__dataclass_fields__ if "test" in name} == set()
    assert len(SMALL.correct) == LOGOS


def test_the_graph_that_is_packed_beside_a_candidate_counts_as_size():
    carrying, _ = add_carried(ROWS, ("fp32",), ALONE | {SMALL8.title: 700_000})
    assert {row.title: row.size_bytes for row in carrying}[SMALL8.title] == 600_000 + 700_000 + 2_000_000
