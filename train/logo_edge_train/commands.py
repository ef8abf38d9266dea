"""The training verbs: `logo-edge data`, `logo-edge train`, `logo-edge few-shot`, `logo-edge runs`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from logo_edge.errors import MissingExtraError
from logo_edge.exits import resumable
from logo_edge.files import json_text
from logo_edge.names import printable
from logo_edge_train.parallel import refuse_torchrun
from logo_edge_train.recipe import Recipe
from logo_edge_train.recipe_io import find_recipe, load_recipe

if TYPE_CHECKING:
    from rich.console import Console

    from logo_edge_train.data.manifest import Manifest

data = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="Fetch, organize, draw and describe labelled logos; find probably wrong labels, and images worth a label.",
)
train = typer.Typer(rich_markup_mode=None, add_completion=False)
runs = typer.Typer(
    rich_markup_mode=None, add_completion=False, no_args_is_help=True, help="List, show and compare training runs."
)
few_shot = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="Classify images into classes that have only a few examples, such as brands.\n\n"
    "Start with `few-shot classify`, which needs no training: give it a folder with one subfolder of images per class, "
    "and the images to sort. `few-shot train` trains on episodes. `few-shot evaluate` measures a run on brands, or "
    "on a package, that it has not seen.",
)
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


@data.command(help="Fetch the pinned icon sets and render every logo that labels.csv and unlabelled.csv list.")
def fetch() -> None:
    from rich.progress import Progress

    from logo_edge_train.data.icons import fetch_logos

    with Progress(transient=True) as bar:
        task = bar.add_task("render logos", total=None)
        result = fetch_logos(progress=lambda done, total: bar.update(task, completed=done, total=total))
    typer.echo(f"{result.wanted:,} logos in {result.folder} ({result.rendered:,} rendered now)")


@data.command(
    help="Print the folder of the renders of `fetch` or, with DATA, the manifest that `train --data DATA` uses."
)
def where(
    source: Path | None = typer.Argument(None, metavar="[DATA]", help="A folder or file, as for `train --data`."),
) -> None:
    from logo_edge_train.data.manifest import renders_folder
    from logo_edge_train.organize.manifest_file import manifest_of

    typer.echo(manifest_of(source) if source else renders_folder())


@data.command(
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
    target_per_class: int | None = typer.Option(None, "--target-per-class", min=1, help="At most N logos per class."),
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


@data.command(
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


@data.command(
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


@data.command(
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
    samples: Path | None = typer.Option(None, "--samples", help="Write a sheet of sample logos to this PNG."),
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
    from logo_edge_train.device import pick_device
    from logo_edge_train.recipe import ReviewConfig
    from logo_edge_train.review.frozen_features import Features

    (point,) = entry_points(group=PAGES, name="describe")
    make_page, kept = point.load(), suspects.parent if suspects else cache_folder() / "review"
    with resumable(), show_stages() as tick:
        features = Features(rows, ReviewConfig(), kept, pick_device("auto"), tick)
        make_page(manifest, page, features=features, folder=folder, suspects=suspects)


REVIEW_OUT = Path("runs/review")
REVIEW_RECIPE = typer.Option(
    "cpu",
    "--recipe",
    callback=known_recipe,
    help="The recipe whose [review] section is used: a built-in name or a TOML file.",
)
REVIEW_OVERRIDE = typer.Option([], "--set", metavar="KEY=VALUE", help="Override, e.g. review.divisions=5.")
REVIEW_FOLDER = typer.Option(
    REVIEW_OUT, "--out", metavar="DIR", help="The folder for the lists and for cached features and heads."
)
REVIEW_DEVICE = typer.Option("auto", "--device", help="auto, cpu or cuda; for computing features.")


@data.command(
    help="List labels of train and val that are probably wrong. If interrupted, run it again.\n\n"
    "An ensemble of models judges each label; none of them has learned from the image's group (cross-validation; "
    "confident learning, Northcutt et al. 2021). DIR/suspects.csv lists the worst first, DIR/judged.csv all labels. "
    "Correct them on the page of `data review DIR/suspects.csv`, or on the contact sheet DIR/suspects.html: open it in "
    "a browser, press one key for each image, download the corrections, then:\n\n"
    "logo-edge data apply corrections.csv --data PATH\n\n"
    "A suspect is a reason to look, not a proof: the list also has rare and ambiguous images. Labels of calib and test "
    "are not used, never listed and never changed. The manifest is not changed."
)
def suspects(
    source: Path | None = DATA,
    count: int = typer.Option(500, "--count", min=1, metavar="N", help="List at most N."),
    recipe: str = REVIEW_RECIPE,
    override: list[str] = REVIEW_OVERRIDE,
    out: Path = REVIEW_FOLDER,
    device: str = REVIEW_DEVICE,
    as_json: bool = AS_JSON,
) -> None:
    from logo_edge_train.review.ranking import list_suspects, print_suspects

    print_result(review(list_suspects, source, count, recipe, override, out, device), as_json, print_suspects)


@data.command(
    "next",
    help="List the unlabelled images that are most worth a label. If interrupted, run it again.\n\n"
    "First come images on which models trained on different parts of train and val disagree, or whose two most likely "
    "classes are close, and that look different from each other. Candidates are the manifest's rows without a label "
    "and, for the project's icon sets, unlabelled.csv; images that look like an image of val, calib or test are left "
    "out. DIR/next.html is a contact sheet like that of `data suspects`; `data apply` turns the labels that you give "
    "there into rows of train.",
)
def next_command(
    source: Path | None = DATA,
    count: int = typer.Option(200, "--count", min=1, metavar="N", help="List at most N."),
    recipe: str = REVIEW_RECIPE,
    override: list[str] = REVIEW_OVERRIDE,
    out: Path = REVIEW_FOLDER,
    device: str = REVIEW_DEVICE,
    as_json: bool = AS_JSON,
) -> None:
    from logo_edge_train.review.ranking import list_next, print_next

    print_result(review(list_next, source, count, recipe, override, out, device), as_json, print_next)


def review(
    stage: Callable[..., dict],
    source: Path | None,
    count: int,
    recipe: str,
    override: list[str],
    out: Path,
    device: str,
) -> dict:
    """The result of the stage, `list_suspects` or `list_next`, with progress bars on stderr."""
    need_torch()
    from logo_edge_train.device import pick_device

    refuse_torchrun("logo-edge data")
    config = load_recipe(recipe, tuple(override), used=("review",)).review
    torch_device = pick_device(device)
    with redirect_stdout(sys.stderr):  # messages about the folder are not part of the list
        manifest = find_manifest(source)
    with resumable(), show_stages() as tick:
        return stage(manifest, config, out, count=count, device=torch_device, tick=tick)


@contextmanager
def show_stages() -> Iterator[Callable[[str, int, int], None]]:
    """Yields `tick(stage, done, total)`, which shows a progress bar for each stage on stderr."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from logo_edge_train.console import PACE_S

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, console=Console(stderr=True), speed_estimate_period=PACE_S) as bar:
        tasks: dict[str, int] = {}

        def tick(title: str, done: int, total: int) -> None:
            if title not in tasks:
                tasks[title] = bar.add_task(title, total=total)
            bar.update(tasks[title], completed=done, total=total)

        yield tick


