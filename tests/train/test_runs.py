"""`logo-edge runs`: lists, shows and compares finished, unfinished and broken runs."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from interrupted import Interrupted
from pictures import COLOURS, write_squares
from typer.testing import CliRunner

from logo_edge import files
from logo_edge.errors import RunError
from logo_edge.files import replacing
from logo_edge_train.checkpoints import save_member
from logo_edge_train.commands import place_of, runs
from logo_edge_train.data.manifest import Manifest
from logo_edge_train.models import LogoNetwork
from logo_edge_train.recipe_io import recipe_from_dict
from logo_edge_train.run_summary import compare_runs, describe_run, list_runs, read_networks, summarize_run
from logo_edge_train.runs import read_run, save_logits
from logo_edge_train.state import save_modules
from logo_edge_train.tracker import Tracker
from logo_edge_train.train import train_ensemble

STUDENT = {
    "chosen": "test_resnet@32",
    "method": "minmax",
    "bundle_bytes": 1_500_000,
    "abstention": {"threshold": 0.8},
    "stages": [
        {"stage": "FP32 ONNX"},
        {
            "stage": "INT8, calibrated",
            "val": {
                "accuracy": {"value": 0.75},
                "accuracy_sure": {"value": 0.9},
                "nll": 0.6,
                "recall": {"red": {"value": 0.5}, "green": {"value": 1.0}, "blue": {"value": 0.75}},
                "calibration_error_debiased": {"value": 0.02},
            },
        },
    ],
}


def train(manifest, folder, *, epochs: int, stop_after: int | None = None):
    """One teacher, tracked; with `stop_after`, interrupted at the end of that epoch."""
    recipe = recipe_from_dict(
        {
            "name": "tiny",
            "train": {"teachers": ["test_resnet@32"], "pretrained": False, "fit": {"epochs": epochs, "batch_size": 8}},
        }
    )

    def report(item):
        keep(item)
        if item["kind"] == "epoch" and item["epoch"] == stop_after:
            raise Interrupted

    with Tracker(folder, settings={}) as keep:
        train_ensemble(manifest, recipe, folder, device=torch.device("cpu"), report=report)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs: a (compressed) and b finished, c interrupted in epoch 2, d incomplete; and a folder without a run."""
    folder = tmp_path_factory.mktemp("runs")
    data = tmp_path_factory.mktemp("data")
    write_squares(data, COLOURS)
    train(data / "manifest.csv", folder / "a", epochs=1)
    train(data / "manifest.csv", folder / "b", epochs=2)
    with pytest.raises(Interrupted):
        train(data / "manifest.csv", folder / "c", epochs=3, stop_after=2)
    (folder / "a" / "compress" / "test_resnet-32").mkdir(parents=True)
    history = [{"distillation": 0.1, "epoch": 1, "accuracy": 0.75, "seconds": 9.0}]
    (folder / "a" / "compress" / "test_resnet-32" / "student.json").write_text(json.dumps({"history": history}))
    (folder / "a" / "compress" / "report.json").write_text(json.dumps(STUDENT))
    (folder / "d").mkdir()
    (folder / "d" / "run.json").write_text((folder / "a" / "run.json").read_text()[:100])
    (folder / "mlruns").mkdir()
    return folder


def test_finished_unfinished_and_broken_runs_are_listed_with_their_state(trained):
    a, b, c, d = list_runs(trained)
    assert [a["status"], b["status"], c["status"]] == ["finished", "finished", "training: 0 of 1 teachers"]
    assert d["status"].startswith("broken: ")
    assert a["val"] == read_run(trained / "a").record["metrics"]["val"]
    assert a["student"]["accuracy"] == 0.75
    assert a["student"]["worst_recall"] == 0.5
    assert b["student"] is None
    assert c["val"] is None
    assert b["teachers"] == ["test_resnet@32"]
    files = [path for path in (trained / "b").rglob("*") if path.is_file()]
    assert b["size_bytes"] == sum(path.stat().st_size for path in files) > 100_000


def test_a_run_whose_checkpoint_is_gone_is_called_broken(trained):
    path = trained / "b" / "member-0.safetensors"
    hidden = path.rename(trained / "hidden")
    try:
        assert summarize_run(trained / "b")["status"] == "broken: member-0.safetensors missing"
    finally:
        hidden.rename(path)


def test_the_list_is_printed_and_given_as_json(trained):
    printed = CliRunner().invoke(runs, ["list", str(trained)])
    assert printed.exit_code == 0, printed.output
    assert "test_resnet@32 75.0%" in printed.output
    assert "training: 0 of 1 teachers" in printed.output
    assert "d is broken" in printed.output
    listed = json.loads(CliRunner().invoke(runs, ["list", str(trained), "--json"]).stdout)
    assert [run["name"] for run in listed] == ["a", "b", "c", "d"]


