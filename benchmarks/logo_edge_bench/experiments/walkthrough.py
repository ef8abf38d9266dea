"""The output of every command from a folder of images to a bundle that is used, for the page "Train on your images".

    python -m logo_edge_bench.experiments walkthrough             # after own_images; a minute

`data organize`, `train` and `compress` are those of own_images, as they were recorded there; the others run now.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from logo_edge.errors import LogoEdgeError
from logo_edge_bench.experiments.own_data import DATA_SETS
from logo_edge_bench.experiments.own_images import OURS, run_logo_edge
from logo_edge_bench.experiments.record import RUNS
from logo_edge_train.data.manifest import read_manifest

RUN, BUNDLE = f"{OURS}/run", f"{OURS}/bundle"
SHOWN = 3  # images that are classified
RECORDED = {  # log of own_images: what its command does
    "organize.log": "Labels, copies and splits. The manifest is a CSV that you can read and change; what is too small "
    "to be split, calibrated or promised is said here, before the training.",
    f"{OURS}/train.log": "The teacher.",
    f"{OURS}/compress.log": "The bundle: a small student learns from the teacher, in FP32, FP16 and INT8; all are "
    "verified, calibrated and timed, and the best is packed.",
}


def measure(
    *,
    data: Annotated[str, {"choices": tuple(DATA_SETS)}] = "pages",
    work: Annotated[Path, "folder of own_images"] = RUNS / "own",
) -> dict:
    folder = work / data
    if missing := [name for name in RECORDED if not (folder / name).exists()]:
        raise LogoEdgeError(f"{folder}: no {', '.join(missing)}; run the experiment own_images first")
    manifest = read_manifest(folder / "manifest.csv")
    test = [row for row in manifest.split("test") if row.every_label]
    images = [row.icon for row in test[:: len(test) // SHOWN][:SHOWN]]
    live = {
        "What the bundle is and promises.": ("info", "--bundle", BUNDLE),
        "Images that no stage has seen.": ("classify", *images, "--bundle", BUNDLE),
        "All of them: the figures to report.": (
            *("evaluate", BUNDLE, "--manifest", "manifest.csv", "--split", "test", "--no-slices"),
        ),
    }
    steps = [{"text": text, "output": (folder / name).read_text(encoding="utf-8")} for name, text in RECORDED.items()]
    for number, (text, arguments) in enumerate(live.items()):
        log = folder / f"walk-{number}.log"
        run_logo_edge(*arguments, folder=folder, log=log)
        steps.append({"text": text, "output": log.read_text(encoding="utf-8")})
    return {"data": data, "steps": steps}
