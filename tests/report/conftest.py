"""Coloured squares that are learned in seconds, and a tiny finished run on them, with the files of a compression."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from logo_edge.timing import Latency
from logo_edge_compress.onnx.export import export_onnx
from logo_edge_train import train
from logo_edge_train.checkpoints import save_member
from logo_edge_train.data.manifest import FILES, LogoRow, read_manifest, write_manifest
from logo_edge_train.evaluate import ensemble_logits
from logo_edge_train.metrics import summarize
from logo_edge_train.recipe_io import recipe_from_dict
from logo_edge_train.runs import read_run, write_json

COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}
HUES = {"red": (220, 30, 30), "green": (30, 220, 30), "blue & <b>": (30, 30, 220)}  # a name that must be escaped
EPOCHS = 3


def write_squares(folder: Path, colours: dict[str, tuple[int, int, int]], *, per_class: int, mistaken: str) -> Path:
    """A manifest of squares of each colour on each split; two of the first colour on val are said to be `mistaken`."""
    random, rows = np.random.default_rng(0), []
    for number, (label, colour) in enumerate(colours.items()):
        for split in ("train", "val", "calib"):
            for index in range(per_class):
                shade = np.kron(random.choice([0.1, 1.0], (6, 6, 1)), np.ones((8, 8, 1)))  # no two look alike
                name = f"{number}-{split}-{index}.png"
                Image.fromarray((np.array(colour) * shade).astype(np.uint8)).save(folder / name)
                wrong = number == 0 and split == "val" and index < 2
                said = mistaken if wrong else label
                rows.append(LogoRow(FILES, "", name, name, said, (said, label), not wrong, split))
    write_manifest(folder / "manifest.csv", rows)
    return folder / "manifest.csv"


@pytest.fixture
def colours(tmp_path):
    """A manifest of 10 images of each colour on each split; two of val carry a wrong label."""
    return write_squares(tmp_path, COLOURS, per_class=10, mistaken="blue")


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory):
    """A run of two teachers of 32 px on 12 squares of each colour on each split; two of val carry a wrong label."""
    folder = tmp_path_factory.mktemp("run")
    write_squares(folder, HUES, per_class=12, mistaken="green")
    recipe = recipe_from_dict(
        {
            "train": {
                "teachers": ["test_resnet@32", "test_resnet@32"],
                "pretrained": False,
                "fit": {
                    "epochs": EPOCHS,
                    "batch_size": 9,
                    "learning_rate": 0.003,
                    "frozen_blocks": -1,
                    "ema_decay": 0.9,
                },
            }
        }
    )
    cpu = torch.device("cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "count_workers", lambda *_: 1)  # two processes take longer to start than to learn
        return train.train_ensemble(
            folder / "manifest.csv", recipe, folder / "tiny", device=cpu, report=lambda _: None
        ).folder


@pytest.fixture(scope="session")
def compressed_run(plain_run, tmp_path_factory):
    """A copy of that run with three snapshots of its student, and with a student that is its first teacher in FP32."""
    copied = shutil.copytree(plain_run, tmp_path_factory.mktemp("compressed") / "tiny")
    run = read_run(copied)
    manifest, student = read_manifest(run.manifest_path), run.load_member(0)
    folder = copied / "compress" / "test_resnet-32"
    folder.mkdir(parents=True)
    save_member(folder / "student.safetensors", student)
    write_json(folder / "student.json", {"student": "test_resnet@32", "history": run.record["members"][0]["history"]})
    export_onnx(student, 32, folder / "student-int8-minmax.onnx")
    size = (folder / "student-int8-minmax.onnx").stat().st_size
    rows = manifest.split("val")
    targets = np.array([run.classes.index(row.label) for row in rows])
    sure = np.array([row.sure for row in rows], bool)
    stages = [
        {
            "stage": name,
            "size_bytes": size * times,
            "temperature": temperature,
            "latency": asdict(Latency(times, 2.0, 3.0, 50)),
            "parity": None,
            "val": summarize(logits, targets, sure, temperature, run.classes),
        }
        for name, times, temperature, logits in (
            ("2 teachers, PyTorch", 2, 1.0, ensemble_logits(run.member_logits("val"))),
            ("INT8, calibrated", 1, 1.5, run.member_logits("val")[0]),
        )
    ]
    write_json(
        copied / "compress" / "report.json",
        {
            "chosen": "test_resnet@32",
            "precision": "int8",
            "artifact": "test_resnet-32/student-int8-minmax.onnx",
            "bundle_bytes": size,
            "stages": stages,
            "abstention": {"threshold": 0.6, "familiarity": {"threshold": -9.0, "false_positive_rate": 0.05}},
        },
    )
    snapshots = copied / "snapshots" / "student-test_resnet-32"
    snapshots.mkdir(parents=True)
    for epoch in (1, 2, 3):
        snapshot = run.load_member(0)
        with torch.no_grad():
            for parameter in snapshot.parameters():
                parameter.mul_(epoch / 3)
        save_member(snapshots / f"epoch-{epoch:03d}.safetensors", snapshot)
    return copied
