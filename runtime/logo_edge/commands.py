"""The runtime's verbs: `logo-edge classify`, `info`, `monitor`, `keygen` and `sign`."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import typer

from logo_edge.classifier import Classification, Classifier
from logo_edge.errors import ImageError

STDIN = "-"
SUFFIXES = frozenset(
    ".apng .avif .bmp .dib .gif .ico .jfif .jp2 .jpe .jpeg .jpg "
    ".pbm .pgm .png .pnm .ppm .qoi .tga .tif .tiff .webp".split()
)
MAX_STDIN_BYTES = 256 * 1024 * 1024

classify = typer.Typer(rich_markup_mode=None, add_completion=False)
info = typer.Typer(rich_markup_mode=None, add_completion=False)
monitor = typer.Typer(rich_markup_mode=None, add_completion=False)
keygen = typer.Typer(rich_markup_mode=None, add_completion=False)
sign = typer.Typer(rich_markup_mode=None, add_completion=False)

BUNDLE_OPTION = typer.Option(None, "--bundle", "-b", metavar="DIR", help="A bundle's folder; left out: the embedded default.")  # fmt: skip
PUBLIC_KEY_OPTION = typer.Option(None, "--public-key", metavar="PEM", help="Load the bundle only if this key's owner signed it (extra sign).")  # fmt: skip


@classify.command(help="Classify logos: files, folders (searched recursively), or `-` for one image's bytes on stdin.")
def classify_command(
    paths: list[str] = typer.Argument(..., metavar="PATH...", help="Image files, folders, or - for stdin."),
    bundle: Path | None = BUNDLE_OPTION,
    as_json: bool = typer.Option(False, "--json", help="One JSON array."),
    as_jsonl: bool = typer.Option(False, "--jsonl", help="One JSON object a line, as soon as it is known."),
    threads: int = typer.Option(1, "--threads", min=1, help="CPU threads of one forward pass."),
    public_key: Path | None = PUBLIC_KEY_OPTION,
    log: Path | None = typer.Option(
        None, "--log", metavar="FILE", help="Append each result, no image, for `logo-edge monitor`."
    ),
    enrolled: Path | None = typer.Option(
        None, "--enrolled", metavar="FILE", help="Name the classes of `logo-edge enroll` too, beside the bundle's own."
    ),
) -> None:
    """Exit status: 0 all classified, 1 some inputs failed, 2 wrong usage."""
    if as_json and as_jsonl:
        raise typer.BadParameter("--json and --jsonl exclude each other")
    missing = [path for path in paths if path != STDIN and not os.path.exists(path)]
    for path in missing:
        typer.echo(f"logo-edge: {path}: no such file or folder", err=True)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters of a bad image comes as its ImageError
    classifier = Classifier.load(bundle, threads=threads, public_key=public_key, log=log, enrolled=enrolled)
    names, sources = [], []
    for name, source in _find_images([path for path in paths if path not in missing]):
        names.append(name)
        sources.append(source)
    if not names and not missing:
        typer.echo(
            f"logo-edge: no image found in {', '.join(paths)}; expected files such as .png, .jpg, .webp", err=True
        )
        raise typer.Exit(1)
    failed = len(missing)
    results = zip(names, classifier.classify_many(sources, batch_size=1 if len(names) == 1 else 8), strict=True)
    if as_json:
        records = [_record(name, result) for name, result in results]
        failed += sum("error" in record for record in records)
        typer.echo(json.dumps(records, indent=1, ensure_ascii=False))
    elif as_jsonl:
        for name, result in results:
            failed += isinstance(result, ImageError)
            typer.echo(json.dumps(_record(name, result), ensure_ascii=False))
    else:
        failed += _print_table(results, width=max(map(len, names), default=0))
    if failed:
        raise typer.Exit(1)


@info.command(help="Show what a bundle is: its classes, size, calibration, origin and measured accuracy.")
def info_command(
    bundle: Path | None = BUNDLE_OPTION,
    as_json: bool = typer.Option(False, "--json", help="bundle.json as it is."),
    self_test: bool = typer.Option(False, "--self-test", help="Run every golden vector of the bundle."),
    public_key: Path | None = PUBLIC_KEY_OPTION,
) -> None:
    classifier = Classifier.load(bundle, public_key=public_key)
    content = classifier.bundle
    checked = classifier.run_vectors() if self_test else 0
    if as_json:
        typer.echo((content.folder / "bundle.json").read_text(encoding="utf-8"))
        return
    rows = {
        "bundle": f"{content.name}  ({content.folder})",
        "classes": ", ".join(content.labels),
        "model": f"{content.provenance.get('student', '?')}, {content.model.precision}",
        "input": f"{content.input.size_px} x {content.input.size_px} px, letterboxed",
        "size": f"{content.size_bytes / 1e6:.2f} MB on disk",
        "temperature": f"{content.calibration.temperature:.3f}",
        "scaling": content.calibration.scaling.method if content.calibration.scaling else "temperature alone",
        "abstains below": ", ".join(
            f"{value:.3f} ({mode})" for mode, value in content.calibration.abstain_below.items() if value
        ),
    }
    if test := content.metrics.get("test"):
        rows["test accuracy"] = (
            f"{_share(test['accuracy'])} on all {test['count']}, {_share(test['accuracy_sure'])} on sure"
        )
        rows["test recall"] = ", ".join(f"{label} {_share(recall)}" for label, recall in test["recall"].items())
        rows["calibration error"] = f"{_share(test['calibration_error_debiased'])} (bias-corrected)"
    if public_key:
        rows["signed by"] = f"the owner of {public_key}"
    if checked:
        rows["self-test"] = f"{checked} golden vectors agree"
    for key, value in rows.items():
        typer.echo(f"{key:>18}  {value}")


@monitor.command(
    help="Say whether the predictions of a log have drifted from those that the bundle was measured on. "
    "Write the log with `logo-edge classify --log FILE` or Classifier.load(log=FILE)."
)
def monitor_command(
    log: Path = typer.Argument(..., metavar="LOG", help="A log of predictions, JSON lines."),
    bundle: Path | None = BUNDLE_OPTION,
    last: int | None = typer.Option(None, "--last", min=1, help="Only the last N predictions."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object."),
) -> None:
    """Exit status: 0 stable or drifting, 1 drifted, 2 wrong usage or too few predictions."""
    from logo_edge.bundle import DEFAULT_BUNDLE, read_bundle
    from logo_edge.monitor import measure_drift, read_log

    content = read_bundle(bundle or DEFAULT_BUNDLE)
    entries = list(read_log(log, content.name))[-(last or 0) :]
    drifts = measure_drift(content.reference, entries)
    if as_json:
        records = [{**vars(drift), "verdict": drift.verdict} for drift in drifts]
        typer.echo(json.dumps({"bundle": content.name, "count": len(entries), "drift": records}, ensure_ascii=False))
    else:
        typer.echo(f"{content.name}: {len(entries)} predictions against {content.reference['count']} of the reference")
        for drift in drifts:
            typer.echo(
                f"{drift.name:>12}  {drift.verdict:<8}  index {drift.index:.3f}, by chance up to {drift.by_chance:.3f}"
            )
            if drift.verdict != "stable":
                for name, share in drift.found.items():
                    typer.echo(f"{'':>14}{name:<24} {drift.reference[name]:6.1%} -> {share:6.1%}")
    if any(drift.verdict == "drifted" for drift in drifts):
        raise typer.Exit(1)


@keygen.command(help="Make a pair of keys for `logo-edge sign`: NAME.private.pem and NAME.public.pem.")
def keygen_command(
    name: Path = typer.Argument(..., metavar="NAME", help="Where to write them, such as keys/release."),
) -> None:
    from logo_edge.signing import make_keys

    private, public = make_keys(name)
    typer.echo(f"{private}: keep it to yourself, with it anybody signs in your name\n{public}: give it to your users")


@sign.command(help="Sign a bundle: who has the public key can tell that it is yours and unchanged.")
def sign_command(
    bundle: Path = typer.Argument(
        ..., metavar="BUNDLE", help="A bundle's folder; its signature is put beside bundle.json."
    ),
    key: Path = typer.Option(..., "--key", metavar="PEM", help="The private key, as `logo-edge keygen` writes it."),
) -> None:
    from logo_edge.bundle import RECORD, read_bundle
    from logo_edge.signing import sign_record

    read_bundle(bundle)  # what is damaged is not signed
    typer.echo(f"{sign_record(bundle / RECORD, key)}: check it with logo-edge info --bundle {bundle} --public-key PEM")


def _share(figure: dict) -> str:
    return f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})"


def _find_images(paths: list[str]) -> Iterator[tuple[str, str | bytes]]:
    """(name, source) of every input; folders are searched in order for files with an image's suffix."""
    for path in paths:
        if path == STDIN:
            yield "stdin", sys.stdin.buffer.read(MAX_STDIN_BYTES)
        elif os.path.isdir(path):
            for folder, folders, files in os.walk(path):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for file in sorted(files):
                    if os.path.splitext(file)[1].lower() in SUFFIXES and not file.startswith("."):
                        found = os.path.join(folder, file)
                        yield found, found
        else:
            yield path, path


