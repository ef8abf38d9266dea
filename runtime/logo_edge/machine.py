"""This machine: its processor, and the cores, time and memory that this process may use."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from logo_edge.errors import LogoEdgeError

CORE = ("model name", "flags", "Features", "CPU implementer", "CPU part", "CPU variant")
ISA = {
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
    "sme",
    "sme2",
}
UNLIMITED_BYTES = 1 << 60  # cgroups version 1 writes a number near 2^63 for "no limit"


def describe_core(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """The model of the first core as Linux describes it: names and flags, no clock. Empty on other systems."""
    try:
        with cpuinfo.open("rb") as file:
            block = file.read(16384).partition(b"\n\n")[0].decode(errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs if key.strip() in CORE}


def instruction_sets(core: dict[str, str]) -> list[str]:
    """The instruction sets in the result of `describe_core` that matter to a network."""
    return sorted(set((core.get("flags") or core.get("Features") or "").split()) & ISA)


def fingerprint() -> dict[str, str]:
    """The system and the model of processor, on which golden vectors depend. Quick enough for every start."""
    core = describe_core()
    digest = hashlib.sha256(repr(sorted(core.items())).encode()).hexdigest()[:16]
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": core.get("model name", ""),
        "core": digest,
    }


def describe_machine() -> dict:
    """The processor, system and versions that a latency depends on."""
    from importlib.metadata import version  # slow to load; most starts do not need it

    core = describe_core()
    return {
        "cpu": core.get("model name") or platform.processor(),
        "isa": instruction_sets(core),
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "onnxruntime": version("onnxruntime"),
        "pillow": version("pillow"),
        "numpy": version("numpy"),
    }


def usable_cores() -> list[int]:
    """The numbers of the CPU cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def limits(root: Path = Path("/")) -> dict:
    """The part of the machine that this process may use, by affinity and by Linux cgroups (version 2 or 1).

    cores: the number of cores; cpuset: their numbers; cpu_quota: CPU time, in cores; memory_mb: the largest memory.
    None: unlimited or unknown.
    """
    usable = usable_cores()
    quotas, memories = [], []
    for folder in _cgroups(root):
        old = f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"
        quota, _, period = (_read(folder / "cpu.max") or old).partition(" ")
        if quota.isdigit() and period.isdigit():  # "max" and -1 are no limit
            quotas.append(int(quota) / int(period))
        memory = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
        if memory.isdigit() and int(memory) < UNLIMITED_BYTES:
            memories.append(int(memory) / 2**20)
    return {
        "cores": len(usable),
        "cores_of_machine": os.cpu_count(),
        "cpuset": ranges(usable),
        "cpu_quota": min(quotas, default=None),
        "memory_mb": min(memories, default=None),
    }


def ranges(numbers: list[int]) -> str:
    """Sorted numbers as `0,2-3`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)


@contextmanager
def on_cores(cores: Sequence[int] | None) -> Iterator[None]:
    """Keeps the calling thread on these cores inside the block, and threads that it starts there for their whole life.

    Raises LogoEdgeError where the machine has no such cores or the system has no affinity.
    """
    if cores is None:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise LogoEdgeError("threads can be kept on CPU cores on Linux only; leave the cores out here")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cores)
    except (OSError, ValueError) as error:
        given, usable = ",".join(map(str, cores)) or "no core", ", ".join(map(str, sorted(before)))
        raise LogoEdgeError(f"cores {given}: not available here; choose among {usable}") from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _cgroups(root: Path) -> list[Path]:
    """The folders of this process's groups and of their parent groups: each may set a limit."""
    folders = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        base = root / "sys/fs/cgroup" / controllers
        inner = base / group.strip("/")
        folders += [inner, *(parent for parent in inner.parents if parent.is_relative_to(base))]
    return folders


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
