"""A run -> one self-contained HTML page, and the same figures as JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from logo_edge.bundle.calibration import Familiarity, Scaling
from logo_edge.errors import RunError
from logo_edge.files import without_nan
from logo_edge_report.evaluate import check_labels, evaluate_predictions, load_split
from logo_edge_report.page import Section, render_page
from logo_edge_report.pictures import Pictured, features_section, find_snapshots, landscape_section, maps_section
from logo_edge_report.robustness import evaluate_slices
from logo_edge_report.sections import (
    Evaluated,
    confidence_section,
    errors_section,
    robustness_section,
    summary_section,
    training_section,
)
from logo_edge_report.subjects import Subject, load_subject
from logo_edge_train.architecture import Architecture
from logo_edge_train.data.manifest import Manifest, targets_of
from logo_edge_train.evaluate import ensemble_logits
from logo_edge_train.runs import Run, read_run, write_json, write_text
from logo_edge_train.tracker import stem_of

SPLITS = ("val", "calib", "test")
EXTRA_FIGURES = ("slices", "corruptions", "attacks", "outliers")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Compressed:
    """The output of `logo-edge compress` in the run: its report, and the chosen ONNX file beside its student."""

    record: dict
    path: Path

    @property
    def folder(self) -> Path:
        return self.path.parent


def make_report(
    folder: Path, out: Path, *, split: str, quick: bool, evaluation: Path | None, say: Say
) -> tuple[Path, dict]:
    """Writes report.html, report.json and report.md into `out`; gives the page's path and the content of report.json.

    The subjects are the ensemble of teachers and, in a compressed run, the packed student with its temperature. `quick`
    leaves out the slow parts: sizes, backgrounds and JPEG, t-SNE and the loss landscape. `evaluation` is a file of
    `logo-edge evaluate --out`: the report shows its first subject's slices, corruptions, attacks and outliers.
    Raises RunError where the run is unfinished or its data has changed.
    """
    run = read_run(folder)
    manifest = run.read_manifest()
    compressed = read_compressed(run)
    say("reading images")
    images, rows = load_split(manifest, split), manifest.split(split)
    targets = targets_of(rows, run.classes)
    subjects, before = evaluate_run(run, compressed, manifest, images, split, say)
    shown = subjects[-1]
    extra, extra_split, whose = read_extra(evaluation) if evaluation else ({}, split, shown.subject.name)
    if not quick and not evaluation and compressed:
        (extra["slices"],) = evaluate_slices([shown.subject], images, targets, lambda text: say(f"accuracy at {text}"))
    pictured = find_pictured(run, compressed)
    sections = [
        summary_section(subjects, compressed.record["stages"] if compressed and split != "calib" else [], split),
        training_section(histories(run, compressed)),
        errors_section(shown, images, rows, targets),
        confidence_section(shown, before, run.member_logits(split), targets, images),
        robustness_section(extra, extra_split, whose),
    ]
    if not run.multi_label:  # the pictures are of classes that exclude each other
        say(f"maps of {pictured.name}")
        sections.append(maps_section(pictured, images, targets))
    if not quick and not run.multi_label:
        moving = pictured if pictured.snapshots else with_snapshots(run) or pictured
        sections.append(features_section(moving, images, targets, say))
        sections.append(landscape_section(moving, images, targets, say))
    kept = [section for section in sections if section]
    figures = {
        "run": folder.resolve().name,
        "recipe": run.recipe.name,
        "split": split,
        "count": len(rows),
        "subjects": [describe(evaluated.subject) | evaluated.figures for evaluated in subjects],
        "before_temperature": {key: before[key] for key in ("ece", "nll", "calibration_error_debiased", "reliability")},
        "stages": compressed.record["stages"] if compressed else [],
        **extra,
        "findings": {
            section.anchor: {exhibit.title: exhibit.caption for exhibit in section.exhibits} for section in kept
        },
        "versions": run.record["versions"],
    }
    figures = without_nan(figures)
    page = out / "report.html"
    write_text(page, render_html(run, figures, kept))
    write_text(out / "report.md", render_markdown(figures, kept))
    write_json(out / "report.json", figures)
    return page, figures


def evaluate_run(
    run: Run, compressed: Compressed | None, manifest: Manifest, images: Sequence[Image.Image], split: str, say: Say
) -> tuple[list[Evaluated], dict]:
    """The ensemble of teachers, the packed student if any, and the figures of the last one at temperature 1."""
    teachers = load_subject(run.folder)
    check_labels(teachers, manifest, split)
    names = [name for name in dict.fromkeys((split, "calib")) if manifest.split(name)]
    logits_of = {name: ensemble_logits(run.member_logits(name), multi_label=run.multi_label) for name in names}
    subjects = [(teachers, logits_of)]
    if compressed:
        chosen = load_chosen(compressed)
        say(chosen.name)
        held = {name: images if name == split else load_split(manifest, name) for name in names}
        subjects.append((chosen, {name: chosen.predict(part) for name, part in held.items()}))
    say("figures")
    evaluated = [
        Evaluated(subject, logits[split], evaluate_predictions(subject, logits, manifest, split))
        for subject, logits in subjects
    ]
    subject, logits = subjects[-1]
    before = evaluate_predictions(
        replace(subject, temperature=1.0, scaling=None), {split: logits[split]}, manifest, split
    )
    return evaluated, before


def read_compressed(run: Run) -> Compressed | None:
    """The output of the run's compression, or None where it is not finished."""
    path = run.folder / "compress" / "report.json"
    if not path.exists():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    compressed = Compressed(record, path.parent / record["artifact"])
    for needed in (compressed.path, compressed.folder / "student.safetensors"):
        if not needed.exists():
            raise RunError(f"{needed} is missing, though {path} names it; compress again with `logo-edge compress`")
    return compressed


