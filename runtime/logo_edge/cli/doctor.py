"""`logo-edge doctor`: checks that a bundle gives the same results here as when it was packed, and says what to fix."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import typer

from logo_edge import __version__
from logo_edge.backends.choose import candidates, installed_versions
from logo_edge.backends.faults import faults_of
from logo_edge.backends.onnxruntime import OnnxRuntime
from logo_edge.bundle.record import DEFAULT_BUNDLE, Bundle, read_bundle
from logo_edge.cache import cache_folder
from logo_edge.classifier import Classifier
from logo_edge.cli.options import BUNDLE, JSON, PUBLIC_KEY
from logo_edge.errors import LogoEdgeError
from logo_edge.files import json_text
from logo_edge.machine import describe_machine, limits
from logo_edge.model import CHECKED_ROUNDS
from logo_edge.preprocess import LIBRARY

doctor = typer.Typer(rich_markup_mode=None, add_completion=False)


@doctor.command(
    help="""Check that this machine and its libraries compute a bundle correctly, and say what to do if not.

    Shows the machine, its instruction sets and limits, the versions, their known faults, and which backends reproduce
    the bundle's golden vectors. Exit status: 0 healthy, 1 something failed, 2 wrong usage.
    """
)
def doctor_command(
    bundle: str | None = BUNDLE.typer(), public_key: Path | None = PUBLIC_KEY.typer(), as_json: bool = JSON.typer()
) -> None:
    findings = examine(read_bundle(DEFAULT_BUNDLE if bundle is None else bundle, public_key=public_key))
    typer.echo(json_text(findings).rstrip() if as_json else "\n".join(_lines(findings)))
    if not findings["healthy"]:
        raise typer.Exit(1)


def examine(bundle: Bundle) -> dict:
    """The findings, as `--json` prints them: machine, limits, versions, faults, backends, cache, advice, healthy."""
    machine, versions = describe_machine(), installed_versions()
    faults = faults_of(versions["onnxruntime"], platform.machine())
    backends = {name: _try_backend(bundle, name) for name in candidates(bundle.model_path)}
    python_versions = {name: machine[name] for name in ("python", "numpy", "pillow")}
    findings = {
        "machine": {name: machine[name] for name in ("system", "machine", "cpu", "isa")},
        "limits": limits(),
        "versions": {"logo-edge": __version__, **python_versions, **versions},
        "preprocessing": "preprocess.c" if LIBRARY else "Pillow",
        "faults": [f"onnxruntime {versions['onnxruntime']} {fault.symptom} ({fault.source})" for fault in faults],
        "bundle": str(bundle.folder),
        "backends": backends,
        "cache": _describe_cache(),
    }
    failed = bool(faults) or any(not result["passes"] for result in backends.values())
    advice = [*(fault.cure for fault in faults), *_advise(findings)]
    return findings | {"advice": list(dict.fromkeys(advice)), "healthy": not failed}


def _advise(findings: dict) -> list[str]:
    """What to do about the findings, apart from the cures of known faults."""
    backends, limit, advice = findings["backends"], findings["limits"], []
    if any(result["error"] for result in backends.values()):
        advice.append("do not use a backend that fails; try another release of its library, and report it")
    if not backends[OnnxRuntime.name]["kleidiai"] and not findings["faults"]:
        wrong = "ONNX Runtime computes wrong results here with KleidiAI, which is therefore not used"
        advice.append(f"{wrong}; try another release, and report it")
    if not LIBRARY:
        fix = "install a C compiler and reinstall logo-edge, which makes preprocessing several times faster"
        advice.append(f"preprocess.c was not compiled: {fix}")
    quota, cores = limit["cpu_quota"], limit["cores"]
    if quota is not None and quota < cores:
        advice.append(f"the cgroup gives {quota:g} cores of time on {cores}: --workers {max(1, int(quota))}")
    if not findings["cache"]["writable"]:
        advice.append("the cache cannot be written, so each start runs the golden vectors again; set LOGO_EDGE_CACHE")
    return advice


def _try_backend(bundle: Bundle, name: str) -> dict:
    """Whether the backend reproduces the golden vectors now, whatever the cache says of it."""
    try:
        classifier = Classifier(bundle, backend=name)
        count = classifier.run_vectors(rounds=CHECKED_ROUNDS)
    except LogoEdgeError as error:
        return {"passes": False, "vectors": 0, "kleidiai": True, "error": str(error)}
    return {"passes": True, "vectors": count, "kleidiai": classifier.kleidiai, "error": None}


def _describe_cache() -> dict:
    try:
        folder = cache_folder()
    except LogoEdgeError:
        return {"folder": None, "writable": False}
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return {"folder": str(folder), "writable": os.access(existing, os.W_OK | os.X_OK)}


def _lines(findings: dict) -> list[str]:
    machine, limit, cache = findings["machine"], findings["limits"], findings["cache"]
    quota = "" if limit["cpu_quota"] is None else f", time of {limit['cpu_quota']:g} by cgroup"
    rows = [
        ("machine", f"{machine['system']} {machine['machine']}, {machine['cpu'] or 'unknown processor'}"),
        ("instruction sets", ", ".join(machine["isa"]) or "unknown"),
        ("cores", f"{limit['cores']} of {limit['cores_of_machine']} (cpuset {limit['cpuset']}){quota}"),
        ("memory limit", "none" if limit["memory_mb"] is None else f"{limit['memory_mb']:.0f} MB by cgroup"),
        ("versions", ", ".join(f"{name} {version}" for name, version in findings["versions"].items())),
        ("preprocessing", findings["preprocessing"]),
        ("bundle", findings["bundle"]),
        *((name, _describe_backend(result)) for name, result in findings["backends"].items()),
        ("cache", f"{cache['folder'] or 'no home folder'}{'' if cache['writable'] else ', cannot be written'}"),
        *(("known fault", fault) for fault in findings["faults"]),
        *(("advice", sentence) for sentence in findings["advice"]),
        ("result", "healthy" if findings["healthy"] else "something failed"),
    ]
    return [f"{name:>16}  {text}" for name, text in rows]


def _describe_backend(result: dict) -> str:
    if not result["passes"]:
        return f"FAILS: {result['error']}"
    return f"gives all {result['vectors']} golden vectors" + ("" if result["kleidiai"] else ", without KleidiAI")
