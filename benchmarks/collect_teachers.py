"""Collects the teachers of some runs, with the settings that told them apart, as they stood on val after their last epoch.

python benchmarks/collect_teachers.py runs/a runs/b ...  ->  benchmarks/results/teachers.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from logo_edge_train.runs import write_json

RESULT = Path(__file__).parent / "results" / "teachers.json"
NOTE = "Single seeds of 361 logos: differences under 3 points are noise. Seconds were taken beside other work."


def main() -> None:
    folders = [Path(argument) for argument in sys.argv[1:]]
    write_json(RESULT, {"split": "val", "note": NOTE, "teachers": [entry for f in folders for entry in teachers_of(f)]})


def teachers_of(folder: Path) -> list[dict]:
    """One entry for each finished member of the run, whether or not the run itself was finished."""
    recipe = json.loads((folder / "run.json").read_text(encoding="utf-8"))["recipe"]["train"]
    fit, augment, entries = recipe["fit"], recipe["augment"], []
    for path in sorted(folder.glob("member-*.json")):
        member = json.loads(path.read_text(encoding="utf-8"))
        last, seconds = member["history"][-1], [epoch["seconds"] for epoch in member["history"]]
        entries.append({
            "network": member.get("architecture") or f"{member['model']}@{fit['size_px']}", "epochs": fit["epochs"],
            "frozen_blocks": fit.get("frozen_blocks", -1), "p_mixup": fit.get("p_mixup", 0.0),
            "unsure_smoothing": fit.get("unsure_smoothing", 0.0), "class_weight_power": fit["class_weight_power"],
            "augment_scale_min": augment["scale_min"], "seed": member["seed"],
            **{key: round(last[key], 4) for key in ("accuracy", "accuracy_sure", "worst_recall", "nll")},
            "seconds_an_epoch": round(sum(seconds) / len(seconds)),
        })  # fmt: skip
    return entries


if __name__ == "__main__":
    main()
