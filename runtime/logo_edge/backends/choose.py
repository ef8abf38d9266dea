"""What runs a bundle's model: ONNX Runtime, or OpenVINO, TensorRT and TorchScript behind the same small protocol.

ONNX Runtime and OpenVINO read the bundle's own graph; TensorRT runs an engine and TorchScript a module that
`logo-edge export` made of it. No library but ONNX Runtime is needed, and each is loaded only when it is asked for.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from logo_edge.errors import BundleError, ExportError, LogoEdgeError, MissingExtraError
from logo_edge.files import json_text, write_file
from logo_edge.forks import after_fork, never_free
from logo_edge.machine import faults_of

AUTO = "auto"
PIXELS = "pixels"
KEPT = 200  # findings about this machine; the file is read at every start


@dataclass(frozen=True)
class Resources:
    """What a backend may use: threads of one forward pass, the CPU `cores` that those may run on (None: any),
    whether its threads spin while they wait, which is a little faster and burns their cores while idle, and whether ONNX
    Runtime may use KleidiAI, its kernels for ARM.
    """

    threads: int = 1
    cores: tuple[int, ...] | None = None
    spinning: bool = False
    kleidiai: bool = True


@dataclass(frozen=True)
class ModelFile:
    """The bytes of a model, read once: those that were hashed are those that run, whatever becomes of the file.

    `path` names it in messages; `weights` is the .bin file of OpenVINO IR, empty for all other kinds.
    """

    path: Path
    data: bytes = field(repr=False)
    weights: bytes = field(default=b"", repr=False)

    @classmethod
    def read(cls, path: Path) -> ModelFile:
        """The artifact of `logo-edge export` at `path`. Raises LogoEdgeError where it cannot be read."""
        try:
            data = path.read_bytes()
            return cls(path, data, path.with_suffix(".bin").read_bytes() if path.suffix == ".xml" else b"")
        except FileNotFoundError as error:
            raise LogoEdgeError(
                f"{error.filename}: no such file; expected an artifact of `logo-edge export`"
            ) from error
        except OSError as error:
            raise LogoEdgeError(
                f"{error.filename}: {error.strerror}; expected an artifact of `logo-edge export`"
            ) from error

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data + self.weights).hexdigest()


class Backend(Protocol):
    """A model in memory; safe to share between threads. `outputs` names all that it gives, where they have names."""

    outputs: frozenset[str]

    def run(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        """The outputs of these names, float32, first axis B, of (B, S, S, C) uint8 pixels."""
        ...


class OnnxRuntime:
    """An ONNX graph on the CPU."""

    name = "onnxruntime"

    def __init__(self, model: ModelFile, resources: Resources):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = resources.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(resources.spinning)))
        options.add_session_config_entry("mlas.disable_kleidiai", str(int(not resources.kleidiai)))
        try:
            self.session = onnxruntime.InferenceSession(model.data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            raise BundleError(f"{model.path}: ONNX Runtime cannot load it: {error}") from error
        self._input = self.session.get_inputs()[0].name
        self.outputs = frozenset(output.name for output in self.session.get_outputs())

    def run(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        return cast("list[np.ndarray]", self.session.run(names, {self._input: pixels}))  # graphs of tensors alone


class OpenVino:
    """An ONNX graph or OpenVINO IR on the CPU, in float32 where it is not INT8. It has no threads that spin."""

    def __init__(self, model: ModelFile, resources: Resources):
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError("openvino", "openvino") from error
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": resources.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
        }
        core = openvino.Core()
        try:
            network = core.read_model(io.BytesIO(model.data), io.BytesIO(model.weights))
            self._compiled = core.compile_model(network, "CPU", settings)
        except RuntimeError as error:
            raise BundleError(f"{model.path}: OpenVINO cannot load it: {error}") from error
        self.outputs = frozenset().union(*(output.names for output in self._compiled.outputs))
        self._local = threading.local()  # a request serves one thread at a time

    def run(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
        request.infer([np.ascontiguousarray(pixels)])
        return [request.get_tensor(name).data.copy() for name in names]


class TorchScript:
    """A module of `logo-edge export --format torchscript`, on the CPU; it gives logits alone.

    Its threads are those of PyTorch, which the whole process shares.
    """

    outputs: frozenset[str] = frozenset()

    def __init__(self, model: ModelFile, resources: Resources):
        try:
            import torch
        except ImportError as error:
            raise MissingExtraError("torchscript", "torch") from error
        torch.set_num_threads(resources.threads)
        try:
            self._module = torch.jit.load(io.BytesIO(model.data)).eval()
        except RuntimeError as error:
            raise BundleError(f"{model.path}: PyTorch cannot load it: {error}") from error
        self._torch = torch

    def run(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        if len(names) != 1:
            raise BundleError(f"a TorchScript module gives logits alone, not {', '.join(names)}; take another backend")
        with self._torch.inference_mode():
            return [self._module(self._torch.from_numpy(np.ascontiguousarray(pixels))).numpy()]


class TensorRT:
    """An engine that `logo-edge export --format tensorrt` built on this machine, run on its first GPU.

    Raises ExportError where the engine is not this machine's.
    """

    def __init__(self, model: ModelFile, resources: Resources):
        need_tensorrt()
        import tensorrt as trt

        cuda = load_cuda()
        if not resources.spinning:
            checked(cuda.cudaSetDeviceFlags(cuda.cudaDeviceScheduleBlockingSync))
        engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(model.data)
        if engine is None:
            raise ExportError(
                f"{model.path} is no engine of this GPU and TensorRT {trt.__version__}; delete it and export again"
            )
        self._engine, self._context, self._cuda = engine, engine.create_execution_context(), cuda
        self._name, self._lock = model.path.name, threading.Lock()  # a context serves one thread at a time
        self.outputs = frozenset(
            name
            for name in map(engine.get_tensor_name, range(engine.num_io_tensors))
            if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT
        )

    def run(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        pixels = np.ascontiguousarray(pixels)
        with self._lock:
            if not self._context.set_input_shape(PIXELS, pixels.shape):
                raise ExportError(f"{self._name} takes no batch of {len(pixels)}; export it again for such batches")
            made = {name: np.empty(sizes(self._context.get_tensor_shape(name)), np.float32) for name in self.outputs}
            self._execute({PIXELS: pixels}, made)
        return [made[name] for name in names]

    def _execute(self, given: dict[str, np.ndarray], made: dict[str, np.ndarray]) -> None:
        cuda, kinds, taken = self._cuda, self._cuda.cudaMemcpyKind, {}
        try:
            for name, array in (given | made).items():
                taken[name] = checked(cuda.cudaMalloc(array.nbytes))
                self._context.set_tensor_address(name, int(taken[name]))
            for name, array in given.items():
                checked(cuda.cudaMemcpy(taken[name], array.ctypes.data, array.nbytes, kinds.cudaMemcpyHostToDevice))
            stream = checked(cuda.cudaStreamCreate())
            if not self._context.execute_async_v3(int(stream)):
                raise ExportError(f"{self._name} failed to run; TensorRT's messages are above")
            checked(cuda.cudaStreamSynchronize(stream))
            checked(cuda.cudaStreamDestroy(stream))
            for name, array in made.items():
                checked(cuda.cudaMemcpy(array.ctypes.data, taken[name], array.nbytes, kinds.cudaMemcpyDeviceToHost))
        finally:
            for address in taken.values():
                cuda.cudaFree(address)


class PerProcess:
    """A backend that a forked child opens for itself, as it has none of the threads of the parent's."""

    def __init__(self, open_here: Callable[[], Backend], name: str):
        self._open_here, self._name = open_here, name
        self.opened: Backend | None = open_here()
        self.outputs = self.opened.outputs
        after_fork(self)

    def run(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        if self.opened is None:
            if self._name in NOT_AFTER_FORK:
                raise LogoEdgeError(
                    f"a classifier on {self._name} was loaded before this process was forked, and what it uses does not "
                    "outlive a fork; load it in each process instead (gunicorn: without --preload)"
                )
            self.opened = self._open_here()
        return self.opened.run(pixels, names)

    def leave_to_parent(self) -> None:
        never_free(self.opened)
        self.opened = None


BACKENDS: dict[str, Callable[[ModelFile, Resources], Backend]] = {
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "tensorrt": TensorRT,
    "torchscript": TorchScript,
}
NOT_AFTER_FORK = ("tensorrt", "torchscript")  # CUDA and PyTorch's OpenMP threads, which the whole process shares
OWN_GRAPH = ("onnxruntime", "openvino")  # those that read the bundle's own model file
LIBRARIES = {"openvino": "openvino", "tensorrt": "tensorrt", "torchscript": "torch"}  # the others' packages, by extra
READS = {".onnx": OWN_GRAPH, ".xml": ("openvino",), ".engine": ("tensorrt",), ".pt": ("torchscript",)}  # artifacts


def open_backend(name: str, model: ModelFile, resources: Resources) -> Backend:
    """The backend `name` with this model; every library is handed the bytes themselves, and opens no path again.

    Raises LogoEdgeError where there is no such backend or it cannot read the model, MissingExtraError where its library
    is not installed.
    """
    if name not in BACKENDS:
        raise LogoEdgeError(f"found backend {name!r}; expected one of {', '.join([AUTO, *BACKENDS])}")
    if model.path.suffix == ".onnx" and name not in OWN_GRAPH:
        source = "RUN" if name == "torchscript" else "BUNDLE"  # a module is made of a run alone
        raise LogoEdgeError(
            f"{name} runs no ONNX graph; make its artifact with `logo-edge export {source} --format {name}` and name the "
            "file by --artifact"
        )
    if name not in READS.get(model.path.suffix, ()):
        kinds = ", ".join(suffix for suffix, readers in READS.items() if name in readers)
        raise LogoEdgeError(f"{model.path}: {name} reads {kinds}; give it an artifact of `logo-edge export`")
    with on_cores(resources.cores):
        return BACKENDS[name](model, resources)


def candidates(path: Path) -> list[str]:
    """The backends that could run the model at `path` here, ONNX Runtime first.

    Raises LogoEdgeError where none reads its kind, MissingExtraError where what reads it is not installed.
    """
    if path.suffix not in READS:
        raise LogoEdgeError(
            f"{path}: found suffix {path.suffix!r}; expected one of {', '.join(READS)}, an artifact of `logo-edge export`"
        )
    names = READS[path.suffix]
    installed = [name for name in names if name not in LIBRARIES or find_spec(LIBRARIES[name])]
    if not installed:
        raise MissingExtraError(names[0], LIBRARIES[names[0]])
    return installed


def remembered(key: dict, find: Callable[[], dict]) -> dict:
    """`find()`, or what it gave before for the same key: what was found out about this machine is kept in a file.

    The file is `backends.json` in the cache folder and keeps the last KEPT findings; where it cannot be written, every
    process finds out again.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    try:
        path = findings_file()
    except LogoEdgeError:  # no home folder is known
        return find()
    known = _read_findings(path)
    if digest not in known:
        known = dict([*known.items(), (digest, {**key, "found": find()})][-KEPT:])
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, json_text(known))
    return known[digest]["found"]


def findings_file() -> Path:
    """Where `remembered` keeps them. Raises LogoEdgeError."""
    return cache_folder() / "backends.json"


def without_known_faults(resources: Resources) -> Resources:
    """The resources without KleidiAI where this release of ONNX Runtime is known to be faulty with it here; it is said."""
    import onnxruntime

    for fault in faults_of(onnxruntime.__version__, platform.machine()):
        off = "; KleidiAI is left out, which avoids it" if fault.without_kleidiai else ""
        warn(
            f"onnxruntime {onnxruntime.__version__} on {platform.machine()} {fault.symptom} ({fault.source}){off}. {fault.cure}"
        )
        resources = replace(resources, kleidiai=resources.kleidiai and not fault.without_kleidiai)
    return resources


def warn(message: str) -> None:
    """Says on stderr, or wherever the program sends its logs, what a user should know of a classifier that works."""
    import logging  # 5 ms that a plain start need not pay

    logging.getLogger("logo_edge").warning(message)


def loaded_version(name: str) -> str:
    """The version of the library of a backend that has been opened."""
    return str(sys.modules[LIBRARIES.get(name, name)].__version__)


def installed_versions() -> dict[str, str]:
    """Of the libraries that a backend may use, those that are here."""
    from importlib.metadata import PackageNotFoundError, version  # slow to load, and of no use to a plain start

    found = {}
    for name in ("onnxruntime", "openvino", "tensorrt", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def cache_folder() -> Path:
    """Where logo-edge keeps what it fetched, and what it found out about this machine: $LOGO_EDGE_CACHE, else ~/.cache/logo-edge.

    Raises LogoEdgeError where no home folder is known.
    """
    if own := os.environ.get("LOGO_EDGE_CACHE"):
        return Path(own)
    try:
        if os.environ.get("HOME") == "":  # which Path.home takes for /
            raise RuntimeError
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "logo-edge"
    except RuntimeError as error:  # Path.home
        raise LogoEdgeError(
            "no home folder is known: HOME is not set and this user is not in the system's list of users. Set "
            "LOGO_EDGE_CACHE to a folder that can be written"
        ) from error


@contextmanager
def on_cores(cores: Sequence[int] | None) -> Iterator[None]:
    """Keeps the calling thread on these cores, and for good all threads that are started meanwhile.

    Raises LogoEdgeError where the machine has no such cores or the system cannot do it.
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
        found = ",".join(map(str, cores)) or "no core"
        raise LogoEdgeError(
            f"cores {found}: not to be had here; choose among {', '.join(map(str, sorted(before)))}"
        ) from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def need_tensorrt() -> None:
    """Raises MissingExtraError where TensorRT is not installed."""
    try:
        from tensorrt import Builder  # noqa: F401  # installed stubs alone make an empty package
    except ImportError as error:
        raise MissingExtraError("tensorrt", "tensorrt") from error


def load_cuda() -> Any:
    """The bindings of CUDA's runtime. Raises MissingExtraError."""
    try:
        return import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise MissingExtraError("tensorrt", "cuda-bindings") from error


def checked(result: tuple) -> Any:
    """The value of a call to CUDA, whose first entry is its status. Raises ExportError where it failed."""
    status, *values = result
    if int(status):
        raise ExportError(
            f"CUDA says {status.name}; a TensorRT engine is built and run on a machine with an NVIDIA GPU"
        )
    return values[0] if values else None


def sizes(shape: Any) -> list[int]:
    """TensorRT's Dims, which has a length and entries but is no sequence, as a list."""
    return [shape[axis] for axis in range(len(shape))]


def _read_findings(path: Path) -> dict[str, dict]:
    try:
        return {
            digest: entry for digest, entry in json.loads(path.read_bytes()).items() if isinstance(entry["found"], dict)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
