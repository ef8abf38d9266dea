"""Memory and GPU use of a fit."""

from __future__ import annotations

import ctypes
import sys

import torch

try:
    import resource
except ImportError:  # on Windows
    resource = None


def keep_memory() -> None:
    """Makes glibc keep freed memory: returning it after each layer costs a quarter of a CPU step's time."""
    if not (library := _glibc()):
        return
    for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 64 * 2**20)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
        library.mallopt(option, value)


def return_memory() -> None:
    """Returns all freed memory to the system, for the stages after a fit."""
    if library := _glibc():
        library.malloc_trim(0)


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
