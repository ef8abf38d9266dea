"""Adds the teachers of some runs, with the settings in which they differ, as measured on val after the last epoch.

python -m logo_edge_bench.experiments teachers runs/a runs/b ...
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from logo_edge_bench.experiments.record import Out, read_record, write_record

NOTE = "Single seeds of 361 logos: differences under 3 points are noise. Seconds were taken beside other work."


def measure(runs: Sequence[Path], *, out: Out) -> None:
    kept = read_record(out, {"teachers": []})["teachers"]
    new = [teacher for run in runs for teacher in teachers_of(run) if teacher not in kept]
    write_record(out, {"split": "val", "note": NOTE, "teachers": kept + new})


def teachers_of(folder: Path) -> list[dict]:
    """One entry for each finished member of the run, whether or not the run is finished."""
    recipe = json.loads((folder / "run.json").read_text(encoding="utf-8"))["recipe"]["train"]
    fit, augment, teachers = recipe["fit"], recipe["augment"], []
    for path in sorted(folder.glob("member-*.json")):
        member = json.loads(path.read_text(encoding="utf-8"))
        last, seconds = member["history"][-1], [epoch["seconds"] for epoch in member["history"]]
        teachers.append(
            {
                "network": member["architecture"],
                "epochs": fit["epochs"],
                "frozen_blocks": fit["frozen_blocks"],
                "p_mixup": augment["p_mixup"],
                "unsure_smoothing": fit.get("unsure_smoothing", 0.0),
                "class_weight_power": fit["class_weight_power"],
                "augment_scale_min": augment["scale_min"],
                "seed": member["seed"],
                **{key: round(last[key], 4) for key in ("accuracy", "accuracy_sure", "worst_recall", "nll")},
                "seconds_an_epoch": round(sum(seconds) / len(seconds)),
            }
        )
    return teachers
