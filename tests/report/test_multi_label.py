"""The evaluation of a bundle whose images may have several labels or none."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from logo_edge.bundle.calibration import Conformal, Mode
from logo_edge_report.commands import evaluate
from logo_edge_report.sections import Evaluated, confidence_section, errors_section, summary_section
from logo_edge_report.statistics import controlled_interval
from logo_edge_report.subjects import load_subject
from logo_edge_train.data.images import ImageFiles
from logo_edge_train.data.manifest import FILES, LogoRow, read_manifest, targets_of, write_manifest

CHANNELS = ("red", "green", "blue")
THRESHOLDS = dict.fromkeys(Mode, dict.fromkeys(CHANNELS, 0.9))


@pytest.fixture
def manifest(tmp_path):
    """24 images on calib and on val in each mixture of full channels; two of val are said to be red too."""
    random, rows = np.random.default_rng(0), []
    for split in ("calib", "val"):
        for index in range(24):
            own = [bool(index >> bit & 1) for bit in range(3)]
            pixels = np.kron(random.choice([0.7, 1.0], (6, 6, 1)), np.ones((8, 8, 1))) * np.array(own) * 255
            name = f"{split}-{index}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name)
            labels = {label for label, has in zip(CHANNELS, own, strict=True) if has}
            labels |= {"red"} if split == "val" and index in (2, 6) else set()
            rows.append(LogoRow(FILES, "", name, name, split=split).with_labels(labels))
    write_manifest(tmp_path / "manifest.csv", rows)
    return tmp_path / "manifest.csv"


@pytest.fixture
def bundle(fake_bundle):
    sets = (Conformal(0.8, 0.7, None), Conformal(0.95, None, None, "too few"))
    return fake_bundle(abstain_below=0.9, label_thresholds=THRESHOLDS, conformal=sets)


def run_evaluate(*arguments):
    return CliRunner().invoke(evaluate, [str(argument) for argument in arguments])


def test_a_multi_label_bundle_is_evaluated_label_by_label(manifest, bundle, tmp_path):
    out = tmp_path / "figures.json"
    result = run_evaluate(bundle, bundle, "--manifest", manifest, "--no-slices", "--out", out)
    assert result.exit_code == 0, result.output
    evaluation = json.loads(out.read_text())
    figures = evaluation["subjects"][0]
    assert figures["accuracy"]["value"] == pytest.approx(22 / 24)
    assert figures["recall"]["red"]["value"] == pytest.approx(12 / 14)
    assert figures["precision"]["green"]["value"] == 1
    assert figures["class_shares"]["red"] == {"true": 14 / 24, "predicted": 0.5}
    assert figures["answered"]["share"] == pytest.approx(21 / 24), "three images have no channel"
    assert figures["answered"]["accuracy"]["value"] == 1
    sets = figures["prediction_sets"]
    assert sets["0.80"]["coverage"] == pytest.approx(1 - 2 / 24 * 5 / 12)  # of two and of three labels one is missed
    assert sets["0.95"]["coverage"] == 1, "without a threshold all labels join"
    assert evaluation["comparison"]["only_first_right"] == 0
    assert "precision red" in result.output


def test_a_manifest_of_one_label_and_a_bundle_of_several_do_not_go_together(manifest, bundle, fake_bundle):
    refused = run_evaluate(fake_bundle(), "--manifest", manifest, "--no-slices")
    assert "several labels or none" in str(refused.exception)
    rows = [LogoRow(FILES, "", row.icon, row.icon, "red", split=row.split) for row in read_manifest(manifest).rows]
    write_manifest(manifest, rows)
    assert "one label" in str(run_evaluate(bundle, "--manifest", manifest, "--no-slices").exception)


def test_the_report_has_a_table_of_labels_in_place_of_the_confusion(manifest, bundle, tmp_path):
    out = tmp_path / "figures.json"
    run_evaluate(bundle, "--manifest", manifest, "--no-slices", "--out", out)
    figures, read = json.loads(out.read_text())["subjects"][0], read_manifest(manifest)
    rows, subject = read.split("val"), load_subject(bundle)
    images, targets = ImageFiles(read.image_paths(rows)), targets_of(read.split("val"), CHANNELS)
    shown = Evaluated(subject, subject.predict(images), figures)
    titles = [exhibit.title for exhibit in errors_section(shown, images, rows, targets).exhibits]
    assert titles[:2] == ["Labels", "Recall and precision"]
    labels = errors_section(shown, images, rows, targets).exhibits[0]
    assert [row[0] for row in labels.table.rows] == list(CHANNELS)
    members = np.stack([shown.logits, shown.logits])
    confidence = confidence_section(shown, figures, members, targets, images)
    assert "Uncertainty map" not in [exhibit.title for exhibit in confidence.exhibits]
    assert "an image's labels" in next(e.caption for e in confidence.exhibits if e.title == "Prediction sets")
    assert summary_section([shown], [], "val").exhibits[0].table.rows[0][1].startswith("91.7%")


def test_a_controlled_risk_may_be_lower_than_promised_but_hardly_higher():
    held = np.array([1.0, 0.5] * 50)
    low, high = controlled_interval(held, 100, 0.8)
    assert high == 1
    assert low == pytest.approx(0.8 - 1.959964 * 0.25 * (2 / 100) ** 0.5)
