"""A bundle whose images may have several labels or none: its record, tables, log, service and reduced decoding."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from command_line import classify
from pictures import marked
from typer.testing import CliRunner

from logo_edge import BundleError, Classifier, Mode, read_bundle
from logo_edge.bundle.calibration import Calibration, Conformal
from logo_edge.bundle.record import RECORD, write_bundle_record, write_record
from logo_edge.cli import bundle as verbs
from logo_edge.decision import may_change
from logo_edge.errors import ExportError
from logo_edge.monitor import read_log

THRESHOLDS = {
    Mode.BEST_GUESS: {"red": 0.5, "green": 0.5, "blue": 0.4},
    Mode.BALANCED: {"red": 0.9, "green": 0.9, "blue": 0.4},
    Mode.STRICT: {"red": 0.99, "green": 0.9, "blue": 0.7},
}
CALIBRATION = {"label_thresholds": THRESHOLDS, "conformal": (Conformal(0.95, 0.3, None),)}


@pytest.fixture
def folder(fake_bundle):
    """Logits are six times each colour's share, 0 to 6, so that a colour of no share has the probability 0.5."""
    return fake_bundle(abstain_below=0.4, strict_below=0.7, **CALIBRATION)


def test_the_record_of_a_multi_label_bundle_reads_back_and_other_records_do_not_hold_the_field(folder, fake_bundle):
    bundle = read_bundle(folder)
    assert bundle.calibration.label_thresholds == THRESHOLDS
    write_bundle_record(replace(bundle, files={**bundle.files}))
    assert read_bundle(folder) == bundle
    plain = fake_bundle()
    assert "label_thresholds" not in json.loads((plain / RECORD).read_text())["calibration"]
    assert not read_bundle(plain).calibration.multi_label


@pytest.mark.parametrize(
    "thresholds",
    [
        {**THRESHOLDS, Mode.STRICT: {"red": 0.1, "green": 0.9, "blue": 0.7}},  # below balanced's
        {**THRESHOLDS, Mode.STRICT: {"red": 0.99, "green": 0.9}},
        {**THRESHOLDS, Mode.STRICT: {"red": 0.99, "green": 0.9, "blue": "high"}},
        {**THRESHOLDS, Mode.STRICT: {"red": 1.1, "green": 0.9, "blue": 0.7}},
        {mode: {"red": float("nan"), "green": 0.9, "blue": 0.7} for mode in Mode},
        {**THRESHOLDS, Mode.STRICT: [0.99, 0.9, 0.7]},
        {Mode.BALANCED: THRESHOLDS[Mode.BALANCED]},
        [],
    ],
)
def test_thresholds_that_do_not_fit_the_labels_and_modes_are_refused(folder, thresholds):
    record = json.loads((folder / RECORD).read_text())
    record["calibration"]["label_thresholds"] = thresholds
    write_record(folder, json.dumps(record).encode())
    with pytest.raises(BundleError, match="label_thresholds"):
        read_bundle(folder)


def test_each_mode_gives_the_labels_above_its_own_thresholds(folder):
    results = {mode: Classifier.load(folder, mode=mode).classify(marked((255, 255, 0), (20, 10))) for mode in Mode}
    labels = {mode: set(result.labels) for mode, result in results.items()}
    assert labels == {
        Mode.BEST_GUESS: {"red", "green", "blue"},
        Mode.BALANCED: {"red", "green", "blue"},
        Mode.STRICT: {"red", "green"},
    }
    assert all(result.label == result.labels[0] == result.best_guess for result in results.values())
    assert set(results[Mode.STRICT].prediction_set) == {"red", "green", "blue"}
    black = Classifier.load(folder, threshold=0.9).classify(marked((0, 0, 0), (20, 10)))
    assert (black.labels, black.label, black.reason) == ((), None, "no_label")
    assert black.probabilities == pytest.approx(dict.fromkeys(("red", "green", "blue"), 0.5), abs=0.1)


def test_tables_lines_and_logs_have_all_labels(folder, tmp_path):
    marked((255, 255, 0), (20, 10)).save(tmp_path / "yellow.png")
    arguments = (folder, tmp_path / "yellow.png", "--mode", "strict")
    shown = classify(*arguments)
    assert shown.exit_code == 0, shown.output
    assert "red, green" in shown.output or "green, red" in shown.output
    (record,) = json.loads(classify(*arguments, "--json").stdout)
    assert set(record["labels"]) == {"red", "green"}
    done = classify(*arguments, "--out", tmp_path / "table.csv", "--log", tmp_path / "log")
    assert done.exit_code == 0, done.output
    with (tmp_path / "table.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert set(row["labels"].split("|")) == {"red", "green"}
    assert [line["abstained"] for line in read_log(tmp_path / "log")] == [False]
    assert "several or none" in CliRunner().invoke(verbs.info, ["--bundle", str(folder)]).output


def test_the_service_gives_all_labels(folder):
    testclient = pytest.importorskip("fastapi.testclient")
    from logo_edge.server.app import create_app

    with testclient.TestClient(create_app(Classifier.load(folder))) as client:
        described = client.get("/v1/info").json()
        assert (described["multi_label"], described["threshold"]) == (True, None)
        marked((255, 0, 0), (20, 10)).save(image := BytesIO(), "PNG")
        answer = client.post("/v1/classify", content=image.getvalue(), headers={"content-type": "image/png"})
        assert answer.json()["labels"][0] == "red"


def test_triton_refuses_it(folder, tmp_path):
    pytest.importorskip("onnx")
    from logo_edge.scale.triton import Serving, write_repository

    with pytest.raises(ExportError, match="multi-label"):
        write_repository(Classifier.load(folder), tmp_path / "models", "logo", Serving())


def test_images_near_the_threshold_of_any_label_are_decoded_again_in_full():
    calibration = Calibration(1.0, {Mode.BEST_GUESS: 0.0, Mode.BALANCED: 0.4, Mode.STRICT: 0.7}, **CALIBRATION)
    rows = {"far": (0.995, 0.01, 0.001), "red's": (0.988, 0.01, 0.001), "blue's": (0.999, 0.01, 0.45)}
    close = may_change(calibration, np.array(list(rows.values())), np.zeros(3), None, None, 0.3)
    assert dict(zip(rows, close.tolist(), strict=True)) == {"far": False, "red's": True, "blue's": True}
    alike = np.array([[0.9995, 0.9992, 0.001]])  # which of two is the best guess could change
    assert may_change(calibration, alike, np.zeros(1), None, None, 0.3).tolist() == [True]
    assert may_change(calibration, np.array([[0.995, 0.01, 0.001]]), np.zeros(1), 0.995, None, 0.3).tolist() == [True]
