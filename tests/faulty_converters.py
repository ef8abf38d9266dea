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


def load_batches(report) -> tuple[int, bool]:
    """Reads a batch by the loader of a fit: its size, and whether that started a fork server beside this process."""
    from multiprocessing import forkserver

    import torch
    from torch.utils.data import TensorDataset, default_collate

    from logo_edge_train.fit import _training_loader

    items = TensorDataset(torch.arange(8))
    loader = _training_loader(items, [[0, 1, 2]], default_collate, 1, 1, torch.device("cpu"))
    sizes = [len(batch) for (batch,) in loader]
    return sizes[0], forkserver._forkserver._forkserver_pid is not None
