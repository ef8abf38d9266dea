"""Images in, `Classification`s out: the runtime's entry point."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from logo_edge.bundle.calibration import Mode
from logo_edge.bundle.record import DEFAULT_BUNDLE, EMBEDDING, Bundle, read_bundle
from logo_edge.decision import DecisionRule, decide, is_blank, logo_score, may_change, prediction_set, spread
from logo_edge.errors import BundleError, ImageError, LogoEdgeError
from logo_edge.images.load import ImageSource, load_reduced, take_bytes
from logo_edge.model import Model
from logo_edge.preprocess import CROP, preprocess
from logo_edge.results import Classification

if TYPE_CHECKING:
    from logo_edge.likeness.enroll import Enrolment

REDUCED_SIDES = 2  # a JPEG is decoded at a scale that leaves it at least so many times the side that the model needs
REDUCED_PIXELS = 1_500_000  # below this, decoding in full costs less than decoding twice near a threshold
REDUCED_SPREAD = 8  # of 255; an image whose pixels differ by no more may be blank when it is decoded in full
REDUCED_SHIFT = 0.3  # of a logit; above the largest shift by reduced decoding that was measured (docs/use/runtime.md)
DEFAULT_COVERAGE = 0.95  # of prediction sets, where the bundle can promise it


class Classifier(Model):
    """A bundle in memory, ready to classify; safe to share between threads.

    It is pickled as its bundle's folder, public key and options: a process that unpickles it, such as a worker of a
    `multiprocessing.Pool`, loads and verifies the bundle again.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        mode: Mode | str = Mode.BALANCED,
        threshold: float | None = None,
        coverage: float | None = None,
        artifact: str | os.PathLike | None = None,
        log: str | os.PathLike | None = None,
        enrolled: str | os.PathLike | None = None,
        **running: Any,
    ):
        """As `load`, of a bundle that has been read. `running` are further options of `Model`."""
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold {threshold}; expected a confidence from 0 to 1")
        files = {"artifact": artifact, "log": log, "enrolled": enrolled}
        files = {name: None if path is None else os.path.abspath(path) for name, path in files.items()}
        self._options = {"mode": mode, "threshold": threshold, "coverage": coverage, **files, **running}
        self.mode = Mode(mode)
        super().__init__(bundle, artifact=artifact, variants=enrolled is None, **running)
        self.threshold = threshold
        if threshold is None and not self.bundle.calibration.multi_label:  # which has one for each label
            self.threshold = self.bundle.calibration.abstain_below[self.mode]
        self.coverage = _pick_coverage(self.bundle, coverage)
        self.enrolment = None if enrolled is None else self._read_enrolment(enrolled)
        self._log = _open_log(log, bundle.name)

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

        With `self_test`, the first golden vector is run. `public_key` is a PEM file or its bytes: only a bundle that
        its private half signed is loaded, and only an artifact that this bundle lists (extra `sign`). Options:

        mode: how confident it must be to give a label: best-guess, balanced or strict.
        threshold: the lowest confidence for a label, 0 to 1, instead of the mode's; of a multi-label bundle, for each.
        coverage: of prediction sets, one of the bundle's levels; default 0.95, where the bundle can promise it.
        backend: onnxruntime, openvino, litert, tensorrt, torchscript, ncnn, mnn, executorch (each an extra), or auto:
            the fastest installed, measured by turns once and kept in the cache, with the bundle's model or, without
            `enrolled`, a variant that it carries. Each must give its golden vectors first, once on a machine.
        artifact: a file of `logo-edge export` to run instead of the bundle's own graph; where it has no epistemic
            output, results have no epistemic uncertainty.
        threads: CPU threads of one forward pass. cores: the CPU cores of those threads (Linux). spinning: threads spin
            while they wait, which is a little faster and keeps the cores busy.
        fast_decoders: decode PNG by the compiled library and JPEG by simplejpeg (extra `fast`); pixels are the same.
        log: a file to which every classification, never the image, is appended for `logo-edge monitor`.
        enrolled: a file of `logo-edge enroll`, whose classes are matched too.

        Raises BundleError for an empty path, for a bundle that is damaged, of another format, not signed by the key,
        without such a coverage, or whose vectors fail; ValueError for an unknown mode and for a threshold or number of
        threads out of range; LogoEdgeError for a backend that cannot run here, MissingExtraError where its library is
        missing.
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

    def __reduce__(self):
        return _load_again, (type(self), self.bundle.folder.absolute(), self.bundle.public_key, self._options)

    def classify(self, source: ImageSource) -> Classification:
        """The classification of one path, encoded bytes, open binary file, array or PIL image.

        Raises ImageError where it is no readable image, TypeError where it is none of these kinds.
        """
        (result,) = self._classify_batch([source])
        if isinstance(result, ImageError):
            raise result
        return result

    def classify_many(
        self, sources: Iterable[ImageSource], *, batch_size: int = 8, workers: int = 1
    ) -> Iterator[Classification | ImageError]:
        """One result per source, in order; a bad image gives its ImageError at its position and spoils no other.

        Sources are read lazily, `batch_size` at a time. Each of several `workers` is a thread that decodes and
        classifies one batch; two batches per worker are read ahead. As many workers as cores keep all cores busy.

        Raises TypeError where `sources` is one image or holds something that `classify` does not take, ValueError where
        `batch_size` or `workers` is below 1.
        """
        if _is_one_image(sources):
            kind = type(sources).__name__
            raise TypeError(f"found one {kind}; expected an iterable of images. Give it in a list, or call classify")
        for name, number in (("batch_size", batch_size), ("workers", workers)):
            if number < 1:
                raise ValueError(f"{name} {number}; expected 1 or more")
        return self._classify_batches(iter(sources), batch_size, workers)

    def classify_pixels(self, pixels: np.ndarray) -> list[Classification]:
        """The classification of each of (B, S, S, C) uint8 pixels, as `read_pixels` gives them; they are not logged."""
        return self._decide_outputs(self._run(pixels), pixels)

    def decide(
        self, logits: np.ndarray, epistemic: np.ndarray | None = None, *, blank: np.ndarray | None = None
    ) -> list[Classification]:
        """The calibrated decision for each row of (B, K) logits and, where the bundle has it, (B,) epistemic.

        `blank` (B,) says which images are blank, as `decision.is_blank` does; by default none is.
        """
        rule = DecisionRule(self.labels, self.bundle.calibration, self.mode, self.threshold, self.coverage)
        return decide(rule, logits, epistemic, np.zeros(len(logits), bool) if blank is None else blank)

    def prediction_set(self, result: Classification, level: float, *, by_class: bool = False) -> tuple[str, ...]:
        """The labels that hold the true one with P >= `level`: `decision.prediction_set`. Raises BundleError."""
        return prediction_set(self.bundle.calibration, result.probabilities, level, by_class=by_class)

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

    def _classify_batch(self, sources: list[ImageSource]) -> list[Classification | ImageError]:
        images = [self._read_reduced(source) for source in sources]
        results: list = [pixels if isinstance(pixels, ImageError) else None for pixels, _ in images]
        readable = [index for index, result in enumerate(results) if result is None]
        if not readable:
            return results
        first = images[readable[0]][0]
        pixels = first[None] if len(readable) == 1 else np.stack([images[index][0] for index in readable])
        outputs = self._run(pixels)
        errors = self._run_in_full(outputs, pixels, [images[index][1] for index in readable])
        for row, (index, decision) in enumerate(zip(readable, self._decide_outputs(outputs, pixels), strict=True)):
            results[index] = errors.get(row, decision)
            if self._log and row not in errors:
                self._log.append(decision)
        return results

    def _read_reduced(self, source: ImageSource) -> tuple[np.ndarray | ImageError, ImageSource | None]:
        """The pixels of the source or its ImageError; and the source again where it was decoded at reduced scale.

        With an enrolment images are decoded in full: how far a similarity might move is not known.
        """
        least_px = None if self.enrolment else REDUCED_SIDES * self.bundle.input.least_px
        try:
            source = take_bytes(source)
            shorter_px = least_px if least_px and self.bundle.input.fit == CROP else 1
            image, size_px = load_reduced(
                source, least_px, least_shorter_px=shorter_px, fast=self._fast_decoders, least_pixels=REDUCED_PIXELS
            )
        except ImageError as error:
            return error, None
        return preprocess(image, self.bundle.input, size_px), None if size_px is None else source

    def _run_in_full(
        self, outputs: list[np.ndarray], pixels: np.ndarray, reduced: list[ImageSource | None]
    ) -> dict[int, ImageError]:
        """Decodes again in full the `reduced` sources whose decision could change; replaces their pixels and outputs.

        Returns the errors of images that cannot be decoded in full, by row.
        """
        errors: dict[int, ImageError] = {}
        if not any(source is not None for source in reduced):
            return errors
        logits, calibration = outputs[0], self.bundle.calibration
        close = may_change(
            calibration, self.calibrated(logits), logo_score(logits), self.threshold, self.coverage, REDUCED_SHIFT
        )
        close |= spread(pixels) <= REDUCED_SPREAD
        for row, source in enumerate(reduced):
            if source is None or not close[row]:
                continue
            try:
                pixels[row] = self.read_pixels(source)
            except ImageError as error:
                errors[row] = error
                continue
            for output, full in zip(outputs, self._run(pixels[row][None]), strict=True):
                output[row] = full[0]
        return errors

    def _run(self, pixels: np.ndarray) -> list[np.ndarray]:
        return self._backend.run(pixels, self._outputs)

    def _decide_outputs(self, outputs: list[np.ndarray], pixels: np.ndarray) -> list[Classification]:
        """The decisions on the outputs of `_run`."""
        blank = is_blank(pixels)
        if self.enrolment is None:
            return self.decide(*outputs, blank=blank)
        *outputs, embeddings = outputs
        decisions, matches = self.decide(*outputs, blank=blank), self.enrolment.match(embeddings)
        return [replace(decision, enrolled=match) for decision, match in zip(decisions, matches, strict=True)]

    def _read_enrolment(self, path: str | os.PathLike) -> Enrolment:
        from logo_edge.likeness.enroll import read_enrolment

        enrolment = read_enrolment(path, self.bundle)
        self._need_embedding()
        self._outputs.append(EMBEDDING)
        return enrolment


def _load_again(kind: type[Classifier], folder: Path, public_key: bytes | None, options: dict) -> Classifier:
    return kind.load(folder, public_key=public_key, **options)


def _is_one_image(sources: object) -> bool:
    """Whether it is itself an image, though it can be iterated over by characters, lines or rows of pixels."""
    if isinstance(sources, np.ndarray):
        return sources.ndim in (2, 3)  # (N, H, W, C) is N images, and (N,) may be N paths
    return isinstance(sources, ImageSource)


def _open_log(path: str | os.PathLike | None, bundle_name: str):
    if path is None:
        return None
    from logo_edge.monitor import PredictionLog

    return PredictionLog(path, bundle_name)


def _pick_coverage(bundle: Bundle, coverage: float | None) -> float | None:
    """The level of prediction sets. Raises BundleError where the bundle lacks the given level."""
    evenly = dict.fromkeys(bundle.labels, 1 / len(bundle.labels))
    try:
        prediction_set(bundle.calibration, evenly, DEFAULT_COVERAGE if coverage is None else coverage)
    except BundleError:
        if coverage is None:
            return None
        raise
    return DEFAULT_COVERAGE if coverage is None else coverage