def test_a_run_is_shown_with_its_epochs_and_what_compression_made_of_it(trained):
    description = describe_run(trained / "a")
    assert description["changed"]["train.fit.epochs"] == 1
    assert "train.fit.learning_rate" not in description["changed"], "what is as the defaults have it is not repeated"
    assert description["networks"]["member-0"]["finished"]
    assert [epoch["epoch"] for epoch in description["networks"]["member-0"]["epochs"]] == [1]
    student = description["networks"]["student-test_resnet-32"]
    assert (student["network"], student["epochs"][0]["distillation"]) == ("test_resnet@32", 0.1)
    printed = CliRunner().invoke(runs, ["show", str(trained / "a")])
    assert printed.exit_code == 0, printed.output
    for part in ("train.fit.epochs = 1", "torch ", "look-alikes", "minmax, 1.50 MB", "cross entropy", "calib. error"):
        assert part in printed.output, part


def test_the_students_of_another_recipe_are_shown_beside_the_runs_own(trained):
    folder = trained / "a"
    (folder / "compress-robust" / "test_resnet-32").mkdir(parents=True)
    try:
        networks = describe_run(folder)["networks"]
    finally:
        shutil.rmtree(folder / "compress-robust")
    assert not networks["student-test_resnet-32-robust"]["finished"]
    assert networks["student-test_resnet-32"]["finished"]


def test_an_unfinished_run_shows_the_epochs_that_its_metrics_file_holds(trained):
    network = describe_run(trained / "c")["networks"]["member-0"]
    assert not network["finished"]
    assert [epoch["epoch"] for epoch in network["epochs"]] == [1, 2]
    assert "2 epochs, unfinished" in CliRunner().invoke(runs, ["show", str(trained / "c")]).output


def test_a_network_that_was_pretrained_is_shown_and_one_that_was_not_is_left_out(tmp_path):
    record = {"recipe": {"train": {"teachers": ["a@32", "b@32", "b@32"]}, "pretrain": {"fit": {"epochs": 1}}}}
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "b-32.json").write_text(json.dumps({"history": [{"epoch": 1, "accuracy": 0.5}]}))
    networks = read_networks(tmp_path, record)
    assert list(networks) == ["pretrain-b-32", "member-0", "member-1", "member-2"]
    assert networks["pretrain-b-32"] == {"network": "b@32", "finished": True, "epochs": [{"epoch": 1, "accuracy": 0.5}]}


def test_two_runs_are_compared_by_recipe_figures_and_logos(trained):
    comparison = compare_runs([trained / "a", trained / "b"])
    assert comparison["fields"] == {"train.fit.epochs": [1, 2]}
    first, second = (read_run(trained / name) for name in "ab")
    difference = second.record["metrics"]["val"]["accuracy"] - first.record["metrics"]["val"]["accuracy"]
    assert comparison["differences"][0]["accuracy"] == pytest.approx(difference)
    paired = comparison["paired"][0]
    assert paired["count"] == 24
    assert paired["accuracy_difference"] == pytest.approx(difference)
    assert (paired["only_second_right"] - paired["only_first_right"]) / 24 == pytest.approx(difference)


def test_a_run_compared_with_itself_differs_in_nothing(trained):
    comparison = compare_runs([trained / "a", trained / "a"])
    assert comparison["fields"] == {}
    assert comparison["paired"][0]["agree"] == 24
    assert set(comparison["differences"][0].values()) == {0}


def test_an_unfinished_run_is_compared_by_its_recipe_alone(trained):
    comparison = compare_runs([trained / "a", trained / "c"])
    assert comparison["differences"] == [None]
    assert comparison["paired"] == [None]
    printed = CliRunner().invoke(runs, ["compare", str(trained / "a"), str(trained / "c")])
    assert printed.exit_code == 0, printed.output
    assert "train.fit.epochs" in printed.output
    both = CliRunner().invoke(runs, ["compare", str(trained / "a"), str(trained / "b"), "--json"])
    assert json.loads(both.stdout)["same_data"] is True


def test_what_is_no_run_is_refused(trained):
    with pytest.raises(RunError, match="expected the folder of a run"):
        describe_run(trained / "mlruns")
    with pytest.raises(RunError, match="is not a folder"):
        list_runs(trained / "nothing")
    assert CliRunner().invoke(runs, ["compare", str(trained / "a")]).exit_code == 2


def test_a_checkpoint_that_is_being_written_is_the_file_that_is_locked(tmp_path, monkeypatch):
    parts = []

    @contextmanager
    def watched(path, **options):
        with replacing(path, **options) as part:
            before = part.stat().st_ino
            yield part
            parts.append((before, part.stat().st_ino))

    monkeypatch.setattr(files, "replacing", watched)
    network = LogoNetwork("test_resnet", 3)
    save_member(tmp_path / "member.safetensors", network)
    save_logits(tmp_path / "member.logits", {"val": np.zeros((2, 3), np.float32)})
    save_modules(tmp_path / "member.state", {"network": network}, {}, {"history": "[]"})
    assert len(parts) == 3
    assert all(before == after for before, after in parts), "another process would delete it as a leftover"


def test_a_look_alike_is_told_by_where_its_file_lies(tmp_path):
    manifest = Manifest((), tmp_path / "cache" / "one")
    assert place_of("files/../../photos/a/1.png", manifest) == str(tmp_path / "photos" / "a" / "1.png")
    assert place_of("@iconify-json/logos/adobe", manifest) == "@iconify-json/logos/adobe"
