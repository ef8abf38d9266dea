"""One system in its own process, timed on request; `processes.Worker` talks to it in lines of JSON.

It needs only the standard library, so that every peer runs it in its own environment:

    python worker.py SUBJECT OPTIONS

SUBJECT is a module, or the path of a .py file, with `load(**options) -> Subject`; OPTIONS is a JSON object. Separate
processes share no thread pools, allocators and caches, and peak memory is that of one system.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Subject(Protocol):
    """The measured classifier, called like its users call it."""

    def describe(self) -> dict:
        """At least size_bytes, precision and backend; further entries, such as versions, are recorded."""
        ...

    def probabilities(self, paths: list[str]) -> list[list[float]]:
        """(N, K) probabilities of the image files, in the order of the labels given to `load`."""
        ...

    def stages(self, paths: list[str], batch: int) -> dict[str, Callable[[int], object]]:
        """{stage: call of query i, which takes `batch` of the files}; at least end_to_end (file to decision)."""
        ...


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # output of libraries goes to stderr
    server = Server(sys.argv[1], json.loads(sys.argv[2]))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = getattr(server, request.pop("do"))(**request)
        except Exception as error:  # the parent process reports any error of a peer
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


class Server:
    """Its methods are the requests."""

    def __init__(self, subject: str, options: dict):
        self._name, self._options = subject, options

    def load(self) -> dict:
        """Seconds to import and load the model, before its first answer, and its description."""
        start = time.perf_counter()
        self._subject = _import(self._name).load(**self._options)
        return {"load_s": time.perf_counter() - start, **self._subject.describe()}

    def predict(self, paths: list[str]) -> dict:
        return {"probabilities": self._subject.probabilities(paths)}

    def prepare(self, paths: list[str], batch: int) -> dict:
        self._stages = self._subject.stages(paths, batch)
        self._positions = dict.fromkeys(self._stages, 0)
        return {"stages": list(self._stages)}

    def time(self, stage: str, seconds: float = 0.0, least: int = 1) -> dict:
        """Nanoseconds of single calls, one after the other, for `seconds` and at least `least` calls."""
        call, position, times = self._stages[stage], self._positions[stage], []
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        clock = time.perf_counter_ns
        start = clock()
        end = start + int(seconds * 1e9)
        while True:
            began = clock()
            call(position)
            now = clock()
            times.append(now - began)
            position += 1
            if now >= end and len(times) >= least:
                break
        self._positions[stage] = position
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches
        return {"ns": times, "wall_ns": now - start, "involuntary_switches": switches}

    def memory(self) -> dict:
        """Peak resident bytes of this process; on Linux, getrusage would include the parent's before the fork."""
        status = Path("/proc/self/status")
        if status.exists():
            peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
            return {"peak_rss_bytes": int(peak.split()[1]) * 1024}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak_rss_bytes": peak * (1 if sys.platform == "darwin" else 1024)}


def _import(name: str):
    if not name.endswith(".py"):
        return importlib.import_module(name)
    sys.path.insert(0, str(Path(name).parent))
    specification = importlib.util.spec_from_file_location(Path(name).stem, name)
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder: its modules are not top-level modules
    main()
