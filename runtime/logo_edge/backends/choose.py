"""Which backend runs a model: one by name, or the fastest on this machine.

ONNX Runtime and OpenVINO read the bundle's own graph; the others run an artifact of `logo-edge export`.
Only ONNX Runtime is in the base install; every library is loaded when its backend is opened.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from logo_edge.backends.base import Backend, ModelFile, Resources
from logo_edge.backends.executorch import ExecuTorch
from logo_edge.backends.litert import LiteRt
from logo_edge.backends.mnn import Mnn
from logo_edge.backends.ncnn import Ncnn
from logo_edge.backends.onnxruntime import OnnxRuntime
from logo_edge.backends.openvino import OpenVino
from logo_edge.backends.tensorrt import TensorRT
from logo_edge.backends.torchscript import TorchScript
from logo_edge.cache import remembered, trying
from logo_edge.errors import BundleError, LogoEdgeError, MissingExtraError, warn
from logo_edge.machine import on_cores

AUTO = "auto"
BACKENDS = {
    backend.name: backend for backend in (OnnxRuntime, OpenVino, LiteRt, TensorRT, TorchScript, Ncnn, Mnn, ExecuTorch)
}
READS = {  # the backends that read a kind of model file
    suffix: tuple(name for name, backend in BACKENDS.items() if suffix in backend.suffixes)
    for suffix in dict.fromkeys(suffix for backend in BACKENDS.values() for suffix in backend.suffixes)
}
ENDED = (
    "an earlier process ended while it tried that, by a crash or because it was killed. To try again, delete "
    "{0.parent} and backends.json beside it"
)
OWN_GRAPH = READS[".onnx"]  # those that run the bundle's own model file


def open_backend(name: str, model: ModelFile, resources: Resources) -> Backend:
    """The backend `name` with this model; every library is given the bytes, and opens no file itself.

    Raises LogoEdgeError where there is no such backend or it cannot read the model, MissingExtraError where its library
    is not installed.
    """
    if name not in BACKENDS:
        raise LogoEdgeError(f"found backend {name!r}; expected one of {', '.join([AUTO, *BACKENDS])}")
    if model.path.suffix == ".onnx" and name not in OWN_GRAPH:
        source = "RUN" if name == "torchscript" else "BUNDLE"  # a module can be exported from a run only
        raise LogoEdgeError(
            f"{name} runs no ONNX graph; make its artifact with `logo-edge export {source} --format {name}` and name "
            "the file by --artifact"
        )
    if name not in READS.get(model.path.suffix, ()):
        kinds = ", ".join(suffix for suffix, readers in READS.items() if name in readers)
        raise LogoEdgeError(f"{model.path}: {name} reads {kinds}; give it an artifact of `logo-edge export`")
    with on_cores(resources.cores):
        return BACKENDS[name](model, resources)


def candidates(path: Path) -> list[str]:
    """The installed backends that read the model at `path`, ONNX Runtime first.

    Raises LogoEdgeError where no backend reads its kind, MissingExtraError where none that does is installed.
    """
    if path.suffix not in READS:
        raise LogoEdgeError(
            f"{path}: found suffix {path.suffix!r}; expected one of {', '.join(READS)}, an artifact of "
            "`logo-edge export`"
        )
    names = READS[path.suffix]
    installed = [name for name in names if find_spec(BACKENDS[name].library)]
    if not installed:
        raise MissingExtraError(names[0], BACKENDS[names[0]].library)
    return installed


def fastest(
    models: dict[str, str], prepare: Callable[[str], Callable[[], object]], settings: dict, here: dict, bundle: str
) -> str:
    """The name whose `prepare(name)()` is fastest; all take turns, and the times are kept in the cache.

    `models`: by name, the sha256 of its model; `here`: the machine and versions. A name for which `prepare` fails is
    left out; so is one that ended an earlier process, as native libraries may crash, with a warning, unless it is the
    first. Raises BundleError, naming `bundle`, where all fail.
    """

    def measure() -> dict[str, float]:
        from logo_edge import timing

        first, calls, refusals = next(iter(models)), {}, []
        for name in models:
            try:
                with trying({"choice": name, "model": models[name], **here}) as note:
                    if note and name != first:
                        warn(f"{name} is left out: {ENDED.format(note)}")
                        continue
                    calls[name] = prepare(name)
            except Exception as error:  # a library may fail in any way; the others run
                refusals.append(f"{name}: {error}")
        if not calls:
            raise BundleError(f"{bundle}: no backend runs it here. {'; '.join(refusals)}")
        with trying({"by turns": models, **here}) as note:
            if note:
                name = next(iter(calls))
                warn(f"{name} runs, and no comparison with {', '.join([*calls][1:])}: {ENDED.format(note)}")
                calls = {name: calls[name]}
            return timing.measure_by_turns(calls)

    times_ms = remembered({"backends": models, **settings, **here}, measure)
    return min(times_ms, key=times_ms.__getitem__)


def loaded_version(name: str) -> str:
    """The version of the library of a backend that has been opened."""
    library = sys.modules[BACKENDS[name].library]
    return str(getattr(library, "__version__", None) or installed_versions()[library.__name__])


def installed_versions() -> dict[str, str]:
    """The versions of the backends' libraries, of those that are installed."""
    from importlib.metadata import PackageNotFoundError, version  # slow to load; most starts do not need it

    versions = {}
    for backend in BACKENDS.values():
        with suppress(PackageNotFoundError):
            versions[backend.library] = version(backend.library)
    return versions
