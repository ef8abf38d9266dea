"""Stand-ins for converters that fail, imported by name in the processes of `logo_edge_compress.subprocess_call`."""

from __future__ import annotations

import os
import signal
import time

from logo_edge.errors import MissingExtraError


def abort(*_) -> None:
    """Crashes as native code does, with a word on stderr."""
    os.write(2, b"free(): invalid pointer\n")
    os.abort()


def get_killed(*_) -> None:
    """Is killed, as when the machine runs out of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def stop_answering(*_) -> None:
    time.sleep(600)


def lack_a_library(*_) -> None:
    raise MissingExtraError("openvino", "openvino")


def divide_by_zero(*_) -> None:
    1 / 0  # noqa: B018


def leave_early(*_) -> None:
    os._exit(3)


def count(numbers, report) -> int:
    """Works: reports each number and gives their sum."""
    for number in numbers:
        report({"number": number})
    print("counted")
    return sum(numbers)


def say_process(report) -> tuple[int, bool]:
    """The id of the process that this runs in, and whether PyTorch is loaded in it."""
    import sys

    return os.getpid(), "torch" in sys.modules


def echo(connection) -> None:
    """Sends back what it receives, until that is None."""
    while (value := connection.receive()) is not None:
        connection.send(value)
