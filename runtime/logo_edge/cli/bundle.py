"""The runtime's verbs: `logo-edge classify`, `info`, `monitor`, `keygen` and `sign`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from logo_edge.bundle.calibration import Mode
from logo_edge.bundle.record import record_bytes
from logo_edge.classifier import Classifier
from logo_edge.cli.classify import ENGINES, LOCAL, Options, run
from logo_edge.files import json_text
from logo_edge.names import printable
from logo_edge.preprocess import LIBRARY

classify = typer.Typer(rich_markup_mode=None, add_completion=False)
info = typer.Typer(rich_markup_mode=None, add_completion=False)
monitor = typer.Typer(rich_markup_mode=None, add_completion=False)
keygen = typer.Typer(rich_markup_mode=None, add_completion=False)
sign = typer.Typer(rich_markup_mode=None, add_completion=False)

BUNDLE_OPTION = typer.Option(
    None, "--bundle", "-b", metavar="DIR", help="A bundle's folder; left out: the embedded default."
)
PUBLIC_KEY_OPTION = typer.Option(
    None, "--public-key", metavar="PEM", help="Load the bundle only if this key's owner signed it (extra sign)."
)


@classify.command(
    help="""Classify logos: files, folders (searched recursively), globs in quotes, or - for one image's bytes on stdin.

    Prints a table, or JSON; where the classifier is not sure enough there is a best guess but no label. --out makes a
    table of any number of images; interrupted, run it again.

    \b
    logo-edge classify logo.png
    logo-edge classify --jsonl 'logos/**/*.svg' | jq .label
    logo-edge classify logos/ --out results.parquet
    logo-edge classify --mode strict --coverage 0.9 --top-k 2 --explain logo.png
    """
)
def classify_command(
    paths: list[str] = typer.Argument(..., metavar="PATH...", help="Image files, folders, globs, or - for stdin."),
    bundle: str | None = BUNDLE_OPTION,
    as_json: bool = typer.Option(False, "--json", help="One JSON array."),
    as_jsonl: bool = typer.Option(False, "--jsonl", help="One JSON object a line, as soon as it is known."),
    out: Path | None = typer.Option(
        None,
        "--out",
        "-o",
        metavar="FILE",
        help="Write a table: .csv, .jsonl or .parquet (extra parquet), with progress. FILE.part holds what is done.",
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace an --out that is there."),
    mode: Mode = typer.Option(Mode.BALANCED, "--mode", help="How sure it must be to give a label."),
    threshold: float | None = typer.Option(
        None, "--threshold", min=0, max=1, help="The least confidence for a label, instead of the mode's."
    ),
    coverage: float | None = typer.Option(
        None, "--coverage", help="P that a prediction set holds the true label, a level of the bundle; left out: 0.95."
    ),
    top_k: int | None = typer.Option(None, "--top-k", min=1, help="Show only the K likeliest classes, those in order."),
    explain: bool = typer.Option(
        False, "--explain", help="Leave beside each image a heat map, IMAGE.explain.png: red speaks for the best guess."
    ),
    backend: str = typer.Option(
        "onnxruntime",
        "--backend",
        help="onnxruntime, openvino, tensorrt, torchscript, or auto: the fastest here, measured once and remembered.",
    ),
    artifact: Path | None = typer.Option(
        None,
        "--artifact",
        metavar="FILE",
        help="Run this file of `logo-edge export` instead of the bundle's own graph.",
    ),
    threads: int = typer.Option(1, "--threads", min=1, help="CPU threads of one forward pass."),
    workers: int | None = typer.Option(
        None,
        "--workers",
        min=1,
        help="Threads that decode and classify a batch each; left out: one a core for many images.",
    ),
    engine: str = typer.Option(
        LOCAL,
        "--engine",
        help="local, or ray: --out by a Ray cluster (extra scale), that of RAY_ADDRESS or one started here.",
    ),
    cores: str | None = typer.Option(None, "--cores", metavar="0,2-3", help="The CPU cores to run on (Linux)."),
    spinning: bool = typer.Option(
        False, "--spinning", help="Let threads spin while they wait: a little faster, and they burn their cores."
    ),
    public_key: Path | None = PUBLIC_KEY_OPTION,
    log: Path | None = typer.Option(
        None, "--log", metavar="FILE", help="Append each result, no image, for `logo-edge monitor`."
    ),
    enrolled: Path | None = typer.Option(
        None, "--enrolled", metavar="FILE", help="Name the classes of `logo-edge enroll` too, beside the bundle's own."
    ),
) -> None:
    """Exit status: 0 all classified, 1 some inputs failed, 2 wrong usage."""
    if as_json + as_jsonl + (out is not None) > 1:
        raise typer.BadParameter("--json, --jsonl and --out exclude each other")
    if out and (explain or top_k or "-" in paths):
        raise typer.BadParameter("--out takes files and folders, without stdin, --explain and --top-k; try --jsonl")
    if engine not in ENGINES:
        raise typer.BadParameter(f"--engine {engine}: expected {' or '.join(ENGINES)}")
    if engine != LOCAL and (out is None or artifact or cores or log or enrolled):
        raise typer.BadParameter(
            f"--engine {engine} goes with --out, without --artifact, --cores, --log and --enrolled"
        )
    options = Options(
        tuple(paths),
        bundle=bundle,
        json=as_json,
        jsonl=as_jsonl,
        mode=mode,
        threshold=threshold,
        coverage=coverage,
        top_k=top_k,
        explain=explain,
        out=out,
        overwrite=overwrite,
        backend=backend,
        artifact=artifact,
        threads=threads,
        cores=parse_cores(cores),
        spinning=spinning,
        workers=workers,
        engine=engine,
        public_key=public_key,
        log=log,
        enrolled=enrolled,
    )
    if failed := run(options):
        raise typer.Exit(failed)


@info.command(help="Show what a bundle is: its classes, size, calibration, origin and measured accuracy.")
def info_command(
    bundle: str | None = BUNDLE_OPTION,
    as_json: bool = typer.Option(False, "--json", help="The content of bundle.json."),
    self_test: bool = typer.Option(False, "--self-test", help="Run every golden vector of the bundle."),
    backend: str = typer.Option("onnxruntime", "--backend", help="The one to test: as in `logo-edge classify`."),
    artifact: Path | None = typer.Option(
        None, "--artifact", metavar="FILE", help="A file of `logo-edge export` to test."
    ),
    public_key: Path | None = PUBLIC_KEY_OPTION,
) -> None:
    classifier = Classifier.load(bundle, public_key=public_key, backend=backend, artifact=artifact)
    content = classifier.bundle
    checked, familiarity = classifier.run_vectors() if self_test else 0, content.calibration.familiarity
    if as_json:
        typer.echo(record_bytes(content).decode(), nl=False)
        return
    rows = {
        "bundle": f"{content.name}  ({content.folder})",
        "classes": ", ".join(content.labels),
        "model": f"{content.provenance.get('student', '?')}, {content.model.precision}",
        "input": f"{content.input.size_px} x {content.input.size_px} px, letterboxed",
        "size": f"{content.size_bytes / 1e6:.2f} MB on disk",
        "preprocessing": "preprocess.c" if LIBRARY else "Pillow; quicker where built with a C compiler",
        "temperature": f"{content.calibration.temperature:.3f}",
        "scaling": content.calibration.scaling.method if content.calibration.scaling else "temperature alone",
        "abstains below": ", ".join(
            f"{value:.3f} ({mode})" for mode, value in content.calibration.abstain_below.items() if value
        ),
        "no logo": f"below a logo score of {familiarity.threshold:.3f}" if familiarity else "rejects none",
    }
    if isinstance(unpromised := content.provenance.get("unpromised"), dict):
        rows |= {str(mode): str(why) for mode, why in unpromised.items()}
    rows |= _test_rows(content.metrics.get("test"))
    if classifier.artifact:
        rows["runs instead"] = f"{classifier.artifact}  (sha256 {classifier.model_sha256[:12]}...)"
    if public_key:
        rows["signed by"] = f"the owner of {public_key}"
    if checked:
        rows["self-test"] = f"{checked} golden vectors agree on {classifier.backend}"
    for key, value in rows.items():
        typer.echo(f"{key:>18}  {printable(str(value))}")


@monitor.command(
    help="Say whether the predictions of a log have drifted from those that the bundle was measured on. "
    "Write the log with `logo-edge classify --log FILE` or Classifier.load(log=FILE)."
)
def monitor_command(
    log: Path = typer.Argument(..., metavar="LOG", help="A log of predictions, JSON lines."),
    bundle: str | None = BUNDLE_OPTION,
    public_key: Path | None = PUBLIC_KEY_OPTION,
    last: int | None = typer.Option(None, "--last", min=1, help="Only the last N predictions."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object."),
) -> None:
    """Exit status: 0 stable or drifting, 1 drifted, 2 wrong usage or too few predictions."""
    from logo_edge.bundle.record import DEFAULT_BUNDLE, read_bundle
    from logo_edge.monitor import measure_drift, read_log

    content = read_bundle(DEFAULT_BUNDLE if bundle is None else bundle, public_key=public_key)
    entries = list(read_log(log, content.name))[-(last or 0) :]
    drifts = measure_drift(content.reference, entries)
    if as_json:
        records = [{**vars(drift), "verdict": drift.verdict} for drift in drifts]
        answer = {"bundle": content.name, "count": len(entries), "drift": records}
        typer.echo(json_text(answer, indent=None), nl=False)
    else:
        typer.echo(
            f"{printable(content.name)}: {len(entries)} predictions against {content.reference['count']} of the reference"
        )
        for drift in drifts:
            typer.echo(
                f"{drift.name:>12}  {drift.verdict:<8}  index {drift.index:.3f}, by chance up to {drift.by_chance:.3f}"
            )
            if drift.verdict != "stable":
                for name, share in drift.found.items():
                    typer.echo(f"{'':>14}{printable(name):<24} {drift.reference[name]:6.1%} -> {share:6.1%}")
    if any(drift.verdict == "drifted" for drift in drifts):
        raise typer.Exit(1)


@keygen.command(help="Make a pair of keys for `logo-edge sign`: NAME.private.pem and NAME.public.pem.")
def keygen_command(
    name: Path = typer.Argument(..., metavar="NAME", help="Where to write them, such as keys/release."),
) -> None:
    from logo_edge.bundle.signing import make_keys

    private, public = make_keys(name)
    typer.echo(f"{private}: keep it to yourself, with it anybody signs in your name\n{public}: give it to your users")


@sign.command(help="Sign a bundle: who has the public key can tell that it is yours and unchanged.")
def sign_command(
    bundle: str = typer.Argument(
        ..., metavar="BUNDLE", help="A bundle's folder; its signature is put beside bundle.json."
    ),
    key: Path = typer.Option(..., "--key", metavar="PEM", help="The private key, as `logo-edge keygen` writes it."),
) -> None:
    from logo_edge.bundle.record import RECORD, read_bundle
    from logo_edge.bundle.signing import sign_record

    folder = read_bundle(bundle).folder  # what is damaged is not signed
    typer.echo(f"{sign_record(folder / RECORD, key)}: check it with logo-edge info --bundle {bundle} --public-key PEM")


def _test_rows(test: Any) -> dict[str, str]:
    """What `info` shows of the figures on test, which any writer of bundles may have left out or put otherwise."""
    if not test:
        return {}
    try:
        return {
            "test accuracy": f"{_share(test['accuracy'])} on all {test['count']}, {_share(test['accuracy_sure'])} on sure",
            "test recall": ", ".join(f"{label} {_share(recall)}" for label, recall in test["recall"].items()),
            "calibration error": f"{_share(test['calibration_error_debiased'])} (bias-corrected)",
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return {"test accuracy": f"not shown: metrics.test of bundle.json is not as this release writes it ({error!r})"}


def _share(figure: dict) -> str:
    return f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})"


def parse_cores(text: str | None) -> tuple[int, ...] | None:
    """The numbers of `0,2-3`. Raises typer.BadParameter."""
    if text is None:
        return None
    cores: set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            cores.update(range(int(first), int(last or first) + 1))
    except ValueError:
        cores.clear()
    if not cores:
        raise typer.BadParameter(f"--cores {text!r}; expected numbers and ranges such as 0,2-3")
    return tuple(sorted(cores))
