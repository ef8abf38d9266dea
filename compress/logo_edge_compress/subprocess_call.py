"""Work in a process of its own: a converter that crashes, hangs or is killed spoils nothing but its own result."""

from __future__ import annotations

import ctypes
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

PRELOADED = "logo_edge_compress.candidates.plan"
GRACE_S = 30.0  # for a process that gave its result to end by itself
LAST_WORDS = 300  # characters of a crashed process's log that its error quotes


class ApartError(LogoEdgeError):
    """A process of its own ended without a result: it raised, crashed, was killed, or ran out of time."""


class OutOfTimeError(ApartError):
    """It was still running when its time was over."""


class Apart:
    """A function at work in a process of its own; what it sends through its connection comes out of `receive`.

    `function(*arguments, connection)` is found by its name, so it is a module's, and its arguments can be pickled. What
    it prints, and what native code writes to stderr, goes to the file `log`. It is killed when this process dies.
    """

    def __init__(self, function: Callable, arguments: tuple, log: Path, *, bare: bool = False):
        """With `bare` the process has loaded nothing but the function's own module; else it begins with PyTorch loaded."""
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        method = "spawn" if bare or "forkserver" not in multiprocessing.get_all_start_methods() else "forkserver"
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload([PRELOADED])  # once for all: it takes seconds
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_begin, args=(function, arguments, theirs, log))
        self.process.start()
        theirs.close()

    def receive(self, deadline: float = float("inf")) -> Any:
        """The next thing that it sends. `deadline` is of `time.monotonic`.

        Raises ApartError where it raised or died, OutOfTimeError where the deadline passes; it is then killed.
        """
        try:
            left = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
            if not self.connection.poll(left):
                self.close()
                raise OutOfTimeError("stopped: its time was over")
            kind, value = self.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            self.process.join()
            raise ApartError(f"{_describe_end(self.process.exitcode)}{self._last_words()}") from error
        if kind == "error":
            self.close()
            raise ApartError(value)
        return value

    def send(self, value: Any) -> None:
        try:
            self.connection.send(value)
        except OSError as error:
            self.process.join()
            raise ApartError(f"{_describe_end(self.process.exitcode)}{self._last_words()}") from error

    def close(self) -> None:
        """Kills it where it still runs."""
        self.process.kill()
        self.process.join()
        self.connection.close()

    def _last_words(self) -> str:
        words = self.log.read_text(encoding="utf-8", errors="replace").strip() if self.log.exists() else ""
        return f"; its last words, in {self.log}: {words[-LAST_WORDS:]}" if words else ""


def run_apart(
    function: Callable,
    arguments: tuple,
    log: Path,
    *,
    report: Callable[[dict], None] = lambda _: None,
    deadline: float = float("inf"),
) -> Any:
    """What `function(*arguments, report)` gives, computed in a process of its own; its reports come out here.

    Raises ApartError where it raised or died, OutOfTimeError where it still runs at the deadline.
    """
    apart = Apart(_call, (function, arguments), log)
    try:
        while True:
            kind, value = apart.receive(deadline)
            if kind == "result":
                apart.process.join(GRACE_S)  # killed, it would leave its semaphores behind
                return value
            report(value)
    finally:
        apart.close()


def _call(function: Callable, arguments: tuple, connection: _Sender) -> None:
    connection.send(("result", function(*arguments, lambda item: connection.send(("report", item)))))


class _Sender:
    """The worker's end of the connection."""

    def __init__(self, connection: Connection):
        self.connection = connection

    def send(self, value: Any) -> None:
        self.connection.send(("value", value))

    def receive(self) -> Any:
        return self.connection.recv()


def _begin(function: Callable, arguments: tuple, connection: Connection, log: Path) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a fork server ends with the process that it serves
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which kills this
    with log.open("w", encoding="utf-8") as file:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            function(*arguments, _Sender(connection))
        except LogoEdgeError as error:
            connection.send(("error", str(error)))
        except BaseException as error:
            traceback.print_exc()
            connection.send(("error", f"{type(error).__name__}: {error}"))


def _describe_end(code: int | None) -> str:
    if code is not None and code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    return f"the process ended with status {code} and no result"
