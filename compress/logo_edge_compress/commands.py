"""The verbs that make bundles: `logo-edge compress`, `logo-edge calibrate` and `logo-edge search`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer

from logo_edge.errors import MissingExtraError
from logo_edge_train.commands import TRACK_HELP, find_manifest, follow, need_torch, print_found

compress = typer.Typer(rich_markup_mode=None, add_completion=False)
calibrate = typer.Typer(rich_markup_mode=None, add_completion=False)
search = typer.Typer(rich_markup_mode=None, add_completion=False)


def need_onnx() -> None:
    """Raises MissingExtraError where the training stack, or what exports its networks, is not installed."""
    need_torch()
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("compress", error.name or "onnx") from error


@compress.command(
    help="Distil, export, quantize, verify, calibrate and pack a run of `logo-edge train` into a bundle. "
    "Interrupted, run it again."
)
def compress_command(
    run: Path = typer.Argument(..., metavar="RUN", help="The folder of a finished run."),
    out: Path | None = typer.Option(None, "--out", metavar="DIR", help="The bundle; left out: bundles/NAME."),
    name: str | None = typer.Option(None, "--name", help="The bundle's name; left out: that of the run's folder."),
    recipe: str | None = typer.Option(
        None, "--recipe", help="Distil and quantize by this recipe, such as robust, instead of the run's own."
    ),
    override: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", help="Override a field of --recipe."),
    device: str = typer.Option("auto", "--device", help="auto, cpu or cuda; for the distillation."),
    track: list[str] = typer.Option([], "--track", metavar="SERVICE", help=TRACK_HELP),
) -> None:
    need_onnx()
    from logo_edge_compress.compress import compress as compress_run
    from logo_edge_compress.table import print_stages
    from logo_edge_train import distributed
    from logo_edge_train.recipe import load_recipe
    from logo_edge_train.runs import read_run
    from logo_edge_train.train import pick_device

    distributed.refuse("logo-edge compress")
    if override and recipe is None:
        raise typer.BadParameter("--set changes fields of --recipe; name the recipe too")
    chosen = load_recipe(recipe, tuple(override)) if recipe else None
    name = name or "-".join([run.resolve().name, *([chosen.name] if chosen else [])])
    folder = out or Path("bundles") / name
    settings = asdict(chosen) if chosen else read_run(run).record["recipe"]
    with follow(run, settings, track) as (report, say):
        bundle, record = compress_run(
            run, folder, name=name, recipe=chosen, device=pick_device(device), report=report, say=say
        )
    print_stages(record)
    typer.echo(f"{folder}: {bundle.size_bytes / 1e6:.2f} MB. Next: logo-edge classify --bundle {folder} IMAGE.png")


@calibrate.command(
    help="Calibrate a packed bundle anew, on its own logits of a manifest's calib split, and pack it again. Its model "
    "stays as it is; a signature is dropped."
)
def calibrate_command(
    bundle: Path = typer.Argument(..., metavar="BUNDLE", help="A bundle's folder, replaced in one step."),
    source: Path | None = typer.Option(
        None, "--data", metavar="PATH", help="A manifest CSV or a folder of images; left out: the project's own logos."
    ),
    override: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", help="E.g. calibrate.strict_risk=0.02."),
) -> None:
    need_onnx()
    from logo_edge.decision import Mode
    from logo_edge.manifest import read_manifest
    from logo_edge_compress.compress import risks_of
    from logo_edge_compress.pack import recalibrate
    from logo_edge_train.fetch import renders_folder
    from logo_edge_train.recipe import load_recipe

    config = load_recipe("cpu", tuple(override)).calibrate
    found = recalibrate(bundle, read_manifest(find_manifest(source)), renders_folder(), risks=risks_of(config),
                        false_positive_rate=config.false_positive_rate).calibration  # fmt: skip
    scaling = f"{found.scaling.method} scaling" if found.scaling else "no scaling"
    typer.echo(
        f"{bundle}: temperature {found.temperature:.3f}, {scaling}; labels from "
        f"{found.abstain_below[Mode.BALANCED]:.3f} confidence on, strict from {found.abstain_below[Mode.STRICT]:.3f}"
    )
    for entry in found.conformal:
        if entry.refused:
            typer.echo(f"no prediction sets by class at {entry.level:.0%}: {entry.refused}")


@search.command(
    help="Choose backbone, attention and head by gradient, within a latency measured here, and write the recipe that "
    "trains and compresses the choice. Interrupted, run it again."
)
def search_command(
    source: Path | None = typer.Option(
        None, "--data", metavar="PATH", help="A manifest CSV or a folder of images; left out: the project's own logos."
    ),
    recipe: str = typer.Option("cpu", "--recipe", help="A recipe's name, or the path of a TOML file."),
    out: Path | None = typer.Option(None, "--out", metavar="DIR", help="Writes DIR/search; left out: runs/RECIPE."),
    target_ms: float | None = typer.Option(
        None, "--target-ms", min=0.0, help="The most that one logo may take on one thread, for search.target_ms."
    ),
    override: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", help="Override, e.g. search.epochs=5."),
    device: str = typer.Option("auto", "--device", help="auto, cpu or cuda; the latency is always that of this CPU."),
    track: list[str] = typer.Option([], "--track", metavar="SERVICE", help=TRACK_HELP),
    estimate: bool = typer.Option(False, "--estimate", help="Do a few steps and say how long all take, at most."),
    as_json: bool = typer.Option(False, "--json", help="With --estimate: print JSON."),
) -> None:
    need_onnx()
    from logo_edge.manifest import read_manifest
    from logo_edge_compress.latency import measure_options
    from logo_edge_train.recipe import load_recipe
    from logo_edge_train.search import search as search_architecture
    from logo_edge_train.train import pick_device

    if target_ms is not None:
        override = [*override, f"search.target_ms={target_ms}"]
    chosen = load_recipe(recipe, tuple(override))
    source, folder = find_manifest(source), out or Path("runs") / chosen.name
    classes = len(read_manifest(source).classes)
    table = measure_options(chosen.search, classes, folder / "search" / "latency.json")
    if estimate:
        from logo_edge_train.estimate import estimate_search, print_estimate

        print_found(estimate_search(source, chosen, table, device=pick_device(device)), as_json, print_estimate)
        return
    with follow(folder, asdict(chosen), track) as (report, _):
        found = search_architecture(source, chosen, table, folder, device=pick_device(device), report=report)
    derived = folder / "search" / "derived.toml"
    typer.echo(f"{found.train.teachers[-1]}: {found.description} Next: logo-edge train --recipe {derived}")
