"""The runtime's front door: a bundle loaded once, then images in and `Classification`s out."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from logo_edge.backends.choose import (
    AUTO,
    Backend,
    ModelFile,
    OnnxRuntime,
    PerProcess,
    Resources,
    candidates,
    installed_versions,
    loaded_version,
    open_backend,
    remembered,
    warn,
    without_known_faults,
)
from logo_edge.bundle.calibration import Mode
from logo_edge.bundle.record import DEFAULT_BUNDLE, EMBEDDING, EPISTEMIC, VECTORS, Bundle, read_bundle
from logo_edge.decision import calibrated_logits, is_blank, is_logo, logo_score, may_change, prediction_set, spread
from logo_edge.errors import BundleError, ImageError, LogoEdgeError
from logo_edge.images.load import MAX_PIXELS, ImageSource, load_image, load_reduced, take_bytes
from logo_edge.machine import fingerprint
from logo_edge.preprocess import preprocess
from logo_edge.probabilities import entropy, softmax
from logo_edge.results import Classification, Rejection

if TYPE_CHECKING:
    from logo_edge.likeness.enroll import Enrolment

VECTOR_TOLERANCE = 0.1  # of a logit; backends and CPUs sum in other orders, and INT8 rounds in steps of 0.03
ARTIFACT_TOLERANCE = 0.5  # of one in another precision, as `logo-edge export` verified it on real logos
REDUCED_SIDES = 2  # a JPEG is decoded at a scale that leaves it at least so many times the side that the model needs
REDUCED_PIXELS = 1_500_000  # fewer are decoded whole in less time than those near a threshold take twice
REDUCED_SPREAD = 8  # of 255; pixels that differ by no more may be blank when the image is decoded whole
REDUCED_SHIFT = 0.25  # of a logit, by which that might move it: half more than the most seen (docs/runtime.md)
CHECKED_ROUNDS = 3  # of golden vectors at the first load on a machine
DEFAULT_COVERAGE = 0.95  # of prediction sets, where the bundle can promise it


class Classifier:
    """A bundle in memory, ready to classify; safe to share between threads.

    It is pickled as its bundle's folder, public key and options: what unpickles it, such as a worker of a
    `multiprocessing.Pool`, loads the bundle again and verifies it again.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        mode: Mode | str = Mode.BALANCED,
        threshold: float | None = None,
        coverage: float | None = None,
        backend: str = "onnxruntime",
        artifact: str | os.PathLike | None = None,
        threads: int = 1,
        cores: Sequence[int] | None = None,
        spinning: bool = False,
        fast_decoders: bool = True,
        log: str | os.PathLike | None = None,
        enrolled: str | os.PathLike | None = None,
    ):
        """As `load`, of a bundle that has been read."""
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold {threshold}; expected a confidence from 0 to 1")
        if threads < 1:
            raise ValueError(f"threads {threads}; expected 1 or more")
        self._options = {
            "mode": mode,
            "threshold": threshold,
            "coverage": coverage,
            "backend": backend,
            "artifact": _absolute(artifact),
            "threads": threads,
            "cores": cores,
            "spinning": spinning,
            "fast_decoders": fast_decoders,
            "log": _absolute(log),
            "enrolled": _absolute(enrolled),
        }
        self.bundle = bundle
        self.mode = Mode(mode)
        self.threshold = bundle.calibration.abstain_below[self.mode] if threshold is None else threshold
        self.coverage = _pick_coverage(bundle, coverage)
        self._fast_decoders = fast_decoders
        model = None if artifact is None else _read_artifact(bundle, Path(artifact))
        self.artifact = model.path if model else None
        self.model_sha256 = model.sha256 if model else bundle.model_sha256  # of what it runs
        resources = Resources(threads, None if cores is None else tuple(cores), spinning)
        self.backend = _fastest_backend(bundle, model, resources) if backend == AUTO else backend
        if self.backend == OnnxRuntime.name:
            resources = without_known_faults(resources)
        self._reopen = partial(_open_here, self.backend, bundle, model)
        self._resources, self._backend = resources, self._reopen(resources)
        self._outputs = [bundle.model.output_name]
        if EPISTEMIC in bundle.model.optional_outputs and EPISTEMIC in self._backend.outputs:
            self._outputs.append(EPISTEMIC)
        self.enrolment = _read_enrolment(enrolled, bundle)
        if self.enrolment:
            self._need_embedding()
            self._outputs.append(EMBEDDING)
        self._log = _open_log(log, bundle.name)
        self._tolerance = VECTOR_TOLERANCE if model is None else ARTIFACT_TOLERANCE
        if VECTORS in bundle.files:  # which a bundle that is being packed has not yet
            self._need_vectors()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike | None = None,
        *,
        self_test: bool = False,
        public_key: str | os.PathLike | bytes | None = None,
        mode: Mode | str = Mode.BALANCED,
        threshold: float | None = None,
        coverage: float | None = None,
        backend: str = "onnxruntime",
        artifact: str | os.PathLike | None = None,
        threads: int = 1,
        cores: Sequence[int] | None = None,
        spinning: bool = False,
        fast_decoders: bool = True,
        log: str | os.PathLike | None = None,
        enrolled: str | os.PathLike | None = None,
    ) -> Classifier:
        """The classifier of the bundle in folder `path`, or of the embedded default bundle.

        With `self_test`, the first golden vector is run. `public_key` is a PEM file or its bytes: only a bundle that its
        private half signed is loaded, and only an artifact that this bundle lists (extra `sign`). Options:

        mode: how sure it must be to give a label: best-guess, balanced or strict.
        threshold: the least confidence for a label, 0 to 1, instead of the mode's.
        coverage: of prediction sets, one of the bundle's levels; left out: 0.95, where the bundle can promise it.
        backend: onnxruntime, openvino, tensorrt, torchscript (each an extra), or auto: the fastest of those here, which
            is measured once and remembered. Each must give the bundle's golden vectors first, once on a machine.
        artifact: a file of `logo-edge export` to run instead of the bundle's own graph; where it gives no epistemic
            uncertainty, results have none.
        threads: CPU threads of one forward pass. cores: the CPU cores for those threads (Linux). spinning: whether they
            spin while they wait, a little faster and at the price of busy cores.
        fast_decoders: let pyspng and simplejpeg decode where they are installed (extra `fast`); pixels are the same.
        log: a file to which every classification, never the image, is appended for `logo-edge monitor`.

        Raises BundleError for a path that is empty, for a bundle that is damaged, of another format, not signed by the
        key, without such a coverage, or one whose vectors fail; ValueError for a mode, threshold or number of threads
        that there is not; LogoEdgeError for a backend that cannot run here, MissingExtraError where its library is missing.
        """
        bundle = read_bundle(DEFAULT_BUNDLE if path is None else path, public_key=public_key)
        classifier = cls(
            bundle,
            mode=mode,
            threshold=threshold,
            coverage=coverage,
            backend=backend,
            artifact=artifact,
            threads=threads,
            cores=cores,
            spinning=spinning,
            fast_decoders=fast_decoders,
            log=log,
            enrolled=enrolled,
        )
        if self_test:
            classifier.run_vectors(limit=1)
        return classifier

    @property
    def labels(self) -> tuple[str, ...]:
        return self.bundle.labels

    def __reduce__(self):
        return _load_again, (type(self), self.bundle.folder.absolute(), self.bundle.public_key, self._options)

    def classify(self, source: ImageSource) -> Classification:
        """The classification of one path, encoded bytes, open binary file, array or PIL image.

        Raises ImageError where it is no readable image, TypeError where it is nothing of these.
        """
        (result,) = self._classify_batch([source])
        if isinstance(result, ImageError):
            raise result
        return result

    def classify_many(
        self, sources: Iterable[ImageSource], *, batch_size: int = 8, workers: int = 1
    ) -> Iterator[Classification | ImageError]:
        """One result per source, in order; a bad image gives its ImageError in its place and spoils no other.

        Sources are read lazily, `batch_size` at a time. With several `workers`, so many threads decode and classify a
        batch each, two batches apiece ahead of what is taken: as many as there are cores keep all of them busy.

        Raises TypeError where `sources` is one image or holds what is none of the kinds that `classify` takes, ValueError
        where `batch_size` or `workers` is below 1.
        """
        if _is_one_image(sources):
            raise TypeError(
                f"found one {type(sources).__name__}; expected an iterable of images. Give it in a list, or call classify"
            )
        for name, number in (("batch_size", batch_size), ("workers", workers)):
            if number < 1:
                raise ValueError(f"{name} {number}; expected 1 or more")
        return self._classify_batches(iter(sources), batch_size, workers)

    def _classify_batches(
        self, remaining: Iterator[ImageSource], batch_size: int, workers: int
    ) -> Iterator[Classification | ImageError]:
        batches = iter(lambda: list(islice(remaining, batch_size)), [])
        if workers == 1:
            for batch in batches:
                yield from self._classify_batch(batch)
            return
        from concurrent.futures import ThreadPoolExecutor

        process = os.getpid()
        with ThreadPoolExecutor(workers) as pool:
            pending = deque(pool.submit(self._classify_batch, batch) for batch in islice(batches, 2 * workers))
            try:
                while pending:
                    if os.getpid() != process:
                        raise LogoEdgeError(
                            "classify_many was begun before this process was forked; begin it in the child"
                        )
                    yield from pending.popleft().result()
                    pending.extend(pool.submit(self._classify_batch, batch) for batch in islice(batches, 1))
            finally:
                for future in pending:
                    future.cancel()

    def read_pixels(self, source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """The source as the model sees it, (S, S, C) uint8, of the whole image; see `images.load_image`. Raises ImageError."""
        image = load_image(source, fast=self._fast_decoders, max_pixels=max_pixels)
        return preprocess(image, self.bundle.input)

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """(B, K) float32 before temperature, of (B, S, S, C) uint8 pixels."""
        return self._backend.run(pixels, self._outputs[:1])[0]

    def decide(
        self, logits: np.ndarray, epistemic: np.ndarray | None = None, *, blank: np.ndarray | None = None
    ) -> list[Classification]:
        """The calibrated decision for each row of (B, K) logits and, of a bundle that has it, (B,) epistemic.

        `blank` (B,) says which pictures hold nothing, as `decision.is_blank` finds; left out: none.
        """
        probabilities, scores = self.calibrated(logits), logo_score(logits)
        entropies = entropy(probabilities)
        known = [None] * len(logits) if epistemic is None else np.maximum(epistemic, 0.0).tolist()
        aleatoric = entropies if epistemic is None else np.maximum(entropies - np.maximum(epistemic, 0.0), 0.0)
        empty = [False] * len(logits) if blank is None else blank.tolist()
        logos = is_logo(scores, self.bundle.calibration.familiarity)
        return [
            self._decide_one(*row)
            for row in zip(
                probabilities.tolist(), aleatoric.tolist(), known, scores.tolist(), logos.tolist(), empty, strict=True
            )
        ]

    def prediction_set(self, result: Classification, level: float, *, by_class: bool = False) -> tuple[str, ...]:
        """The labels that hold the true one with P >= `level`: `decision.prediction_set`. Raises BundleError."""
        return prediction_set(self.bundle.calibration, result.probabilities, level, by_class=by_class)

    @property
    def kleidiai(self) -> bool:
        """Whether ONNX Runtime may use KleidiAI, its kernels for ARM: not where they are known or found to be wrong."""
        return self._resources.kleidiai

    def _need_vectors(self) -> None:
        """Runs the golden vectors at the first load on this machine with this release of the backend.

        Where they fail on ONNX Runtime they are tried without KleidiAI. Raises BundleError where they fail.
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

        def find() -> dict:
            try:
                self.run_vectors(rounds=CHECKED_ROUNDS)
            except BundleError:
                if self.backend != OnnxRuntime.name or not self.kleidiai:
                    raise
                self._leave_out_kleidiai()
                self.run_vectors(rounds=CHECKED_ROUNDS)
            return {"kleidiai": self.kleidiai}

        before = self.kleidiai
        if remembered(key, find) != {"kleidiai": self.kleidiai}:
            self._leave_out_kleidiai()
        if self.kleidiai != before:
            warn(
                f"{self.backend} {key['version']} gives the golden vectors of {bundle.folder} here only without KleidiAI, which is "
                "left out; try another release, and report it"
            )

    def _leave_out_kleidiai(self) -> None:
        self._resources = replace(self._resources, kleidiai=False)
        self._backend = self._reopen(self._resources)

    def run_vectors(self, limit: int | None = None, *, rounds: int = 1) -> int:
        """Checks the bundle's golden vectors and gives how many were run.

        With several `rounds` every vector is run so often, each time after other inputs: a library may compute an input
        rightly only at first (microsoft/onnxruntime#31569). Raises BundleError where a logit is off by more than the tolerance above, or a best guess differs.
        """
        path = self.bundle.folder / VECTORS
        try:
            vectors = [
                (
                    self.bundle.read(vector["image"]),
                    vector["image"],
                    np.array(vector["logits"], np.float32),
                    vector["best_guess"],
                )
                for vector in json.loads(self.bundle.read(VECTORS))["vectors"][:limit]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{path}: cannot be read ({error!r}); pack the bundle anew") from error
        if not vectors:
            raise BundleError(f"{path}: no vectors; pack the bundle anew")
        images = [
            (self.read_pixels(image)[None], PurePosixPath(name).name, *expected) for image, name, *expected in vectors
        ]
        for pixels, name, logits, best_guess in images * rounds:
            given = self.logits(pixels)[0]
            off = float(np.abs(given - logits).max()) if given.shape == logits.shape else float("nan")
            guess = self.decide(given[None])[0].best_guess
            if not off <= self._tolerance or guess != best_guess:
                raise BundleError(
                    f"{self.bundle.folder}: golden vector {name} gives {guess} with logits off by "
                    f"{off:.3g}; expected {best_guess} within {self._tolerance}. This {self.backend} or CPU "
                    "does not compute the model as it was verified; report it, or try another release or backend"
                )
            if rounds > 1:
                self.logits(255 - pixels)
        return len(vectors)

    def _classify_batch(self, sources: list[ImageSource]) -> list[Classification | ImageError]:
        read = [self._read_reduced(source) for source in sources]
        results: list = [pixels if isinstance(pixels, ImageError) else None for pixels, _ in read]
        readable = [index for index, result in enumerate(results) if result is None]
        if readable:
            pixels = np.stack([read[index][0] for index in readable])
            outputs, errors = self._run(pixels), {}
            if any(reduced is not None for _, reduced in read):
                errors = self._run_again(outputs, pixels, [read[index][1] for index in readable])
            for row, (index, decision) in enumerate(zip(readable, self._decide_outputs(outputs, pixels), strict=True)):
                results[index] = errors.get(row, decision)
                if self._log and row not in errors:
                    self._log.append(decision)
        return results

    def _run_again(
        self, outputs: list[np.ndarray], pixels: np.ndarray, reduced: list[ImageSource | None]
    ) -> dict[int, ImageError]:
        """Puts in the pixels and outputs of the whole image where one at a lower scale might be decided otherwise.

        What comes back is, by row, why an image could not be read a second time.
        """
        logits, calibration = outputs[0], self.bundle.calibration
        close = may_change(
            calibration, self.calibrated(logits), logo_score(logits), self.threshold, self.coverage, REDUCED_SHIFT
        ) | (spread(pixels) <= REDUCED_SPREAD)
        errors: dict[int, ImageError] = {}
        for row, source in enumerate(reduced):
            if source is None or not close[row]:
                continue
            try:
                pixels[row] = self.read_pixels(source)
            except ImageError as error:
                errors[row] = error
                continue
            for output, whole in zip(outputs, self._run(pixels[row][None]), strict=True):
                output[row] = whole[0]
        return errors

    def _decide_outputs(self, outputs: list[np.ndarray], pixels: np.ndarray) -> list[Classification]:
        """The decisions on what `_run` gave of the pixels."""
        blank = is_blank(pixels)
        if self.enrolment is None:
            return self.decide(*outputs, blank=blank)
        *outputs, embeddings = outputs
        decisions, matches = self.decide(*outputs, blank=blank), self.enrolment.match(embeddings)
        return [replace(decision, enrolled=match) for decision, match in zip(decisions, matches, strict=True)]

    def _run(self, pixels: np.ndarray) -> list[np.ndarray]:
        return self._backend.run(pixels, self._outputs)

    def _read_reduced(self, source: ImageSource) -> tuple[np.ndarray | ImageError, ImageSource | None]:
        """The source as the model sees it, or why it cannot be read, and the source again if decoded at a lower scale.

        With an enrolment it never is: nothing says how far a similarity might move.
        """
        least_px = None if self.enrolment else REDUCED_SIDES * self.bundle.input.least_px
        try:
            source = take_bytes(source)
            image, size_px = load_reduced(source, least_px, fast=self._fast_decoders, least_pixels=REDUCED_PIXELS)
        except ImageError as error:
            return error, None
        return preprocess(image, self.bundle.input, size_px), None if size_px is None else source

    def classify_pixels(self, pixels: np.ndarray) -> list[Classification]:
        """The decision for each of (B, S, S, C) uint8 pixels, as `read_pixels` gives them; they are not logged."""
        return self._decide_outputs(self._run(pixels), pixels)

    def embeddings(self, pixels: np.ndarray) -> np.ndarray:
        """(B, D) float32 features before the network's last layer, of (B, S, S, C) uint8 pixels.

        Raises BundleError where the bundle or artifact has none.
        """
        self._need_embedding()
        return self._backend.run(pixels, [EMBEDDING])[0]

    def _need_embedding(self) -> None:
        """Raises BundleError where the model gives no embedding."""
        if EMBEDDING not in self.bundle.model.optional_outputs:
            raise BundleError(
                f"{self.bundle.folder}: its model gives no {EMBEDDING}; pack it anew with `logo-edge calibrate`"
            )
        if EMBEDDING not in self._backend.outputs:
            raise BundleError(
                f"{self.artifact or self.bundle.folder}: gives no {EMBEDDING}, which enrolled classes and likeness need. "
                "Leave out the artifact, or make one of the bundle with `logo-edge export BUNDLE`, since a run's has none"
            )

    def calibrated(self, logits: np.ndarray) -> np.ndarray:
        """(B, K) probabilities."""
        calibration = self.bundle.calibration
        return softmax(calibrated_logits(logits, calibration.temperature, calibration.scaling))

    def _decide_one(
        self,
        probabilities: list[float],
        aleatoric: float,
        epistemic: float | None,
        logo_score: float,
        is_logo: bool,
        blank: bool,
    ) -> Classification:
        calibration = self.bundle.calibration
        confidence = max(probabilities)
        best_guess = self.labels[probabilities.index(confidence)]
        by_label = dict(zip(self.labels, probabilities, strict=True))
        unfit = Rejection.BLANK if blank else None if is_logo else Rejection.NOT_A_LOGO
        if unfit and self.mode != Mode.BEST_GUESS:
            reason = unfit
        else:
            reason = None if confidence >= self.threshold else Rejection.LOW_CONFIDENCE  # of NaN too
        return Classification(
            label=best_guess if reason is None else None,
            best_guess=best_guess,
            confidence=confidence,
            probabilities=by_label,
            aleatoric=aleatoric,
            epistemic=epistemic,
            prediction_set=None if self.coverage is None else prediction_set(calibration, by_label, self.coverage),
            logo_score=logo_score,
            is_logo=is_logo,
            high_confidence=not unfit and confidence >= calibration.abstain_below[Mode.STRICT],
            low_confidence=bool(unfit) or not confidence >= calibration.abstain_below[Mode.BALANCED],
            reason=reason,
        )


def _load_again(kind: type[Classifier], folder: Path, public_key: bytes | None, options: dict) -> Classifier:
    return kind.load(folder, public_key=public_key, **options)


def _absolute(path: str | os.PathLike | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def _is_one_image(sources: object) -> bool:
    """Whether it is an image itself, though iterating over it gives characters, lines or rows of pixels."""
    if isinstance(sources, np.ndarray):
        return sources.ndim in (2, 3)  # (N, H, W, C) is N images, and (N,) may be N paths
    return isinstance(sources, ImageSource)


def _open_log(path: str | os.PathLike | None, bundle_name: str):
    if path is None:
        return None
    from logo_edge.monitor import PredictionLog

    return PredictionLog(path, bundle_name)


def _read_enrolment(path: str | os.PathLike | None, bundle: Bundle) -> Enrolment | None:
    if path is None:
        return None
    from logo_edge.likeness.enroll import read_enrolment

    return read_enrolment(path, bundle)


def _pick_coverage(bundle: Bundle, coverage: float | None) -> float | None:
    """The level of prediction sets; raises BundleError where the bundle has none at the one that was asked for."""
    evenly = dict.fromkeys(bundle.labels, 1 / len(bundle.labels))
    try:
        prediction_set(bundle.calibration, evenly, DEFAULT_COVERAGE if coverage is None else coverage)
    except BundleError:
        if coverage is None:
            return None
        raise
    return DEFAULT_COVERAGE if coverage is None else coverage


def _fastest_backend(bundle: Bundle, artifact: ModelFile | None, resources: Resources) -> str:
    """The fastest backend that runs here and gives the golden vectors, of one image at a time."""
    from logo_edge.timing import describe_machine, measure_latency

    names = candidates(artifact.path if artifact else bundle.model_path)
    if len(names) == 1:
        return names[0]

    def measure() -> dict[str, float]:
        times_ms, refusals = {}, []
        pixels = np.zeros((1, bundle.input.size_px, bundle.input.size_px, bundle.input.channels), np.uint8)
        for name in names:
            try:
                classifier = Classifier(
                    bundle,
                    backend=name,
                    artifact=artifact and artifact.path,
                    threads=resources.threads,
                    cores=resources.cores,
                    spinning=resources.spinning,
                )
                classifier.run_vectors()
            except LogoEdgeError as error:
                refusals.append(f"{name}: {error}")
                continue
            times_ms[name] = measure_latency(lambda run=classifier.logits: run(pixels), runs=50).p50_ms
        if not times_ms:
            raise BundleError(f"{bundle.folder}: no backend runs it here. {'; '.join(refusals)}")
        return times_ms

    machine = {key: describe_machine()[key] for key in ("cpu", "isa", "system", "machine")}
    model = artifact.sha256 if artifact else bundle.model_sha256
    key = {"model": model, "backends": names, **asdict(resources), "versions": installed_versions(), **machine}
    times_ms = remembered(key, measure)
    return min(times_ms, key=times_ms.__getitem__)


def _read_artifact(bundle: Bundle, path: Path) -> ModelFile:
    """The artifact to run instead of the bundle's own graph.

    Raises LogoEdgeError where it cannot be read, BundleError where a key was given and the signed bundle lists no file of
    this content, so that the key's owner has not signed it.
    """
    model = ModelFile.read(path)
    if bundle.public_key is not None:
        signed = {entry.sha256 for entry in bundle.files.values()}
        if not {hashlib.sha256(data).hexdigest() for data in (model.data, model.weights) if data} <= signed:
            raise BundleError(
                f"{path}: not signed, {bundle.folder} lists no file of this content; a public key was given. Leave out the "
                "artifact, or get a signed bundle that holds it, such as `logo-edge compress --target` packs"
            )
    return model


def _own_model(bundle: Bundle, name: str) -> ModelFile:
    """The verified bytes of one of the bundle's models. Raises BundleError."""
    path = PurePosixPath(name)
    weights = bundle.read(path.with_suffix(".bin").as_posix()) if path.suffix == ".xml" else b""
    return ModelFile(bundle.folder / name, bundle.read(name), weights)


def _open_backend(name: str, bundle: Bundle, artifact: ModelFile | None, resources: Resources) -> Backend:
    """What runs the bundle's model or, of an ensemble, all its members."""
    if not bundle.members:
        model = artifact or _own_model(bundle, bundle.model.file)
        opened = open_backend(name, model, resources)
        promised = () if artifact else bundle.model.optional_outputs
        _check_fit(opened, bundle, model.path, bundle.input.size_px, promised)
        return opened
    if artifact:
        raise BundleError(
            f"{artifact.path} holds one model, {bundle.folder} an ensemble of {len(bundle.members)}; leave out the artifact, or "
            "take a bundle of one model"
        )
    from logo_edge.bundle.members import Ensemble

    opened = []
    for member in bundle.members:
        opened.append(open_backend(name, _own_model(bundle, member.file), resources))
        _check_fit(opened[-1], bundle, bundle.folder / member.file, member.size_px, ())
    return Ensemble(bundle.members, opened, bundle.model.output_name)


def _open_here(name: str, bundle: Bundle, artifact: ModelFile | None, resources: Resources) -> PerProcess:
    return PerProcess(partial(_open_backend, name, bundle, artifact, resources), name)


def _check_fit(backend: Backend, bundle: Bundle, path: Path, size: int, promised: Sequence[str]) -> None:
    """Raises BundleError where the model does not read and give what bundle.json says, `promised` outputs among it."""
    model, classes, shape = bundle.model, len(bundle.labels), (size, size, bundle.input.channels)
    if missing := [name for name in promised if name not in backend.outputs]:
        found = ", ".join(sorted(backend.outputs))
        raise BundleError(f"{path}: gives {found}; bundle.json promises {missing} too. Pack the bundle anew")
    if isinstance(backend, OnnxRuntime):  # which tells without a run, and what of: at every start
        inputs = {entry.name: (entry.type, _any_batch(entry.shape)) for entry in backend.session.get_inputs()}
        outputs = {entry.name: (entry.type, entry.shape[1:]) for entry in backend.session.get_outputs()}
        if inputs != {model.input_name: ("tensor(uint8)", ["B", *shape])}:
            raise BundleError(
                f"{path}: reads {inputs}; bundle.json says {model.input_name!r}, uint8, "
                f"(B, {', '.join(map(str, shape))}). Pack the bundle anew"
            )
        if outputs.get(model.output_name) != ("tensor(float)", [classes]):
            raise BundleError(
                f"{path}: gives {outputs}; bundle.json says {model.output_name!r}, float32, of "
                f"{classes} classes. Pack the bundle anew"
            )
        return
    try:
        (logits,) = backend.run(np.zeros((1, *shape), np.uint8), [model.output_name])
        found = f"{logits.dtype} {logits.shape}"
    except (RuntimeError, ValueError, KeyError) as error:
        found = str(error)
    if found != f"float32 (1, {classes})":
        raise BundleError(
            f"{path}: on one image of shape {shape} gives {found}; expected {model.output_name!r}, float32 "
            f"(1, {classes}). It is not an artifact of this bundle; export it anew"
        )


def _any_batch(shape: list) -> list:
    """The shape with its first axis named B, where its length is free."""
    return shape if not shape or isinstance(shape[0], int) else ["B", *shape[1:]]