def load_chosen(compressed: Compressed) -> Subject:
    """The student with its packed calibration and thresholds."""
    calibrated, abstention = compressed.record["stages"][-1], compressed.record["abstention"]
    return replace(
        load_subject(compressed.path),
        name=f"{compressed.record['precision'].upper()} student",
        temperature=calibrated["temperature"],
        scaling=Scaling(**calibrated["scaling"]) if calibrated.get("scaling") else None,
        abstain_below=abstention["threshold"],
        familiarity=Familiarity(**abstention["familiarity"]) if abstention.get("familiarity") else None,
        label_thresholds=abstention.get("label_thresholds"),
        size_bytes=compressed.record["bundle_bytes"],
    )


def find_pictured(run: Run, compressed: Compressed | None) -> Pictured:
    """The network to show: the student if any, else the first teacher."""
    if compressed:
        return Pictured(
            "the student",
            compressed.folder / "student.safetensors",
            Architecture.parse(compressed.record["chosen"]),
            run.classes,
            find_snapshots(run.folder, stem_of("student", compressed.folder)),
        )
    return _teacher(run, 0)


def with_snapshots(run: Run) -> Pictured | None:
    """The first teacher with snapshots of its training, or None."""
    teachers = (_teacher(run, index) for index in range(len(run.record["members"])))
    return next((teacher for teacher in teachers if teacher.snapshots), None)


def _teacher(run: Run, index: int) -> Pictured:
    path = run.folder / run.record["members"][index]["file"]
    return Pictured(
        f"teacher {index + 1}", path, run.architecture(index), run.classes, find_snapshots(run.folder, path.stem)
    )


def histories(run: Run, compressed: Compressed | None) -> dict[str, list[dict]]:
    """Network -> one record per epoch of its training."""
    by_network = {f"teacher {index + 1}": member["history"] for index, member in enumerate(run.record["members"])}
    if compressed:
        by_network["student"] = json.loads((compressed.folder / "student.json").read_text(encoding="utf-8"))["history"]
    return by_network


def read_extra(path: Path) -> tuple[dict, str, str]:
    """The figures beyond accuracy of the first subject of an evaluation, its split and its name."""
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        subject = evaluation["subjects"][0]
        extra = {key: subject[key] for key in EXTRA_FIGURES if key in subject}
        return extra, evaluation["split"], subject["name"]
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise RunError(f"{path}: {error!r}; expected a file that `logo-edge evaluate --out` wrote") from error


def describe(subject: Subject) -> dict:
    """The description of the subject, for JSON."""
    return {
        "name": subject.name,
        "kind": subject.kind,
        "size_bytes": subject.size_bytes,
        "temperature": subject.temperature,
        "abstain_below": subject.abstain_below,
    }


def render_html(run: Run, figures: dict, sections: list[Section]) -> str:
    """The page of a run."""
    teachers = ", ".join(member["architecture"] for member in run.record["members"])
    return render_page(
        sections,
        title=figures["run"],
        about=f"report on {figures['split']}",
        lead=f"{figures['count']} images of {figures['split']}; recipe {figures['recipe']}, teachers {teachers}.",
        description=run.recipe.description,
        recipe=json.dumps(run.record["recipe"], indent=1),
        command="logo-edge report",
        making={"data": f"sha256 {run.data_hash[:16]}", **figures["versions"]},
        files="report.json, report.md",
    )


def render_markdown(figures: dict, sections: list[Section]) -> str:
    """The tables and captions, for a pull request or a terminal."""
    parts = [f"# {figures['run']}: {figures['count']} images of {figures['split']}"]
    for section in sections:
        parts.append(f"## {section.title}")
        for exhibit in section.exhibits:
            parts.append(f"**{exhibit.title}.** {exhibit.caption}")
            if exhibit.table:
                lines = [exhibit.table.head, ("---", *["---:"] * (len(exhibit.table.head) - 1)), *exhibit.table.rows]
                parts.append(
                    "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
                )
    return "\n\n".join(parts) + "\n"
