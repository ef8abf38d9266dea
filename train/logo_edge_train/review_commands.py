"""The verbs of `logo-edge data` that find and correct wrong labels, and images worth a label."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import typer

from logo_edge.exits import resumable
from logo_edge.names import printable
from logo_edge_train.command_line import AS_JSON, DATA, find_manifest, known_recipe, need_torch, print_result
from logo_edge_train.parallel import refuse_torchrun
from logo_edge_train.recipe_io import load_recipe

review_verbs = typer.Typer(rich_markup_mode=None, add_completion=False)
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


@review_verbs.command(
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


@review_verbs.command(
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
    from logo_edge_train.console import stage_bars
    from logo_edge_train.device import pick_device

    refuse_torchrun("logo-edge data")
    config = load_recipe(recipe, tuple(override), used=("review",)).review
    torch_device = pick_device(device)
    with redirect_stdout(sys.stderr):  # messages about the folder are not part of the list
        manifest = find_manifest(source)
    with resumable(), stage_bars() as tick:
        return stage(manifest, config, out, count=count, device=torch_device, tick=tick)


@review_verbs.command(
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


@review_verbs.command(
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
