"""Peak memory of a process with all its children, with pages that they share counted once (Linux)."""

from __future__ import annotations

import subprocess
import threading
from contextlib import suppress

import psutil


def run_and_weigh(command: list[str], sample_s: float, **options) -> int:
    """Runs a command and gives its peak memory in bytes: the sum of proportional set sizes, sampled every `sample_s`.

    Raises CalledProcessError where the command fails.
    """
    process = psutil.Popen(command, **options)
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(sample_s):
            peak = max(peak, _memory_bytes(process))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        status = process.wait()
    finally:
        ended.set()
        watcher.join()
    if status:
        raise subprocess.CalledProcessError(status, command)
    return peak


def _memory_bytes(process: psutil.Process) -> int:
    total = 0
    with suppress(psutil.Error):  # the process has ended
        for member in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                total += member.memory_full_info().pss
    return total
