"""The training verbs: `logo-edge data fetch|organize|describe`, `logo-edge train` and `logo-edge runs`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from logo_edge.errors import MissingExtraError

if TYPE_CHECKING:
    from rich.console import Console

data = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="Fetch, organize and describe labelled logos.",
)
train = typer.Typer(rich_markup_mode=None, add_completion=False)
runs = typer.Typer(
    rich_markup_mode=None, add_completion=False, no_args_is_help=True, help="List, show and compare training runs."
)
TRACK_HELP = "Log to wandb or mlflow as well, besides RUN/metrics and RUN/tensorboard; may be given twice."


def need_torch() -> None:
    """Raises MissingExtraError where the training stack is not installed."""
    try:
        import albumentations  # noqa: F401
        import timm  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("train", error.name or "torch") from error


def find_manifest(source: Path | None) -> Path:
    """The manifest that `--data` means: a file, that of a folder, organized now if need be, or the project's own."""
    from logo_edge_train.fetch import LABELS, fetch_logos
    from logo_edge_train.organize import find_files, organize_folder, print_report

    if source is None:
        fetch_logos()
        return LABELS
    if not source.is_dir():
        return source
    manifest = source / "manifest.csv"
    if not manifest.exists():
        print_report(organize_folder(source, manifest, target_per_class=None, seed=0))
    elif newer := sum(path.stat().st_mtime > manifest.stat().st_mtime for path in find_files(source)):
        typer.echo(
            f"{newer} files in {source} are newer than {manifest}, which is used as it stands; "
            f"`logo-edge data organize {source}` writes it anew"
        )
    return manifest


@contextmanager
def follow(
    folder: Path, settings: dict, services: list[str], console: Console | None = None
) -> Iterator[tuple[Callable[[dict], None], Callable[[str], None]]]:
    """A context with what takes the reports of fits, to show them and keep them in `folder`, and what prints a line."""
    from logo_edge_train.progress import FitProgress
    from logo_edge_train.tracker import Tracker

    progress = FitProgress(console)
    with Tracker(folder, settings=settings, services=tuple(services), warn=progress.say) as tracker, progress:

        def report(item: dict) -> None:
            progress(item)
            tracker(item)

        yield report, progress.say


@data.command(help="Fetch the pinned icon sets and render every logo that labels.csv and unlabelled.csv name.")
def fetch() -> None:
    from rich.progress import Progress

    from logo_edge_train.fetch import fetch_logos

    with Progress(transient=True) as bar:
        task = bar.add_task("render logos", total=None)
        result = fetch_logos(progress=lambda done, total: bar.update(task, completed=done, total=total))
    typer.echo(f"{result.wanted:,} logos in {result.folder} ({result.rendered:,} rendered now)")


@data.command(help="Print the folder that `fetch` renders to.")
def where() -> None:
    from logo_edge_train.fetch import renders_folder

    typer.echo(renders_folder())


@data.command(help="Sort a folder of images into a manifest: measure, propose labels, group near-duplicates, split.")
def organize(
    folder: Path = typer.Argument(..., metavar="DIR", help="Class folders of images, or unlabelled images."),
    out: Path | None = typer.Option(None, "--out", help="The manifest to write; left out: DIR/manifest.csv."),
    target_per_class: int | None = typer.Option(None, "--target-per-class", min=1, help="At most N logos per class."),
    seed: int = typer.Option(0, "--seed", help="Of the split and the balancing."),
) -> None:
    from logo_edge_train.organize import organize_folder, print_report

    manifest = out or folder / "manifest.csv"
    print_report(organize_folder(folder, manifest, target_per_class=target_per_class, seed=seed))


