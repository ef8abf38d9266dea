"""The types that every backend shares."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import ClassVar, Protocol

import numpy as np

from logo_edge.errors import BundleError, LogoEdgeError
from logo_edge.forks import after_fork, never_free


@dataclass(frozen=True)
class Resources:
    """What a backend may use.

    `threads` of one forward pass; the CPU `cores` of those threads (None: any); `spinning`: threads spin while they
    wait, which is a little faster and keeps idle cores busy; `kleidiai`: ONNX Runtime may use KleidiAI, its kernels
    for ARM.
    """

    threads: int = 1
    cores: tuple[int, ...] | None = None
    spinning: bool = False
    kleidiai: bool = True


ENGINE = ".engine"  # suffix of TensorRT's, in a folder below that of its record
WITH_WEIGHTS = (".xml", ".param")  # suffixes of models whose weights are a file of their own, with the suffix .bin


@dataclass(frozen=True)
class ModelFile:
    """The bytes of a model, read once: the bytes that were hashed are the ones that run, even if the file changes.

    `path` is for messages; `weights` is the .bin file of OpenVINO IR and NCNN, empty for all other kinds.
    """

    path: Path
    data: bytes = field(repr=False)
    weights: bytes = field(default=b"", repr=False)

    @classmethod
    def read(cls, path: Path) -> ModelFile:
        """The artifact of `logo-edge export` at `path`.

        Raises LogoEdgeError where it cannot be read, BundleError where the export's record lists another content: a
        damaged file may end the process in the library that reads it.
        """
        names, listed = [path.name, *([f"{path.stem}.bin"] if path.suffix in WITH_WEIGHTS else [])], _listed(path)
        try:
            contents = [path.with_name(name).read_bytes() for name in names]
        except OSError as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
            raise LogoEdgeError(f"{error.filename}: {reason}; expected an artifact of `logo-edge export`") from error
        for name, data in zip(names, contents, strict=True):
            if listed and hashlib.sha256(data).hexdigest() != listed.get(name):
                raise BundleError(
                    f"{path.with_name(name)}: not the file that was exported, by the hash in its record; copy it again "
                    "with its .json, or export it again"
                )
        return cls(path, *contents)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data + self.weights).hexdigest()


def _listed(path: Path) -> dict[str, str]:
    """{file: sha256} in the record that `logo-edge export` wrote beside the artifact; empty where there is none."""
    for record in path.parent.parent.glob("*.json") if path.suffix == ENGINE else [path.with_suffix(".json")]:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # another JSON file
            described = json.loads(record.read_bytes())
            listed = {name: file["sha256"] for name, file in described["files"].items()}
            if engine := described.get("engine"):
                listed[PurePosixPath(engine["file"]).name] = engine["sha256"]
            if path.name in listed:
                return listed
    return {}


class Backend(Protocol):
    """A model in memory; safe to share between threads.

    `outputs`: the names of its outputs, empty where they have none. `survives_fork`: a forked child can open it again.
    """

    outputs: frozenset[str]
    survives_fork: bool

    def run(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        """The outputs of these names, float32, first axis B, of (B, S, S, C) uint8 pixels."""
        ...


class FileBackend(Backend, Protocol):
    """A backend that opens a model file, as each of `choose.BACKENDS` does.

    `name` is also that of its extra; `library` is the package that it imports, only when it is opened; `suffixes` are
    those of the model files that it reads.
    """

    name: ClassVar[str]
    library: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    def __init__(self, model: ModelFile, resources: Resources):
        """Raises MissingExtraError where the library is not installed, BundleError where it cannot read the model."""
        ...


class PerProcess:
    """A backend that each forked child opens again, because it has none of the threads of the parent's."""

    def __init__(self, open_here: Callable[[], Backend], name: str):
        self._open_here, self._name = open_here, name
        self.opened: Backend | None = open_here()
        self.outputs, self.survives_fork = self.opened.outputs, self.opened.survives_fork
        after_fork(self)

    def run(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        if self.opened is None:
            if not self.survives_fork:
                raise LogoEdgeError(
                    f"a classifier on {self._name} was loaded before this process was forked, and its library does not "
                    "survive a fork; load it in each process instead (gunicorn: without --preload)"
                )
            self.opened = self._open_here()
        return self.opened.run(pixels, names)

    def leave_to_parent(self) -> None:
        never_free(self.opened)
        self.opened = None
