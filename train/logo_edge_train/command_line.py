"""Options, checks and output that the verbs of training and compression share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from logo_edge.errors import MissingExtraError
from logo_edge.files import json_text
from logo_edge.names import printable
from logo_edge_train.recipe import Recipe
from logo_edge_train.recipe_io import find_recipe

if TYPE_CHECKING:
    from rich.console import Console

PAGES = "logo_edge.pages"  # entry points: functions of the report room that write a page; no room below imports it
TRACK_HELP = "Also log to wandb or mlflow, beside RUN/metrics and RUN/tensorboard; may be given twice."
DATA = typer.Option(
    None,
    "--data",
    metavar="PATH",
    help="A manifest, a folder of images, or a file of labels: CSV path,label[,split][,group], COCO, CVAT, Label "
    "Studio, Parquet. Default: the project's own logos.",
)
DEVICE = typer.Option("auto", "--device", help="auto, cpu or cuda.")
AS_JSON = typer.Option(False, "--json", help="Print JSON.")


def need_torch() -> None:
    """Raises MissingExtraError if the training stack is not installed."""
    try:
        import albumentations  # noqa: F401
        import timm  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("train", error.name or "torch") from error


def known_recipe(name: str | None) -> str | None:
    """The value of --recipe. Raises RecipeError for an unknown recipe before PyTorch is loaded."""
    if name is not None:
        find_recipe(name)
    return name


def find_manifest(source: Path | None) -> Path:
    """The manifest for `--data`: itself, that of a folder or label file (organized now if needed), or the project's."""
    from logo_edge_train.data.icons import LABELS, fetch_logos
    from logo_edge_train.organize.manifest_file import compare_with_source, manifest_of
    from logo_edge_train.organize.organize import organize_images, print_report

    if source is None:
        fetch_logos()
        return LABELS
    manifest = manifest_of(source)
    if manifest == source:
        return source
    if not manifest.exists():
        print_report(organize_images(source, manifest))
    elif difference := compare_with_source(manifest, source):
        typer.echo(printable(difference))
    return manifest


def say_limits(manifest: Path, recipe: Recipe) -> None:
    """Prints what the manifest has too few images for."""
    from logo_edge_train.data.manifest import read_manifest
    from logo_edge_train.organize.limits import describe_limits

    for line in describe_limits(read_manifest(manifest), recipe.calibrate):
        typer.echo(printable(line), err=True)


@contextmanager
def follow(
    folder: Path, settings: dict, services: list[str], console: Console | None = None
) -> Iterator[tuple[Callable[[dict], None], Callable[[str], None]]]:
    """Yields (report, say): `report` shows the reports of fits and stores them in `folder`; `say` prints a line."""
    from logo_edge_train.progress import FitProgress
    from logo_edge_train.tracker import Tracker

    progress = FitProgress(console)
    with Tracker(folder, settings=settings, services=tuple(services), warn=progress.say) as tracker, progress:

        def report(item: dict) -> None:
            progress(item)
            tracker(item)

        yield report, progress.say


def need_estimate(estimate: bool, as_json: bool) -> None:
    """Refuses --json without --estimate, which would be ignored."""
    if as_json and not estimate:
        raise typer.BadParameter("--json prints an estimate; add --estimate")


def print_result(result, as_json: bool, print_table: Callable) -> None:
    if as_json:
        typer.echo(json_text(result), nl=False)
    else:
        print_table(result)
