"""MNN models on the CPU (extra `mnn`)."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np

from logo_edge.backends.base import ModelFile, Resources
from logo_edge.errors import BundleError, MissingExtraError
from logo_edge.machine import on_cores

PIXELS = "pixels"
_IMPORTING = threading.Lock()  # a second thread would take the first one's stderr for stdout


class Mnn:
    """A model of `logo-edge export --format mnn`, one image at a time. Each thread that runs it has its own copy."""

    name, library, suffixes = "mnn", "MNN", (".mnn",)

    def __init__(self, model: ModelFile, resources: Resources):
        self._mnn, self._model, self._resources = _import_mnn(), model, resources
        self.survives_fork = resources.threads == 1  # else a pool of the whole process computes, which a child lacks
        self._local = threading.local()  # a session serves one thread at a time
        interpreter, session = self._session()
        self.outputs = frozenset(interpreter.getSessionOutputAll(session))

    def _session(self):
        if not hasattr(self._local, "session"):
            import tempfile  # slow to load; other backends do not need it

            with tempfile.TemporaryDirectory() as folder:  # MNN takes no bytes
                path = Path(folder) / "model.mnn"
                path.write_bytes(self._model.data)
                try:
                    interpreter = self._mnn.Interpreter(str(path))
                except Exception as error:  # MNN raises nothing more specific
                    raise BundleError(
                        f"{self._model.path}: MNN {self._mnn.version()} cannot load it ({error}); expected a model of "
                        "`logo-edge export --format mnn`"
                    ) from error
            # precision normal is float32; low would be float16 on ARM
            settings = {"backend": "CPU", "numThread": self._resources.threads, "precision": "normal"}
            with on_cores(self._resources.cores):
                self._local.session = interpreter, interpreter.createSession(settings)
        return self._local.session

    def run(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        rows = [self._run_image(image, names) for image in pixels]
        return [np.stack(values) for values in zip(*rows, strict=True)]

    def _run_image(self, image: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        interpreter, session = self._session()
        planes = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)  # (1, C, S, S)
        interpreter.getSessionInputAll(session)[PIXELS].copyFrom(self._host_tensor(planes))
        interpreter.runSession(session)
        outputs, results = interpreter.getSessionOutputAll(session), []
        for name in names:
            array = np.empty(outputs[name].getShape(), np.float32)  # a tensor does not keep its array alive
            values = self._host_tensor(array)
            outputs[name].copyToHostTensor(values)
            results.append(np.array(values.getNumpyData()).squeeze())  # one value an image is (B,), not (B, 1)
        return results

    def _host_tensor(self, array: np.ndarray):
        layout, kind = self._mnn.Tensor_DimensionType_Caffe, self._mnn.Halide_Type_Float
        return self._mnn.Tensor(array.shape, kind, array, layout)


def _import_mnn():
    """The library, whose import prints to stdout from C; here that goes to stderr. Raises MissingExtraError."""
    with _IMPORTING, nullcontext() if "MNN" in sys.modules else _stdout_to_stderr():
        try:
            import MNN
        except ImportError as error:
            raise MissingExtraError("mnn", "MNN") from error
    return MNN


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    stdout = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(stdout, 1)
        os.close(stdout)
