"""`logo-edge classify` as Typer reads it: its help, all its options, and which of them exclude each other."""

from __future__ import annotations

from inspect import Parameter, Signature
from typing import get_type_hints

import typer

from logo_edge.cli.classify import STDIN, run
from logo_edge.cli.options import ENGINES, LOCAL, ClassifyOptions

classify = typer.Typer(rich_markup_mode=None, add_completion=False)
HELP = """Classify images: files, folders (searched recursively), globs in quotes, or - for one image's bytes on stdin.

    Prints a table, or JSON. An image that the classifier is not sure about gets a best guess but no label. --out writes
    a table of any number of images; after an interruption, the same command goes on.

    \b
    logo-edge classify logo.png
    logo-edge classify --jsonl 'logos/**/*.svg' | jq .label
    logo-edge classify logos/ --out results.parquet
    logo-edge classify --mode strict --coverage 0.9 --top-k 2 --explain logo.png
    """


def _signature() -> Signature:
    """One parameter for each field of ClassifyOptions."""
    hints = get_type_hints(ClassifyOptions, include_extras=True)
    paths = typer.Argument(..., metavar="PATH...", help="Image files, folders, globs, or - for stdin.")
    parameters = [Parameter("paths", Parameter.KEYWORD_ONLY, default=paths, annotation=hints.pop("paths"))]
    for name, hint in hints.items():
        (option,) = hint.__metadata__
        parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=option.typer(), annotation=hint.__origin__))
    return Signature(parameters)


def classify_command(**values) -> None:
    """Exit status: 0 all classified, 1 some inputs failed, 2 wrong usage."""
    options = ClassifyOptions(**values)
    if options.json + options.jsonl + (options.out is not None) > 1:
        raise typer.BadParameter("--json, --jsonl and --out exclude each other")
    if options.out and (options.explain or options.top_k or STDIN in options.paths):
        raise typer.BadParameter("--out takes files and folders, without stdin, --explain and --top-k; try --jsonl")
    if options.engine not in ENGINES:
        raise typer.BadParameter(f"--engine {options.engine}: expected {' or '.join(ENGINES)}")
    local_only = options.out is None or options.artifact or options.cores or options.log or options.enrolled
    if options.engine != LOCAL and local_only:
        raise typer.BadParameter(
            f"--engine {options.engine} goes with --out, without --artifact, --cores, --log and --enrolled"
        )
    if status := run(options):
        raise typer.Exit(status)


classify_command.__signature__ = _signature()
classify.command(help=HELP)(classify_command)
