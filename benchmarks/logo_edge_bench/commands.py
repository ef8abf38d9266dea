"""The verbs `logo-edge bench`, `logo-edge check` and `logo-edge init`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import typer

from logo_edge.cli.options import PUBLIC_KEY
from logo_edge.names import printable

bench = typer.Typer(rich_markup_mode=None, add_completion=False)
check = typer.Typer(rich_markup_mode=None, add_completion=False)
init = typer.Typer(rich_markup_mode=None, add_completion=False)

BUNDLE = typer.Argument(None, metavar="[BUNDLE]", help="Left out: the embedded default.")
MANIFEST = typer.Option(..., "--manifest", help="CSV of labelled images, columns as in labels.csv.")
IMAGES = typer.Option(Path(), "--images", help="Folder of renders, where the manifest names icon sets.")


@bench.command(
    help="Measure accuracy and latency of bundles side by side, in one run and from the same artifacts. A yardstick, "
    "the same model in a few hand-written lines, is always measured too. Exit status: 0 done, 1 --against found a "
    "worse row, 2 wrong usage, unsettled, not comparable or partly not measured, 4 --against could not decide.\n\n"
    "logo-edge bench bundles/mine --manifest labels.csv --images renders --threads 1,2 --batches 1,8 --report out\n\n"
    "Without labels, times and sizes alone: logo-edge bench bundles/mine --images photos"
)
def bench_command(
    bundles: list[Path] | None = typer.Argument(None, metavar="[BUNDLE...]", help="Left out: the embedded default."),
    public_key: Path | None = PUBLIC_KEY.typer(),
    manifest: Path | None = typer.Option(None, "--manifest", help="CSV of labelled images, columns as in labels.csv."),
    images: Path | None = typer.Option(
        None,
        "--images",
        help="Folder of renders, where the manifest names icon sets; without --manifest a folder of images without "
        "labels, which are timed as PNG files of one size, and have no accuracy.",
    ),
    split: str = typer.Option("test", "--split", help="Which split to report on."),
    backends: str = typer.Option(
        "onnxruntime", "--backends", metavar="NAME,...", help="Such as onnxruntime,openvino, or all."
    ),
    artifacts: list[Path] | None = typer.Option(
        None,
        "--artifact",
        metavar="PATH",
        help="Also run a file of `logo-edge export`, or all of the first bundle's in a folder, with its calibration.",
    ),
    threads: str = typer.Option("1", "--threads", metavar="N,...", help="Threads of one forward pass."),
    batches: str = typer.Option("1", "--batches", metavar="N,...", help="1 is SingleStream, 8 MLPerf's MultiStream."),
    spinning: bool = typer.Option(
        False, "--spinning", help="Let idle threads spin: faster, but keeps their cores busy."
    ),
    full: bool = typer.Option(False, "--full", help="Minutes for each row, for figures to publish."),
    quick: bool = typer.Option(False, "--quick", help="Seconds for each row (the default)."),
    ratios: bool = typer.Option(
        False, "--ratios", help="Many short turns, without waiting for a settled latency: for ratios on busy machines."
    ),
    scaling: bool = typer.Option(False, "--scaling", help="Also over cores, batches, sizes, formats and folders."),
    install_size: bool = typer.Option(
        False, "--install-size", help="Also install the wheel alone and measure its size."
    ),
    against: Path | None = typer.Option(
        None, "--against", metavar="FILE", help="Compare the ratios to the yardstick with an earlier result."
    ),
    tolerance: float = typer.Option(0.1, "--tolerance", min=0.0, help="Allowed increase of a ratio of --against."),
    out: Path | None = typer.Option(None, "--out", help="Write the result to this JSON file."),
    report: Path | None = typer.Option(None, "--report", metavar="DIR", help="Write report.html and report.md there."),
    read_from: list[Path] | None = typer.Option(
        None, "--from", metavar="FILE", help="Measure nothing: report on results of --out, several side by side."
    ),
) -> None:
    from logo_edge.errors import BenchError
    from logo_edge_bench.bench import read_result, write_result
    from logo_edge_bench.compare import compare_milliseconds, compare_ratios
    from logo_edge_bench.result_tables import markdown_of

    write_report = _load_page() if report else None  # before the minutes that follow
    earlier = read_result(against) if against else None
    if read_from:
        results = [read_result(path) for path in read_from]
    else:
        if manifest is None and images is None:
            raise typer.BadParameter(
                "expected --manifest, a CSV of labelled images, --images alone, a folder of images to be timed, or "
                "--from, an earlier result"
            )
        if full + quick + ratios > 1:
            raise typer.BadParameter("--quick, --full and --ratios exclude each other")
        preset = "full" if full else "ratios" if ratios else "quick"
        if preset == "ratios" and scaling:
            raise typer.BadParameter("--scaling needs --quick or --full")
        rows = {
            "backends": _names(backends),
            "threads": _numbers("--threads", threads),
            "batches": _numbers("--batches", batches),
            "spinning": spinning,
            "artifacts": artifacts or [],
            "public_key": public_key,
        }
        results = [_measure(bundles or [None], manifest, images, split, preset, rows, scaling, install_size, out)]
    if out:
        write_result(results[-1], out)
        typer.echo(f"wrote {out}")
    if write_report:
        typer.echo(f"wrote {write_report(results, report)}")
    typer.echo("\n\n".join(map(markdown_of, results)))
    if earlier:
        status = _print_changes(compare_ratios(earlier, results[-1], tolerance), tolerance)
        try:
            _print_changes(compare_milliseconds(earlier, results[-1]))
        except BenchError as error:
            typer.echo(f"milliseconds: {error}")
        raise typer.Exit(status)
    if not read_from and (failed := results[-1]["not_measured"]):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise BenchError(f"measured all but this: {reasons}")


@check.command(
    help="Check a bundle against gates: accuracy, recall, calibration, latency and size, all of the released artifact. "
    "Exit status: 0 all hold, 1 some fail, 2 wrong usage."
)
def check_command(
    bundle: Path | None = BUNDLE,
    gates: Path = typer.Option(..., "--gates", help="TOML of limits, such as accuracy = 0.93 or size_mb = 4."),
    manifest: Path = MANIFEST,
    images: Path = IMAGES,
    split: str = typer.Option("val", "--split", help="val for decisions; test only to guard a released bundle."),
    runs: int = typer.Option(200, "--runs", min=10, help="Counted calls per latency."),
    public_key: Path | None = PUBLIC_KEY.typer(),
    as_json: bool = typer.Option(False, "--json", help="One JSON object."),
) -> None:
    from logo_edge.files import json_text
    from logo_edge_bench.gates import check_gates, measure_bundle, read_gates
    from logo_edge_train.data.manifest import read_manifest

    limits = read_gates(gates)
    figures = measure_bundle(bundle, read_manifest(manifest, images), split=split, runs=runs, public_key=public_key)
    checks = check_gates(limits, figures)
    failed = [gate for gate in checks if not gate.holds]
    if as_json:
        rows = [{**vars(gate), "holds": gate.holds} for gate in checks]
        answer = {"bundle": figures["bundle"], "split": split, "holds": not failed, "gates": rows}
        typer.echo(json_text(answer, indent=None), nl=False)
    else:
        typer.echo(f"{figures['bundle']}: {len(checks) - len(failed)} of {len(checks)} gates hold on {split}")
        for gate in sorted(checks, key=lambda gate: gate.holds):
            verdict, sign = "ok" if gate.holds else "FAILS", ">=" if gate.at_least else "<="
            typer.echo(f"{verdict:>6}  {printable(gate.name):<20} {gate.found:9.4f}  {sign} {gate.limit:g}")
    if failed:
        raise typer.Exit(1)


@init.command(
    help="Write a small project for a classifier of your own images: recipe, gates, Makefile and a CI job that runs "
    "`logo-edge check`. Nothing is overwritten. Then put your images into DIR/data/CLASS/ and run make."
)
def init_command(
    folder: Path = typer.Argument(..., metavar="DIR", help="A new folder, or the root of your repository."),
    recipe: str = typer.Option("cpu", "--recipe", help="Copied to DIR/recipe.toml: a built-in name or a TOML file."),
) -> None:
    from logo_edge_bench.project import write_project

    for name in write_project(folder, recipe):
        typer.echo(printable(f"wrote {folder / name}"))
    make = f"make -C {shlex.quote(str(folder))} describe bundle check"
    typer.echo(printable(f"Next: put images into {folder / 'data'}/CLASS/, then {make}"))


def _load_page() -> Callable[[list[dict], Path], Path]:
    """`page.write_report`. Raises BenchError where the extra that draws it is missing, such as on a device."""
    from logo_edge.errors import BenchError, MissingExtraError

    try:
        from logo_edge_bench.page import write_report
    except MissingExtraError as error:
        raise BenchError(
            f"--report: {error}. Or measure here with --out FILE, and draw the page on another machine: "
            "logo-edge bench --from FILE --report DIR"
        ) from error
    return write_report


def _measure(
    bundles: list[Path | None],
    manifest: Path | None,
    images: Path | None,
    split: str,
    preset: str,
    rows: dict,
    scaling: bool,
    install_size: bool,
    out: Path | None,
) -> dict:
    """The result of `run_bench`, of scaling and of the install size, written to `out` after each part."""
    from tempfile import TemporaryDirectory

    from logo_edge.backends.choose import candidates
    from logo_edge.bundle.record import DEFAULT_BUNDLE, read_bundle
    from logo_edge.errors import BenchError
    from logo_edge_bench.bench import PRESETS, read_folder, read_images, run_bench, write_result
    from logo_edge_bench.install_size import measure_install_size
    from logo_edge_bench.scaling import measure_scaling
    from logo_edge_bench.systems import bundle_systems, find_artifacts, reference_system
    from logo_edge_train.data.manifest import read_manifest

    def say(line: str) -> None:
        typer.echo(line, err=True)

    key = rows["public_key"]
    first, *others = [read_bundle(folder or DEFAULT_BUNDLE, public_key=key) for folder in bundles]
    labels = [bundle.labels for bundle in (first, *others)]
    if any(set(other) != set(labels[0]) for other in labels):
        raise BenchError(f"the bundles' classes differ: {labels}; one run compares bundles with the same classes")
    if several := [bundle.name for bundle in (first, *others) if bundle.calibration.multi_label]:
        raise BenchError(
            f"{', '.join(several)}: multi-label; `bench` compares bundles of one label an image. `logo-edge evaluate` "
            "gives the figures of others"
        )
    if rows["backends"] == ["all"]:
        rows["backends"] = candidates(first.model_path)
    files, left_out = [], {}
    for path in rows["artifacts"]:
        listed = find_artifacts(path, first) if path.is_dir() else ([path], {})
        files, left_out = [*files, *listed[0]], left_out | listed[1]
    systems = [reference_system(bundles[0], key), *bundle_systems(bundles, **rows | {"artifacts": files})]
    with TemporaryDirectory() as folder:
        chosen = PRESETS[preset]
        if manifest is None:
            logos = read_folder(images, labels[0], Path(folder), chosen.size_px)
        else:
            listed = read_manifest(manifest, images or Path())
            logos = read_images(listed, split, labels[0], Path(folder), chosen.size_px)
        result = run_bench(systems, logos, chosen, say=say)
        result["not_measured"] |= left_out
        if out:
            write_result(result, out)
        if scaling:
            result["scaling"] = measure_scaling(systems[1], logos, chosen, say=say)
            if out:
                write_result(result, out)
    if install_size:
        say("installing the wheel alone")
        result["install"] = measure_install_size()
    return result


def _print_changes(changes: list, tolerance: float | None = None) -> int:
    """Prints every figure beside the earlier one, the worst first, and gives the exit status."""
    order = ["worse", "undecided", "ok"]
    for change in sorted(changes, key=lambda change: order.index(change.verdict)):
        typer.echo(
            f"{change.verdict:>9}  {change.row}: {change.figure} {change.then:.4g} -> {change.now:.4g}"
            f" ({change.low:.4g} to {change.high:.4g}), {change.ratio:.3f} of the earlier value"
        )
    verdicts = {change.verdict for change in changes}
    verdict = "worse" if "worse" in verdicts else "undecided" if "undecided" in verdicts else "holds"
    limit = "milliseconds, by their intervals" if tolerance is None else f"tolerance {tolerance:.0%}"
    typer.echo(f"{limit}: {verdict}")
    return 1 if "worse" in verdicts else 4 if "undecided" in verdicts else 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(option: str, text: str) -> list[int]:
    if not all(name.isdigit() and int(name) for name in _names(text)) or not _names(text):
        raise typer.BadParameter(f"{option} {text!r}; expected numbers from 1, such as 1,2,4")
    return [int(name) for name in _names(text)]
