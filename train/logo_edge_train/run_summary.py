"""Lists, describes and compares run folders, finished or not (`logo-edge runs`). Read only."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from rich.console import Console

from logo_edge.errors import LogoEdgeError, RunError
from logo_edge_train.console import figure, figures_table, literal, percent
from logo_edge_train.data.manifest import read_manifest, targets_of
from logo_edge_train.keys import data_hash, flatten, row_hashes
from logo_edge_train.metrics import is_correct
from logo_edge_train.recipe import Recipe
from logo_edge_train.runs import Run, read_run_json
from logo_edge_train.tracker import read_metrics, stem_of

FIGURES = ("accuracy", "accuracy_sure", "worst_recall", "nll")
HIDDEN = (  # figures that `runs show` leaves out
    "epoch",
    "mean_confidence",
    "learning_rate",
    "data_wait",
    "peak_memory_mb",
    "peak_gpu_memory_mb",
)
NEEDED = ("status", "identity", "classes", "manifest", "recipe", "versions", "device")


def list_runs(folder: Path) -> list[dict]:
    """The summary of every run in `folder`, by name. Raises RunError if there is no such folder."""
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder; expected the folder of the runs, such as runs/")
    return [summarize_run(path) for path in sorted(folder.iterdir()) if is_run(path)]


def is_run(folder: Path) -> bool:
    """Whether the folder has a run, complete or not."""
    return folder.is_dir() and any((*folder.glob("run.json"), *folder.glob("member-*.json")))


def summarize_run(folder: Path) -> dict:
    """The summary of one run; unknown fields are None.

    `status` is finished, `training: 2 of 3 teachers` or `broken: reason`. `val` has the ensemble's figures, `student`
    the compressed student and its figures. `date` is when run.json was last written (ISO 8601).
    """
    summary = {
        "name": folder.name,
        "status": "",
        "recipe": None,
        "teachers": [],
        "val": None,
        "student": None,
        "date": None,
        "size_bytes": _size_bytes(folder),
    }
    try:
        record = read_record(folder)
    except RunError as error:
        return {**summary, "status": f"broken: {error}"}
    path = folder / "run.json"
    summary |= {
        "recipe": record["recipe"].get("name"),
        "teachers": record["recipe"]["train"]["teachers"],
        "date": datetime.fromtimestamp(path.stat().st_mtime).astimezone().isoformat(timespec="seconds"),
    }
    missing = [
        name
        for member in record.get("members", ())
        for name in (member["file"], member["logits"])
        if not (folder / name).exists()
    ]
    if missing:
        summary["status"] = f"broken: {', '.join(missing)} missing"
    elif record["status"] == "finished":
        try:
            summary |= {"status": "finished", "val": record["metrics"]["val"], "student": summarize_student(folder)}
        except (OSError, ValueError, KeyError) as error:
            summary["status"] = f"broken: metrics or compress/report.json: {error!r}"
    else:
        done = len(list(folder.glob("member-*.json")))
        summary["status"] = f"{record['status']}: {done} of {len(summary['teachers'])} teachers"
    return summary


def describe_run(folder: Path) -> dict:
    """The summary of one run with its recipe, versions, left-out rows and every network's epochs.

    `changed` has the recipe's fields that differ from the defaults. Raises RunError if run.json cannot be read.
    """
    record = read_record(folder)
    defaults = flatten(Recipe())
    fields = flatten(record["recipe"])
    return {
        **summarize_run(folder),
        "classes": record["classes"],
        "manifest": record["manifest"],
        "device": record["device"],
        "description": record["recipe"].get("description", ""),
        "fields": fields,
        "changed": {key: value for key, value in fields.items() if key not in defaults or defaults[key] != value},
        "versions": record["versions"],
        "left_out": record.get("left_out", []),
        "kept_lookalikes": record.get("kept_lookalikes", []),
        "networks": read_networks(folder, record),
    }


def compare_runs(folders: list[Path]) -> dict:
    """The recipe fields that differ between the runs, their figures, and the difference of each run to the first.

    `paired` compares the predictions for each image of val if both runs have the same val; `logo-edge evaluate` adds
    intervals and a test.
    """
    records = [read_record(folder) for folder in folders]
    fields = [flatten(record["recipe"]) for record in records]
    names = list(dict.fromkeys(name for table in fields for name in table))
    values = {name: [table.get(name) for table in fields] for name in names}
    runs = [summarize_run(folder) for folder in folders]
    paired = list(map(Run, folders, records))
    return {
        "runs": runs,
        "same_data": len({record["identity"]["inputs"]["data"] for record in records}) == 1,
        "fields": {name: row for name, row in values.items() if any(value != row[0] for value in row)},
        "differences": [_difference(runs[0], run) for run in runs[1:]],
        "paired": [pair_runs(paired[0], other) for other in paired[1:]],
    }


def pair_runs(first: Run, second: Run) -> dict | None:
    """How many images of val only one of the two ensembles labels correctly; None where their images of val differ.

    Needs the manifest as it was when the runs were trained, and both runs finished.
    """
    from logo_edge_train.evaluate import ensemble_logits  # loads PyTorch: seconds, which `runs list` does not need

    runs = (first, second)
    if any(run.record["status"] != "finished" for run in runs) or first.classes != second.classes:
        return None
    try:
        manifest = read_manifest(first.manifest_path)
    except LogoEdgeError:
        return None
    if {run.data_hash for run in runs} != {data_hash(row_hashes(manifest, manifest.rows))}:
        return None
    logits = [ensemble_logits(run.member_logits("val"), multi_label=run.multi_label) for run in runs]
    targets = targets_of(manifest.split("val"), first.classes)
    correct = [is_correct(part, targets) for part in logits]
    predictions = [part > 0 if run.multi_label else part.argmax(1) for run, part in zip(runs, logits, strict=True)]
    only_first, only_second = int((correct[0] & ~correct[1]).sum()), int((correct[1] & ~correct[0]).sum())
    return {
        "count": len(targets),
        "agree": int((predictions[0] == predictions[1]).reshape(len(targets), -1).all(1).sum()),
        "only_first_right": only_first,
        "only_second_right": only_second,
        "accuracy_difference": (only_second - only_first) / len(targets),
    }


def read_record(folder: Path) -> dict:
    """run.json of a run in any state. Raises RunError if it is missing, not JSON, or lacks a field of every run."""
    path, record = folder / "run.json", read_run_json(folder)
    lacking = [key for key in NEEDED if key not in record]
    if "teachers" not in record.get("recipe", {}).get("train", {}):
        lacking.append("recipe.train.teachers")
    if "data" not in record.get("identity", {}).get("inputs", {}):
        lacking.append("identity.inputs.data")
    if lacking:
        raise RunError(f"{path} lacks {', '.join(lacking)}; expected the record of a run, made by `logo-edge train`")
    return record


def read_networks(folder: Path, record: dict) -> dict[str, dict]:
    """{stem: {network, finished, epochs}} of the pretrained networks, the members and the students, in this order.

    The epochs come from the finished network's record or, during the fit, from its metrics file.
    """
    networks = {}
    for text in dict.fromkeys(record["recipe"]["train"]["teachers"]):
        stem = text.replace("@", "-")
        network = _read_network(folder, folder / "pretrain" / f"{stem}.json", f"pretrain-{stem}", text)
        if network["epochs"]:  # networks with ImageNet weights are not pretrained
            networks[f"pretrain-{stem}"] = network
    for index, text in enumerate(record["recipe"]["train"]["teachers"]):
        networks[f"member-{index}"] = _read_network(folder, folder / f"member-{index}.json", f"member-{index}", text)
    for work in sorted(path for path in folder.glob("compress*/*-[0-9]*") if path.is_dir()):
        stem = stem_of("student", work)
        networks[stem] = _read_network(folder, work / "student.json", stem, "@".join(work.name.rsplit("-", 1)))
    return networks


def summarize_student(folder: Path) -> dict | None:
    """The student that `logo-edge compress` chose, with its method, size and calibrated figures on val, or None."""
    path = folder / "compress" / "report.json"
    if not path.exists():
        return None
    report = json.loads(path.read_text(encoding="utf-8"))
    val = report["stages"][-1]["val"]
    return {
        "network": report["chosen"],
        "method": report["method"],
        "bundle_bytes": report["bundle_bytes"],
        "accuracy": val["accuracy"]["value"],
        "accuracy_sure": val["accuracy_sure"]["value"],
        "worst_recall": min(recall["value"] for recall in val["recall"].values()),
        "nll": val["nll"],
        "calibration_error": val["calibration_error_debiased"]["value"],
        "threshold": report["abstention"]["threshold"],
    }


def print_list(runs: list[dict]) -> None:
    """One row per run."""
    table = figures_table("run", "status", "recipe", "teachers", *map(_heading, FIGURES), "student", "date", "MB")
    for run in runs:
        student = run["student"]
        table.add_row(
            run["name"],
            run["status"].split(":")[0] if run["status"].startswith("broken") else run["status"],
            run["recipe"] or "-",
            _teachers(run["teachers"]),
            *(_show(key, (run["val"] or {}).get(key)) for key in FIGURES),
            f"{student['network']} {student['accuracy']:.1%}" if student else "-",
            (run["date"] or "-")[:10],
            f"{run['size_bytes'] / 1e6:.1f}",
        )
    console = _console()
    console.print(table)
    for run in runs:
        if run["status"].startswith("broken"):
            console.print(literal(f"{run['name']} is {run['status']}"))


def print_run(description: dict) -> None:
    """The run's record as lines, then a table of epochs per network."""
    console = _console()
    for line in _describe_lines(description):
        console.print(literal(line))
    for stem, network in description["networks"].items():
        epochs = network["epochs"]
        state = "" if network["finished"] else ", unfinished" if epochs else ", not started"
        console.print("")
        console.print(literal(f"{stem}: {network['network']}, {len(epochs)} epochs{state}"))
        if not epochs:
            continue
        figures = {key: value for epoch in epochs for key, value in epoch.items()}
        columns = [key for key, value in figures.items() if key not in HIDDEN and not isinstance(value, dict)]
        table = figures_table("epoch", *map(_heading, columns))
        for epoch in epochs:
            table.add_row(str(epoch["epoch"]), *(_show(key, epoch.get(key)) for key in columns))
        console.print(table)


