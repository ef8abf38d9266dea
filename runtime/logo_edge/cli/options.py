"""The options of the runtime's verbs, each defined once.

Typer reads them by `Option.typer()`. A `logo-edge classify` with only the commonest options is read by `plain_options`,
because importing Typer would take longer than to classify an image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from logo_edge.bundle.calibration import Mode
from logo_edge.errors import LogoEdgeError


@dataclass(frozen=True)
class Option:
    """An option of the command line. Blanks separate its `flags`; `parse` reads its text or raises LogoEdgeError."""

    flags: str
    help: str
    default: Any = None
    metavar: str | None = None
    min: float | None = None
    max: float | None = None
    parse: Callable[[str], Any] | None = None

    def typer(self) -> Any:
        """The default of a parameter of a Typer command."""
        import typer

        def parse(text: str) -> Any:
            try:
                return self.parse(text)
            except LogoEdgeError as error:
                raise typer.BadParameter(str(error)) from error

        return typer.Option(
            self.default,
            *self.flags.split(),
            help=self.help,
            metavar=self.metavar,
            min=self.min,
            max=self.max,
            parser=parse if self.parse else None,
        )


class Cores(tuple):
    """Numbers of CPU cores. A class of its own, since Typer would take `tuple[int, ...]` for several values."""


def parse_cores(text: str) -> Cores:
    """The numbers of `0,2-3`. Raises LogoEdgeError."""
    cores: set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            cores.update(range(int(first), int(last or first) + 1))
    except ValueError:
        cores.clear()
    if not cores:
        raise LogoEdgeError(f"found {text!r}; expected numbers and ranges such as 0,2-3")
    return Cores(sorted(cores))


BUNDLE = Option("--bundle -b", "A bundle's folder; default: the embedded bundle.", metavar="DIR")
PUBLIC_KEY = Option(
    "--public-key", "Load the bundle only if the owner of this key signed it (extra sign).", metavar="PEM"
)
MODE = Option("--mode", "How sure it must be to give a label.", Mode.BALANCED)
THRESHOLD = Option("--threshold", "The least confidence for a label, instead of the mode's.", min=0, max=1)
COVERAGE = Option(
    "--coverage", "P that a prediction set holds the true label, a level of the bundle; default: 0.95 if it has that."
)
BACKEND = Option(
    "--backend",
    "onnxruntime, openvino, litert, tensorrt, torchscript, ncnn, mnn, executorch, or auto: the fastest here, measured "
    "once and remembered.",
    "onnxruntime",
)
ARTIFACT = Option(
    "--artifact", "Run this file of `logo-edge export` instead of the bundle's own graph.", metavar="FILE"
)
THREADS = Option("--threads", "CPU threads of one forward pass.", 1, min=1)
WORKERS = Option("--workers", "Threads that decode and classify; default: up to one a core.", min=1)
CORES = Option("--cores", "The CPU cores to run on (Linux).", metavar="0,2-3", parse=parse_cores)
SPINNING = Option("--spinning", "Let waiting threads spin: a little faster, but they keep their cores busy.", False)
LOG = Option("--log", "Append each result, never the image, for `logo-edge monitor`.", metavar="FILE")
JSON = Option("--json", "One JSON object.", False)
CSV = Option("--csv", "Rows of CSV.", False)

# Options of `classify` only.
JSON_ARRAY = Option("--json", "One JSON array.", False)
JSON_LINES = Option("--jsonl", "One JSON object a line, as soon as it is known.", False)
OUT = Option(
    "--out -o",
    "Write a table: .csv, .jsonl, .parquet (extra parquet) or .html, a picture sheet. FILE.part holds finished rows.",
    metavar="FILE",
)
OVERWRITE = Option("--overwrite", "Replace an existing --out.", False)
TOP_K = Option("--top-k", "Show only the K likeliest classes, in order.", min=1)
EXPLAIN = Option(
    "--explain", "Write a heat map beside each image, IMAGE.explain.png: red supports the best guess.", False
)
ENGINES = LOCAL, RAY = ("local", "ray")
ENGINE = Option(
    "--engine", "local, or ray: --out by a Ray cluster (extra scale), of RAY_ADDRESS or started here.", LOCAL
)
ENROLLED = Option("--enrolled", "Name the classes of `logo-edge enroll` too, beside the bundle's own.", metavar="FILE")
PLAIN = {"bundle": BUNDLE, "json": JSON_ARRAY, "jsonl": JSON_LINES}  # read by `plain_options`


@dataclass(frozen=True)
class ClassifyOptions:
    """The options of `logo-edge classify`."""

    paths: list[str]
    bundle: Annotated[str | None, BUNDLE] = BUNDLE.default
    json: Annotated[bool, JSON_ARRAY] = JSON_ARRAY.default
    jsonl: Annotated[bool, JSON_LINES] = JSON_LINES.default
    out: Annotated[Path | None, OUT] = OUT.default
    overwrite: Annotated[bool, OVERWRITE] = OVERWRITE.default
    mode: Annotated[Mode, MODE] = MODE.default
    threshold: Annotated[float | None, THRESHOLD] = THRESHOLD.default
    coverage: Annotated[float | None, COVERAGE] = COVERAGE.default
    top_k: Annotated[int | None, TOP_K] = TOP_K.default
    explain: Annotated[bool, EXPLAIN] = EXPLAIN.default
    backend: Annotated[str, BACKEND] = BACKEND.default
    artifact: Annotated[Path | None, ARTIFACT] = ARTIFACT.default
    threads: Annotated[int, THREADS] = THREADS.default
    workers: Annotated[int | None, WORKERS] = WORKERS.default
    engine: Annotated[str, ENGINE] = ENGINE.default
    cores: Annotated[Cores | None, CORES] = CORES.default
    spinning: Annotated[bool, SPINNING] = SPINNING.default
    public_key: Annotated[Path | None, PUBLIC_KEY] = PUBLIC_KEY.default
    log: Annotated[Path | None, LOG] = LOG.default
    enrolled: Annotated[Path | None, ENROLLED] = ENROLLED.default


def plain_options(arguments: list[str]) -> ClassifyOptions | None:
    """The options of a `classify` with only paths and PLAIN options; None if Typer has to read or refuse it."""
    if arguments[:1] != ["classify"]:
        return None
    names = {flag: name for name, option in PLAIN.items() for flag in option.flags.split()}
    paths: list[str] = []
    values: dict[str, Any] = {}
    remaining = iter(arguments[1:])
    for argument in remaining:
        if name := names.get(argument):
            values[name] = True if PLAIN[name].default is False else next(remaining, "-")
            if str(values[name]).startswith("-"):
                return None
        elif argument == "-" or not argument.startswith("-"):
            paths.append(argument)
        else:
            return None
    return ClassifyOptions(paths, **values) if paths and not {"json", "jsonl"} <= values.keys() else None
