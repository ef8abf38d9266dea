"""The comparison of students: what is asked for is made, smaller where it is pruned, and timed."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from logo_edge.errors import RecipeError

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "compare_students.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compare_students", SCRIPT)
    module = sys.modules["compare_students"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_pruned_student_has_fewer_multiplications_and_bytes(script, tmp_path, monkeypatch):
    out, names = tmp_path / "students.json", ["test_resnet@32", "test_resnet@32/0.6/8"]
    monkeypatch.setattr(sys, "argv", ["compare_students.py", "--rounds", "1", "--out", str(out), "--students", *names])
    script.main()
    whole, pruned = json.loads(out.read_text())["students"].values()
    assert pruned["million_macs"] <= 0.4 * whole["million_macs"]
    for precision in ("FP32", "INT8"):
        assert 0 < pruned[precision]["size_mb"] < whole[precision]["size_mb"]
        assert pruned[precision]["p50_ms"] > 0
    assert whole["INT8"]["size_mb"] < 0.4 * whole["FP32"]["size_mb"]


@pytest.mark.parametrize(
    ("text", "share", "multiple"), [("a@32", 0.0, 16), ("a@32/0.5", 0.5, 16), ("a@32/0.5/8", 0.5, 8)]
)
def test_a_student_is_named_by_network_size_share_and_multiple(text, share, multiple, script):
    student = script.Student.parse(text)
    assert (str(student.candidate), student.prune.share, student.prune.round_to) == ("a@32", share, multiple)


def test_a_name_without_a_size_is_refused(script):
    with pytest.raises(RecipeError, match="expected name@size_px"):
        script.Student.parse("resnet10t/0.5")
