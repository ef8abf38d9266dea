"""Runs one experiment, or writes the documents' tables: `python -m logo_edge_bench.experiments NAME [options]`.

The options of an experiment are the parameters of its `measure`; `NAME --help` lists them.
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
    module = import_module(f"logo_edge_bench.experiments.{chosen.name}")
    options = build_parser(module.measure, f"{parser.prog} {chosen.name}", modules[chosen.name])
    try:
        module.measure(**vars(options.parse_args(chosen.options)))
    except LogoEdgeError as error:
        sys.exit(f"{options.prog}: {error}")


def list_modules() -> dict[str, str]:
    """{name: docstring} of the modules that can be run, without importing them."""
    modules = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(_folder().glob("[a-z]*.py"))}
    return {
        name: ast.get_docstring(module) or ""
        for name, module in modules.items()
        if any(isinstance(node, ast.FunctionDef) and node.name == "measure" for node in module.body)
    }


def _folder() -> Path:
    return Path(__file__).parent


def build_parser(measure: Callable[..., None], prog: str, description: str) -> argparse.ArgumentParser:
    """A parser with one argument for each parameter of `measure`: keyword-only ones are options.

    `Annotated[kind, text]` gives the help, `Annotated[kind, {...}]` further arguments of `add_argument`.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, parameter in inspect.signature(measure, eval_str=True).parameters.items():
        kind, settings = parameter.annotation, {}
        if get_origin(kind) is Annotated:
            kind, note = get_args(kind)
            settings = {"help": note} if isinstance(note, str) else dict(note)
        if get_origin(kind) is Sequence:
            kind, settings["nargs"] = get_args(kind)[0], "+"
        kind = next((part for part in get_args(kind) if part is not NoneType), kind)  # of `kind | None`
        option, default = f"--{name.replace('_', '-')}", parameter.default
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
