"""`logo-edge`: runs the verb that the command line names. A plain `logo-edge classify` does not wait for Typer."""

from __future__ import annotations

import gc
import os
import sys
from itertools import pairwise

from logo_edge.ending import ending, prepare_streams
from logo_edge.errors import LogoEdgeError

FLAGS = {"--json": "json", "--jsonl": "jsonl"}
VALUES = {"--bundle": "bundle", "-b": "bundle"}


def main() -> None:
    """Runs the command; `ending` has its exit statuses."""
    with ending():
        prepare_streams()
        need_no_empty(sys.argv[1:])
        if options := plain_options(sys.argv[1:]):
            gc.disable()  # until the model is loaded: searching what is imported for garbage takes 30 ms
            from logo_edge.cli.classify import Options, run

            status = run(Options(**options))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)  # at once: taking ONNX Runtime and NumPy apart takes 60 ms
        from logo_edge.cli.verbs import app

        app()


def need_no_empty(arguments: list[str]) -> None:
    """Raises LogoEdgeError where one is empty, or an option's value: as a path that would be the current folder."""
    for before, argument in pairwise(["", *arguments]):
        if not argument or (argument.startswith("--") and argument.partition("=")[1:] == ("=", "")):
            where = f"for {argument[:-1]}" if argument else f"after {before}" if before else "as the verb"
            raise LogoEdgeError(
                f"found an empty value {where}; expected a name, and `.` for the current folder. Is a variable of the shell not set?"
            )


def plain_options(arguments: list[str]) -> dict | None:
    """The options of a `classify` with paths and the commonest options alone; None where Typer has to read or refuse it."""
    if arguments[:1] != ["classify"]:
        return None
    paths: list[str] = []
    options: dict = {}
    remaining = iter(arguments[1:])
    for argument in remaining:
        if argument == "-" or not argument.startswith("-"):
            paths.append(argument)
        elif argument in FLAGS and not options.keys() & set(FLAGS.values()):
            options[FLAGS[argument]] = True
        elif argument in VALUES and VALUES[argument] not in options:
            options[VALUES[argument]] = next(remaining, "-")
            if options[VALUES[argument]].startswith("-"):
                return None
        else:
            return None
    return {"paths": tuple(paths), **options} if paths else None
