"""The verb `logo-edge evaluate`."""

from __future__ import annotations

from pathlib import Path

import typer

evaluate = typer.Typer(rich_markup_mode=None, add_completion=False)


@evaluate.command(
    help="Evaluate a bundle, a run, an .onnx file or a checkpoint: accuracy with intervals, calibration, selection, "
    "prediction sets, sizes, backgrounds, JPEG; on request corruptions, pictures that are no logos, and attacks. Two "
    "subjects are compared on the same logos."
)
def evaluate_command(
    subjects: list[Path] = typer.Argument(
        None, metavar="[SUBJECT]...", help="One or two; left out: the embedded default bundle."
    ),
    manifest: Path | None = typer.Option(None, "--manifest", help="CSV of labelled logos; left out: labels.csv."),
    split: str = typer.Option("val", "--split", help="val to choose by, test to report."),
    slices: bool = typer.Option(True, "--slices/--no-slices", help="Accuracy by size, background and JPEG quality."),
    corruptions: bool = typer.Option(False, "--corruptions", help="Noise, blur and five others at five severities."),
    outliers: bool = typer.Option(False, "--outliers", help="AUROC against emoji, flags, photographs, charts, noise."),
    attacks: bool = typer.Option(
        False, "--attacks", help="FGSM and PGD on the sure logos, against the checkpoint among the subjects; minutes."
    ),
    out: Path | None = typer.Option(None, "--out", help="Write the figures to this JSON file."),
) -> None:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from logo_edge.bundle import DEFAULT_BUNDLE
    from logo_edge.manifest import read_manifest
    from logo_edge_report.evaluate import evaluate_subjects
    from logo_edge_report.subjects import load_subject
    from logo_edge_report.table import print_evaluation
    from logo_edge_train.fetch import LABELS, fetch_logos, renders_folder
    from logo_edge_train.runs import write_json

    if len(subjects or []) > 2:
        raise typer.BadParameter(f"{len(subjects)} subjects; expected one, or two to compare")
    if manifest is None:
        fetch_logos()
    asked = {"slices": slices, "corruptions": corruptions, "outliers": outliers, "attacks": attacks}
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("reading logos")
        found = evaluate_subjects(
            [load_subject(path) for path in subjects or [DEFAULT_BUNDLE]], read_manifest(manifest or LABELS), split,
            renders_folder(), parts=[part for part, wanted in asked.items() if wanted],
            say=lambda text: bar.update(task, description=text),
        )  # fmt: skip
    print_evaluation(found)
    if out:
        write_json(out, found)
        typer.echo(f"wrote {out}")
