"""`logo-edge` as a shell runs it, and its verbs within this process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from logo_edge.cli.classify_typer import classify as classify_verb

SHELL = "import sys; from logo_edge.cli.main import main; sys.argv[0] = 'logo-edge'; main()"


def run_command(*arguments, code: str = SHELL, **options) -> subprocess.CompletedProcess:
    """The command in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, check=False, **{"input": b"", "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    )


def classify(bundle: Path, *arguments, stdin: bytes | None = None) -> Result:
    """`logo-edge classify --bundle BUNDLE ...`, read by Typer and run within this process."""
    return CliRunner().invoke(classify_verb, ["--bundle", str(bundle), *map(str, arguments)], input=stdin)
