"""Adds the teachers of some runs, with the settings that told them apart, as they stood on val after their last epoch.

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
    kept = json.loads(RESULT.read_text(encoding="utf-8"))["teachers"] if RESULT.exists() else []
    found = [entry for argument in sys.argv[1:] for entry in teachers_of(Path(argument))]
    new = [entry for entry in found if entry not in kept]
    write_json(RESULT, {"split": "val", "note": NOTE, "teachers": kept + new})


def teachers_of(folder: Path) -> list[dict]:
    """One entry for each finished member of the run, whether or not the run itself was finished."""
    recipe = json.loads((folder / "run.json").read_text(encoding="utf-8"))["recipe"]["train"]
    fit, augment, entries = recipe["fit"], recipe["augment"], []
    for path in sorted(folder.glob("member-*.json")):
        member = json.loads(path.read_text(encoding="utf-8"))
        last, seconds = member["history"][-1], [epoch["seconds"] for epoch in member["history"]]
        entries.append(
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
    return entries


if __name__ == "__main__":
    main()
