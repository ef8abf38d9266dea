"""The machine, its settings and its state during a run: everything besides the code that a latency depends on."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from logo_edge.machine import describe_machine

SYS = Path("/sys")
PROC = Path("/proc")
LIBRARIES = (
    "logo-edge",
    "onnxruntime",
    "numpy",
    "pillow",
    "pyspng",
    "simplejpeg",
    "openvino",
    "ai-edge-litert",
    "executorch",
    "tensorrt",
    "ncnn",
    "MNN",
    "torch",
)
COMPARED = (
    "cpu",
    "isa",
    "architecture",
    "cpus",
    "governor",
    "frequency_limits_mhz",
    "boost",
    "power_mode",
    "gpu",
    "python",
    "versions",
)
HOT_CELSIUS = 85


def describe(sys: Path = SYS) -> dict:
    """The machine and its settings; COMPARED must be equal in two runs whose milliseconds are compared."""
    known = describe_machine()
    return {
        "cpu": known["cpu"] or _device_model(sys),
        "isa": known["isa"],
        "architecture": platform.machine(),
        "cpus": os.cpu_count(),
        "usable_cpus": usable_cpus(),
        "governor": sorted({_read(path) for path in sys.glob("devices/system/cpu/cpufreq/policy*/scaling_governor")}),
        "frequency_limits_mhz": [
            [_number(path.parent / "scaling_min_freq") // 1000, _number(path) // 1000]
            for path in sorted(sys.glob("devices/system/cpu/cpufreq/policy*/scaling_max_freq"))
        ],
        "boost": _read(sys / "devices/system/cpu/cpufreq/boost")
        or _read(sys / "devices/system/cpu/intel_pstate/no_turbo"),
        "power_mode": _power_mode(sys),
        "gpu": _gpu(),
        "python": platform.python_version(),
        "versions": {name: installed for name in LIBRARIES if (installed := _version(name))},
        "system": f"{platform.system()} {platform.release()}",
        "hypervisor": bool(re.search(r"^flags.*\bhypervisor\b", _read(PROC / "cpuinfo"), re.MULTILINE)),
    }


def conditions(sys: Path = SYS) -> dict:
    """The present state of the machine: load, degrees Celsius by zone, MHz, cooling and throttling."""
    cooling = {
        f"{_read(path.parent / 'type')} {path.parent.name}": int(state)
        for path in sys.glob("class/thermal/cooling_device*/cur_state")
        if (state := _read(path)).isdigit() and int(state)
    }
    return {
        "load_average": round(os.getloadavg()[0], 2),
        "celsius": {
            _read(path.parent / "type"): degrees / 1000
            for path in sys.glob("class/thermal/thermal_zone*/temp")
            if (degrees := _number(path)) > 0
        },
        "mhz": [
            _number(path) // 1000 for path in sorted(sys.glob("devices/system/cpu/cpufreq/policy*/scaling_cur_freq"))
        ],
        "cooling": cooling,
        "throttles": sum(
            _number(path) for path in sys.glob("devices/system/cpu/cpu*/thermal_throttle/core_throttle_count")
        ),
        "under_voltage_or_throttled": _raspberry_throttled(),
    }


def warnings_of(before: dict, after: dict, cpus: int) -> list[str]:
    """Reasons to doubt the figures of a run, a sentence each."""
    warnings = []
    if before["load_average"] > 0.25 * cpus:
        warnings.append(
            f"load average {before['load_average']} on {cpus} CPUs before the run: other programs were running"
        )
    if hot := {zone: degrees for zone, degrees in after["celsius"].items() if degrees >= HOT_CELSIUS}:
        warnings.append(f"hot: {', '.join(f'{zone} {degrees:.0f} C' for zone, degrees in hot.items())}")
    if after["throttles"] > before["throttles"]:
        warnings.append(f"the CPU was throttled {after['throttles'] - before['throttles']} times by its temperature")
    if new := {name for name, state in after["cooling"].items() if state > before["cooling"].get(name, 0)}:
        warnings.append(f"cooling set in: {', '.join(sorted(new))}; clocks may have been lowered")
    if after["under_voltage_or_throttled"] not in ("", "0x0"):
        warnings.append(f"vcgencmd get_throttled says {after['under_voltage_or_throttled']}")
    for low, high in [(min(before["mhz"] + after["mhz"], default=0), max(before["mhz"] + after["mhz"], default=0))]:
        if low < 0.9 * high:
            warnings.append(f"clocks varied from {low} to {high} MHz")
    return warnings


def differences(one: dict, other: dict) -> list[str]:
    """`key: one / other` for each of COMPARED that differs."""
    return [f"{key}: {one.get(key)} / {other.get(key)}" for key in COMPARED if one.get(key) != other.get(key)]


def usable_cpus() -> list[int]:
    """The CPUs that this process may use, the fastest first where the system reports it (big.LITTLE)."""
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return sorted(cpus, key=lambda cpu: -_number(SYS / f"devices/system/cpu/cpu{cpu}/cpu_capacity"))


def _device_model(sys: Path) -> str:
    """The model of a board, such as a Jetson or a Raspberry Pi, whose /proc/cpuinfo has none."""
    return _read(sys / "firmware/devicetree/base/model").strip("\0") or platform.processor()


def _power_mode(sys: Path) -> str:
    """The power mode of nvpmodel on a Jetson, else the platform profile, else empty."""
    if shutil.which("nvpmodel"):
        return " ".join(_output("nvpmodel", "-q").split())
    return _read(sys / "firmware/acpi/platform_profile")


def _gpu() -> str:
    if not shutil.which("nvidia-smi"):
        return ""
    return _output("nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm", "--format=csv,noheader")


def _raspberry_throttled() -> str:
    return _output("vcgencmd", "get_throttled").partition("=")[2] if shutil.which("vcgencmd") else ""


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    text = _read(path)
    return int(text) if text.lstrip("-").isdigit() else 0


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
