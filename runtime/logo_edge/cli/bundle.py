"""The verbs on a bundle: `logo-edge info`, `monitor`, `keygen` and `sign`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from logo_edge.bundle.record import DEFAULT_BUNDLE, RECORD, Bundle, read_bundle, record_bytes
from logo_edge.classifier import Classifier
from logo_edge.cli.options import ARTIFACT, BACKEND, BUNDLE, JSON, PUBLIC_KEY
from logo_edge.files import json_text
from logo_edge.names import printable
from logo_edge.preprocess import LIBRARY

info = typer.Typer(rich_markup_mode=None, add_completion=False)
monitor = typer.Typer(rich_markup_mode=None, add_completion=False)
keygen = typer.Typer(rich_markup_mode=None, add_completion=False)
sign = typer.Typer(rich_markup_mode=None, add_completion=False)


@info.command(help="Show a bundle's classes, size, calibration, origin and measured accuracy.")
def info_command(
    bundle: str | None = BUNDLE.typer(),
    as_json: bool = replace(JSON, help="The content of bundle.json.").typer(),
    self_test: bool = typer.Option(False, "--self-test", help="Run every golden vector of the bundle."),
    backend: str = BACKEND.typer(),
    artifact: Path | None = ARTIFACT.typer(),
    public_key: Path | None = PUBLIC_KEY.typer(),
) -> None:
    classifier = Classifier.load(bundle, public_key=public_key, backend=backend, artifact=artifact)
    checked = classifier.run_vectors() if self_test else 0
    if as_json:
        typer.echo(record_bytes(read_bundle(classifier.bundle.folder)).decode(), nl=False)
        return
    rows = _bundle_rows(classifier.bundle)
    if classifier.artifact:
        rows["runs instead"] = f"{classifier.artifact}  (sha256 {classifier.model_sha256[:12]}...)"
    if public_key:
        rows["signed by"] = f"the owner of {public_key}"
    if checked:
        rows["self-test"] = f"{checked} golden vectors agree on {classifier.backend}"
    for key, value in rows.items():
        typer.echo(f"{key:>18}  {printable(str(value))}")


def _bundle_rows(bundle: Bundle) -> dict[str, str]:
    calibration = bundle.calibration
    thresholds = [f"{value:.3f} ({mode})" for mode, value in calibration.abstain_below.items() if value]
    if calibration.label_thresholds:
        thresholds = [
            f"{' '.join(f'{label} {value:.3f}' for label, value in by_label.items())} ({mode})"
            for mode, by_label in calibration.label_thresholds.items()
        ]
    familiarity = calibration.familiarity
    rows = {
        "bundle": f"{bundle.name}  ({bundle.folder})",
        "classes": ", ".join(bundle.labels) + "; an image may have several or none" * calibration.multi_label,
        "model": f"{bundle.provenance.get('student', '?')}, {bundle.model.precision}",
        "input": bundle.input.shown,
        "size": f"{bundle.size_bytes / 1e6:.2f} MB on disk",
        "preprocessing": "preprocess.c" if LIBRARY else "Pillow; faster if built with a C compiler",
        "temperature": f"{calibration.temperature:.3f}",
        "scaling": calibration.scaling.method if calibration.scaling else "temperature alone",
        "abstains below": ", ".join(thresholds),
        "no logo": f"below a logo score of {familiarity.threshold:.3f}" if familiarity else "rejects none",
    }
    if bundle.variants:
        rows["variants"] = ", ".join(f"{variant.precision} ({variant.file})" for variant in bundle.variants)
    if isinstance(unpromised := bundle.provenance.get("unpromised"), dict):
        rows |= {str(mode): str(reason) for mode, reason in unpromised.items()}
    return rows | _test_rows(bundle.metrics.get("test"))


def _test_rows(test: Any) -> dict[str, str]:
    """The test metrics; any writer of bundles may have left them out or stored them differently."""
    if not test:
        return {}
    try:
        sure = _share(test["accuracy_sure"])
        return {
            "test accuracy": f"{_share(test['accuracy'])} on all {test['count']}, {sure} on sure",
            "test recall": ", ".join(f"{label} {_share(recall)}" for label, recall in test["recall"].items()),
            "calibration error (RMS, bias-corrected)": _share(test["calibration_error_debiased"]),
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return {"test accuracy": f"not shown: metrics.test of bundle.json has another format ({error!r})"}


def _share(figure: dict) -> str:
    return f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})"


@monitor.command(
    help="Test whether the predictions of a log have drifted from the reference predictions of the bundle. "
    "Write the log with `logo-edge classify --log FILE` or Classifier.load(log=FILE)."
)
def monitor_command(
    log: Path = typer.Argument(..., metavar="LOG", help="A log of predictions, JSON lines."),
    bundle: str | None = BUNDLE.typer(),
    public_key: Path | None = PUBLIC_KEY.typer(),
    last: int | None = typer.Option(None, "--last", min=1, help="Only the last N predictions."),
    as_json: bool = JSON.typer(),
) -> None:
    """Exit status: 0 stable or drifting, 1 drifted, 2 wrong usage or too few predictions."""
    from logo_edge.monitor import measure_drift, read_log

    content = read_bundle(DEFAULT_BUNDLE if bundle is None else bundle, public_key=public_key)
    predictions = list(read_log(log, content.name))[-(last or 0) :]
    drifts = measure_drift(content.reference, predictions)
    if as_json:
        records = [{**vars(drift), "verdict": drift.verdict} for drift in drifts]
        answer = {"bundle": content.name, "count": len(predictions), "drift": records}
        typer.echo(json_text(answer, indent=None), nl=False)
    else:
        reference = f"{content.reference['count']} of the reference"
        typer.echo(f"{printable(content.name)}: {len(predictions)} predictions against {reference}")
        for drift in drifts:
            index = f"index {drift.index:.3f}, by chance up to {drift.by_chance:.3f}"
            typer.echo(f"{drift.name:>12}  {drift.verdict:<8}  {index}")
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
    typer.echo(f"{private}: keep it secret; anyone who has it can sign in your name\n{public}: give it to your users")


@sign.command(
    help="Sign a bundle: anyone with the public key can then check that it is yours and unchanged. `--openssf` adds or "
    "makes a signature that the tools of OpenSSF Model Signing verify."
)
def sign_command(
    bundle: str = typer.Argument(
        ..., metavar="BUNDLE", help="A bundle's folder; the signature is written beside bundle.json."
    ),
    key: Path | None = typer.Option(
        None, "--key", metavar="PEM", help="The private key that `logo-edge keygen` wrote."
    ),
    openssf: Path | None = typer.Option(
        None, "--openssf", metavar="PEM", help="The private key of an elliptic curve, for OpenSSF Model Signing."
    ),
) -> None:
    from logo_edge.bundle.signing import sign_for_openssf, sign_record

    if key is None and openssf is None:
        raise typer.BadParameter("found neither --key nor --openssf; expected one of them, or both")
    folder = read_bundle(bundle).folder  # raises for a damaged bundle, which must not be signed
    if key:
        written = sign_record(folder / RECORD, key)
        typer.echo(f"{written}: check it with logo-edge info --bundle {bundle} --public-key PEM")
    if openssf:
        written = sign_for_openssf(folder, openssf)
        typer.echo(f"{written}: check it with model_signing verify key {bundle} --signature {written} --public_key PEM")
