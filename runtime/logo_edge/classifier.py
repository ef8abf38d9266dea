"""The runtime's front door: a bundle loaded once, then images in and `Classification`s out."""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from logo_edge.bundle import DEFAULT_BUNDLE, EMBEDDING, VECTORS, Bundle, read_bundle
from logo_edge.decision import Mode, calibrated_logits, energy, prediction_set
from logo_edge.errors import BundleError, ImageError
from logo_edge.images import ImageSource, load_image
from logo_edge.metrics import softmax
from logo_edge.preprocess import preprocess

if TYPE_CHECKING:
    from logo_edge.enroll import Enrolment, Match

VECTOR_TOLERANCE = 0.05  # of a logit; backends and CPUs differ by the order of their sums


class Rejection(enum.StrEnum):
    """Why no label was given."""

    LOW_CONFIDENCE = "low_confidence"


@dataclass(frozen=True)
class Classification:
    """What is known of one image.

    `label` is None when the classifier abstains (`reason` says why); `best_guess` is there all the same.
    `confidence` is the calibrated probability of the best guess, 0 to 1; `probabilities` holds every class's.
    `familiar` is False where the energy of the logits is as low as that of few logos: the image may be none. It
    withholds no label; docs/bundle.md says what escapes it. `enrolled` is what a classifier with an enrolment says of
    its classes, apart from the bundle's own.
    """

    label: str | None
    best_guess: str
    confidence: float
    probabilities: dict[str, float]
    reason: Rejection | None = None
    familiar: bool = True
    enrolled: Match | None = None


