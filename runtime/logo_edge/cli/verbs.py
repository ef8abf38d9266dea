"""The verbs of `logo-edge`: entry points, each loaded only when it is called."""

from __future__ import annotations

from importlib import import_module

import typer
from typer.core import TyperGroup
from typer.main import get_command

from logo_edge.exits import STATUSES, exit_on_error
from logo_edge.names import printable

VERBS = "logo_edge.commands"  # the group of entry points
# Found without a search of the installed packages, which takes 30 ms. The same as in pyproject.toml.
OWN_VERBS = {"classify": "logo_edge.cli.classify_typer"} | dict.fromkeys(
    ("info", "monitor", "keygen", "sign"), "logo_edge.cli.bundle"
)
UsageError = typer.BadParameter.__base__  # of Click, or of the copy of Click in newer Typers


class LazyVerbs(TyperGroup):
    """A group whose verbs are the installed entry points."""

    def list_commands(self, ctx: typer.Context) -> list[str]:
        return sorted(_entry_points())

    def get_command(self, ctx: typer.Context, cmd_name: str):
        if cmd_name in OWN_VERBS:
            verb = getattr(import_module(OWN_VERBS[cmd_name]), cmd_name)
        elif point := _entry_points().get(cmd_name):
            verb = point.load()
        else:
            return None
        command = get_command(verb)
        command.name = cmd_name
        return command

    def make_context(self, *arguments, **options) -> typer.Context:
        """Reads the command line, and prints --help. `exit_on_error` here too, as in `invoke`."""
        with exit_on_error():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: typer.Context):
        """Runs the verb. Without `exit_on_error` Typer would exit with other statuses, and print no line."""
        with exit_on_error():
            try:
                return super().invoke(ctx)
            except UsageError as error:
                error.message = printable(error.message)  # it may quote a file's name
                raise


def _entry_points() -> dict:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=VERBS)}


START = "Train, compress and run small, calibrated logo classifiers.\n\nStart with: logo-edge classify IMAGE.png"
app = typer.Typer(
    cls=LazyVerbs,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=f"{START}\n\n{STATUSES}",
)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from logo_edge import __version__

        typer.echo(__version__)
        raise typer.Exit
