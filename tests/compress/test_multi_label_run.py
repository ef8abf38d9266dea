"""From a CSV of several labels an image to a bundle that finds them: organize, train, compress, evaluate, report."""

from __future__ import annotations

import json
from io import StringIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from rich.console import Console

from logo_edge import Classifier, Mode
from logo_edge.bundle.record import read_bundle
from logo_edge.names import csv_line
from logo_edge_compress.candidates import measure
from logo_edge_compress.compress import compress
from logo_edge_compress.recalibrate import read_config, recalibrate
from logo_edge_compress.report import print_candidates, print_stages
from logo_edge_compress.timing import Cost
from logo_edge_report.compression import make_page
from logo_edge_report.evaluate import evaluate_subjects
from logo_edge_report.report import make_report
from logo_edge_report.subjects import load_subject
from logo_edge_train import train
from logo_edge_train.data import processes
from logo_edge_train.data.manifest import read_manifest
from logo_edge_train.organize.organize import organize_images
from logo_edge_train.recipe_io import recipe_from_dict
from logo_edge_train.runs import read_run

CPU = torch.device("cpu")
LABELS = ("bars", "disc", "frame")
MODEL = "test_resnet@32"
FIT = {"epochs": 24, "batch_size": 8, "learning_rate": 2e-3, "ema_decay": 0.9}
RECIPE = {
    "name": "tiny",
    "train": {"teachers": [MODEL, MODEL], "pretrained": False, "fit": FIT},
    "distill": {"students": [MODEL], "pretrained": False, "fit": FIT},
    "quantize": {"methods": ["minmax"], "calibration_images": 24, "finetune": {"epochs": 1, "batch_size": 8}},
}


def draw_shapes(labels: tuple[str, ...], random: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (64, 64), "white")
    pen = ImageDraw.Draw(image)
    left = int(random.integers(6, 24))
    if "bars" in labels:
        for x in range(left, 60, 14):
            pen.rectangle((x, 40, x + 5, 60), fill=(200, 30, 30))
    if "disc" in labels:
        pen.ellipse((left, 8, left + 26, 34), fill=(30, 30, 200))
    if "frame" in labels:
        pen.rectangle((1, 1, 62, 62), outline=(20, 140, 20), width=4)
    pen.point((int(random.integers(64)), int(random.integers(64))), fill=(90, 90, 90))
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Drawings of none to three shapes: 200, their manifest, a run and its bundle."""
    folder, random, lines = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0), []
    for at in range(200):
        labels = tuple(label for label in LABELS if random.random() < 0.45)
        draw_shapes(labels, random).save(folder / f"{at}.png")
        lines.append(csv_line((f"{at}.png", "|".join(labels))))
    (folder / "mine.csv").write_text("path,labels\n" + "".join(lines))
    cost = Cost(1.0, 1.0, 1.0, 1.0, 11, (1.0,) * 11, 100.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "FEW_IMAGES", 1000)  # processes take longer to start than to do so little
        patch.setattr(train, "count_workers", lambda *_: 1)
        organize_images(folder / "mine.csv", folder / "manifest.csv", exact_copies=True)
        recipe = recipe_from_dict(RECIPE)
        train.train_ensemble(folder / "manifest.csv", recipe, folder / "run", device=CPU, report=lambda _: None)
        patch.setattr(measure, "measure_side_by_side", lambda artifacts, logs: dict.fromkeys(artifacts, cost))
        _, record = compress(
            folder / "run", folder / "bundle", name="shapes", device=CPU, report=lambda _: None, say=lambda _: None
        )
    (folder / "record.json").write_text(json.dumps(record))
    return folder


@pytest.mark.slow
def test_the_bundle_finds_every_shape_of_new_drawings_and_none_on_paper_with_a_dot(folder):
    classifier, random = Classifier.load(folder / "bundle", mode=Mode.BEST_GUESS), np.random.default_rng(7)
    assert classifier.bundle.calibration.multi_label
    sets = [tuple(label for label in LABELS if random.random() < 0.5) for _ in range(60)]
    results = list(classifier.classify_many([draw_shapes(labels, random) for labels in sets]))
    right = [set(result.labels) == set(labels) for result, labels in zip(results, sets, strict=True)]
    assert np.mean(right) >= 0.6, "one in eight by chance"
    empty = Classifier.load(folder / "bundle").classify(draw_shapes((), random))
    assert empty.labels == ()
    assert empty.reason in ("no_label", "not_a_logo")


@pytest.mark.slow
def test_the_figures_of_the_bundle_are_those_of_its_manifest_and_hold_after_a_new_calibration(folder, tmp_path):
    bundle, manifest = read_bundle(folder / "bundle"), read_manifest(folder / "manifest.csv")
    figures = bundle.metrics["test"]
    assert figures["multi_label"]
    assert set(figures["average_precision"]) == set(LABELS)
    assert figures["accuracy"]["value"] >= 0.5
    again = recalibrate(folder / "bundle", manifest, read_config(bundle, None, ()), out=tmp_path / "again")
    assert again.calibration == bundle.calibration
    assert again.metrics == bundle.metrics


@pytest.mark.slow
def test_the_evaluation_of_bundle_and_checkpoint_and_the_reports_are_written(folder, tmp_path):
    manifest, run = read_manifest(folder / "manifest.csv"), read_run(folder / "run")
    assert run.multi_label
    subjects = [load_subject(folder / "bundle"), load_subject(folder / "run" / "member-0.safetensors")]
    evaluation = evaluate_subjects(subjects, manifest, "test", parts=("attacks",), say=lambda _: None)
    packed, teacher = evaluation["subjects"]
    assert packed["accuracy"] == read_bundle(folder / "bundle").metrics["test"]["accuracy"]
    assert 0.5 <= packed["prediction_sets"]["0.80"]["coverage"] <= 1
    assert teacher["attacks"]["FGSM"]["4/255"]["value"] <= teacher["accuracy_sure"]["value"] + 0.1
    page, _ = make_report(folder / "run", tmp_path, split="val", quick=True, evaluation=None, say=lambda _: None)
    text = page.read_text()
    assert "average precision" in text
    assert "Confusion matrix" not in text
    record = json.loads((folder / "record.json").read_text())
    console = Console(record=True, file=StringIO(), width=200)
    print_candidates(record, console)
    print_stages(record["targets"]["cpu"], console)
    assert "recall of disc" in console.export_text()
    assert "int8-minmax" in make_page(folder / "run" / "compress").read_text()
