"""Runs one experiment, or writes the documents' tables: `python -m logo_edge_bench.experiments NAME [options]`.

The options of an experiment are the parameters of its `measure`; `NAME --help` lists them. A record that `measure`
returns is written to --out, with the versions of the libraries; a `measure` that adds to its result step by step takes
`out` and writes itself.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Annotated, get_args, get_origin

from logo_edge.errors import LogoEdgeError
from logo_edge_bench.experiments.record import Out, result_path, write_record


def main(arguments: Sequence[str] | None = None) -> None:
    modules = list_modules()
    parser = argparse.ArgumentParser(
        prog="python -m logo_edge_bench.experiments",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
        epilog="\n".join(f"{name:<14}{text.splitlines()[0]}" for name, text in modules.items()),
    )
    parser.add_argument("name", choices=modules, metavar="NAME")
    parser.add_argument("options", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(arguments)
    measure = import_module(f"logo_edge_bench.experiments.{chosen.name}").measure
    parser = build_parser(measure, f"{parser.prog} {chosen.name}", modules[chosen.name], result_path(chosen.name))
    options = vars(parser.parse_args(chosen.options))
    out = options["out"] if "out" in inspect.signature(measure).parameters else options.pop("out", None)
    try:
        record = measure(**options)
    except LogoEdgeError as error:
        sys.exit(f"{parser.prog}: {error}")
    if record is not None:
        write_record(out, record)


def list_modules() -> dict[str, str]:
    """{name: docstring} of the modules that can be run, without importing them."""
    documented = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "measure" for node in module.body):
            documented[path.stem] = ast.get_docstring(module) or ""
    return documented


def build_parser(
    measure: Callable[..., dict | None], prog: str, description: str, out: Path
) -> argparse.ArgumentParser:
    """A parser with one argument for each parameter of `measure`: keyword-only ones are options.

    It has the option --out, by default `out`, where `measure` returns a record or has a parameter of that name.
    `Annotated[kind, text]` gives the help, `Annotated[kind, {...}]` further arguments of `add_argument`.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    signature = inspect.signature(measure, eval_str=True)
    parameters = dict(signature.parameters)
    if signature.return_annotation is dict:
        parameters["out"] = inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, annotation=Out)
    for name, parameter in parameters.items():
        kind, settings = parameter.annotation, {}
        if get_origin(kind) is Annotated:
            kind, note = get_args(kind)
            settings = {"help": note} if isinstance(note, str) else dict(note)
        if get_origin(kind) is Sequence:
            kind, settings["nargs"] = get_args(kind)[0], "+"
        kind = next((part for part in get_args(kind) if part is not NoneType), kind)  # of `kind | None`
        option, default = f"--{name.replace('_', '-')}", parameter.default
        if kind is Path and name == "out" and default is parameter.empty:
            default = out
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            if default is not inspect.Parameter.empty:
                settings |= {"nargs": "*", "default": default}
            parser.add_argument(name, type=kind, **settings)
        elif kind is bool:
            parser.add_argument(option, action="store_true", **settings)
        elif default is inspect.Parameter.empty:
            parser.add_argument(option, type=kind, required=True, **settings)
        else:
            parser.add_argument(option, type=kind, default=default, **settings)
    return parser


if __name__ == "__main__":
    main()
