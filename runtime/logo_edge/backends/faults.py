"""Releases of ONNX Runtime that are known to compute wrongly or to leak on some machines."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass, replace

from logo_edge.backends.base import Resources
from logo_edge.errors import warn

ARM = frozenset({"aarch64", "arm64", "ARM64"})  # platform.machine() on Linux, macOS and Windows
CURE = "Install another release: pip install 'onnxruntime>=1.27.1'"


@dataclass(frozen=True)
class Fault:
    """A fault of the releases from `first` to before `fixed` on these machines; `source` describes it.

    `without_kleidiai`: it does not occur where ONNX Runtime may not use KleidiAI, its kernels for ARM.
    """

    machines: frozenset[str]
    first: str
    fixed: str
    symptom: str
    source: str
    without_kleidiai: bool
    cure: str = CURE


FAULTS = (
    Fault(
        ARM,
        "1.23.0",
        "1.24.0",
        "ends with an illegal instruction on cores with SME and without SME2",
        "microsoft/onnxruntime#26377",
        without_kleidiai=False,
    ),
    Fault(
        ARM,
        "1.24.0",
        "1.27.0",
        "leaks about 11 MB a forward pass where it uses KleidiAI",
        "microsoft/onnxruntime#28231",
        without_kleidiai=True,
    ),
    Fault(
        ARM,
        "1.27.0",
        "1.27.1",
        "computes convolutions and matrix products wrongly on cores with SME",
        "microsoft/onnxruntime#28571, #31569",
        without_kleidiai=True,
    ),
)


def faults_of(version: str, machine: str) -> list[Fault]:
    """The faults of this release of ONNX Runtime on this kind of machine (`platform.machine()`)."""
    return [
        fault
        for fault in FAULTS
        if machine in fault.machines and _order(fault.first) <= _order(version) < _order(fault.fixed)
    ]


def _order(version: str) -> tuple[int, ...]:
    """The three numbers of a release, also of `1.27.0.dev2026`."""
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def without_known_faults(resources: Resources) -> Resources:
    """The resources, without KleidiAI where this release of ONNX Runtime is known to be faulty with it here.

    Warns of every known fault.
    """
    import onnxruntime

    version, machine = onnxruntime.__version__, platform.machine()
    for fault in faults_of(version, machine):
        off = "; KleidiAI is left out, which avoids it" if fault.without_kleidiai else ""
        warn(f"onnxruntime {version} on {machine} {fault.symptom} ({fault.source}){off}. {fault.cure}")
        resources = replace(resources, kleidiai=resources.kleidiai and not fault.without_kleidiai)
    return resources
