"""The threads that a call starts."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


def cores_of_started_threads(call: Callable[[], object]) -> list[set[int]]:
    """The cores on which each thread may run that is still there after `call`, which a new thread calls."""
    before, cores = set(os.listdir("/proc/self/task")), []

    def look() -> None:
        call()
        started = set(os.listdir("/proc/self/task")) - before - {str(threading.get_native_id())}
        cores.extend(os.sched_getaffinity(int(thread)) for thread in started)

    caller = threading.Thread(target=look)
    caller.start()
    caller.join()
    return cores
