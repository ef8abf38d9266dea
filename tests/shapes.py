"""Discs and bars, 20 of each for learning, a run of two teachers on them, and its compression."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from logo_edge_compress.compress import compress
from logo_edge_train import train
from logo_edge_train.data.manifest import FILES, LogoRow, write_manifest
from logo_edge_train.data.outliers import families_of
from logo_edge_train.recipe_io import recipe_from_dict

CPU = torch.device("cpu")
CHOICE = {"ripples": families_of("choice")["ripples"]}
MODEL = "test_resnet"  # timm's tiny one: learns from 40 drawings in seconds
RECIPE = {
    "name": "tiny",
    "train": {
        "teachers": [f"{MODEL}@32", f"{MODEL}@32"],
        "pretrained": False,
        "fit": {"epochs": 24, "batch_size": 8, "learning_rate": 2e-3, "ema_decay": 0.9},
    },
    "distill": {
        "students": [f"{MODEL}@32"],
        "pretrained": False,
        "fit": {"epochs": 24, "batch_size": 8, "learning_rate": 2e-3, "ema_decay": 0.9},
    },
    "quantize": {
        "methods": ["minmax", "percentile"],
        "calibration_images": 24,
        "finetune": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-4, "weight_decay": 0.0},
    },
}


def make_shapes(folder: Path) -> None:
    """Writes the drawings, their manifest, the run and its bundle into the new folder."""
    folder.mkdir()
    random, rows = np.random.default_rng(0), []
    for label in ("disc", "bars"):
        for index, split in enumerate(["train"] * 20 + ["val"] * 8 + ["calib"] * 8 + ["test"] * 8):
            image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
            draw, colour = ImageDraw.Draw(image), (*random.integers(0, 200, 3).tolist(), 255)
            if label == "disc":
                left, top, size = random.integers((4, 4, 24), (20, 20, 40))
                draw.ellipse((left, top, left + size, top + size), fill=colour)
            else:
                for left in range(int(random.integers(2, 8)), 60, 12):
                    draw.rectangle((left, 6, left + 4, 58), fill=colour)
            name = f"{label}-{index}.png"
            image.save(folder / name)
            rows.append(LogoRow(FILES, "", name, name, label, (label,), True, split))
    rows += [LogoRow(FILES, "", f"disc-{index}.png") for index in range(4)]
    write_manifest(folder / "manifest.csv", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "count_workers", lambda *_: 1)  # two processes take longer to start than to learn
        train.train_ensemble(
            folder / "manifest.csv", recipe_from_dict(RECIPE), folder / "run", device=CPU, report=lambda _: None
        )
    compress_run(folder, folder / "bundle")


def compress_run(folder, out, say=lambda _: None, **options):
    """The record of the compression; what is drawn as no logo are ripples."""
    bundles, record = compress(
        folder / "run", out, name="shapes", device=CPU, report=lambda _: None, say=say, outliers=CHOICE, **options
    )
    assert set(bundles) == set(record["targets"])
    return record
