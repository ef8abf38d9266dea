"""A command ends as it ends by itself, and with all that it has started where its time or its caller ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from logo_edge_compress.process_tree import process_tree

STARTS_ANOTHER = """
import subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
Path("child.part").write_text(str(child.pid))
Path("child.part").rename("child")
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("print('done')", 0, "done\n"),
        ("raise SystemExit(3)", 3, ""),
        ("print('invalid pointer', flush=True); import os; os.abort()", -6, "invalid pointer\n"),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
    ],
)
def test_the_status_is_that_of_the_command(code, status, said):
    with process_tree([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.communicate(timeout=60)[0] == said
    assert process.returncode == status


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a process of its caller's end")
@pytest.mark.parametrize("ending", ["its time", "its caller's end"])
def test_nothing_that_a_command_has_started_is_left(tmp_path, ending):
    """A caller that is killed, such as a candidate that has run out of time, cannot end anything itself."""
    command = [sys.executable, "-S", "-c", STARTS_ANOTHER]
    if ending == "its time":
        with process_tree(command, cwd=tmp_path):
            wait_until((tmp_path / "child").exists)
    else:
        calls = (
            f"from logo_edge_compress.process_tree import process_tree\nwith process_tree({command}) as it: it.wait()"
        )
        caller = subprocess.Popen([sys.executable, "-c", calls], cwd=tmp_path)
        try:
            wait_until((tmp_path / "child").exists)
        finally:
            caller.kill()
            caller.wait()
    child = Path("/proc", (tmp_path / "child").read_text(), "stat")
    wait_until(lambda: not child.exists() or child.read_text().split()[2] == "Z")


def wait_until(condition) -> None:
    """A busy machine takes a while."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert condition()