@data.command(
    "review",
    help="Serve a page for labelling on this machine: one key per label; each decision is saved at once.\n\n"
    "Without LIST.csv it shows all images of train and val, and those without a label. Open the printed address in a "
    "browser. Decisions go to DIR/corrections.csv; a second start continues there. Ctrl-C ends. Then:\n\n"
    "logo-edge data apply DIR/corrections.csv --data PATH\n\n"
    "Needs the extra serve. It listens on loopback, and the address holds a token.",
)
def review_command(
    listed: Path | None = typer.Argument(
        None, metavar="[LIST.csv]", help="The images of a suspects.csv, judged.csv or next.csv, in that order."
    ),
    source: Path | None = DATA,
    out: Path = typer.Option(REVIEW_OUT, "--out", metavar="DIR", help="The folder for corrections.csv."),
    port: int = typer.Option(0, "--port", min=0, max=65535, help="0 for any free port."),
) -> None:
    from logo_edge_train.review.server import serve_review  # needs the extra serve
    from logo_edge_train.review.session import Session

    session = Session(find_manifest(source), out / "corrections.csv", listed)

    def announce(address: str) -> None:
        typer.echo(
            printable(f"{len(session.rows):,} images, {len(session.decisions()):,} decided in {session.file.path}")
        )
        typer.echo(f"Open {address}")

    serve_review(session, port, announce)


