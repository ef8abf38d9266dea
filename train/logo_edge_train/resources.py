"""What a fit takes of the machine: the memory that it keeps and gives back, its peak, how busy the GPU is."""

from __future__ import annotations

import ctypes
import sys

import torch

try:
    import resource
except ImportError:  # on Windows
    resource = None


def keep_memory() -> None:
    """Tells glibc to keep freed memory: giving it back after each layer costs a quarter of a CPU step's time."""
    if not (library := _glibc()):
        return
    for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 64 * 2**20)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
        library.mallopt(option, value)


def return_memory() -> None:
    """Gives all freed memory back: the stages after a fit would come on top of it."""
    if library := _glibc():
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libc.so.6")
    except OSError:
        return None


def peak_memory(device: torch.device) -> dict[str, float]:
    """Peak resident memory of this process in MB, without the processes that make batches, and that of the GPU."""
    found = {}
    if resource:
        unit_bytes = 1 if sys.platform == "darwin" else 1024
        found["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes / 1e6, 1)
    if device.type == "cuda":
        found["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return found


def gpu_utilisation(device: torch.device) -> list[float]:
    """The share of the last moments in which the GPU computed, 0 to 1, as one item; none where nobody can tell."""
    if device.type != "cuda":
        return []
    try:
        return [torch.cuda.utilization(device) / 100]
    except Exception:  # no NVML, no right to ask it, a part of a GPU: a figure that is missing must not stop a fit
        return []
