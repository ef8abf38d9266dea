"""The comparison of students: they are made, pruned and timed as named."""

from __future__ import annotations

import json

import pytest

from logo_edge.errors import RecipeError
from logo_edge_bench.experiments import students
from logo_edge_bench.experiments.__main__ import main


def test_a_pruned_student_has_fewer_multiplications_and_bytes(tmp_path):
    out, names = tmp_path / "students.json", ["test_resnet+details@32", "test_resnet+details@32/0.6/8"]
    main(["students", "--students", *names, "--rounds", "1", "--out", str(out)])
    record = json.loads(out.read_text())
    assert record["provenance"]["versions"]["torch"]
    whole, pruned = record["students"].values()
    assert pruned["million_macs"] <= 0.4 * whole["million_macs"]
    for precision in ("FP32", "INT8"):
        assert 0 < pruned[precision]["size_mb"] < whole[precision]["size_mb"]
        assert pruned[precision]["p50_ms"] > 0
    assert whole["INT8"]["size_mb"] < 0.4 * whole["FP32"]["size_mb"]


@pytest.mark.parametrize(
    ("text", "share", "multiple"), [("a@32", 0.0, 16), ("a@32/0.5", 0.5, 16), ("a@32/0.5/8", 0.5, 8)]
)
def test_a_student_is_named_by_network_size_share_and_multiple(text, share, multiple):
    architecture, prune = students.parse_student(text)
    assert (str(architecture), prune.share, prune.round_to) == ("a@32", share, multiple)


def test_a_name_without_a_size_is_refused():
    with pytest.raises(RecipeError, match="expected name@size_px"):
        students.parse_student("resnet10t/0.5")