def _record(name: str, result: Classification | ImageError) -> dict:
    if isinstance(result, ImageError):
        return {"path": name, "error": str(result)}
    enrolled = {} if result.enrolled is None else {"enrolled": {**vars(result.enrolled)}}
    return {
        "path": name,
        "label": result.label,
        "best_guess": result.best_guess,
        "confidence": round(result.confidence, 6),
        "probabilities": {label: round(value, 6) for label, value in result.probabilities.items()},
        "reason": result.reason,
        "familiar": result.familiar,
        **enrolled,
    }


def _print_table(results, width: int) -> int:
    """Prints one line per input and gives the number of failures; errors go to stderr."""
    width = min(max(width, 4), 60)
    failed = 0
    typer.echo(f"{'image':{width}}  {'label':12}  confidence")
    for name, result in results:
        if isinstance(result, ImageError):
            failed += 1
            typer.echo(f"{name:{width}}  {'-':12}  error: {result}", err=True)
            continue
        match = result.enrolled
        known = f"  enrolled: {match.label}, {match.confidence:.1%}" if match and match.label else ""
        if result.label is None:
            typer.echo(
                f"{name:{width}}  {'(unsure)':12}  {result.confidence:6.1%}  best guess: {result.best_guess}{known}"
            )
        else:
            typer.echo(f"{name:{width}}  {result.label:12}  {result.confidence:6.1%}{known}")
    return failed
