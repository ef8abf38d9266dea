"""The training verbs: `logo-edge data`, `logo-edge train`, `logo-edge few-shot`, `logo-edge runs`."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import typer

from logo_edge.exits import resumable
from logo_edge.names import printable
from logo_edge_train.command_line import (
    AS_JSON,
    DATA,
    DEVICE,
    TRACK_HELP,
    find_manifest,
    follow,
    known_recipe,
    need_estimate,
    need_torch,
    print_result,
    say_limits,
)
from logo_edge_train.data.manifest import FILES, Manifest
from logo_edge_train.data_commands import folder_verbs
from logo_edge_train.parallel import refuse_torchrun
from logo_edge_train.recipe_io import load_recipe
from logo_edge_train.review_commands import review_verbs

data = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="Fetch, organize, draw and describe labelled images; find probably wrong labels, and images worth a label.",
)
data.add_typer(folder_verbs)
data.add_typer(review_verbs)
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


@train.command(help="Train an ensemble of teachers on a manifest or a folder of images. If interrupted, run it again.")
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
        first = printable(place_of(kept[0], manifest))
        distributed.on_main(typer.echo)(
            f"Warning: {len(kept)} images of train look like images of val, calib or test, first {first}. "
            "Training uses them, as the manifest's splits say; figures on those splits may be too good"
        )
    distributed.stop()


def place_of(name: str, manifest: Manifest) -> str:
    """Where the image file of a row lies, whose `package/icon` is `name`; of an icon of a package, that name."""
    icon = name.removeprefix(f"{FILES}/")
    return name if icon == name else os.path.normpath(manifest.folder / icon)


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
    from logo_edge_train.console import stage_bar
    from logo_edge_train.device import pick_device
    from logo_edge_train.few_shot.run import evaluate_few_shot

    if split not in ("val", "test"):
        raise typer.BadParameter(f"--split {split}; expected val or test")
    done = iter(range(1, episodes + 1))
    with stage_bar("Episodes") as tick:
        figures = evaluate_few_shot(
            find_manifest(source),
            run,
            split=split,
            episodes=episodes,
            device=pick_device(device),
            tick=lambda: tick(next(done), episodes),
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
