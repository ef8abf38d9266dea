"""`logo-edge evaluate`: the same figures for a bundle, its ONNX file, a checkpoint and a run, through one path."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from logo_edge.bundle.calibration import Conformal
from logo_edge.errors import DatasetError, RunError
from logo_edge_compress.onnx.export import export_onnx
from logo_edge_report import robustness
from logo_edge_report.commands import evaluate
from logo_edge_report.conditions import SIZES_PX, corruptions, flatten, scale_to
from logo_edge_report.evaluate import check_labels, load_split
from logo_edge_report.robustness import evaluate_corruptions
from logo_edge_report.subjects import load_subject
from logo_edge_train.data.manifest import read_manifest, targets_of, write_manifest
from logo_edge_train.data.outliers import outlier_paths
from logo_edge_train.recipe_io import recipe_from_dict
from logo_edge_train.train import train_ensemble


def run_evaluate(*arguments):
    return CliRunner().invoke(evaluate, [str(argument) for argument in arguments])


def test_a_bundle_is_evaluated_with_every_figure(colours, fake_bundle, tmp_path):
    out = tmp_path / "figures.json"
    result = run_evaluate(fake_bundle(), "--manifest", colours, "--out", out)
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text())["subjects"][0]
    assert figures["accuracy"]["value"] == pytest.approx(28 / 30)
    assert figures["recall"]["blue"]["value"] == pytest.approx(10 / 12)
    assert figures["precision"]["red"]["value"] == pytest.approx(8 / 10)
    assert figures["annotator_agreement"]["value"] == pytest.approx(28 / 30)
    assert sum(figures["confidence_histogram"]) == 30
    assert set(figures["slices"]) == {"size", "background", "jpeg", "thumbnail"}
    assert len(figures["slices"]["size"]) == len(SIZES_PX)
    assert 0.6 <= figures["prediction_sets"]["0.80"]["coverage"] <= 1
    assert "accuracy, all" in result.output


def test_rounds_of_labelling_are_told_beside_the_whole(colours, fake_bundle, tmp_path):
    rows = read_manifest(colours).rows
    write_manifest(colours, [replace(row, round=1 + int(row.label == "blue")) for row in rows])
    bundle, out = fake_bundle(), tmp_path / "figures.json"
    result = run_evaluate(bundle, bundle, "--manifest", colours, "--no-slices", "--out", out)
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text())["subjects"][0]
    rounds = figures["by_round"]
    assert [rounds[number]["count"] for number in "12"] == [18, 12]
    assert rounds["2"]["accuracy"] == figures["recall"]["blue"]
    assert list(figures["by_package"]) == ["files"]
    assert "accuracy by round and icon set, sure" in result.output
    assert result.output.count("round 2") == 2
    assert "files" not in result.output


def intervals_of(record) -> list[dict]:
    """Every {value, low, high} of a record, however deep."""
    if isinstance(record, list):
        return [figure for part in record for figure in intervals_of(part)]
    if not isinstance(record, dict):
        return []
    return [record] if {"value", "low", "high"} <= set(record) else intervals_of(list(record.values()))


@pytest.mark.network
def test_every_interval_of_an_evaluation_holds_its_value_but_for_a_class_that_is_never_predicted(
    colours, fake_bundle, fake_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(robustness, "outlier_paths", lambda part, _: outlier_paths(part, 20))
    out = tmp_path / "figures.json"
    bundle = fake_bundle(labels=("blue", "cyan", "green", "red"), model=fake_model(classes=4))
    result = run_evaluate(bundle, "--manifest", colours, "--outliers", "--out", out)
    assert result.exit_code == 0, result.output
    subject = json.loads(out.read_text(), parse_constant=pytest.fail)["subjects"][0]
    never = {name for name, share in subject["class_shares"].items() if not share["predicted"]}
    assert never == {name for name, figure in subject["precision"].items() if figure["value"] is None} != set()
    intervals = [figure for figure in intervals_of(subject) if figure["value"] is not None]
    assert len(intervals) > 30
    assert all(0 <= figure["low"] <= figure["value"] <= figure["high"] for figure in intervals)
    assert "unknown" in result.output


@pytest.mark.parametrize(
    "published",
    [
        "runtime/logo_edge/default_bundle/bundle.json",
        "runtime/bundles/robust/bundle.json",
        "benchmarks/results/default_report.json",
    ],
)
def test_every_interval_that_ships_holds_its_value(published):
    intervals = intervals_of(json.loads((Path(__file__).parents[2] / published).read_text()))
    assert len(intervals) >= 2 * 8
    assert all(0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1 for figure in intervals)


def test_a_bundles_own_prediction_sets_are_measured_and_those_of_others_are_cross_fitted(
    colours, fake_bundle, tmp_path
):
    packed = (Conformal(0.8, 0.123, None), Conformal(0.9, None, None, "calib: too few"))
    out = tmp_path / "figures.json"
    assert (
        run_evaluate(fake_bundle(conformal=packed), "--manifest", colours, "--no-slices", "--out", out).exit_code == 0
    )
    sets = json.loads(out.read_text())["subjects"][0]["prediction_sets"]
    assert {level: figures["threshold"] for level, figures in sets.items()} == {"0.80": 0.123, "0.90": None}
    assert (sets["0.90"]["coverage"], sets["0.90"]["mean_size"]) == (1.0, 3.0)


def test_two_subjects_are_compared_on_the_same_logos(colours, fake_bundle, tmp_path):
    out = tmp_path / "figures.json"
    bundle = fake_bundle()
    assert run_evaluate(bundle, bundle, "--manifest", colours, "--no-slices", "--out", out).exit_code == 0
    comparison = json.loads(out.read_text())["comparison"]
    assert comparison["difference"]["value"] == 0
    assert comparison["mcnemar_p_value"] == 1


def test_a_run_a_checkpoint_and_an_onnx_file_of_one_network_agree(colours, tmp_path):
    recipe = recipe_from_dict(
        {
            "train": {
                "teachers": ["mobilenetv3_small_050@32"],
                "pretrained": False,
                "fit": {"epochs": 1, "batch_size": 8},
            }
        }
    )
    run = train_ensemble(colours, recipe, tmp_path / "run", device=torch.device("cpu"), report=lambda _: None)
    export_onnx(run.load_member(0), 32, tmp_path / "run" / "student.onnx")
    manifest = read_manifest(colours)
    images = load_split(manifest, "val")
    subjects = [load_subject(tmp_path / "run" / name) for name in ("", "member-0.safetensors", "student.onnx")]
    assert [subject.kind for subject in subjects] == ["run", "checkpoint", "onnx"]
    ensemble, checkpoint, onnx = (subject.predict(images) for subject in subjects)
    assert checkpoint.shape == (30, 3)
    assert np.abs(checkpoint - onnx).max() < 1e-3
    assert (ensemble.argmax(1) == checkpoint.argmax(1)).all()


def test_what_is_no_subject_is_refused(tmp_path):
    with pytest.raises(RunError, match="found no subject; expected a bundle"):
        load_subject(tmp_path)


def test_classes_that_the_subject_does_not_know_are_refused(fake_bundle, colours):
    manifest = read_manifest(colours)
    subject = load_subject(fake_bundle(labels=("red", "green", "yellow")))
    with pytest.raises(DatasetError, match="classes blue are not those of"):
        check_labels(subject, manifest, "val")
    with pytest.raises(DatasetError, match="no labelled images"):
        check_labels(subject, manifest, "test")


def test_every_corruption_changes_the_picture_more_at_a_higher_severity_and_keeps_its_seed():
    image = Image.new("RGBA", (120, 90), (0, 0, 0, 0))
    image.paste((200, 40, 90, 255), (20, 20, 70, 70))
    image.paste((30, 120, 200, 255), (60, 10, 100, 60))
    names = list(corruptions())
    assert len(names) == 7
    for name, make in corruptions().items():
        mild, strong = make(1)(image, 3), make(5)(image, 3)
        assert mild.tobytes() == make(1)(image, 3).tobytes(), name
        if strong.size == flatten(image).size:
            clean = np.asarray(flatten(image), float)
            change = [np.abs(np.asarray(picture, float) - clean).mean() for picture in (mild, strong)]
            assert change[0] < change[1], name


def test_corruptions_are_averaged_at_each_severity(colours, fake_bundle, tmp_path):
    manifest, subject = read_manifest(colours), load_subject(fake_bundle())
    images, said = load_split(manifest, "val"), []
    targets = targets_of(manifest.split("val"), subject.labels)
    first, second = evaluate_corruptions([subject, subject], images, targets, (1,), said.append)
    assert first == second
    values = [by_severity["1"]["value"] for by_severity in second["by_corruption"].values()]
    assert second["mean"]["1"] == pytest.approx(np.mean(values))
    assert len(said) == 7


def test_a_small_image_is_never_enlarged():
    image = Image.new("RGB", (40, 20))
    assert scale_to(image, 256) is image
    assert scale_to(image, 10).size == (10, 5)
