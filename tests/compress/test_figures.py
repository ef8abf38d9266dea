"""Figures of labelled logos are reported by icon set and by round of labelling."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from logo_edge.bundle.record import read_bundle
from logo_edge_compress.card import model_card
from logo_edge_compress.figures import named_slices, summarize_rows
from logo_edge_compress.report import print_stages
from logo_edge_train.data.manifest import LogoRow

LABELS = ("a", "b")
ROWS = [
    LogoRow("@iconify-json/logos", "1", "0", label="a"),
    LogoRow("@iconify-json/logos", "1", "1", label="b", sure=False),
    LogoRow("@iconify-json/unjs", "1", "2", label="b", round=2),
    LogoRow("mine\x1b[1m", "1", "3", label="b", round=10),
    LogoRow("mine\x1b[1m", "1", "4", label="b", round=10),
]
LOGITS = np.eye(2)[[0, 0, 1, 1, 0]] * 2  # rows 1 and 4 are wrong


def test_accuracy_is_reported_by_round_and_by_package_with_the_numbers_of_logos():
    figures = summarize_rows(LOGITS, ROWS, LABELS)
    assert (figures["count"], figures["count_sure"], figures["accuracy"]["value"]) == (5, 4, 0.6)
    slices = named_slices(figures)
    assert list(slices) == ["round 1", "round 2", "round 10", "logos", "unjs", r"mine\x1b[1m"]
    assert [(part["count"], part["count_sure"]) for part in slices.values()] == [
        (2, 1),
        (1, 1),
        (2, 2),
        (2, 1),
        (1, 1),
        (2, 2),
    ]
    assert [part["accuracy"]["value"] for part in slices.values()] == [0.5, 1, 0.5, 0.5, 1, 0.5]
    assert [part["accuracy_sure"]["value"] for part in slices.values()] == [1, 1, 0.5, 1, 1, 0.5]
    assert slices["logos"]["accuracy"]["high"] > 0.9, "two logos tell little"
    assert json.loads(json.dumps(figures)) == figures


def test_what_all_logos_have_in_common_is_no_slice():
    rows = [replace(row, package="files") for row in ROWS]
    assert list(named_slices(summarize_rows(LOGITS, rows, LABELS))) == ["round 1", "round 2", "round 10"]
    rows = [replace(row, round=1) for row in rows]
    assert named_slices(summarize_rows(LOGITS, rows, LABELS)) == {}
    assert named_slices({"count": 5}) == {}, "a bundle of an earlier release has none"


def test_the_stages_and_the_card_tell_every_slice(fake_bundle, capsys):
    figures = summarize_rows(LOGITS, ROWS, LABELS)
    stage = {"stage": "INT8", "size_bytes": 1, "latency": None, "test": figures}
    print_stages({"bundle": "mine", "stages": [stage]})
    text = capsys.readouterr().out
    assert "round 2, sure" in text
    assert "unjs, all" in text
    card = model_card(replace(read_bundle(fake_bundle()), metrics={"test": figures}))
    assert "- round 1, 2 of 5: 50.0% (9.5% to 90.5%) on all, 100.0% (20.7% to 100.0%) on sure ones" in card
    assert r"- mine\x1b[1m, 2 of 5: 50.0%" in card
    assert card.count(" of 5: ") == 6
