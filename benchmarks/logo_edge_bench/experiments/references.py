"""The references in docs/use: api.md from docstrings, commands.md from `--help`. `tables` writes and checks them.

The Python names are those of `logo_edge.__all__`; the commands are all verbs of `logo-edge` with their subcommands.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

import logo_edge
from logo_edge.cli.verbs import app
from logo_edge_bench.experiments.record import ROOT

COLUMNS = 100
GENERATED = """<!-- generated: references -->
Written by `python -m logo_edge_bench.experiments tables` from {}; do not edit."""


def render_pages() -> dict[Path, str]:
    """{path: text} of the two pages."""
    folder = ROOT / "docs" / "use"
    return {folder / "api.md": render_api(), folder / "commands.md": render_commands()}


def render_api() -> str:
    """The page of all public names of `logo_edge`, classes first."""
    names = sorted(logo_edge.__all__, key=lambda name: (inspect.isfunction(getattr(logo_edge, name)), name.lower()))
    parts = ["# Python reference", GENERATED.format("docstrings"), "All of this is imported from `logo_edge`."]
    for name in names:
        value = getattr(logo_edge, name)
        parts += describe_class(name, value) if inspect.isclass(value) else describe_function(f"## {name}", name, value)
    return "\n\n".join(parts) + "\n<!-- end -->\n"


def describe_class(name: str, kind: type) -> Iterator[str]:
    """Heading, docstring, fields or values, and public methods with those of base classes."""
    yield f"## {name}"
    if issubclass(kind, Exception):
        yield f"`class {name}({kind.__base__.__name__})`"
    yield prose(kind)
    if issubclass(kind, enum.Enum):
        yield "Values: " + ", ".join(f"`{member.value}`" for member in kind) + "."
    elif dataclasses.is_dataclass(kind):
        yield code("\n".join(f"{field.name}: {field.type}" for field in dataclasses.fields(kind)))
    bases = [base for base in kind.__mro__ if base.__module__.startswith("logo_edge")]
    own = {member for base in bases for member in vars(base) if not member.startswith("_")}
    for member in () if issubclass(kind, enum.Enum) else sorted(own):
        value = inspect.getattr_static(kind, member)
        if isinstance(value, property):
            yield f"### {name}.{member}"
            yield prose(value)
        elif callable(getattr(kind, member, None)):
            yield from describe_function(f"### {name}.{member}", member, getattr(kind, member))


def describe_function(heading: str, name: str, function: Callable) -> Iterator[str]:
    """Heading, signature and docstring."""
    signature = inspect.signature(function)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
    texts, keywords = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            texts, keywords = [*texts, "*"], True
        texts.append(describe_parameter(parameter))
    returned = f" -> {signature.return_annotation}" if signature.return_annotation is not signature.empty else ""
    line = f"{name}({', '.join(texts)}){returned}"
    if len(line) > COLUMNS:
        line = f"{name}(\n" + "".join(f"    {text},\n" for text in texts) + f"){returned}"
    yield heading
    yield code(line)
    yield prose(function, [parameter.name for parameter in parameters])


def describe_parameter(parameter: inspect.Parameter) -> str:
    """`name: annotation = default`, as in the source."""
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = f"{stars}{parameter.name}: {parameter.annotation}"
    if parameter.default is parameter.empty:
        return text
    default = parameter.default.value if isinstance(parameter.default, enum.Enum) else parameter.default
    return f"{text} = {default!r}"


def prose(documented: Any, parameters: Sequence[str] = ()) -> str:
    """The docstring as Markdown; its lines `parameter: meaning` become a list."""
    text = inspect.getdoc(documented)
    if not text:
        raise ValueError(f"{documented}: public, but without a docstring")
    return re.sub(rf"^({'|'.join(parameters)}): ", r"- `\1`: ", text, flags=re.MULTILINE) if parameters else text


def code(text: str, language: str = "python") -> str:
    return f"```{language}\n{text}\n```"


def render_commands() -> str:
    """The page of `--help` of every verb and subcommand."""
    parts = ["# Commands", GENERATED.format("`--help`"), "`logo-edge VERB --help` prints the same."]
    for heading, text in helps(typer.main.get_command(app), "logo-edge", None):
        parts += [f"## {heading}", code(text, "text")]
    return "\n\n".join(parts) + "\n<!-- end -->\n"


def helps(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
    """(full name, text of `--help`) of the command and of all commands below it."""
    context = command.make_context(
        name, [], parent=parent, resilient_parsing=True, terminal_width=COLUMNS, max_content_width=COLUMNS
    )
    yield context.command_path, "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    for below in command.list_commands(context) if hasattr(command, "list_commands") else ():
        yield from helps(command.get_command(context, below), below, context)
