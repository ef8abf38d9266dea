"""Runs a function in a separate process, so that a converter that crashes, hangs or is killed harms only its result."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from logo_edge.errors import LogoEdgeError
from logo_edge_train.parallel import PR_SET_PDEATHSIG

GRACE_S = 30.0  # for a process to exit by itself after it has sent its result
LOG_TAIL = 300  # characters of a crashed process's log that its error quotes


class SubprocessError(LogoEdgeError):
    """The process ended without a result: it raised, crashed, was killed, or ran out of time."""


class OutOfTimeError(SubprocessError):
    """The process was still running at its deadline."""


class Subprocess:
    """A function that runs in a separate process; `receive` returns what it sends through its connection.

    The process calls `function(*arguments, connection)`. The function is pickled by its name, so it must be defined at
    module level, and its arguments must be picklable. What it prints, and what native code writes to stderr, goes to
    the file `log`. The process is killed when this process dies.
    """

    def __init__(self, function: Callable, arguments: tuple, log: Path, *, preload: str | None = None):
        """Starts the process.

        With `preload`, it is forked from a server that has imported this module, where the system has fork servers. All
        such processes share the server, so the first call's module counts. Else it is a fresh interpreter.
        """
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        method = "forkserver" if preload and "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload([preload])
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_run, args=(function, arguments, theirs, log))
        self.process.start()
        theirs.close()

    def receive(self, deadline: float = float("inf")) -> Any:
        """The next value that the function sends. `deadline` is a value of `time.monotonic`.

        Raises SubprocessError where the function raised or the process died, OutOfTimeError where the deadline passes;
        the process is then killed.
        """
        try:
            remaining_s = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
            if not self.connection.poll(remaining_s):
                self.close()
                raise OutOfTimeError("stopped: its time was over")
            kind, value = self.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._ended() from error
        if kind == "error":
            self.close()
            raise SubprocessError(value)
        return value

    def send(self, value: Any) -> None:
        try:
            self.connection.send(value)
        except OSError as error:
            raise self._ended() from error

    def close(self) -> None:
        """Kills the process if it still runs."""
        self.process.kill()
        self.process.join()
        self.connection.close()

    def _ended(self) -> SubprocessError:
        """The error that says how the process ended, with the end of its log."""
        self.process.join()
        code = self.process.exitcode
        if code is not None and code < 0:
            ending = f"the process was ended by {signal.Signals(-code).name}"
        else:
            ending = f"the process ended with status {code} and no result"
        text = self.log.read_text(encoding="utf-8", errors="replace").strip() if self.log.exists() else ""
        return SubprocessError(ending + (f"; the end of its log, {self.log}: {text[-LOG_TAIL:]}" if text else ""))


def call_in_subprocess(
    function: Callable,
    arguments: tuple,
    log: Path,
    *,
    report: Callable[[dict], None] = lambda _: None,
    deadline: float = float("inf"),
    fresh: bool = False,
) -> Any:
    """The result of `function(*arguments, report)`, computed in a separate process with the function's module loaded.

    `fresh`: in an interpreter of its own, which CUDA needs, as it does not survive a fork.
    Each report of the function is passed to `report` here. Raises SubprocessError where the function raised or the
    process died, OutOfTimeError where it still runs at the deadline.
    """
    process = Subprocess(_send_result, (function, arguments), log, preload=None if fresh else function.__module__)
    try:
        while True:
            kind, value = process.receive(deadline)
            if kind == "result":
                process.process.join(GRACE_S)  # if it were killed, it would leave its semaphores behind
                return value
            report(value)
    finally:
        process.close()


def _send_result(function: Callable, arguments: tuple, connection: _Connection) -> None:
    connection.send(("result", function(*arguments, lambda item: connection.send(("report", item)))))


class _Connection:
    """The child's end of the connection."""

    def __init__(self, connection: Connection):
        self.connection = connection

    def send(self, value: Any) -> None:
        self.connection.send(("value", value))

    def receive(self) -> Any:
        return self.connection.recv()


def _run(function: Callable, arguments: tuple, connection: Connection, log: Path) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a fork server ends with the process that it serves
    gc.freeze()  # to look for garbage among the objects that it shares with the fork server would copy 150 MB of them
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and kills this process
    with log.open("w", encoding="utf-8") as file:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            function(*arguments, _Connection(connection))
        except LogoEdgeError as error:
            connection.send(("error", str(error)))
        except BaseException as error:
            traceback.print_exc()
            connection.send(("error", f"{type(error).__name__}: {error}"))
