"""The verbs of `logo-edge`, which are entry points, loaded only when called."""

from __future__ import annotations

from importlib import import_module

import typer
from typer.core import TyperGroup
from typer.main import get_command

from logo_edge.ending import STATUSES, ending
from logo_edge.names import printable

VERBS = "logo_edge.commands"  # the group of entry points
OWN_MODULE = "logo_edge.cli.bundle"
# verbs of OWN_MODULE, loaded without a search of the installed packages, which takes 30 ms
OWN_VERBS = ("classify", "info", "monitor", "keygen", "sign")
UsageError = typer.BadParameter.__base__  # of Click, or of the copy of it that newer Typers carry


class LazyVerbs(TyperGroup):
    """A group that finds its verbs among the installed entry points."""

    def list_commands(self, ctx: typer.Context) -> list[str]:
        return sorted(_entry_points())

    def get_command(self, ctx: typer.Context, cmd_name: str):
        if cmd_name in OWN_VERBS:
            verb = getattr(import_module(OWN_MODULE), cmd_name)
        elif point := _entry_points().get(cmd_name):
            verb = point.load()
        else:
            return None
        command = get_command(verb)
        command.name = cmd_name
        return command

    def make_context(self, *arguments, **options) -> typer.Context:
        """Reads the command line, and prints --help. How that ends is told here, as in `invoke`."""
        with ending():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: typer.Context):
        """Runs the verb. How it ends is told here: Typer would give other exit statuses, and no line."""
        with ending():
            try:
                return super().invoke(ctx)
            except UsageError as error:
                error.message = printable(error.message)  # it may quote a file's name
                raise


def _entry_points() -> dict:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=VERBS)}


app = typer.Typer(
    cls=LazyVerbs,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=f"Train, compress and run small, calibrated logo classifiers.\n\nStart with: logo-edge classify IMAGE.png\n\n{STATUSES}",
)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        from logo_edge import __version__

        typer.echo(__version__)
        raise typer.Exit