def print_comparison(comparison: dict) -> None:
    """The differing fields, the figures and the differences, one column per run."""
    console, runs = _console(), comparison["runs"]
    names = [run["name"] for run in runs]
    table = figures_table("recipe field" if comparison["fields"] else "the recipes are the same", *names)
    for field, values in comparison["fields"].items():
        table.add_row(field, *("-" if value is None else str(value) for value in values))
    if not comparison["same_data"]:
        table.add_row("(data)", *["another manifest, or other images"] * len(runs))
    console.print(table)
    table = figures_table("val", *names, *(f"{name} less {names[0]}" for name in names[1:]))
    table.add_row("status", *(run["status"] for run in runs))
    for key in FIGURES:
        differences = (difference[key] if difference else None for difference in comparison["differences"])
        table.add_row(
            _heading(key),
            *(_show(key, (run["val"] or {}).get(key)) for run in runs),
            *(_show(key, value, signed=True) for value in differences),
        )
    table.add_row("student", *(run["student"]["network"] if run["student"] else "-" for run in runs))
    table.add_row("student, all", *(percent(run["student"] and run["student"]["accuracy"]) for run in runs))
    table.add_row("MB", *(f"{run['size_bytes'] / 1e6:.1f}" for run in runs))
    console.print(table)
    for name, paired in zip(names[1:], comparison["paired"], strict=True):
        if paired is None:
            text = f"{name} and {names[0]} have different images of val, or one is unfinished"
        else:
            text = (
                f"on the same {paired['count']} images of val, {name} less {names[0]}: "
                f"{paired['accuracy_difference']:+.1%}; only {name} right on "
                f"{paired['only_second_right']}, only {names[0]} on {paired['only_first_right']}, same class on "
                f"{paired['agree']}"
            )
        console.print(literal(text))


