"""Trains the plain ViT tiny and LogoViT tiny, with and without aleatoric variance, on equal budget, and compares them.

    python benchmarks/compare_vits.py --size 96 --epochs 20 --seeds 3 [--set train.fit.learning_rate=1e-3] [--report-test]

Runs go to runs/vits-SIZEpx-EPOCHSep/ and are resumed where they were interrupted. Writes
benchmarks/results/logo_vit.json: every choice is made on val; test is looked at with --report-test only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from logo_edge_train.data.icons import LABELS, fetch_logos
from logo_edge_train.data.manifest import Manifest, read_manifest, targets_of
from logo_edge_train.device import pick_device
from logo_edge_train.evaluate import evaluation_sets
from logo_edge_train.keys import versions
from logo_edge_train.models import attention_focus, near_ink
from logo_edge_train.progress import FitProgress
from logo_edge_train.recipe_io import load_recipe
from logo_edge_train.runs import Run, write_json
from logo_edge_train.train import train_ensemble

RESULT = Path(__file__).parent / "results" / "logo_vit.json"
SUBJECTS = {  # name of the run: network, overrides of its own
    "plain": ("plain_vit_tiny", ()),
    "logo": ("logo_vit_tiny", ()),
    "logo-aleatoric": ("logo_vit_tiny", ("train.fit.aleatoric=true",)),
}
FIT = ("train.pretrained=false", "train.fit.frozen_blocks=-1", "train.fit.warmup_epochs=3")
REACHES = {"on_ink": 0, "near_ink": 1}  # patches from ink; at few patches a side nearly all lie within one
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=96, help="input size in px")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, ...")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override of the recipe, of all"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--report-test", action="store_true", help="report on the test split too, once all is chosen")
    arguments = parser.parse_args()
    fetch_logos()
    manifest, folder = read_manifest(LABELS), Path("runs") / f"vits-{arguments.size}px-{arguments.epochs}ep"
    splits = ("val", "test") if arguments.report_test else ("val",)
    entries = []
    with FitProgress() as progress:
        for name in arguments.subjects:
            model, own = SUBJECTS[name]
            teachers = [f"{model}@{arguments.size}"] * arguments.seeds
            chosen = (f"train.teachers={teachers}", f"train.fit.epochs={arguments.epochs}", *FIT, *own, *arguments.set)
            run = train_ensemble(
                LABELS, load_recipe("cpu", chosen), folder / name, device=pick_device(arguments.device), report=progress
            )
            entries.append({"subject": name, "network": teachers[0], **measure(run, manifest, splits)})
    area = {split: measure_area(manifest, run, split) for split in splits}
    write_json(
        arguments.out,
        {
            "size_px": arguments.size,
            "epochs": arguments.epochs,
            "seeds": list(range(arguments.seeds)),
            "overrides": [*FIT, *arguments.set],
            "device": run.record["device"],
            "area": area,
            "subjects": entries,
            "versions": versions(),
        },
    )


def measure(run: Run, manifest: Manifest, splits: tuple[str, ...]) -> dict:
    """Parameters and seconds, and by split accuracy and the attention on and near ink, one value for each seed."""
    members = [run.load_member(index) for index in range(len(run.record["members"]))]
    found = {
        "parameters": members[0].float32_bytes // 4,
        "seconds": [round(sum(epoch["seconds"] for epoch in member["history"])) for member in run.record["members"]],
    }
    for split in splits:
        targets = targets_of(manifest.split(split), run.classes)
        pixels = pixels_of(manifest, run, split)
        right = run.member_logits(split).argmax(2) == targets  # (M, N)
        found[split] = {
            "accuracy": right.mean(1).tolist(),
            "mean": float(right.mean()),
            "spread": float(right.mean(1).std(ddof=1)) if len(members) > 1 else 0.0,
        }
        for name, reach in REACHES.items():
            masses = [
                [attention_focus(member, batch, reach=reach) * len(batch) for batch in pixels] for member in members
            ]
            found[split][name] = (np.sum(masses, 1) / len(targets)).tolist()
    return found


def measure_area(manifest: Manifest, run: Run, split: str) -> dict[str, float]:
    """The share of the patches that lie on and near ink: what attention without a focus would give them."""
    grid, pixels = run.load_member(0).backbone.patch_embed.grid_size, pixels_of(manifest, run, split)
    return {
        name: float(torch.cat([near_ink(batch, grid, reach=reach) for batch in pixels]).float().mean())
        for name, reach in REACHES.items()
    }


def pixels_of(manifest: Manifest, run: Run, split: str) -> tuple[torch.Tensor, ...]:
    """The split as the run's networks see it, in batches (B, S, S, 3) uint8."""
    data = evaluation_sets(manifest, run.classes, run.architecture(0).contract, (split,))[split]
    return torch.stack([data[index][0] for index in range(len(data))]).split(BATCH)


if __name__ == "__main__":
    main()
