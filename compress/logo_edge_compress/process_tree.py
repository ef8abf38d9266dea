"""A command with all the processes that it starts: none of them outlives the block, its time limit or this process.

    with process_tree(command, stdout=log) as process:
        process.wait(limit_s)

On Linux the command is started by this file as a script, which watches: a process that is killed cannot end its own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1  # of prctl(2)


@contextmanager
def process_tree(command: Sequence[str | Path], **options) -> Iterator[subprocess.Popen]:
    """The running command, in a session of its own and without input. `options` are those of Popen."""
    watcher = [sys.executable, "-I", "-S", __file__, str(os.getpid())] if sys.platform == "linux" else []
    process = subprocess.Popen([*watcher, *command], stdin=subprocess.DEVNULL, start_new_session=True, **options)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
        process.wait()


def watch(caller: int, command: list[str]) -> int:
    """The status of the command, as Popen gives it. Kills this process's group when the process `caller` ends."""
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != caller:  # it has ended already
        return 1
    child = os.fork()
    if not child:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.execvp(command[0], command)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    status = watch(int(sys.argv[1]), sys.argv[2:])
    if status < 0:  # ends as the command did
        with suppress(OSError):  # SIGKILL has no other action
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)