class Classifier:
    """A bundle in memory, ready to classify; safe to share between threads."""

    def __init__(self, bundle: Bundle, *, mode: Mode | str = Mode.BALANCED, threads: int = 1,
                 fast_decoders: bool = True, log: str | os.PathLike | None = None,
                 enrolled: str | os.PathLike | None = None):  # fmt: skip
        """Raises BundleError where the model does not fit its bundle.json, ValueError for a mode that there is not."""
        self.bundle = bundle
        self.mode = Mode(mode)
        self._fast_decoders = fast_decoders
        self._session = _open_session(bundle, threads)
        self._outputs = [bundle.model.output_name]
        self._log = _open_log(log, bundle.name)
        self._enrolment = _read_enrolment(enrolled, bundle)

    @classmethod
    def load(cls, path: str | os.PathLike | None = None, *, threads: int = 1, self_test: bool = False,
             mode: Mode | str = Mode.BALANCED, public_key: str | os.PathLike | None = None,
             fast_decoders: bool = True, log: str | os.PathLike | None = None,
             enrolled: str | os.PathLike | None = None) -> Classifier:  # fmt: skip
        """The classifier of the bundle in folder `path`, or of the embedded default bundle.

        `threads` is the number of CPU threads of one forward pass. With `self_test`, the first golden vector is run.
        `mode` says how sure it must be to give a label: best-guess, balanced or strict. `public_key` names a PEM file:
        only a bundle that its private half signed is loaded (extra `sign`). `fast_decoders` lets pyspng and simplejpeg decode where they are installed (extra `fast`); the pixels are the
        same either way. `log` names a file to which every classification, never the image, is appended as a line of
        JSON, for `logo-edge monitor`. `enrolled` names a file of `logo-edge enroll`, whose classes each image is compared
        with too. Raises BundleError for a bundle that is damaged, of another format, not signed by the key, or fails its
        vector, EnrolmentError for a file that is damaged or of another bundle.
        """
        bundle = read_bundle(path or DEFAULT_BUNDLE, public_key=public_key)
        classifier = cls(bundle, mode=mode, threads=threads, fast_decoders=fast_decoders, log=log, enrolled=enrolled)
        if self_test:
            classifier.run_vectors(limit=1)
        return classifier

    @property
    def labels(self) -> tuple[str, ...]:
        return self.bundle.labels

    def classify(self, source: ImageSource) -> Classification:
        """The classification of one path, bytes, array or PIL image.

        Raises ImageError where it is no readable image.
        """
        (decision,) = self._classify_pixels(self.read_pixels(source)[None])
        if self._log:
            self._log.append(decision)
        return decision

    def classify_many(
        self, sources: Iterable[ImageSource], *, batch_size: int = 8
    ) -> Iterator[Classification | ImageError]:
        """One result per source, in order; a bad image gives its ImageError in its place and spoils no other.

        Sources are read lazily, `batch_size` at a time.
        """
        remaining = iter(sources)
        while batch := list(islice(remaining, batch_size)):
            results: list[Classification | ImageError] = [self._read_or_error(source) for source in batch]
            readable = [index for index, result in enumerate(results) if isinstance(result, np.ndarray)]
            if readable:
                decisions = self._classify_pixels(np.stack([results[index] for index in readable]))
                for index, decision in zip(readable, decisions, strict=True):
                    results[index] = decision
                    if self._log:
                        self._log.append(decision)
            yield from results

    def read_pixels(self, source: ImageSource) -> np.ndarray:
        """The source as the model sees it, (S, S, 3) uint8. Raises ImageError."""
        return preprocess(load_image(source, fast=self._fast_decoders), self.bundle.input)

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """(B, K) float32 before temperature, of (B, S, S, 3) uint8 pixels."""
        return self._session.run(self._outputs, {self.bundle.model.input_name: pixels})[0]

    def embeddings(self, pixels: np.ndarray) -> np.ndarray:
        """(B, D) float32 features before the network's last layer, of (B, S, S, 3) uint8 pixels.

        Raises BundleError where the bundle has none.
        """
        if EMBEDDING not in self.bundle.model.optional_outputs:
            raise BundleError(
                f"{self.bundle.folder}: its model gives no {EMBEDDING}; pack it anew with `logo-edge calibrate`"
            )
        return self._session.run([EMBEDDING], {self.bundle.model.input_name: pixels})[0]

    def decide(self, logits: np.ndarray) -> list[Classification]:
        """The calibrated decision for each row of (B, K) logits."""
        calibration = self.bundle.calibration
        probabilities = softmax(calibrated_logits(logits, calibration.temperature, calibration.scaling))
        if calibration.familiarity is None:
            familiar = [True] * len(logits)
        else:
            familiar = (energy(logits) >= calibration.familiarity.threshold).tolist()
        return [self._decide_one(*row) for row in zip(probabilities.tolist(), familiar, strict=True)]

    def prediction_set(self, result: Classification, level: float, *, by_class: bool = False) -> tuple[str, ...]:
        """The labels that hold the true one with P >= `level`: `decision.prediction_set`. Raises BundleError."""
        return prediction_set(self.bundle.calibration, result.probabilities, level, by_class=by_class)

    def run_vectors(self, limit: int | None = None) -> int:
        """Checks the bundle's golden vectors and gives how many were run.

        Raises BundleError where a logit is off by more than VECTOR_TOLERANCE or a decision differs.
        """
        path = self.bundle.folder / VECTORS
        try:
            vectors = [
                (
                    self.bundle.files[vector["image"]] and self.bundle.folder / vector["image"],
                    np.array(vector["logits"], np.float32),
                    vector["best_guess"],
                )
                for vector in json.loads(path.read_bytes())["vectors"][:limit]
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{path}: cannot be read ({error!r}); pack the bundle anew") from error
        if not vectors:
            raise BundleError(f"{path}: no vectors; pack the bundle anew")
        for image, logits, best_guess in vectors:
            found = self.logits(self.read_pixels(image)[None])[0]
            off = float(np.abs(found - logits).max()) if found.shape == logits.shape else float("nan")
            guess = self.decide(found[None])[0].best_guess
            if not off <= VECTOR_TOLERANCE or guess != best_guess:
                raise BundleError(
                    f"{self.bundle.folder}: golden vector {image.name} gives {guess} with logits off by "
                    f"{off:.3g}; expected {best_guess} within {VECTOR_TOLERANCE}. This ONNX Runtime or CPU "
                    "does not compute the model as it was verified; report it, or try another onnxruntime release"
                )
        return len(vectors)

    def _classify_pixels(self, pixels: np.ndarray) -> list[Classification]:
        if self._enrolment is None:
            return self.decide(self.logits(pixels))
        logits, embeddings = self._session.run([*self._outputs, EMBEDDING], {self.bundle.model.input_name: pixels})
        matches = self._enrolment.match(embeddings)
        return [replace(found, enrolled=match) for found, match in zip(self.decide(logits), matches, strict=True)]

    def _read_or_error(self, source: ImageSource) -> np.ndarray | ImageError:
        try:
            return self.read_pixels(source)
        except ImageError as error:
            return error

    def _decide_one(self, probabilities: list[float], familiar: bool) -> Classification:
        confidence = max(probabilities)
        best_guess = self.labels[probabilities.index(confidence)]
        by_label = dict(zip(self.labels, probabilities, strict=True))
        if not confidence >= self.bundle.calibration.abstain_below[self.mode]:  # so that NaN gets no label either
            return Classification(None, best_guess, confidence, by_label, Rejection.LOW_CONFIDENCE, familiar)
        return Classification(best_guess, best_guess, confidence, by_label, None, familiar)


def _open_log(path: str | os.PathLike | None, bundle_name: str):
    if path is None:
        return None
    from logo_edge.monitor import PredictionLog

    return PredictionLog(path, bundle_name)


def _read_enrolment(path: str | os.PathLike | None, bundle: Bundle) -> Enrolment | None:
    if path is None:
        return None
    from logo_edge.enroll import read_enrolment

    return read_enrolment(path, bundle)


def _open_session(bundle: Bundle, threads: int):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # no core is burnt while idle
    try:
        session = onnxruntime.InferenceSession(str(bundle.model_path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        raise BundleError(f"{bundle.model_path}: ONNX Runtime cannot load it: {error}") from error
    inputs = {entry.name: (entry.type, _any_batch(entry.shape)) for entry in session.get_inputs()}
    outputs = {entry.name: (entry.type, entry.shape[1:]) for entry in session.get_outputs()}
    size = bundle.input.size_px
    if inputs != {bundle.model.input_name: ("tensor(uint8)", ["B", size, size, 3])}:
        raise BundleError(
            f"{bundle.model_path}: reads {inputs}; bundle.json says {bundle.model.input_name!r}, uint8, "
            f"(B, {size}, {size}, 3). Pack the bundle anew"
        )
    if outputs.get(bundle.model.output_name) != ("tensor(float)", [len(bundle.labels)]):
        raise BundleError(
            f"{bundle.model_path}: gives {outputs}; bundle.json says {bundle.model.output_name!r}, float32, of "
            f"{len(bundle.labels)} classes. Pack the bundle anew"
        )
    if missing := [name for name in bundle.model.optional_outputs if name not in outputs]:
        raise BundleError(
            f"{bundle.model_path}: gives {outputs}; bundle.json promises {missing} too. Pack the bundle anew"
        )
    return session


def _any_batch(shape: list) -> list:
    """The shape with its first axis named B, where its length is free."""
    return shape if not shape or isinstance(shape[0], int) else ["B", *shape[1:]]