@data.command(
    help="Merge corrections of `data review` or a contact sheet into a manifest: all, or none if one is invalid.\n\n"
    "CORRECTIONS.csv identifies images by package, version and icon, with their `label` and the `corrected` one. A "
    "suspects.csv or next.csv with a filled column `corrected` works too. Lines without a corrected label are skipped. "
    "Refused are images that the manifest does not have, labels of calib and test, labels that have changed since, and "
    "labels that are not a class. Images without a label become rows of train."
)
def apply(
    corrections: Path = typer.Argument(
        ..., metavar="CORRECTIONS.csv", help="The file that `data review` keeps, or that a contact sheet downloads."
    ),
    source: Path | None = typer.Option(
        None, "--data", metavar="PATH", help="The manifest, or its folder or label file. Default: the project's own."
    ),
    as_json: bool = AS_JSON,
) -> None:
    need_torch()
    from logo_edge_train.data.icons import LABELS
    from logo_edge_train.organize.manifest_file import manifest_of
    from logo_edge_train.review.corrections import apply_corrections

    manifest = LABELS if source is None else manifest_of(source)

    def print_changes(result: dict) -> None:
        counts = (
            f"{result['changed']} labels corrected, {result['labelled']} images labelled, "
            f"{result['confirmed']} labels confirmed"
        )
        typer.echo(printable(f"{result['manifest']}: {counts}"))
        for change, times in result["changes"].items():
            typer.echo(printable(f"  {change}: {times}"))

    print_result(apply_corrections(corrections, manifest), as_json, print_changes)


@train.command(help="Train an ensemble of teachers on a manifest or a folder of logos. If interrupted, run it again.")
def train_command(
    source: Path | None = DATA,
    recipe: str = typer.Option(
        "cpu",
        "--recipe",
        callback=known_recipe,
        help="smoke, own, cpu, shipped, full, robust, or the path of a TOML file.",
    ),
    out: Path | None = typer.Option(None, "--out", metavar="DIR", help="The run's folder. Default: runs/RECIPE."),
    override: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", help="Override, e.g. train.fit.epochs=5."),
    device: str = DEVICE,
    track: list[str] = typer.Option([], "--track", metavar="SERVICE", help=TRACK_HELP),
    estimate: bool = typer.Option(
        False,
        "--estimate",
        help="Fit each network for two short epochs; print how long train would take, without compress.",
    ),
    as_json: bool = typer.Option(False, "--json", help="With --estimate: print JSON."),
) -> None:
    need_torch()
    from rich.console import Console

    from logo_edge_train import distributed
    from logo_edge_train.device import pick_device
    from logo_edge_train.train import train_ensemble

    need_estimate(estimate, as_json)
    chosen = load_recipe(recipe, tuple(override))
    if estimate:
        from logo_edge_train.estimate import estimate_training, print_estimate

        refuse_torchrun("--estimate")
        manifest = find_manifest(source)
        say_limits(manifest, chosen)
        print_result(estimate_training(manifest, chosen, device=pick_device(device)), as_json, print_estimate)
        return
    rank_device = distributed.start(pick_device(device))
    with distributed.main_first():
        manifest = find_manifest(source)
    distributed.on_main(say_limits)(manifest, chosen)
    folder = out or Path("runs") / chosen.name
    console = None if distributed.is_main() else Console(quiet=True)
    with resumable(), follow(folder, asdict(chosen), track, console) as (report, _):
        run = train_ensemble(manifest, chosen, folder, device=rank_device, report=report)
    metrics, count = run.record["metrics"]["val"], len(run.record["members"])
    distributed.on_main(typer.echo)(
        f"{folder}: {count} teacher{'s, together' * (count > 1)}: {metrics['accuracy']:.1%} on val "
        f"({metrics['accuracy_sure']:.1%} on sure, worst class {metrics['worst_recall']:.1%}). "
        f"Next: logo-edge compress {folder}"
    )
    if kept := run.record.get("kept_lookalikes"):
        distributed.on_main(typer.echo)(
            f"Warning: {len(kept)} images of train look like images of val, calib or test, first {printable(kept[0])}. "
            "Training uses them, as the manifest's splits say; figures on those splits may be too good"
        )
    distributed.stop()


