"""Keys identify work by inputs, settings and versions; finished work is read and never written again."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from interrupted import Interrupted
from pictures import write_squares
from PIL import Image

from logo_edge.errors import RunError
from logo_edge_compress.search import search
from logo_edge_compress.search.latency_table import LatencyTable
from logo_edge_train import keys, train
from logo_edge_train.data.manifest import LogoRow, read_manifest, write_manifest
from logo_edge_train.few_shot import run as few_shot
from logo_edge_train.fit_config import SamConfig
from logo_edge_train.keys import artifact_key, describe_changed_rows, identify, row_hashes, select_settings
from logo_edge_train.recipe import Recipe
from logo_edge_train.recipe_io import recipe_from_dict

CPU = torch.device("cpu")
RECIPE = recipe_from_dict(
    {
        "train": {"teachers": ["test_resnet@32"], "pretrained": False, "fit": {"epochs": 3, "batch_size": 8}},
        "search": {
            "backbones": ["test_resnet"],
            "attentions": ["none", "se"],
            "heads": ["linear"],
            "size_px": 32,
            "epochs": 2,
            "warmup_epochs": 0,
            "batch_size": 4,
        },
    }
)


@pytest.fixture
def manifest_path(tmp_path) -> Path:
    return write_squares(tmp_path)


def test_a_key_is_of_inputs_settings_and_versions_and_of_nothing_else(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    base = artifact_key(
        {"a": tmp_path / "a", "b": "12"}, {"sam": SamConfig(), "more": {"list": (1, 2)}}, {"torch": "2"}
    )
    same = artifact_key(
        {"b": "12", "a": tmp_path / "a"}, {"more": {"list": [1, 2]}, "sam": SamConfig()}, {"torch": "2"}
    )
    assert same == base, "order and the kind of a list do not matter"
    others = [
        artifact_key({"a": tmp_path / "a", "b": "13"}, {"sam": SamConfig(), "more": {"list": (1, 2)}}, {"torch": "2"}),
        artifact_key(
            {"a": tmp_path / "a", "b": "12"}, {"sam": SamConfig(rho=0.1), "more": {"list": (1, 2)}}, {"torch": "2"}
        ),
        artifact_key({"a": tmp_path / "a", "b": "12"}, {"sam": SamConfig(), "more": {"list": (2, 1)}}, {"torch": "2"}),
        artifact_key({"a": tmp_path / "a", "b": "12"}, {"sam": SamConfig(), "more": {"list": (1, 2)}}, {"torch": "3"}),
    ]
    (tmp_path / "a").write_bytes(b"other content")
    others.append(
        artifact_key({"a": tmp_path / "a", "b": "12"}, {"sam": SamConfig(), "more": {"list": (1, 2)}}, {"torch": "2"})
    )
    assert len({base, *others}) == 6


def test_what_cannot_be_compared_has_no_place_in_a_key():
    with pytest.raises(TypeError, match="a setting of type set"):
        artifact_key({}, {"names": {1, 2}}, {})
    with pytest.raises(KeyError, match="no setting 'distill.temperatur'"):
        select_settings(Recipe(), "distill.temperatur")


def test_versions_count_for_unfinished_work_alone_and_each_difference_is_named():
    then = asdict(identify({"data": "a" * 64}, {"train.seed": 0}, {"pillow": "11.0"}))
    now = identify({"data": "b" * 64}, {"train.seed": 1}, {"pillow": "12.0"})
    assert now.changes(then, finished=True) == [f"data {'a' * 12}... -> {'b' * 12}...", "train.seed 0 -> 1"]
    assert now.changes(then, finished=False)[2:] == ["pillow 11.0 -> 12.0"]


def test_a_setting_that_is_newer_than_finished_work_had_its_default():
    settings = select_settings(Recipe(), "distill")
    then = asdict(identify({}, {name: value for name, value in settings.items() if name != "distill.views"}, {}))
    assert identify({}, settings, {}).changes(then, finished=True) == []
    changed = identify({}, settings | {"distill.views": 3}, {})
    assert changed.changes(then, finished=True) == ["distill.views 0 -> 3"]


def test_rows_that_differ_are_counted_and_so_is_another_order(manifest_path):
    manifest = read_manifest(manifest_path)
    rows = manifest.rows
    then = json.loads(json.dumps(row_hashes(manifest, rows)))

    def describe(now):
        return describe_changed_rows(then, row_hashes(manifest, now))

    assert describe(rows) == ""
    assert describe([replace(rows[0], label="blue"), *rows[1:]]) == "rows 1 changed: files/red-train-0.png"
    assert describe(rows[5:]).startswith("rows 5 removed: files/red-train-0.png, ")
    assert describe(rows[5:]).endswith(" and 2 more")
    assert describe([*rows, LogoRow("icons", "1", "a")]) == "rows 1 added: icons/a"
    assert describe(rows[::-1]) == "the same rows in another order or number: 48 then, 48 now"
    assert describe([replace(row, round=2) for row in rows]) == "", "only reports read the round"
    Image.new("RGB", (9, 9)).save(manifest.image_path(rows[3]))
    assert describe(rows) == "rows 1 changed: files/red-train-3.png", "the picture itself is another"


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Path -> (modification time in ns, bytes) of every file."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()}


def upgrade_pillow(monkeypatch):
    """From now on, every stage sees another version of Pillow."""
    for stage in (train, search, few_shot):
        monkeypatch.setattr(stage, "versions", lambda *names: {**keys.versions(*names), "pillow": "99.0"})


def stop_at_epoch_1(item):
    if item["kind"] == "epoch" and item["epoch"] == 1:
        raise Interrupted


def test_a_finished_run_is_read_and_never_written_again_whatever_the_versions_are_now(
    manifest_path, tmp_path, monkeypatch
):
    def call(report=lambda _: pytest.fail("trained twice")):
        return train.train_ensemble(manifest_path, RECIPE, tmp_path / "run", device=CPU, report=report)

    first = call(lambda _: None)
    before = contents(tmp_path / "run")
    upgrade_pillow(monkeypatch)
    assert call().record == first.record
    assert contents(tmp_path / "run") == before
    assert len(before) >= 5


def test_an_unfinished_run_does_not_go_on_under_other_versions_and_says_which(manifest_path, tmp_path, monkeypatch):
    def call(report):
        return train.train_ensemble(manifest_path, RECIPE, tmp_path / "run", device=CPU, report=report)

    with pytest.raises(Interrupted):
        call(stop_at_epoch_1)
    with monkeypatch.context() as patch:
        upgrade_pillow(patch)
        with pytest.raises(RunError, match=r"holds a run of other settings or data \(pillow .* -> 99.0\)"):
            call(lambda _: None)
    resumed = []
    call(resumed.append)
    assert "resume" in {item["kind"] for item in resumed}


def test_a_run_whose_manifest_was_edited_does_not_go_on(manifest_path, tmp_path):
    train.train_ensemble(manifest_path, RECIPE, tmp_path / "run", device=CPU, report=lambda _: None)
    rows = read_manifest(manifest_path).rows
    write_manifest(manifest_path, [replace(rows[0], split="val"), *rows[1:]])
    with pytest.raises(RunError, match=r"holds a run of other settings or data \(data \w{12}... -> \w{12}...\)"):
        train.train_ensemble(manifest_path, RECIPE, tmp_path / "run", device=CPU, report=lambda _: None)


def table_of(ms: float) -> LatencyTable:
    return LatencyTable(32, {"pillow": "11"}, {"test_resnet": ms}, {"none": 0.0, "se": 0.5}, {"linear": 0.1})


def call_search(manifest_path, folder, table, report=lambda _: None, recipe=RECIPE) -> Recipe:
    return search.search(manifest_path, recipe, table, folder, device=CPU, report=report)


def test_a_finished_search_is_accepted_after_an_upgrade_and_with_other_measured_milliseconds(
    manifest_path, tmp_path, monkeypatch
):
    first = call_search(manifest_path, tmp_path, table_of(1.0))
    before = contents(tmp_path / "search")
    upgrade_pillow(monkeypatch)
    assert call_search(manifest_path, tmp_path, table_of(3.0), lambda _: pytest.fail("searched twice")) == first
    assert contents(tmp_path / "search") == before
    assert len(before) == 3


def test_a_finished_search_is_of_use_to_a_recipe_whose_other_stages_have_changed(manifest_path, tmp_path):
    first = call_search(manifest_path, tmp_path, table_of(1.0))
    changed = replace(RECIPE, distill=replace(RECIPE.distill, temperature=5.0))
    again = call_search(manifest_path, tmp_path, table_of(1.0), lambda _: pytest.fail("searched twice"), changed)
    assert again.train == first.train
    assert again.distill.temperature == 5.0
    assert "temperature = 5.0" in (tmp_path / "search" / "derived.toml").read_text()


def test_an_interrupted_search_goes_on_by_the_milliseconds_that_it_began_with(manifest_path, tmp_path):
    with pytest.raises(Interrupted):
        call_search(manifest_path, tmp_path, table_of(1.0), stop_at_epoch_1)
    call_search(manifest_path, tmp_path, table_of(3.0))
    history = json.loads((tmp_path / "search" / "history.json").read_text())
    assert history["table"]["backbones"] == {"test_resnet": 1.0}
    assert {round(epoch["chosen_ms"], 1) for epoch in history["epochs"]} <= {1.1, 1.6}
