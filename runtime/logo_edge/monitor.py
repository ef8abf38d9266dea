"""The opt-in prediction log, and the drift of its predictions from the reference in the bundle.

The log is JSON lines, one prediction each, and never holds an image or its name. Drift is the population stability
index of confidence, best guess and abstention. The reference holds their shares in the artifact's own predictions on
the calib split.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from typing import TYPE_CHECKING

import numpy as np

from logo_edge.errors import BundleError, LogoEdgeError, warn
from logo_edge.files import json_text
from logo_edge.forks import after_fork

if TYPE_CHECKING:
    from logo_edge.results import Classification

BINS = 10
STABLE, DRIFTED = 0.1, 0.25  # customary limits of the index (Siddiqi 2006, "Credit Risk Scorecards")
LEAST = 100  # predictions; fewer say nothing about drift
LEAST_SHARE = 1e-3  # of a bin, so that an empty bin does not make the index infinite
Z_99 = 2.3263  # quantile of the normal distribution: one false alarm in a hundred


@dataclass(frozen=True)
class Drift:
    """One quantity's population stability index, the index that chance allows, and its shares in reference and log."""

    name: str
    index: float
    by_chance: float
    reference: dict[str, float]
    found: dict[str, float]  # in the log; a key of `logo-edge monitor --json`

    @property
    def verdict(self) -> str:
        """stable, drifting or drifted, by the customary limits; stable below the index that chance allows."""
        if self.index < max(STABLE, self.by_chance):
            return "stable"
        return "drifting" if self.index < DRIFTED else "drifted"


class PredictionLog:
    """Appends one line per prediction to a file; safe to share between threads, and between processes on POSIX.

    A line that cannot be written, as on a full disk, does not fail the classification: `failures` counts such lines,
    and the first one gives a warning.
    """

    def __init__(self, path: str | os.PathLike, bundle_name: str):
        """Raises LogoEdgeError where the file cannot be opened for writing."""
        self._path, self._bundle, self._lock = path, bundle_name, threading.Lock()
        self.failures = 0
        try:
            self._file: FileIO | None = self._open()
        except OSError as error:
            raise LogoEdgeError(f"{path}: {error.strerror}; expected a file that can be written") from error

        after_fork(self)

    def leave_to_parent(self) -> None:
        """In a forked child: a new lock, and no file, since the parent's would share its lock."""
        self._lock, self._file = threading.Lock(), None

    def _open(self) -> FileIO:
        return open(self._path, "ab", buffering=0)

    def append(self, result: Classification) -> None:
        line = {
            "time": round(time.time(), 3),
            "bundle": self._bundle,
            "label": result.label,
            "best_guess": result.best_guess,
            "confidence": round(result.confidence, 6),
        }
        data = json_text(line, indent=None).encode()
        with self._lock:
            try:
                self._file = self._file or self._open()
                with _sole_writer(self._file):
                    _append_whole(self._file, data)
            except OSError as error:
                self.failures += 1
                if self.failures == 1:
                    warn(
                        f"{self._path}: {error.strerror}; predictions are answered but not logged until it can be "
                        "written again (said once)"
                    )