@data.command(help="Print, and plot, what is in a manifest.")
def describe(
    manifest: Path | None = typer.Argument(None, metavar="[MANIFEST]", help="Left out: the project's own labels.csv."),
    plot: Path | None = typer.Option(None, "--plot", help="Write bars of splits and classes to this PNG."),
    samples: Path | None = typer.Option(None, "--samples", help="Write a sheet of sample logos to this PNG."),
    proposals: Path | None = typer.Option(
        None, "--proposals", help="Measure `organize`'s label proposals against the labels; write JSON here."
    ),
) -> None:
    from logo_edge.manifest import read_manifest
    from logo_edge_train import describe as stage
    from logo_edge_train.fetch import LABELS, renders_folder

    rows = read_manifest(manifest or LABELS)
    description = stage.describe_manifest(rows)
    stage.print_description(description)
    if plot:
        stage.plot_description(description, plot)
        typer.echo(f"wrote {plot}")
    if samples:
        stage.plot_samples(rows, renders_folder(), samples)
        typer.echo(f"wrote {samples}")
    if proposals:
        from logo_edge_train.organize import measure_proposal_accuracy
        from logo_edge_train.runs import write_json

        figures = measure_proposal_accuracy(rows, renders_folder())
        write_json(proposals, figures)
        typer.echo(f"wrote {proposals}")


@train.command(help="Train an ensemble of teachers on a manifest or a folder of logos. Interrupted, run it again.")
def train_command(
    source: Path | None = typer.Option(
        None, "--data", metavar="PATH", help="A manifest CSV or a folder of images; left out: the project's own logos."
    ),
    recipe: str = typer.Option(
        "cpu", "--recipe", help="smoke, cpu, default, full, robust, or the path of a TOML file."
    ),
    out: Path | None = typer.Option(None, "--out", metavar="DIR", help="The run's folder; left out: runs/RECIPE."),
    override: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", help="Override, e.g. train.fit.epochs=5."),
    device: str = typer.Option("auto", "--device", help="auto, cpu or cuda."),
    track: list[str] = typer.Option([], "--track", metavar="SERVICE", help=TRACK_HELP),
    estimate: bool = typer.Option(False, "--estimate", help="Do a few steps of each stage and say how long all take."),
    as_json: bool = typer.Option(False, "--json", help="With --estimate: print JSON."),
) -> None:
    need_torch()
    from rich.console import Console

    from logo_edge_train import distributed
    from logo_edge_train.recipe import load_recipe
    from logo_edge_train.train import pick_device, train_ensemble

    chosen = load_recipe(recipe, tuple(override))
    if estimate:
        from logo_edge_train.estimate import estimate_training, print_estimate

        distributed.refuse("--estimate")
        print_found(
            estimate_training(find_manifest(source), chosen, device=pick_device(device)), as_json, print_estimate
        )
        return
    place = distributed.start(pick_device(device))
    with distributed.main_first():
        manifest = find_manifest(source)
    folder = out or Path("runs") / chosen.name
    console = None if distributed.is_main() else Console(quiet=True)
    with follow(folder, asdict(chosen), track, console) as (report, _):
        run = train_ensemble(manifest, chosen, folder, device=place, report=report)
    metrics = run.record["metrics"]["val"]
    distributed.on_main(typer.echo)(
        f"{folder}: {len(run.record['members'])} teachers, together {metrics['accuracy']:.1%} on val "
        f"({metrics['accuracy_sure']:.1%} on sure, worst class {metrics['worst_recall']:.1%}). "
        f"Next: logo-edge compress {folder}"
    )
    distributed.stop()


@runs.command("list", help="One line per run: state, recipe, teachers, figures on val, student, date, size.")
def list_command(
    folder: Path = typer.Argument(Path("runs"), metavar="[DIR]", help="The folder of the runs."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    from logo_edge_train import compare

    print_found(compare.list_runs(folder), as_json, compare.print_list)


@runs.command(help="What one run is made of, its epochs, and what compression made of it.")
def show(
    run: Path = typer.Argument(..., metavar="RUN", help="The folder of a run, finished or not."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    from logo_edge_train import compare

    print_found(compare.describe_run(run), as_json, compare.print_run)


@runs.command("compare", help="The recipe fields in which runs differ, and their figures side by side.")
def compare_command(
    folders: list[Path] = typer.Argument(..., metavar="RUN...", help="Two or more folders of runs."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    from logo_edge_train import compare

    if len(folders) < 2:
        raise typer.BadParameter("one run; expected at least two")
    print_found(compare.compare_runs(folders), as_json, compare.print_comparison)


def print_found(found, as_json: bool, print_table: Callable) -> None:
    from logo_edge_train.tracker import without_nan

    if as_json:
        typer.echo(json.dumps(without_nan(found), indent=1, ensure_ascii=False))
    else:
        print_table(found)
