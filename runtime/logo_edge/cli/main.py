"""`logo-edge`: runs the verb that the command line names. A plain `logo-edge classify` does not import Typer."""

from __future__ import annotations

import gc
import io
import os
import sys
from itertools import pairwise

from logo_edge.cli.options import plain_options
from logo_edge.errors import LogoEdgeError
from logo_edge.exits import exit_on_error


def main() -> None:
    """Runs the command; `logo_edge.exits` lists its exit statuses."""
    with exit_on_error():
        prepare_streams()
        refuse_empty(sys.argv[1:])
        if options := plain_options(sys.argv[1:]):
            gc.disable()  # until the model is loaded: collecting garbage during imports takes 30 ms
            from logo_edge.cli.classify import run

            status = run(options)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)  # without clean-up: that of ONNX Runtime and NumPy takes 60 ms
        from logo_edge.cli.verbs import app

        app()


def prepare_streams() -> None:
    """UTF-8 on stdout and stderr whatever the locale, and no standard stream missing.

    If a stream is closed, the next opened file would get its descriptor, and a print would overwrite that file. Raises
    LogoEdgeError if stdout is closed: the result of a verb would be lost.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))
    if sys.stdout is None:
        raise LogoEdgeError("standard output is closed; expected a file, a pipe or a terminal, such as >/dev/null")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def refuse_empty(arguments: list[str]) -> None:
    """Raises LogoEdgeError if an argument or the value of an option is empty: as a path, it would be this folder."""
    for before, argument in pairwise(["", *arguments]):
        if not argument or (argument.startswith("--") and argument.partition("=")[1:] == ("=", "")):
            where = f"for {argument[:-1]}" if argument else f"after {before}" if before else "as the verb"
            expected = "expected a name, or `.` for the current folder. Is a shell variable unset?"
            raise LogoEdgeError(f"found an empty value {where}; {expected}")
