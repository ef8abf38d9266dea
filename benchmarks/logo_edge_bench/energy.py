"""Joules, where the machine reports them: RAPL of Intel and AMD CPUs, jetson-stats on a Jetson."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

POWERCAP = Path("/sys/class/powercap")
SAMPLING_S = 0.1


class Meter(Protocol):
    """Energy of the whole package or board, including other programs and idling."""

    name: str

    def joules(self) -> float:
        """Joules since a fixed moment; the difference of two readings is the energy used between them."""
        ...

    def close(self) -> None: ...


def open_meter(powercap: Path = POWERCAP) -> Meter | None:
    """The energy meter of this machine, or None without a counter that this user may read."""
    with suppress(OSError, ValueError):
        return Rapl(powercap)
    with suppress(ImportError, OSError, RuntimeError):
        return JetsonStats()
    return None


class Rapl:
    """The CPU packages' energy counters, which wrap around. On most systems only root may read them."""

    name = "RAPL, CPU packages"

    def __init__(self, powercap: Path = POWERCAP):
        """Raises OSError where a counter cannot be read, ValueError where there is none."""
        self._zones = [
            folder
            for folder in sorted(powercap.glob("intel-rapl:*"))
            if folder.name.count(":") == 1 and (folder / "name").read_text().startswith("package")
        ]
        if not self._zones:
            raise ValueError(f"{powercap}: no package zones of intel-rapl")
        self._ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in self._zones]
        self._last, self._total_uj = self._read(), 0

    def joules(self) -> float:
        now = self._read()
        for before, after, span in zip(self._last, now, self._ranges, strict=True):
            self._total_uj += after - before if after >= before else after - before + span
        self._last = now
        return self._total_uj / 1e6

    def close(self) -> None:
        pass

    def _read(self) -> list[int]:
        return [int((zone / "energy_uj").read_text()) for zone in self._zones]


class JetsonStats:
    """The board's total power, sampled ten times a second by jetson-stats (`jtop`) and added up.

    Not run so far, for lack of a Jetson. Raises ImportError without jetson-stats.
    """

    name = "jetson-stats, board"

    def __init__(self):
        from jtop import jtop

        self._jetson = jtop(interval=SAMPLING_S)
        self._jetson.start()
        self._joules, self._lock, self._closed = 0.0, threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._add_up, daemon=True)
        self._thread.start()

    def joules(self) -> float:
        with self._lock:
            return self._joules

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self._jetson.close()

    def _add_up(self) -> None:
        last = time.perf_counter()
        while not self._closed.wait(SAMPLING_S):
            milliwatts, now = self._jetson.power["tot"]["power"], time.perf_counter()
            with self._lock:
                self._joules += milliwatts / 1e3 * (now - last)
            last = now
