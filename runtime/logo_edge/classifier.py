"""The runtime's front door: a bundle loaded once, then images in and `Classification`s out."""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from logo_edge.bundle import DEFAULT_BUNDLE, EPISTEMIC, VECTORS, Bundle, read_bundle
from logo_edge.decision import Mode, calibrated_logits, energy, prediction_set
from logo_edge.errors import BundleError, ImageError
from logo_edge.images import ImageSource, load_image
from logo_edge.metrics import softmax
from logo_edge.preprocess import preprocess

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
    withholds no label; docs/bundle.md says what escapes it. `epistemic` is what the members of an ensemble disagree on,
    or the network's own estimate of it, in nats; None where the bundle has neither.
    """

    label: str | None
    best_guess: str
    confidence: float
    probabilities: dict[str, float]
    reason: Rejection | None = None
    familiar: bool = True
    epistemic: float | None = None


class Classifier:
    """A bundle in memory, ready to classify; safe to share between threads."""

    def __init__(self, bundle: Bundle, *, mode: Mode | str = Mode.BALANCED, threads: int = 1,
                 fast_decoders: bool = True, log: str | os.PathLike | None = None):  # fmt: skip
        """Raises BundleError where the model does not fit its bundle.json, ValueError for a mode that there is not."""
        self.bundle = bundle
        self.mode = Mode(mode)
        self._fast_decoders = fast_decoders
        self._backend = _open_backend(bundle, threads)
        self._outputs = [bundle.model.output_name]
        if EPISTEMIC in bundle.model.optional_outputs:
            self._outputs.append(EPISTEMIC)
        self._log = _open_log(log, bundle.name)

    @classmethod
    def load(cls, path: str | os.PathLike | None = None, *, threads: int = 1, self_test: bool = False,
             mode: Mode | str = Mode.BALANCED, public_key: str | os.PathLike | None = None,
             fast_decoders: bool = True, log: str | os.PathLike | None = None) -> Classifier:  # fmt: skip
        """The classifier of the bundle in folder `path`, or of the embedded default bundle.

        `threads` is the number of CPU threads of one forward pass. With `self_test`, the first golden vector is run.
        `mode` says how sure it must be to give a label: best-guess, balanced or strict. `public_key` names a PEM file:
        only a bundle that its private half signed is loaded (extra `sign`). `fast_decoders` lets pyspng and simplejpeg decode where they are installed (extra `fast`); the pixels are the
        same either way. `log` names a file to which every classification, never the image, is appended as a line of
        JSON, for `logo-edge monitor`. Raises BundleError for a bundle that is damaged, of another format, not signed by
        the key, or fails its vector.
        """
        bundle = read_bundle(path or DEFAULT_BUNDLE, public_key=public_key)
        classifier = cls(bundle, mode=mode, threads=threads, fast_decoders=fast_decoders, log=log)
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
        (decision,) = self._forward(self.read_pixels(source)[None])
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
                decisions = self._forward(np.stack([results[index] for index in readable]))
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
        return self._backend.run(pixels, self._outputs[:1])[0]

    def decide(self, logits: np.ndarray, epistemic: np.ndarray | None = None) -> list[Classification]:
        """The calibrated decision for each row of (B, K) logits and, of a bundle that has it, (B,) epistemic."""
        calibration = self.bundle.calibration
        probabilities = softmax(calibrated_logits(logits, calibration.temperature, calibration.scaling))
        if calibration.familiarity is None:
            familiar = [True] * len(logits)
        else:
            familiar = (energy(logits) >= calibration.familiarity.threshold).tolist()
        known = [None] * len(logits) if epistemic is None else epistemic.tolist()
        return [self._decide_one(*row) for row in zip(probabilities.tolist(), familiar, known, strict=True)]

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
                (self.bundle.folder / vector["image"], np.array(vector["logits"], np.float32), vector["best_guess"])
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

    def _forward(self, pixels: np.ndarray) -> list[Classification]:
        return self.decide(*self._backend.run(pixels, self._outputs))

    def _read_or_error(self, source: ImageSource) -> np.ndarray | ImageError:
        try:
            return self.read_pixels(source)
        except ImageError as error:
            return error

    def _decide_one(self, probabilities: list[float], familiar: bool, epistemic: float | None) -> Classification:
        confidence = max(probabilities)
        best_guess = self.labels[probabilities.index(confidence)]
        by_label = dict(zip(self.labels, probabilities, strict=True))
        if not confidence >= self.bundle.calibration.abstain_below[self.mode]:  # so that NaN gets no label either
            return Classification(None, best_guess, confidence, by_label, Rejection.LOW_CONFIDENCE, familiar, epistemic)
        return Classification(best_guess, best_guess, confidence, by_label, None, familiar, epistemic)


def _open_log(path: str | os.PathLike | None, bundle_name: str):
    if path is None:
        return None
    from logo_edge.monitor import PredictionLog

    return PredictionLog(path, bundle_name)


def _open_backend(bundle: Bundle, threads: int):
    """What runs the bundle's model or, of an ensemble, all its members."""
    if not bundle.members:
        return _Session(bundle, bundle.model_path, bundle.input.size_px, threads)
    from logo_edge.members import Ensemble

    backends = [_Session(bundle, bundle.folder / member.file, member.size_px, threads) for member in bundle.members]
    return Ensemble(bundle.members, backends, bundle.model.output_name)


class _Session:
    """One ONNX graph of the bundle in ONNX Runtime."""

    def __init__(self, bundle: Bundle, path: Path, size_px: int, threads: int):
        """Raises BundleError where the graph does not fit bundle.json."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # no core is burnt while idle
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            raise BundleError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        self.input_name = bundle.model.input_name
        inputs = {entry.name: (entry.type, _any_batch(entry.shape)) for entry in self.session.get_inputs()}
        outputs = {entry.name: (entry.type, entry.shape[1:]) for entry in self.session.get_outputs()}
        if inputs != {self.input_name: ("tensor(uint8)", ["B", size_px, size_px, 3])}:
            raise BundleError(
                f"{path}: reads {inputs}; bundle.json says {self.input_name!r}, uint8, "
                f"(B, {size_px}, {size_px}, 3). Pack the bundle anew"
            )
        if outputs.get(bundle.model.output_name) != ("tensor(float)", [len(bundle.labels)]):
            raise BundleError(
                f"{path}: gives {outputs}; bundle.json says {bundle.model.output_name!r}, float32, of "
                f"{len(bundle.labels)} classes. Pack the bundle anew"
            )

    def run(self, pixels: np.ndarray, names: list[str]) -> list[np.ndarray]:
        """The outputs of these names of (B, S, S, 3) uint8 pixels."""
        return self.session.run(names, {self.input_name: pixels})


def _any_batch(shape: list) -> list:
    """The shape with its first axis named B, where its length is free."""
    return shape if not shape or isinstance(shape[0], int) else ["B", *shape[1:]]