def _read_network(folder: Path, path: Path, stem: str, text: str) -> dict:
    if path.exists():
        return {"network": text, "finished": True, "epochs": json.loads(path.read_text(encoding="utf-8"))["history"]}
    records = read_metrics(folder / "metrics" / f"{stem}.jsonl")
    epochs = [
        {key: value for key, value in record.items() if key != "kind"}
        for record in records
        if record["kind"] == "epoch"
    ]
    return {"network": text, "finished": False, "epochs": epochs}


def _size_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # training replaces files meanwhile
            total += path.lstat().st_size if path.is_file() else 0
    return total


def _difference(first: dict, second: dict) -> dict[str, float] | None:
    if not first["val"] or not second["val"]:
        return None
    return {key: second["val"][key] - first["val"][key] for key in FIGURES}


def _describe_lines(run: dict) -> list[str]:
    lines = [
        f"{run['name']}: {run['status']}, {run['date']}, {run['size_bytes'] / 1e6:.1f} MB, {run['device']}",
        f"recipe {run['recipe']}: {run['description']}",
        *(
            f"  {key} = {json.dumps(value)}"
            for key, value in run["changed"].items()
            if key not in ("name", "description")
        ),
        f"data {run['manifest']}, classes {', '.join(run['classes'])}",
        "versions " + ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        f"left out, as look-alikes of held-out images: {', '.join(run['left_out']) or 'nothing'}",
    ]
    if kept := run["kept_lookalikes"]:
        lines.append(f"used for training, though they look like held-out images: {len(kept)}, first {kept[0]}")
    if run["val"]:
        lines.append("ensemble on val: " + _figures(run["val"]))
    if student := run["student"]:
        lines.append(
            f"student {student['network']}, {student['method']}, {student['bundle_bytes'] / 1e6:.2f} MB, answers from "
            f"{student['threshold']:.1%} on; INT8 on val: {_figures(student)}"
        )
    return lines


def _figures(values: dict) -> str:
    return ", ".join(f"{_heading(key)} {_show(key, values.get(key))}" for key in FIGURES)


HEADINGS = {
    "accuracy": "all",
    "accuracy_sure": "sure",
    "worst_recall": "worst class",
    "nll": "NLL",
    "calibration_error": "calib. error",
    "images_per_s": "images/s",
    "seconds": "s",
}


def _heading(key: str) -> str:
    return HEADINGS.get(key, key.replace("_", " "))


def _show(key: str, value: float | str | None, *, signed: bool = False) -> str:
    if isinstance(value, str):
        return value
    if key in ("images_per_s", "seconds") and value is not None:
        return f"{value:.0f}"
    text = (percent if key in (*FIGURES[:3], "calibration_error") else figure)(value)
    return f"+{text}" if signed and value is not None and value >= 0 else text


def _teachers(names: list[str]) -> str:
    return ", ".join(
        f"{names.count(name)} x {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)
    )


def _console() -> Console:
    """The terminal; 200 columns in a file or a pipe, for a whole row."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)
