"""The verbs that make bundles and artifacts: `logo-edge compress`, `calibrate`, `export` and `search`."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from logo_edge.cli.options import PUBLIC_KEY
from logo_edge.errors import MissingExtraError, SelectionError
from logo_edge.exits import resumable
from logo_edge.names import printable
from logo_edge_train.command_line import (
    PAGES,
    TRACK_HELP,
    find_manifest,
    follow,
    known_recipe,
    need_estimate,
    need_torch,
    print_result,
    say_limits,
)
from logo_edge_train.parallel import refuse_torchrun

if TYPE_CHECKING:
    from logo_edge.bundle.record import Bundle

compress = typer.Typer(rich_markup_mode=None, add_completion=False)
calibrate = typer.Typer(rich_markup_mode=None, add_completion=False)
export = typer.Typer(rich_markup_mode=None, add_completion=False)
search = typer.Typer(rich_markup_mode=None, add_completion=False)


def need_onnx() -> None:
    """Raises MissingExtraError where the training stack or the ONNX exporter is not installed."""
    need_torch()
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("compress", error.name or "onnx") from error


@compress.command(
    help="""Make the best verified, calibrated bundle of a run of `logo-edge train`, for each target.

    Every student of the recipe is distilled and converted to FP32, FP16 and INT8 for the target's backend. Each
    candidate is verified on real images, calibrated on its own logits, measured here and compared with your limits. val
    decides; compress_report.html in the run's folder shows why. After an interruption, run it again: it resumes.

    \b
    cpu          ONNX Runtime on any CPU: the fastest
    openvino     Intel CPUs, GPUs, NPUs: model.xml next to model.onnx; needs logo-edge[openvino]
    litert       Android, Linux boards: model.tflite next to model.onnx; needs logo-edge[litert]
    jetson       NVIDIA: an ONNX that TensorRT reads; timed where there is a GPU
    web          ONNX for a browser: the smallest
    torchscript  programs built on libtorch: model.pt next to model.onnx
    ncnn         small ARM CPUs: model.param and model.bin next to model.onnx; needs logo-edge[ncnn]
    mnn          phones: model.mnn next to model.onnx; needs logo-edge[mnn]
    executorch   phones and boards: model.pte next to model.onnx; needs logo-edge[executorch]
    coreml       Apple's systems: model.mlpackage.zip next to model.onnx; not run here; needs logo-edge[coreml]
    server       the teachers in one bundle: the most accurate, and the best at rejecting what it does not know
    all          one bundle for each

    \b
    logo-edge compress runs/cpu
    logo-edge compress runs/cpu --max-size-mb 1.2 --max-latency-ms 0.5 --max-accuracy-drop 1
    logo-edge compress runs/cpu --target openvino --target web --budget-minutes 20
    """
)
def compress_command(
    run: Path = typer.Argument(..., metavar="RUN", help="The folder of a finished run."),
    out: Path | None = typer.Option(
        None,
        "--out",
        metavar="DIR",
        help="The bundle; left out: bundles/NAME. With several targets, all but cpu go to DIR-TARGET.",
    ),
    name: str | None = typer.Option(None, "--name", help="The bundle's name; left out: the name of the run's folder."),
    target: list[str] = typer.Option(
        ["cpu"],
        "--target",
        metavar="TARGET",
        help="cpu, openvino, litert, jetson, web, torchscript, ncnn, mnn, executorch, coreml, server or all; may be "
        "repeated.",
    ),
    size_mb: float | None = typer.Option(
        None,
        "--max-size-mb",
        min=0.0,
        help="Size of all model files in the bundle; left out: the recipe's distill.max_size_mb for cpu and web.",
    ),
    latency_ms: float | None = typer.Option(
        None, "--max-latency-ms", min=0.0, help="Median of one forward pass on one thread of this machine."
    ),
    accuracy_drop: float | None = typer.Option(
        None, "--max-accuracy-drop", metavar="POINTS", help="Accuracy below the teachers on val, in percentage points."
    ),
    ece: float | None = typer.Option(
        None, "--max-ece", metavar="PERCENT", min=0.0, help="Calibration error on val, corrected for its bias."
    ),
    members: int = typer.Option(
        0, "--members", min=0, help="For server: the number of teachers, from the first; 0: all."
    ),
    intended_use: str = typer.Option(
        "", "--intended-use", metavar="TEXT", help="For the card: what the bundle is for, and for whom."
    ),
    carry: list[str] = typer.Option(
        [],
        "--carry",
        metavar="CANDIDATE",
        help="Put this candidate of the chosen student, such as fp32 or int8-openvino, into the bundle too; --backend "
        "auto then takes the quickest on each device. Its size counts. May be repeated.",
    ),
    budget: float | None = typer.Option(
        None,
        "--budget-minutes",
        min=0.0,
        help="Stop after this time and choose among the candidates so far; run it again to resume.",
    ),
    recipe: str | None = typer.Option(
        None,
        "--recipe",
        callback=known_recipe,
        help="Distil and quantize with this recipe, such as robust, instead of the run's own.",
    ),
    override: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", help="Override a field of --recipe."),
    device: str = typer.Option("auto", "--device", help="auto, cpu or cuda; for the distillation."),
    track: list[str] = typer.Option([], "--track", metavar="SERVICE", help=TRACK_HELP),
) -> None:
    """Exit status: 0 every bundle packed, 1 some could not be packed, 2 none could, or wrong usage."""
    need_onnx()
    from logo_edge_compress.compress import compress as compress_run
    from logo_edge_compress.report import print_candidates, print_stages
    from logo_edge_compress.select import Limits
    from logo_edge_compress.targets import TARGETS, check_carried, check_targets
    from logo_edge_compress.work import with_recipe, work_folder
    from logo_edge_train.data.outliers import families_of
    from logo_edge_train.device import pick_device
    from logo_edge_train.recipe_io import load_recipe
    from logo_edge_train.runs import read_run

    refuse_torchrun("logo-edge compress")
    if override and recipe is None:
        raise typer.BadParameter("--set changes fields of --recipe; name the recipe too")
    if unknown := [value for value in target if value not in (*TARGETS, "all")]:
        raise typer.BadParameter(f"--target {unknown[0]}: expected one of {', '.join([*TARGETS, 'all'])}")
    targets = tuple(TARGETS) if "all" in target else tuple(dict.fromkeys(target))
    limits = Limits(size_mb, latency_ms, accuracy_drop, ece)
    if members and "server" not in targets:
        raise typer.BadParameter("--members applies to the server's bundle; add --target server")
    if members == 1 or members > len(read_run(run).record["members"]):
        raise typer.BadParameter(
            f"--members {members}: expected from 2 to the {len(read_run(run).record['members'])} teachers of {run}"
        )
    if carry and "server" in targets:
        raise typer.BadParameter("--carry applies to one network, and --target server packs several; leave one out")
    chosen = load_recipe(recipe, tuple(override), used=("name", "distill", "quantize", "calibrate")) if recipe else None
    with_chosen = with_recipe(read_run(run), chosen)
    check_targets(with_chosen, targets, limits, members)
    check_carried(with_chosen, tuple(carry))
    name = name or "-".join([run.resolve().name, *([chosen.name] if chosen else [])])
    folder = out or Path("bundles") / (name if len(targets) > 1 or targets == ("cpu",) else f"{name}-{targets[0]}")
    settings = asdict(chosen) if chosen else read_run(run).record["recipe"]
    try:
        with resumable(), follow(run, settings, track) as (report, say):
            bundles, record = compress_run(
                run,
                folder,
                name=name,
                recipe=chosen,
                device=pick_device(device),
                report=report,
                say=say,
                targets=targets,
                limits=limits,
                members=members,
                carry=tuple(dict.fromkeys(carry)),
                budget_minutes=budget,
                outliers=families_of("choice"),
                intended_use=intended_use,
            )
    except SelectionError:
        write_page(work_folder(run, chosen))
        raise
    print_candidates(record)
    for target_name in bundles:
        print_stages(record["targets"][target_name])
    write_page(work_folder(run, chosen))
    for target_name, bundle in bundles.items():
        packed = record["targets"][target_name]
        typer.echo(printable(f"{target_name}: {packed['sentence']}"))
        example = f"logo-edge classify --bundle {packed['bundle']} IMAGE.png"
        typer.echo(f"{packed['bundle']}: {bundle.size_bytes / 1e6:.2f} MB. Next: {example}")
        say_weaknesses(bundle)
    if not record["complete"]:
        statuses = [candidate["status"] for candidate in record["candidates"]]
        failures, untried = statuses.count("failed"), statuses.count("not tried")
        typer.echo(
            f"Not complete: {failures} candidates failed, {untried} were not tried in the budget, or some could not be "
            "timed; the same command tries them again."
        )
    failed = [target_name for target_name in targets if target_name not in bundles]
    for target_name in failed:
        typer.echo(printable(f"{target_name}: not packed. {record['targets'][target_name]['sentence']}"), err=True)
    if failed:
        raise typer.Exit(1)


def write_page(folder: Path) -> None:
    """Writes compress_report.html from the JSON next to it, or prints which extra is missing.

    The report room registers the function: compress does not import it.
    """
    for page in entry_points(group=PAGES, name="compress"):
        try:
            typer.echo(f"wrote {page.load()(folder)}")
        except MissingExtraError as error:
            typer.echo(f"no compress_report.html: {error}")


@calibrate.command(
    help="Calibrate a packed bundle again, on its own logits of a manifest's calib split. Figures, card, vectors and "
    "embedding are updated, a signature is dropped, every other file stays."
)
def calibrate_command(
    bundle: Path = typer.Argument(..., metavar="BUNDLE", help="A bundle's folder, replaced in one step."),
    source: Path | None = typer.Option(
        None, "--data", metavar="PATH", help="A manifest CSV or a folder of images; left out: the project's own logos."
    ),
    recipe: str | None = typer.Option(
        None,
        "--recipe",
        callback=known_recipe,
        help="Take the risks from this recipe; default: the risks that the bundle was made with.",
    ),
    override: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", help="E.g. calibrate.strict_risk=0.02."),
    artifact: Path | None = typer.Option(
        None, "--artifact", metavar="FILE", help="Pack this file of `logo-edge export BUNDLE` too, and calibrate it."
    ),
    out: Path | None = typer.Option(None, "--out", metavar="DIR", help="With --artifact: the new bundle's folder."),
) -> None:
    if (artifact is None) != (out is None):
        raise typer.BadParameter("--artifact FILE and --out DIR: give both or neither")
    need_onnx()
    from logo_edge.bundle.calibration import Mode
    from logo_edge.bundle.record import read_bundle
    from logo_edge_compress.recalibrate import read_config, recalibrate
    from logo_edge_train.data.manifest import read_manifest

    refuse_torchrun("logo-edge calibrate")
    config = read_config(read_bundle(bundle), recipe, tuple(override))
    packed = recalibrate(bundle, read_manifest(find_manifest(source)), config, artifact=artifact, out=out)
    calibration = packed.calibration
    scaling = f"{calibration.scaling.method} scaling" if calibration.scaling else "no scaling"
    balanced, strict = (calibration.abstain_below[mode] for mode in (Mode.BALANCED, Mode.STRICT))
    typer.echo(
        f"{packed.folder}: temperature {calibration.temperature:.3f}, {scaling}; labels from "
        f"{balanced:.3f} confidence on, strict from {strict:.3f}"
    )
    say_weaknesses(packed)
    for conformal in calibration.conformal:
        if conformal.refused:
            typer.echo(printable(f"no prediction sets by class at {conformal.level:.0%}: {conformal.refused}"))


def say_weaknesses(bundle: Bundle) -> None:
    """Prints the modes without a promised risk and the classes that the bundle never recognises."""
    from logo_edge_compress.card import find_weaknesses

    for weakness in find_weaknesses(bundle):
        typer.echo(printable(f"{bundle.folder}: {weakness}"), err=True)


@export.command(
    help="""Make a verified artifact for another runtime from a bundle, or from the run that it was compressed from.

    A bundle holds one precision, mostly INT8; its run also has fp32, fp16 and TorchScript. Every artifact has the input
    of the bundle, `pixels` (batch, S, S, C) uint8: C = 3, RGB, or more with detail planes. It returns `logits` before
    temperature. It is compared with its parent on real images and written, with a JSON of hashes and figures, only if
    it agrees.

    \b
    onnx         ONNX Runtime, anywhere
    openvino     Intel CPUs, GPUs and NPUs; needs logo-edge[openvino]
    litert       Android, Linux boards, Apple: a .tflite with the bundle's own scales; needs logo-edge[litert]
    tflm         microcontrollers: integers alone, as .tflite and C array, run in TFLM here; needs logo-edge[litert]
    tensorrt     NVIDIA: ONNX for TensorRT 10 (Jetson) and 11 and, on the device itself, the engine
    torchscript  programs built on libtorch; RUN only
    ncnn         small ARM CPUs; needs logo-edge[ncnn]
    mnn          phones; needs logo-edge[mnn]
    executorch   phones and boards, by XNNPACK; needs logo-edge[executorch]
    coreml       Apple's systems: FP16, or INT8 weights; not run here; needs logo-edge[coreml]

    \b
    logo-edge export bundles/mine --format openvino
    logo-edge export runs/mine --format tensorrt --precision fp16 --batch 1
    logo-edge export bundles/mine --format tensorrt --data photos/    (on the Jetson)
    """
)
def export_command(
    source: Path = typer.Argument(..., metavar="BUNDLE|RUN", help="What `logo-edge compress` wrote, or its run."),
    public_key: Path | None = PUBLIC_KEY.typer(),
    kind: str = typer.Option(
        ...,
        "--format",
        metavar="FORMAT",
        help="onnx, openvino, litert, tflm, tensorrt, torchscript, ncnn, mnn, executorch or coreml.",
    ),
    out: Path = typer.Option(Path("exports"), "--out", metavar="DIR", help="The folder for artifacts and engines."),
    precision: str | None = typer.Option(
        None, "--precision", help="fp32, fp16 or int8; left out: int8 where source and format have it."
    ),
    batch: str = typer.Option("dynamic", "--batch", help="dynamic, or one fixed batch size, such as 1."),
    data: Path | None = typer.Option(
        None,
        "--data",
        metavar="PATH",
        help="A folder of images, or a manifest or file of labels (train fits, val verifies); left out: the run's, or "
        "ours.",
    ),
    converter_python: Path | None = typer.Option(
        None,
        "--converter-python",
        metavar="PATH",
        help="The Python of an environment with the format's converter; left out: one is made and cached.",
    ),
) -> None:
    """Exit status: 0 made and verified, 2 refused or wrong usage."""
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("compress", "onnx") from error
    from logo_edge_compress.convert.export import FORMATS, PRECISIONS, check_request, export_artifact, is_fitted
    from logo_edge_compress.convert.source import read_images, read_source

    refuse_torchrun("logo-edge export")
    if kind not in FORMATS:
        raise typer.BadParameter(f"--format {kind}: expected one of {', '.join(FORMATS)}")
    if precision not in (None, *PRECISIONS):
        raise typer.BadParameter(f"--precision {precision}: expected one of {', '.join(PRECISIONS)}")
    if batch != "dynamic" and not (batch.isdigit() and int(batch)):
        raise typer.BadParameter(f"--batch {batch}: expected dynamic, or a number from 1")
    model, size = read_source(source, public_key=public_key), None if batch == "dynamic" else int(batch)
    if precision is None:
        others = "fp16" if kind == "coreml" else "fp32"
        precision = "int8" if "int8" in model.graphs and kind != "torchscript" else others
    check_request(model, kind, precision, size)
    if kind == "torchscript":
        need_torch()
    if data is None:
        data = model.manifest or find_manifest(None)
    elif not data.is_dir():
        data = find_manifest(data)
    images = read_images(data, model.input, fits=is_fitted(kind, precision))
    record = export_artifact(
        model, kind, precision, size, out, images, say=typer.echo, converter_python=converter_python
    )
    parity = record["parity"]
    for name, file in record["files"].items():
        typer.echo(f"{out / name}: {file['size_bytes'] / 1e6:.2f} MB")
    typer.echo(
        f"verified on {parity['images']} images against {record['parent']['file']}: top-1 agreement "
        f"{parity['top1_agreement']:.1%}, KL {parity['kl_nats']:.5f} nats, logits differ by "
        f"{parity['mean_difference']:.4f} on average, {parity['max_difference']:.4f} at most ({record['verified_by']})"
    )
    if counted := record.get("audit"):
        layers = ", ".join(f"{number} in {kind}" for kind, number in counted["layers"].items())
        left = f" ({', '.join(counted['float_layers'])})" if counted["float_layers"] else ""
        typer.echo(f"layers with weights compute {layers}{left}")
    if steps := record.get("steps"):
        shared = "it may share" if steps["shares_calibration"] else "it does not share"
        typer.echo(
            f"all logits equal on {steps['equal_share']:.1%} of the images, off by {steps['largest']} steps of "
            f"quantization at most: {shared} its parent's calibration"
        )
    if record.get("engine"):
        typer.echo(f"engine {out / record['engine']['file']}, verified on the GPU")


@search.command(
    help="Choose backbone, attention and head by gradient, within a latency measured here, and write the recipe that "
    "trains and compresses the choice. After an interruption, run it again: it resumes."
)
def search_command(
    source: Path | None = typer.Option(
        None, "--data", metavar="PATH", help="A manifest CSV or a folder of images; left out: the project's own logos."
    ),
    recipe: str = typer.Option(
        "cpu", "--recipe", callback=known_recipe, help="A recipe's name, or the path of a TOML file."
    ),
    out: Path | None = typer.Option(None, "--out", metavar="DIR", help="Writes DIR/search; left out: runs/RECIPE."),
    target_ms: float | None = typer.Option(
        None, "--target-ms", min=0.0, help="The most that one image may take on one thread, for search.target_ms."
    ),
    override: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", help="Override, e.g. search.epochs=5."),
    device: str = typer.Option("auto", "--device", help="auto, cpu or cuda; the latency is always that of this CPU."),
    track: list[str] = typer.Option([], "--track", metavar="SERVICE", help=TRACK_HELP),
    estimate: bool = typer.Option(
        False, "--estimate", help="Do a few steps and print an upper bound of the whole time."
    ),
    as_json: bool = typer.Option(False, "--json", help="With --estimate: print JSON."),
) -> None:
    need_onnx()
    from logo_edge_compress.search.latency_table import measure_options
    from logo_edge_compress.search.search import read_search
    from logo_edge_compress.search.search import search as search_architecture
    from logo_edge_train.data.manifest import read_manifest
    from logo_edge_train.device import pick_device
    from logo_edge_train.recipe_io import load_recipe

    refuse_torchrun("logo-edge search")
    need_estimate(estimate, as_json)
    if target_ms is not None:
        override = [*override, f"search.target_ms={target_ms}"]
    chosen = load_recipe(recipe, tuple(override))
    source, folder = find_manifest(source), out or Path("runs") / chosen.name
    say_limits(source, chosen)
    derived = folder / "search" / "derived.toml"
    result = None if estimate else read_search(source, chosen, folder)
    if result is None:
        classes = len(read_manifest(source).classes)
        table = measure_options(chosen.search, classes, folder / "search" / "latency.json")
    if estimate:
        from logo_edge_compress.search.estimate import estimate_search
        from logo_edge_train.estimate import print_estimate

        print_result(estimate_search(source, chosen, table, device=pick_device(device)), as_json, print_estimate)
        return
    if result is None:
        with resumable(), follow(folder, asdict(chosen), track) as (report, _):
            result = search_architecture(source, chosen, table, folder, device=pick_device(device), report=report)
    typer.echo(f"{result.train.teachers[-1]}: {result.description} Next: logo-edge train --recipe {derived}")
