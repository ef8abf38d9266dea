"""The plain ViT tiny and LogoViT tiny, with and without aleatoric variance, trained on equal budgets.

    python -m logo_edge_bench.experiments logo_vit --size 96 --epochs 20 --seeds 3 --report-test

Runs go to runs/vits-SIZEpx-EPOCHSep/ and resume. Every choice is made on val; test is used with --report-test only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch

from logo_edge_bench.experiments.record import RUNS, Device, ReportTest, read_logos
from logo_edge_train.data.icons import LABELS
from logo_edge_train.data.manifest import Manifest, targets_of
from logo_edge_train.device import pick_device
from logo_edge_train.evaluate import evaluation_sets
from logo_edge_train.models import attention_focus, near_ink
from logo_edge_train.progress import FitProgress
from logo_edge_train.recipe_io import load_recipe
from logo_edge_train.runs import Run
from logo_edge_train.train import train_ensemble

SUBJECTS = {  # name of the run: network, its own overrides
    "plain": ("plain_vit_tiny", ()),
    "logo": ("logo_vit_tiny", ()),
    "logo-aleatoric": ("logo_vit_tiny", ("train.fit.aleatoric=true",)),
}
FIT = ("train.pretrained=false", "train.fit.frozen_blocks=-1", "train.fit.warmup_epochs=3")
REACHES = {"on_ink": 0, "near_ink": 1}  # patches from ink; with few patches a side nearly all lie within one
BATCH = 32


def measure(
    *,
    size: Annotated[int, "input size in px"] = 96,
    epochs: int = 20,
    seeds: Annotated[int, "their number: 0, 1, ..."] = 3,
    subjects: Annotated[Sequence[str], {"choices": SUBJECTS}] = tuple(SUBJECTS),
    set: Annotated[Sequence[str], {"metavar": "KEY=VALUE", "help": "recipe overrides of all subjects"}] = (),
    device: Device = "auto",
    report_test: ReportTest = False,
) -> dict:
    manifest, folder = read_logos(), RUNS / f"vits-{size}px-{epochs}ep"
    splits = ("val", "test") if report_test else ("val",)
    measured = []
    with FitProgress() as progress:
        for name in subjects:
            model, own = SUBJECTS[name]
            teachers = [f"{model}@{size}"] * seeds
            recipe = load_recipe("cpu", (f"train.teachers={teachers}", f"train.fit.epochs={epochs}", *FIT, *own, *set))
            run = train_ensemble(LABELS, recipe, folder / name, device=pick_device(device), report=progress)
            measured.append({"subject": name, "network": teachers[0], **measure_run(run, manifest, splits)})
    return {
        "size_px": size,
        "epochs": epochs,
        "seeds": list(range(seeds)),
        "overrides": [*FIT, *set],
        "device": run.record["device"],
        "area": {split: measure_area(manifest, run, split) for split in splits},
        "subjects": measured,
    }


def measure_run(run: Run, manifest: Manifest, splits: tuple[str, ...]) -> dict:
    """Parameters, seconds, and for each split the accuracy and the attention on and near ink, a value for each seed."""
    members = [run.load_member(index) for index in range(len(run.record["members"]))]
    figures = {
        "parameters": members[0].float32_bytes // 4,
        "seconds": [round(sum(epoch["seconds"] for epoch in member["history"])) for member in run.record["members"]],
    }
    for split in splits:
        targets = targets_of(manifest.split(split), run.classes)
        pixels = pixels_of(manifest, run, split)
        right = run.member_logits(split).argmax(2) == targets  # (M, N)
        figures[split] = {
            "accuracy": right.mean(1).tolist(),
            "mean": float(right.mean()),
            "spread": float(right.mean(1).std(ddof=1)) if len(members) > 1 else 0.0,
        }
        for name, reach in REACHES.items():
            masses = [
                [attention_focus(member, batch, reach=reach) * len(batch) for batch in pixels] for member in members
            ]
            figures[split][name] = (np.sum(masses, 1) / len(targets)).tolist()
    return figures


def measure_area(manifest: Manifest, run: Run, split: str) -> dict[str, float]:
    """The share of the patches on and near ink, which equals the share of evenly spread attention."""
    grid, pixels = run.load_member(0).backbone.patch_embed.grid_size, pixels_of(manifest, run, split)
    return {
        name: float(torch.cat([near_ink(batch, grid, reach=reach) for batch in pixels]).float().mean())
        for name, reach in REACHES.items()
    }


def pixels_of(manifest: Manifest, run: Run, split: str) -> tuple[torch.Tensor, ...]:
    """The split as the run's networks see it: batches (B, S, S, 3) uint8."""
    data = evaluation_sets(manifest, run.classes, run.architecture(0).contract, (split,))[split]
    return torch.stack([data[index][0] for index in range(len(data))]).split(BATCH)