@few_shot.command(
    "train",
    help="Train on episodes, by the recipe's [few_shot]. If interrupted, run it again.\n\n"
    "Methods: `prototypes`, `maml`, or `ridge`, which only chooses its penalty. Tasks: `brands` over packages, or "
    "`types` of a held-out package. For example:\n\n"
    "logo-edge few-shot train --set few_shot.method=maml --set few_shot.shots=1 --out runs/maml-1-shot",
)
def few_shot_train(
    source: Path | None = typer.Option(
        None, "--data", metavar="PATH", help="A manifest CSV with several packages. Default: the project's own logos."
    ),
    recipe: str = typer.Option(
        "cpu", "--recipe", callback=known_recipe, help="smoke, cpu, full, or the path of a TOML file."
    ),
    override: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", help="Override, e.g. few_shot.method=maml."),
    out: Path | None = typer.Option(
        None, "--out", metavar="DIR", help="The run's folder. Default: runs/few-shot-METHOD-TASK-SHOTS."
    ),
    start: Path | None = typer.Option(
        None,
        "--start",
        metavar="RUN",
        help="Start from the weights of this few-shot run. Default: from ImageNet weights.",
    ),
    device: str = DEVICE,
    as_json: bool = typer.Option(False, "--json", help="Print the run's record as JSON, without progress."),
) -> None:
    need_torch()
    from rich.console import Console

    from logo_edge_train.device import pick_device
    from logo_edge_train.few_shot.run import train_few_shot
    from logo_edge_train.progress import FitProgress

    refuse_torchrun("logo-edge few-shot train")
    config = load_recipe(recipe, tuple(override), used=("few_shot",)).few_shot
    folder = out or Path("runs") / f"few-shot-{config.method}-{config.task}-{config.shots}"
    with resumable(), FitProgress(Console(quiet=as_json)) as progress:
        record = train_few_shot(
            find_manifest(source), config, folder, device=pick_device(device), report=progress, start=start
        )

    def print_record(record: dict) -> None:
        learned = f"learned for {record['seconds'] / 60:.0f} minutes" if record["history"] else "chose its penalty"
        typer.echo(f"{folder}: {config.method} {learned}. Next: logo-edge few-shot evaluate {folder}")

    print_result(record, as_json, print_record)


@few_shot.command(
    "evaluate", help="Accuracy on episodes of brands, or of a package, that the run has not seen, with 95 % intervals."
)
def few_shot_evaluate(
    run: Path = typer.Argument(..., metavar="RUN", help="The folder of a finished few-shot run."),
    source: Path | None = typer.Option(
        None, "--data", metavar="PATH", help="The manifest of the training. Default: the project's own logos."
    ),
    split: str = typer.Option("test", "--split", help="test to report, val to choose settings."),
    episodes: int = typer.Option(600, "--episodes", min=1),
    device: str = DEVICE,
    as_json: bool = AS_JSON,
) -> None:
    need_torch()
    from rich.console import Console
    from rich.progress import Progress

    from logo_edge_train.device import pick_device
    from logo_edge_train.few_shot.run import evaluate_few_shot

    if split not in ("val", "test"):
        raise typer.BadParameter(f"--split {split}; expected val or test")
    with Progress(transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"{episodes} episodes", total=episodes)
        figures = evaluate_few_shot(
            find_manifest(source),
            run,
            split=split,
            episodes=episodes,
            device=pick_device(device),
            tick=lambda: bar.advance(task),
        )

    def print_figures(figures: dict) -> None:
        whole, classes = (
            f"{figures[key]['value']:.1%} ({figures[key]['low']:.1%} to {figures[key]['high']:.1%})"
            for key in ("accuracy", "accuracy_by_class")
        )
        typer.echo(f"{figures['ways']}-way {figures['shots']}-shot on {split}, {episodes} episodes: {whole}")
        typer.echo(f"over the {figures['classes']} classes as a sample of all: {classes}")

    print_result(figures, as_json, print_figures)


