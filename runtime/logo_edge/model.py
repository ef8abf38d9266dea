"""A bundle's model on a backend, checked against bundle.json and the golden vectors."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from logo_edge.backends.base import WITH_WEIGHTS, Backend, ModelFile, PerProcess, Resources
from logo_edge.backends.choose import AUTO, candidates, fastest, installed_versions, loaded_version, open_backend
from logo_edge.backends.faults import without_known_faults
from logo_edge.backends.onnxruntime import OnnxRuntime
from logo_edge.bundle.record import EMBEDDING, EPISTEMIC, VECTORS, Bundle
from logo_edge.cache import remembered
from logo_edge.decision import calibrated_probabilities
from logo_edge.errors import BundleError, LogoEdgeError, warn
from logo_edge.images.load import MAX_PIXELS, ImageSource, load_image
from logo_edge.machine import fingerprint
from logo_edge.preprocess import preprocess

VECTOR_TOLERANCE = 0.2  # of a logit; INT8 rounds in steps of 0.04, and OpenVINO differs by 0.19 on 1 of 100 logos
ARTIFACT_TOLERANCE = 0.5  # of a logit, for an artifact in another precision; `logo-edge export` verified it on logos
CHECKED_ROUNDS = 3  # of golden vectors at the first load on a machine


class Model:
    """A bundle's model, ready to run; safe to share between threads. For the options see `Classifier.load`.

    Raises ValueError for fewer than 1 thread, BundleError where the model does not fit bundle.json or fails its golden
    vectors, LogoEdgeError for a backend that cannot run here.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        backend: str = "onnxruntime",
        artifact: str | os.PathLike | None = None,
        threads: int = 1,
        cores: Sequence[int] | None = None,
        spinning: bool = False,
        fast_decoders: bool = True,
        variants: bool = False,
    ):
        """`variants`: with the backend auto, the bundle's variants may run instead of its own model."""
        if threads < 1:
            raise ValueError(f"threads {threads}; expected 1 or more")
        self._fast_decoders = fast_decoders
        self._file = None if artifact is None else _read_artifact(bundle, Path(artifact))
        self.artifact = self._file.path if self._file else None
        resources = Resources(threads, None if cores is None else tuple(cores), spinning)
        if backend == AUTO:
            bundle, backend = _fastest(bundle, self._file, resources, variants)
        self.bundle, self.backend = bundle, backend
        self.model_sha256 = self._file.sha256 if self._file else bundle.model_sha256  # of the model that runs
        self._open(without_known_faults(resources) if self.backend == OnnxRuntime.name else resources)
        self._outputs = [bundle.model.output_name]
        if EPISTEMIC in bundle.model.optional_outputs and EPISTEMIC in self._backend.outputs:
            self._outputs.append(EPISTEMIC)
        if bundle.vectors in bundle.files:  # a bundle that is being packed has none yet
            self._check_vectors_once()

    @property
    def labels(self) -> tuple[str, ...]:
        """The bundle's classes, in the order of the logits."""
        return self.bundle.labels

    @property
    def kleidiai(self) -> bool:
        """Whether ONNX Runtime may use KleidiAI, its kernels for ARM: not where they are known or found to be wrong."""
        return self._resources.kleidiai

    def read_pixels(self, source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """The image as the model sees it, (S, S, C) uint8; decoded in full.

        See `images.load_image`. Raises ImageError.
        """
        image = load_image(source, fast=self._fast_decoders, max_pixels=max_pixels)
        return preprocess(image, self.bundle.input)

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """(B, K) float32 before temperature, of (B, S, S, C) uint8 pixels."""
        return self._backend.run(pixels, self._outputs[:1])[0]

    def embeddings(self, pixels: np.ndarray) -> np.ndarray:
        """(B, D) float32 features before the network's last layer, of (B, S, S, C) uint8 pixels.

        Raises BundleError where the bundle or artifact has none.
        """
        self._need_embedding()
        return self._backend.run(pixels, [EMBEDDING])[0]

    def calibrated(self, logits: np.ndarray) -> np.ndarray:
        """(B, K) calibrated probabilities."""
        return calibrated_probabilities(logits, self.bundle.calibration)

    def run_vectors(self, limit: int | None = None, *, rounds: int = 1) -> int:
        """Checks the bundle's golden vectors and returns how many there were.

        With several `rounds` each vector is run once a round, after other inputs: a library may compute an input
        rightly only the first time (microsoft/onnxruntime#31569). Raises BundleError where a logit is out of tolerance
        or a best guess differs.
        """
        vectors = self._read_vectors()[:limit]
        if not vectors:
            raise BundleError(f"{self.bundle.folder / self.bundle.vectors}: no vectors; pack the bundle again")
        images = [
            (self.read_pixels(image)[None], PurePosixPath(name).name, *expected) for name, image, *expected in vectors
        ]
        tolerance = VECTOR_TOLERANCE if self.artifact is None else ARTIFACT_TOLERANCE
        for pixels, name, expected, best_guess in images * rounds:
            logits = self.logits(pixels)
            off = float(np.abs(logits[0] - expected).max()) if logits[0].shape == expected.shape else float("nan")
            guess = self.labels[self.calibrated(logits)[0].argmax()]
            if not off <= tolerance or guess != best_guess:
                raise BundleError(
                    f"{self.bundle.folder}: golden vector {name} gives {guess} with logits off by {off:.3g}; expected "
                    f"{best_guess} within {tolerance}. This {self.backend} or CPU does not compute the model as it was "
                    "verified; report it, or try another release or backend"
                )
            if rounds > 1:
                self.logits(255 - pixels)
        return len(vectors)

    def _read_vectors(self) -> list[tuple[str, bytes, np.ndarray, str]]:
        """(name, encoded image, (K,) logits, best guess) of each golden vector. Raises BundleError."""
        try:
            return [
                (
                    vector["image"],
                    self.bundle.read(vector["image"]),
                    np.array(vector["logits"], np.float32),
                    vector["best_guess"],
                )
                for vector in json.loads(self.bundle.read(self.bundle.vectors))["vectors"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            path = self.bundle.folder / self.bundle.vectors
            raise BundleError(f"{path}: cannot be read ({error!r}); pack the bundle again") from error

    def _check_vectors_once(self) -> None:
        """Runs the golden vectors at the first load on this machine with this release of the backend.

        Where ONNX Runtime fails them, it is tried without KleidiAI. Raises BundleError where they fail.
        """
        bundle = self.bundle
        content = repr((sorted(bundle.files.items()), bundle.calibration, bundle.model))
        key = {
            "backend": self.backend,
            "version": loaded_version(self.backend),
            "model": self.model_sha256,
            **fingerprint(),
            "vectors": hashlib.sha256(content.encode()).hexdigest(),
            "kleidiai": self.kleidiai,
        }

        def check() -> dict:
            try:
                self.run_vectors(rounds=CHECKED_ROUNDS)
            except BundleError:
                if self.backend != OnnxRuntime.name or not self.kleidiai:
                    raise
                self._leave_out_kleidiai()
                self.run_vectors(rounds=CHECKED_ROUNDS)
            return {"kleidiai": self.kleidiai}

        before = self.kleidiai
        if remembered(key, check) != {"kleidiai": self.kleidiai}:
            self._leave_out_kleidiai()
        if self.kleidiai != before:
            warn(
                f"{self.backend} {key['version']} gives the golden vectors of {bundle.folder} here only without "
                "KleidiAI, which is left out; try another release, and report it"
            )

    def _leave_out_kleidiai(self) -> None:
        self._open(replace(self._resources, kleidiai=False))

    def _open(self, resources: Resources) -> None:
        open_here = partial(_open_checked, self.backend, self.bundle, self._file, resources)
        self._resources, self._backend = resources, PerProcess(open_here, self.backend)

    def _need_embedding(self) -> None:
        """Raises BundleError where the model gives no embedding."""
        if self.bundle.vectors != VECTORS:
            raise BundleError(
                f"{self.bundle.model_path}: a variant gives no {EMBEDDING}; open the bundle's own model with --backend "
                f"{OnnxRuntime.name}"
            )
        if EMBEDDING not in self.bundle.model.optional_outputs:
            raise BundleError(
                f"{self.bundle.folder}: its model gives no {EMBEDDING}; pack it again with `logo-edge calibrate`"
            )
        if EMBEDDING not in self._backend.outputs:
            raise BundleError(
                f"{self.artifact or self.bundle.folder}: gives no {EMBEDDING}, which enrolled classes and likeness "
                "need. Leave out the artifact, or make one of the bundle with `logo-edge export BUNDLE`, since a run's "
                "has none"
            )


def _fastest(bundle: Bundle, artifact: ModelFile | None, resources: Resources, variants: bool) -> tuple[Bundle, str]:
    """The bundle, or its variant, and the backend: the fastest at one image a call of those that give their vectors."""
    own = candidates(artifact.path if artifact else bundle.model_path)
    choices = {name: (bundle, name) for name in own}
    for variant in bundle.variants if variants and not artifact else ():
        with suppress(LogoEdgeError):  # nothing here reads it
            backends = candidates(bundle.folder / variant.file)
            choices |= {f"{variant.file}, {name}": (bundle.of_variant(variant), name) for name in backends}
    if len(choices) == 1:
        return choices[own[0]]
    contract = bundle.input
    pixels = np.zeros((1, contract.size_px, contract.size_px, contract.channels), np.uint8)
    running = {"threads": resources.threads, "cores": resources.cores, "spinning": resources.spinning}

    def prepare(choice: str) -> Callable[[], object]:
        view, name = choices[choice]
        model = Model(view, backend=name, artifact=artifact and artifact.path, **running)
        model.run_vectors()
        return lambda: model.logits(pixels)

    models = {choice: artifact.sha256 if artifact else view.model_sha256 for choice, (view, _) in choices.items()}
    here = {"versions": installed_versions(), **fingerprint()}
    return choices[fastest(models, prepare, asdict(resources), here, str(bundle.folder))]


def _read_artifact(bundle: Bundle, path: Path) -> ModelFile:
    """The artifact that runs instead of the bundle's own graph.

    Raises LogoEdgeError where it cannot be read, BundleError where it is not the file that was packed or exported, and
    where a public key was given and the signed bundle lists no file of this content: the key's owner has not signed it.
    """
    absolute, folder = (Path(os.path.abspath(place)) for place in (path, bundle.folder))
    name = absolute.relative_to(folder).as_posix() if absolute.is_relative_to(folder) else ""
    model = replace(_own_model(bundle, name), path=path) if name in bundle.files else ModelFile.read(path)
    if bundle.public_key is not None:
        signed = {listed.sha256 for listed in bundle.files.values()}
        if not {hashlib.sha256(data).hexdigest() for data in (model.data, model.weights) if data} <= signed:
            raise BundleError(
                f"{path}: not signed, {bundle.folder} lists no file of this content; a public key was given. Leave out "
                "the artifact, or get a signed bundle that holds it, such as `logo-edge compress --target` packs"
            )
    return model


def _own_model(bundle: Bundle, name: str) -> ModelFile:
    """The verified bytes of one of the bundle's models. Raises BundleError."""
    path = PurePosixPath(name)
    weights = bundle.read(path.with_suffix(".bin").as_posix()) if path.suffix in WITH_WEIGHTS else b""
    return ModelFile(bundle.folder / name, bundle.read(name), weights)


def _open_checked(name: str, bundle: Bundle, artifact: ModelFile | None, resources: Resources) -> Backend:
    """The backend with the bundle's model or all members of its ensemble, whose inputs and outputs are checked."""
    if not bundle.members:
        model = artifact or _own_model(bundle, bundle.model.file)
        backend = open_backend(name, model, resources)
        promised = () if artifact else bundle.model.optional_outputs
        _check_fit(backend, bundle, model.path, bundle.input.size_px, promised)
        return backend
    if artifact:
        raise BundleError(
            f"{artifact.path} holds one model, {bundle.folder} an ensemble of {len(bundle.members)}; leave out the "
            "artifact, or take a bundle of one model"
        )
    from logo_edge.bundle.members import Ensemble  # which single models need not load

    backends = []
    for member in bundle.members:
        backends.append(open_backend(name, _own_model(bundle, member.file), resources))
        _check_fit(backends[-1], bundle, bundle.folder / member.file, member.size_px, ())
    multi_label = bundle.calibration.multi_label
    return Ensemble(bundle.members, backends, bundle.model.output_name, multi_label=multi_label)


def _check_fit(backend: Backend, bundle: Bundle, path: Path, size_px: int, promised: Sequence[str]) -> None:
    """Raises BundleError where inputs and outputs, among them the `promised` ones, are not those of bundle.json."""
    model, classes, shape = bundle.model, len(bundle.labels), (size_px, size_px, bundle.input.channels)
    if missing := [name for name in promised if name not in backend.outputs]:
        outputs = ", ".join(sorted(backend.outputs))
        raise BundleError(f"{path}: gives {outputs}; bundle.json promises {missing} too. Pack the bundle again")
    if isinstance(backend, OnnxRuntime):  # its session knows names and shapes without a run
        inputs = {tensor.name: (tensor.type, _any_batch(tensor.shape)) for tensor in backend.session.get_inputs()}
        outputs = {tensor.name: (tensor.type, tensor.shape[1:]) for tensor in backend.session.get_outputs()}
        if inputs != {model.input_name: ("tensor(uint8)", ["B", *shape])}:
            raise BundleError(
                f"{path}: reads {inputs}; bundle.json says {model.input_name!r}, uint8, "
                f"(B, {', '.join(map(str, shape))}). Pack the bundle again"
            )
        if outputs.get(model.output_name) != ("tensor(float)", [classes]):
            raise BundleError(
                f"{path}: gives {outputs}; bundle.json says {model.output_name!r}, float32, of {classes} classes. "
                "Pack the bundle again"
            )
        return
    try:
        (logits,) = backend.run(np.zeros((1, *shape), np.uint8), [model.output_name])
        result = f"{logits.dtype} {logits.shape}"
    except (RuntimeError, ValueError, KeyError) as error:
        result = str(error)
    if result != f"float32 (1, {classes})":
        raise BundleError(
            f"{path}: on one image of shape {shape} gives {result}; expected {model.output_name!r}, float32 "
            f"(1, {classes}). It is not an artifact of this bundle; export it again"
        )


def _any_batch(shape: list) -> list:
    """The shape with its first axis named B, where its length is free."""
    return shape if not shape or isinstance(shape[0], int) else ["B", *shape[1:]]