@contextmanager
def _sole_writer(file: FileIO) -> Iterator[None]:
    """Locks the file, so that other processes that append to the same log wait (POSIX)."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _append_whole(file: FileIO, data: bytes) -> None:
    """Writes all of `data` or nothing; a full disk would take a part of the line. Raises OSError."""
    end = os.fstat(file.fileno()).st_size
    try:
        while data:
            data = data[file.write(data) :]
    except OSError:
        with suppress(OSError):  # a device has no length
            file.truncate(end)
        raise


def reference_of(confidence: np.ndarray, predicted: np.ndarray, labels: tuple[str, ...], answered: np.ndarray) -> dict:
    """The reference in a bundle: shares of its own predictions by decile of confidence, best guess and abstention.

    confidence: (N,), predicted: (N,) integers, answered: (N,) bool, whether balanced gives a label.
    """
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, BINS + 1)[1:-1]).round(6))
    return {
        "count": len(confidence),
        "confidence_edges": edges.tolist(),
        "confidence": _confidence_shares(confidence, edges),
        "best_guess": {name: float((predicted == k).mean()) for k, name in enumerate(labels)},
        "abstention": _abstention_shares(~answered),
    }


def read_log(path: str | os.PathLike, bundle_name: str | None = None) -> Iterator[dict]:
    """The predictions of a log; with a bundle's name, only those of this bundle.

    Raises LogoEdgeError, which names the line, where a line is no prediction.
    """
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    record = json.loads(line)
                    prediction = {
                        "best_guess": str(record["best_guess"]),
                        "confidence": 0.0 if record["confidence"] is None else float(record["confidence"]),
                        "abstained": record["label"] is None,
                    }
                    bundle = record["bundle"]
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise LogoEdgeError(
                        f"{path}, line {number}: {error!r}; expected a line that `logo-edge classify --log` wrote"
                    ) from error
                if bundle_name in (None, bundle):
                    yield prediction
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LogoEdgeError(f"{path}: {reason}; expected a log that `logo-edge classify --log` wrote") from error


def measure_drift(reference: dict, predictions: Iterable[dict]) -> list[Drift]:
    """The drift of confidence, best guess and abstention; `predictions` are those of `read_log`.

    Raises LogoEdgeError on fewer than LEAST predictions, BundleError where bundle and log do not belong together.
    """
    predictions = list(predictions)
    _check_reference(reference)
    if len(predictions) < LEAST:
        raise LogoEdgeError(
            f"{len(predictions)} predictions of this bundle; at least {LEAST} are needed to speak of drift"
        )
    confidence = np.array([prediction["confidence"] for prediction in predictions])
    guesses = [prediction["best_guess"] for prediction in predictions]
    if unknown := sorted(set(guesses) - set(reference["best_guess"])):
        raise BundleError(
            f"the log has labels {', '.join(unknown)}, which the bundle does not know; it is another's log"
        )
    logged = {
        "confidence": _confidence_shares(confidence, np.array(reference["confidence_edges"])),
        "best_guess": {name: guesses.count(name) / len(guesses) for name in reference["best_guess"]},
        "abstention": _abstention_shares(np.array([prediction["abstained"] for prediction in predictions])),
    }
    return [
        Drift(
            name,
            population_stability(reference[name], shares),
            index_by_chance(len(shares), reference["count"], len(predictions)),
            reference[name],
            shares,
        )
        for name, shares in logged.items()
    ]


def _check_reference(reference: dict) -> None:
    """Raises BundleError where it does not have the form that `reference_of` gives."""
    if not reference:
        raise BundleError(
            "the bundle holds no reference of its own predictions; pack it again with `logo-edge compress`"
        )
    try:
        edges = np.array(reference["confidence_edges"], float)
        bins = {"confidence": _confidence_shares(np.zeros(1), edges), "abstention": _abstention_shares(np.zeros(1))}
        fits = reference["count"] > 0 and all(set(reference[name]) == set(shares) for name, shares in bins.items())
        shares = [share for name in (*bins, "best_guess") for share in reference[name].values()]
        fits = fits and bool(((np.array(shares, float) >= 0) & (np.array(shares, float) <= 1)).all())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"the bundle's reference cannot be read ({error!r}); pack it again with `logo-edge compress`"
        ) from error
    if not fits:
        raise BundleError(
            "the bundle's reference is not that of one release; expected a count, edges and shares from 0 to 1 of all "
            "bins. Pack it again with `logo-edge compress`"
        )


def population_stability(reference: dict[str, float], logged: dict[str, float]) -> float:
    """Sum over the bins of (logged - reference) log(logged / reference); 0 where both agree."""
    before = np.maximum([reference[name] for name in reference], LEAST_SHARE)
    after = np.maximum([logged[name] for name in reference], LEAST_SHARE)
    return float(((after - before) * np.log(after / before)).sum())


def index_by_chance(bins: int, reference_count: int, logged_count: int) -> float:
    """The value that the index of two samples of one distribution exceeds once in a hundred times.

    The index is (1 / n + 1 / m) times a chi-square with bins - 1 degrees of freedom (Yurdakul 2018, "Statistical
    properties of the population stability index"); its quantile is that of Wilson and Hilferty 1931.
    """
    freedom = bins - 1
    quantile = freedom * (1 - 2 / (9 * freedom) + Z_99 * (2 / (9 * freedom)) ** 0.5) ** 3 if freedom else 0.0
    return quantile * (1 / reference_count + 1 / logged_count)


def _confidence_shares(confidence: np.ndarray, edges: np.ndarray) -> dict[str, float]:
    counts = np.bincount(np.searchsorted(edges, confidence, side="right"), minlength=len(edges) + 1)
    ends = ["0", *(f"{edge:.6g}" for edge in edges), "1"]
    return {f"{ends[k]} to {ends[k + 1]}": float(count / len(confidence)) for k, count in enumerate(counts)}


def _abstention_shares(abstained: np.ndarray) -> dict[str, float]:
    share = float(abstained.mean())
    return {"answered": 1 - share, "abstained": share}
