"""Classifies folders of any size into one table; an interruption loses no finished row.

Rows go to a journal beside the table, `OUT.part`, a batch at a time. When every image has its row, the table is written
and put in place in one step. A rerun classifies only images without a row. An engine that classifies elsewhere, such as
`scale.ray`, needs only `find_images`, `record_of` and `Journal`.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

from logo_edge.classifier import Classifier
from logo_edge.errors import ImageError
from logo_edge.pace import Pace, clock
from logo_edge.results import Classification
from logo_edge.tables.journal import ENROLLED, MULTI_LABEL, Journal
from logo_edge.tables.writers import record_of


def describe_settings(classifier: Classifier) -> dict:
    """What all rows of one table share: the model, its backend, and how it decides."""
    bundle = classifier.bundle
    return {
        "bundle": bundle.name,
        "model_sha256": classifier.model_sha256,
        "backend": classifier.backend,
        "calibration_sha256": hashlib.sha256(repr(bundle.calibration).encode()).hexdigest(),
        "mode": classifier.mode,
        "threshold": classifier.threshold,
        "coverage": classifier.coverage,
        ENROLLED: classifier.enrolment.sha256 if classifier.enrolment else None,
        **({MULTI_LABEL: True} if bundle.calibration.multi_label else {}),
    }


def classify_folder(
    classifier: Classifier,
    names: Iterable[str],
    journal: Journal,
    *,
    workers: int,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> None:
    """Classifies the images that have no row yet and finishes the journal, in memory that does not grow with them."""
    missing = ((name, name) for name in names if not journal.holds(name))
    results = classify_named(classifier, missing, workers=workers, batch_size=batch_size)
    while batch := list(islice(results, batch_size)):
        journal.append((name, record_of(name, result)) for name, result in batch)
        if progress:
            progress.show(journal)
    journal.finish()


def classify_named(
    classifier: Classifier, named: Iterable[tuple[str, str | bytes]], *, workers: int = 1, batch_size: int = 8
) -> Iterator[tuple[str, Classification | ImageError]]:
    """(name, result) of each (name, source), in order, read lazily."""
    pending: deque[str] = deque()  # names whose results have not come yet

    def sources() -> Iterator[str | bytes]:
        for name, source in named:
            pending.append(name)
            yield source

    for result in classifier.classify_many(sources(), batch_size=batch_size, workers=workers):
        yield pending.popleft(), result


class Progress:
    """Shows on stderr the images done, their rate and the time left: live in a terminal, else a line a minute."""

    def __init__(self, total: int, resumed: int = 0):
        """`resumed`: rows of an earlier run, whose images may have changed since."""
        self.total, self.start_s = total, time.monotonic()
        self.live = sys.stderr.isatty()
        self.every_s = 0.2 if self.live else 60.0
        self.shown_s, self.pace = self.start_s, Pace()
        if resumed:
            print(f"goes on after {resumed:,} of {total:,} images", file=sys.stderr)

    def show(self, journal: Journal) -> None:
        now = time.monotonic()
        self.pace.see(journal.rows, now)
        if now - self.shown_s < self.every_s and journal.rows < self.total:
            return
        self.shown_s = now
        rate = journal.added / max(now - self.start_s, 1e-9)
        left_s = self.pace.left_s(self.total, now) if journal.rows < self.total else 0
        line = f"{journal.rows:,} of {self.total:,} images, {rate:,.0f}/s, {clock(left_s)} left"
        line += f", {journal.failed:,} failed" if journal.failed else ""
        print(f"\r{line:<78}" if self.live else line, end="" if self.live else "\n", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.live:
            print(file=sys.stderr)
