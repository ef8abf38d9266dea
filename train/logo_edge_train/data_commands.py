"""The verbs of `logo-edge data` that make, draw and describe images and manifests."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from logo_edge.exits import resumable
from logo_edge.names import printable
from logo_edge_train.command_line import PAGES, find_manifest, known_recipe, need_torch, say_limits
from logo_edge_train.recipe import Recipe
from logo_edge_train.recipe_io import load_recipe

if TYPE_CHECKING:
    from logo_edge_train.data.manifest import Manifest

folder_verbs = typer.Typer(rich_markup_mode=None, add_completion=False)


@folder_verbs.command(help="Fetch the pinned icon sets and render every logo that labels.csv and unlabelled.csv list.")
def fetch() -> None:
    from logo_edge_train.console import stage_bar
    from logo_edge_train.data.icons import fetch_logos

    with stage_bar("render logos") as tick:
        result = fetch_logos(progress=tick)
    typer.echo(f"{result.wanted:,} logos in {result.folder} ({result.rendered:,} rendered now)")


@folder_verbs.command(
    help="Print the folder of the renders of `fetch` or, with DATA, the manifest that `train --data DATA` uses."
)
def where(
    source: Path | None = typer.Argument(None, metavar="[DATA]", help="A folder or file, as for `train --data`."),
) -> None:
    from logo_edge_train.data.manifest import renders_folder
    from logo_edge_train.organize.manifest_file import manifest_of

    typer.echo(manifest_of(source) if source else renders_folder())


@folder_verbs.command(
    help="Write a manifest of a folder of images or a file of labels: labels, groups of copies, splits.\n\n"
    "DATA is a folder with a subfolder for each class, a folder of unlabelled images (whose labels are proposed), a "
    "CSV path,label[,split][,group] (images of one group share a split; labels for label: several or none, separated "
    "by |), an export of COCO, CVAT for images 1.1 or Label Studio (JSON), a Parquet file, or a folder of one of these "
    "or of Hugging Face datasets."
)
def organize(
    source: Path = typer.Argument(..., metavar="DATA", help="A folder of images, or a file of labels."),
    out: Path | None = typer.Option(
        None, "--out", help="The manifest to write. Default: manifest.csv in the folder, or beside the file."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace an existing manifest."),
    target_per_class: int | None = typer.Option(None, "--target-per-class", min=1, help="At most N images per class."),
    seed: int = typer.Option(0, "--seed", help="Seed of the split and of the balancing."),
    split_folders: bool | None = typer.Option(
        None,
        "--split-folders/--no-split-folders",
        help="Treat folders named train, val, calib and test as splits, or as classes. Default: as splits if every "
        "image is in one of them.",
    ),
    exact_copies: bool = typer.Option(
        False, "--exact-copies", help="Keep only identical files in one split, not images that look the same."
    ),
    small_classes: str = typer.Option(
        "stop", "--small-classes", help="For classes with fewer than 4 images: stop, leave-out, or merge into `other`."
    ),
    multi_label: bool = typer.Option(
        False, "--multi-label", help="An image of an export may have several labels or none (a CSV: column `labels`)."
    ),
) -> None:
    from logo_edge_train.organize.organize import SMALL_CLASSES, organize_images, print_report

    if small_classes not in SMALL_CLASSES:
        raise typer.BadParameter(f"--small-classes {small_classes}: expected {', '.join(SMALL_CLASSES)}")
    manifest = out or (source if source.is_dir() else source.parent) / "manifest.csv"
    print_report(
        organize_images(
            source,
            manifest,
            target_per_class=target_per_class,
            seed=seed,
            overwrite=overwrite,
            split_folders=split_folders,
            exact_copies=exact_copies,
            small_classes=small_classes,
            multi_label=multi_label,
        )
    )
    say_limits(manifest, Recipe())


@folder_verbs.command(
    help="Draw pairs of logos with labels known by construction, as PNGs and DIR/manifest.csv; for training only.\n\n"
    "The two logos of a pair differ only in the property that decides the label. With `train.synthetic` in a recipe, "
    "training draws its own pairs."
)
def synthesize(
    folder: Path = typer.Argument(..., metavar="DIR", help="A new folder, or a folder with the same drawn logos."),
    pairs: int = typer.Option(1000, "--pairs", min=1, max=100_000, help="Number of pairs."),
    seed: int = typer.Option(0, "--seed", min=0, max=2**32 - 1, help="The same seed draws the same files."),
    sheet: Path | None = typer.Option(
        None, "--sheet", help="Write example pairs of every kind to this PNG, to check by eye."
    ),
) -> None:
    need_torch()
    from logo_edge_train.data import synthesize as stage

    manifest = stage.synthesize(folder, pairs=pairs, seed=seed)
    counts = ", ".join(f"{sum(row.label == name for row in manifest.rows):,} {name}" for name in manifest.classes)
    typer.echo(printable(f"{len(manifest.rows):,} drawn logos in {folder}: {counts}"))
    if sheet:
        stage.plot_pairs(manifest, sheet)
        typer.echo(printable(f"wrote {sheet}"))


@folder_verbs.command(
    help="Fetch and draw pictures that are not logos into the cache: emoji, flags, photos, pages, charts...\n\n"
    "Networks may learn from the part `fitted`. Only evaluation sees `held_out`, which has other vendors, scenes and "
    "families. `choice` serves model selection. Takes minutes, once."
)
def outliers(
    part: str = typer.Option("fitted", "--part", help="fitted, held_out or choice."),
    count: int | None = typer.Option(None, "--count", min=1, help="At most N of each family."),
    sheet: Path | None = typer.Option(
        None, "--sheet", help="Write example pictures of every family to this PNG, to check by eye."
    ),
) -> None:
    need_torch()
    from logo_edge_train.data import outliers as stage

    paths = stage.outlier_paths(part, count)
    typer.echo(f"{sum(map(len, paths.values())):,} pictures that are not logos, {part}, in {len(paths)} families:")
    for name, files in paths.items():
        typer.echo(f"  {name}: {len(files)} in {files[0].parent}")
    if sheet:
        stage.plot_outliers(paths, sheet)
        typer.echo(printable(f"wrote {sheet}"))


@folder_verbs.command(
    help="Print and plot the content of a manifest; with --page, everything to look at before a training.\n\n"
    "The page shows images by class and split, formats, sizes, copies across splits, outliers, some images of every "
    "class and, for a folder, the files that are not used. It loads and sends nothing."
)
def describe(
    source: Path | None = typer.Argument(
        None, metavar="[DATA]", help="A manifest, folder or file of labels. Default: the project's own labels.csv."
    ),
    page: Path | None = typer.Option(None, "--page", metavar="FILE.html", help="Write the page to this file."),
    suspects: Path | None = typer.Option(
        None, "--suspects", metavar="CSV", help="With --page: also show the labels that `data suspects` listed there."
    ),
    plot: Path | None = typer.Option(None, "--plot", help="Write bar charts of splits and classes to this PNG."),
    samples: Path | None = typer.Option(None, "--samples", help="Write a sheet of sample images to this PNG."),
    augmented: Path | None = typer.Option(
        None, "--augmented", help="Write a sheet of augmented views of each class to this PNG."
    ),
    recipe: str | None = typer.Option(
        None,
        "--recipe",
        callback=known_recipe,
        help="With --augmented: the recipe whose train.augment the sheet shows. Default: cpu.",
    ),
    proposals: Path | None = typer.Option(
        None, "--proposals", help="Compare the label proposals of `organize` with the labels; write JSON here."
    ),
) -> None:
    from logo_edge_train.data.icons import LABELS
    from logo_edge_train.data.manifest import read_manifest
    from logo_edge_train.organize import describe as stage

    if recipe and not augmented:
        raise typer.BadParameter("--recipe applies to the sheet of --augmented; add --augmented")
    if suspects and not page:
        raise typer.BadParameter("--suspects applies to the page; add --page")
    manifest = find_manifest(source) if source else LABELS
    rows = read_manifest(manifest)
    description = stage.describe_manifest(rows)
    stage.print_description(description)
    if page:
        write_description(manifest, rows, page, source if source and source.is_dir() else None, suspects)
        typer.echo(printable(f"wrote {page}"))
    if plot:
        stage.plot_description(description, plot)
        typer.echo(f"wrote {plot}")
    if samples:
        stage.plot_samples(rows, samples)
        typer.echo(f"wrote {samples}")
    if augmented:
        need_torch()

        stage.plot_augmented(rows, load_recipe(recipe or "cpu").train.augment, augmented)
        typer.echo(f"wrote {augmented}")
    if proposals:
        from logo_edge_train.organize.label_proposer import measure_proposal_accuracy
        from logo_edge_train.runs import write_json

        figures = measure_proposal_accuracy(rows)
        write_json(proposals, figures)
        typer.echo(f"wrote {proposals}")


def write_description(manifest: Path, rows: Manifest, page: Path, folder: Path | None, suspects: Path | None) -> None:
    """Writes the page; features of images are kept beside the suspects, where they were computed, or in the cache."""
    need_torch()
    from logo_edge.cache import cache_folder
    from logo_edge_train.console import stage_bars
    from logo_edge_train.device import pick_device
    from logo_edge_train.recipe import ReviewConfig
    from logo_edge_train.review.frozen_features import Features

    (point,) = entry_points(group=PAGES, name="describe")
    make_page, kept = point.load(), suspects.parent if suspects else cache_folder() / "review"
    with resumable(), stage_bars() as tick:
        features = Features(rows, ReviewConfig(), kept, pick_device("auto"), tick)
        make_page(manifest, page, features=features, folder=folder, suspects=suspects)
