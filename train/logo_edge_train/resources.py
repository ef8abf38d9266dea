"""Memory and GPU use of a fit."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

try:
    import resource
except ImportError:  # on Windows
    resource = None

M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD = -4, -1, -2  # of mallopt(3)
KEEP, DEFAULT = (0, 2**31 - 1, 64 * 2**20), (65536, 128 * 2**10, 128 * 2**10)  # their values


@contextmanager
def keeping_memory() -> Iterator[None]:
    """In the block glibc keeps freed memory: returning it after each layer costs a quarter of a CPU step's time.

    Afterwards freed memory is returned to the system, and so is each large array once it is freed: images at full size
    would else stay in memory for good.
    """
    library = _glibc()
    _set_options(library, KEEP)
    try:
        yield
    finally:
        _set_options(library, DEFAULT)
        if library:
            library.malloc_trim(0)


def _set_options(library: ctypes.CDLL | None, values: tuple[int, int, int]) -> None:
    if library:
        for option, value in zip((M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD), values, strict=True):
            library.mallopt(option, value)


def _glibc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libc.so.6")
    except OSError:
        return None


def peak_memory(device: torch.device) -> dict[str, float]:
    """Peak memory in MB: resident memory of this process, without its loader processes, and GPU memory."""
    peaks = {}
    if resource:
        unit_bytes = 1 if sys.platform == "darwin" else 1024
        peaks["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes / 1e6, 1)
    if device.type == "cuda":
        peaks["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return peaks


def gpu_utilisation(device: torch.device) -> list[float]:
    """[the recent GPU utilisation, 0 to 1], or [] if it is unknown."""
    if device.type != "cuda":
        return []
    try:
        return [torch.cuda.utilization(device) / 100]
    except Exception:  # no NVML, no permission, a GPU slice: a missing figure must not stop a fit
        return []
