"""The verb `logo-edge evaluate`."""

from __future__ import annotations

from pathlib import Path

import typer

from logo_edge.cli.options import PUBLIC_KEY

evaluate = typer.Typer(rich_markup_mode=None, add_completion=False)


@evaluate.command(
    help="Evaluate a bundle, a run, an .onnx file or a checkpoint: accuracy with intervals (all, by labelling round, "
    "by icon set), calibration, selection, prediction sets, sizes, backgrounds, JPEG; on request corruptions, images "
    "that are no logos, and attacks. Two subjects are compared on the same images."
)
def evaluate_command(
    subjects: list[Path] = typer.Argument(
        None, metavar="[SUBJECT]...", help="One or two; left out: the embedded default bundle."
    ),
    public_key: Path | None = PUBLIC_KEY.typer(),
    manifest: Path | None = typer.Option(
        None, "--manifest", help="CSV of labelled images; left out: that of the run, or labels.csv."
    ),
    split: str = typer.Option("val", "--split", help="val to choose by, test to report."),
    slices: bool = typer.Option(
        True, "--slices/--no-slices", help="Accuracy by size, background, JPEG quality and thumbnail."
    ),
    corruptions: bool = typer.Option(False, "--corruptions", help="Noise, blur and five others at five severities."),
    outliers: bool = typer.Option(
        False, "--outliers", help="Pictures that are no logos: AUROC, and how many are answered."
    ),
    attacks: bool = typer.Option(
        False, "--attacks", help="FGSM and PGD on the sure images, against the checkpoint among the subjects; minutes."
    ),
    out: Path | None = typer.Option(None, "--out", help="Write the figures to this JSON file."),
) -> None:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from logo_edge.bundle.record import DEFAULT_BUNDLE
    from logo_edge_report.console_tables import print_evaluation
    from logo_edge_report.evaluate import evaluate_subjects
    from logo_edge_report.subjects import load_subject, manifest_of
    from logo_edge_train.data.icons import fetch_logos
    from logo_edge_train.runs import write_json

    if len(subjects or []) > 2:
        raise typer.BadParameter(f"{len(subjects)} subjects; expected one, or two to compare")
    if manifest is None:
        fetch_logos()
    asked = {"slices": slices, "corruptions": corruptions, "outliers": outliers, "attacks": attacks}
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("reading images")
        loaded = [load_subject(path, public_key=public_key) for path in subjects or [DEFAULT_BUNDLE]]
        evaluation = evaluate_subjects(
            loaded,
            manifest_of(loaded, manifest),
            split,
            parts=[part for part, wanted in asked.items() if wanted],
            say=lambda text: bar.update(task, description=text),
        )
    print_evaluation(evaluation)
    if out:
        write_json(out, evaluation)
        typer.echo(f"wrote {out}")


report = typer.Typer(rich_markup_mode=None, add_completion=False)


@report.command(
    help="Write one HTML page on a run, with its pictures: figures, training, errors, confidence, where the network "
    "looks, its features, the loss around its weights. Beside it: report.json and report.md."
)
def report_command(
    run: Path = typer.Argument(..., metavar="RUN", help="The folder of a finished run, compressed or not."),
    out: Path | None = typer.Option(None, "--out", help="Where the report goes; left out: RUN/report."),
    split: str = typer.Option("val", "--split", help="val to choose by, test to report."),
    quick: bool = typer.Option(False, "--quick", help="Leave out the slow parts: slices, t-SNE, loss landscape."),
    evaluation: Path | None = typer.Option(
        None,
        "--evaluation",
        help="JSON of `logo-edge evaluate --out`: shows its slices, corruptions, attacks, outliers.",
    ),
) -> None:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from logo_edge_report.report import SPLITS, make_report

    if split not in SPLITS:
        raise typer.BadParameter(f"split {split!r}; expected one of {', '.join(SPLITS)}")
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading the run")
        page, _ = make_report(
            run,
            out or run / "report",
            split=split,
            quick=quick,
            evaluation=evaluation,
            say=lambda text: bar.update(task, description=text),
        )
    typer.echo(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB), report.json and report.md")
