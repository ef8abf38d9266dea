"""Killed at random moments and run again, a verb ends like an undisturbed run; the experiment `kills` runs more."""

from __future__ import annotations

import json

import pytest

from logo_edge_bench.experiments import kills


@pytest.fixture(autouse=True)
def fewer_images(monkeypatch):
    monkeypatch.setattr(kills, "IMAGES", 300)


@pytest.mark.parametrize("verb", ["classify-csv", "enroll"])
def test_a_verb_that_is_killed_and_run_again_ends_like_an_undisturbed_one(tmp_path, verb):
    done = {"kills": 0, "trials": 0, "seed": 1}
    figures = list(kills.kill_often(verb, tmp_path, 3, done))[-1]
    assert figures["kills"] >= 3
    assert figures["trials"] >= 1


def test_a_result_that_differs_is_an_error(tmp_path, monkeypatch):
    results = iter(({"rows": 1}, {"rows": 2}))
    verb = kills.Verb(lambda folder: None, ["--help"], lambda folder: next(results), lambda folder: None)
    monkeypatch.setitem(kills.VERBS, "odd", verb)
    monkeypatch.setattr(kills, "run_to_end", lambda *arguments: (0, 1, ""))
    monkeypatch.setattr(kills, "run_and_kill", lambda *arguments: True)
    with pytest.raises(AssertionError, match="odd, trial 0: status 0, or another result"):
        list(kills.kill_often("odd", tmp_path, 1, {"kills": 0, "trials": 0, "seed": 0}))


def test_figures_of_verbs_are_added_to_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "VERBS", dict.fromkeys("ab"))
    monkeypatch.setattr(kills, "kill_often", lambda *arguments: iter([{"kills": 1, "trials": 1}]))
    for name in ("a", "b"):
        kills.measure(verb=[name], out=tmp_path / "kills.json")
    record = json.loads((tmp_path / "kills.json").read_text())
    assert record.pop("provenance")["date"]
    assert record == {name: {"kills": 1, "trials": 1} for name in ("a", "b")}
    assert [path.name for path in tmp_path.iterdir()] == ["kills.json"]