@few_shot.command(
    "classify",
    help="Sort images into classes. SUPPORT has one subfolder per class, each with one image or more.\n\n"
    "logo-edge few-shot classify brands/ unknown.png, where brands/acme/logo.png, brands/bolt/a.png, ...\n\n"
    "Nothing is trained or written. The answer is always one of the classes. The margin is the best logit minus the "
    "second best; a small margin means a close decision. Exit status: 0 all sorted, 1 some images failed.",
)
def few_shot_classify(
    support: Path = typer.Argument(..., metavar="SUPPORT", help="A folder with one subfolder of images per class."),
    images: list[Path] = typer.Argument(..., metavar="IMAGE...", help="Images, or folders of them."),
    run: Path | None = typer.Option(
        None, "--run", metavar="RUN", help="Use this few-shot run. Default: ridge on ImageNet features."
    ),
    device: str = DEVICE,
    as_json: bool = AS_JSON,
) -> None:
    need_torch()
    from logo_edge.tables.find import find_images
    from logo_edge_train.device import pick_device
    from logo_edge_train.few_shot.classify import classify_files, frozen_network
    from logo_edge_train.few_shot.run import read_few_shot

    if not support.is_dir():
        raise typer.BadParameter(f"{support} is not a folder; expected a folder with one subfolder of images per class")
    paths = [Path(file) for file in find_images(map(str, images))]
    torch_device = pick_device(device)
    network = (read_few_shot(run)[0] if run else frozen_network()).to(torch_device)
    records = classify_files(network, support, paths, torch_device)
    print_result(records, as_json, print_sorted)
    if any("error" in record for record in records):
        raise typer.Exit(1)


def print_sorted(records: list[dict]) -> None:
    for record in records:
        if "error" in record:
            typer.echo(printable(f"{record['path']}  error: {record['error']}"), err=True)
        else:
            answer = f"{record['label']}  margin {record['margin']:.2f} over {record['runner_up']}"
            typer.echo(printable(f"{record['path']}  {answer}"))


@runs.command("list", help="One line per run: status, recipe, teachers, figures on val, student, date, size.")
def list_command(
    folder: Path = typer.Argument(Path("runs"), metavar="[DIR]", help="The folder of the runs."),
    as_json: bool = AS_JSON,
) -> None:
    from logo_edge_train import run_summary

    print_result(run_summary.list_runs(folder), as_json, run_summary.print_list)


@runs.command(help="The recipe, data and epochs of one run, and its compressed student.")
def show(
    run: Path = typer.Argument(..., metavar="RUN", help="The folder of a run, finished or not."),
    as_json: bool = AS_JSON,
) -> None:
    from logo_edge_train import run_summary

    print_result(run_summary.describe_run(run), as_json, run_summary.print_run)


@runs.command("compare", help="The recipe fields that differ between runs, and their figures side by side.")
def compare_command(
    folders: list[Path] = typer.Argument(..., metavar="RUN...", help="Two or more folders of runs."),
    as_json: bool = AS_JSON,
) -> None:
    from logo_edge_train import run_summary

    if len(folders) < 2:
        raise typer.BadParameter("one run; expected at least two")
    print_result(run_summary.compare_runs(folders), as_json, run_summary.print_comparison)


def need_estimate(estimate: bool, as_json: bool) -> None:
    """Refuses --json without --estimate, which would be ignored."""
    if as_json and not estimate:
        raise typer.BadParameter("--json prints an estimate; add --estimate")


def print_result(result, as_json: bool, print_table: Callable) -> None:
    if as_json:
        typer.echo(json_text(result), nl=False)
    else:
        print_table(result)
