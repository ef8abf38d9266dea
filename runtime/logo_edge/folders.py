"""Folders of any size: finding their images, and classifying them into one table that an interruption does not lose.

Rows go to a journal beside the table, `OUT.part`, as lines of JSON after a digest of the name, a batch at a time. When all are there the table is
written of it and put in place in one step. Run again, what the journal holds is not classified again. An engine that
classifies elsewhere needs `find_images`, `record_of` and `Journal` alone.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from logo_edge.classifier import Classification, Classifier
from logo_edge.errors import ImageError, LogoEdgeError, MissingExtraError

STDIN = "-"
RASTER = frozenset(
    ".apng .avif .bmp .dib .gif .ico .jfif .jp2 .jpe .jpeg .jpg "
    ".pbm .pgm .png .pnm .ppm .qoi .tga .tif .tiff .webp".split()
)
EXPLAINED = ".explain.png"  # what --explain leaves beside an image is none to classify
FORMATS = (".csv", ".jsonl", ".parquet")
MAX_STDIN_BYTES = 256 * 1024 * 1024
ENROLLED = "enrolment_sha256"  # of the settings: which enrolment, if any
ROW_GROUP = 10_000  # rows of a Parquet file that are in memory at a time


def find_images(paths: Iterable[str]) -> Iterator[str]:
    """The path of every image: files as they are named, folders as `walk_images` does, globs (`**` too).

    A path that does not exist comes out as it is, to fail by itself.
    """
    for path in paths:
        if os.path.isdir(path):
            yield from walk_images(path)
        elif glob.has_magic(path) and not os.path.lexists(path):
            for found in sorted(glob.iglob(path, recursive=True)):
                if os.path.isfile(found) and not found.endswith(EXPLAINED):
                    yield found
        else:
            yield path


def walk_images(folder: str | os.PathLike) -> Iterator[str]:
    """The path of every file below the folder that has an image's suffix, hidden ones and heat maps of --explain left out.

    A folder's own files come first, then its subfolders, both in alphabetical order; folders that links lead to come
    last. Each folder is visited once, however many links lead to it, so that loops end. SVG is an image where the extra
    `svg` is installed. A folder that cannot be read comes out as it is, to fail by itself. Every verb finds its images
    here.
    """
    suffixes = RASTER | {".svg"} if find_spec("resvg_py") else RASTER
    unreadable: list[OSError] = []
    roots, seen = deque([os.fspath(folder)]), set()
    while roots:
        for where, folders, files in os.walk(roots.popleft(), onerror=unreadable.append):
            status = os.stat(where)
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            roots.extend(path for name in folders if os.path.islink(path := os.path.join(where, name)))
            for file in sorted(files):
                suffix = os.path.splitext(file)[1].lower()
                if suffix in suffixes and not file.startswith(".") and not file.endswith(EXPLAINED):
                    yield os.path.join(where, file)
    yield from (error.filename for error in unreadable)


def record_of(name: str, result: Classification | ImageError) -> dict:
    """The row of one image: its path and every field of its classification, or its path and the error."""
    if isinstance(result, ImageError):
        return {"path": shown(name), "error": shown(str(result))}
    return {
        "path": shown(name),
        "label": result.label,
        "best_guess": result.best_guess,
        "confidence": round(result.confidence, 6),
        "probabilities": {label: round(value, 6) for label, value in result.probabilities.items()},
        "prediction_set": None if result.prediction_set is None else list(result.prediction_set),
        "aleatoric": round(result.aleatoric, 6),
        "epistemic": None if result.epistemic is None else round(result.epistemic, 6),
        "energy": round(result.energy, 6),
        "is_logo": result.is_logo,
        "high_confidence": result.high_confidence,
        "low_confidence": result.low_confidence,
        "reason": result.reason,
        **({} if result.enrolled is None else {"enrolled": vars(result.enrolled)}),
    }


def shown(name: str) -> str:
    """A file's name as text that can be printed: bytes of it that are no UTF-8 become U+FFFD."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def describe_settings(classifier: Classifier) -> dict:
    """What the rows of one table have in common: which model decided, on which backend, and how."""
    bundle = classifier.bundle
    return {"bundle": bundle.name, "model_sha256": classifier.model_sha256, "backend": classifier.backend,
            "calibration_sha256": hashlib.sha256(repr(bundle.calibration).encode()).hexdigest(),
            "mode": classifier.mode, "threshold": classifier.threshold, "coverage": classifier.coverage,
            ENROLLED: classifier.enrolment.sha256 if classifier.enrolment else None}  # fmt: skip


class Journal:
    """The rows of a table that is being made: `done` says which are there, `append` adds some, `finish` writes the table.

    A context manager. A last line that was cut off in the middle is dropped, and its image done again.
    """

    def __init__(self, out: Path, labels: tuple[str, ...], settings: dict, *, overwrite: bool = False):
        """`settings`: those of `describe_settings`. Raises LogoEdgeError where `out` is there already (unless `overwrite`), is of no known kind, or was begun with
        other settings or is damaged; MissingExtraError for Parquet without pyarrow."""
        if out.suffix.lower() not in FORMATS:
            raise LogoEdgeError(f"{out}: found suffix {out.suffix!r}; expected one of {', '.join(FORMATS)}")
        if out.suffix.lower() == ".parquet":
            _pyarrow()
        if out.exists() and not overwrite:
            raise LogoEdgeError(f"{out}: there already; name another --out, or replace it with --overwrite")
        self.out, self.columns = out, columns_of(labels, enrolled=settings.get(ENROLLED) is not None)
        self.path = out.with_name(f"{out.name}.part")
        self.rows = self.failed = 0
        settings = json.loads(json.dumps(settings))
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = open(self.path, "a+b")  # noqa: SIM115 (closed by __exit__)
            _lock(self._file, self.path)
            self._digests = self._read_rows(settings)
        except LogoEdgeError:
            self._file.close()
            raise
        except OSError as error:
            raise LogoEdgeError(f"{self.path}: {error.strerror}; expected a folder that can be written") from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error) -> None:
        self._file.close()

    def done(self, name: str) -> bool:
        """Whether the journal held the image's row when it was opened."""
        digest = np.uint64(int(_digest(name), 16))
        index = int(np.searchsorted(self._digests, digest))
        return index < len(self._digests) and self._digests[index] == digest

    def append(self, named: Iterable[tuple[str, dict]]) -> None:
        """Adds rows of `record_of`, each after the name that it is of; they are in the file when it returns."""
        named = list(named)
        self._file.write(b"".join(json.dumps([_digest(name), record]).encode() + b"\n" for name, record in named))
        self._file.flush()
        self.rows += len(named)
        self.failed += sum("error" in record for _, record in named)

    def finish(self) -> None:
        """Writes the table of all rows, puts it in place and drops the journal."""
        os.fsync(self._file.fileno())
        part = self.out.with_name(f".{self.out.name}.new")
        write = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}[self.out.suffix.lower()]
        write(self.records(), self.columns, part)
        os.replace(part, self.out)
        self._file.close()
        self.path.unlink()

    def records(self) -> Iterator[dict]:
        """Every row of the journal, one at a time."""
        with open(self.path, "rb") as file:
            next(file)  # the settings
            for line in file:
                yield json.loads(line)[1]

    def _read_rows(self, settings: dict) -> np.ndarray:
        """The sorted digests of the rows that are there; writes the settings into a new journal."""
        digests: list[np.ndarray] = []
        self._file.seek(0)
        header = self._file.readline()
        if not header.endswith(b"\n"):
            self._file.truncate(0)
            self._file.write(json.dumps({"settings": settings}).encode() + b"\n")
            self._file.flush()
            return np.empty(0, np.uint64)
        if (found := _settings(header)) != settings:
            differing = sorted(key for key in settings if not found or found.get(key) != settings[key])
            raise LogoEdgeError(
                f"{self.path}: begun with another {', '.join(differing)}; go on with the same, or delete it to start anew"
            )
        end = self._file.tell()
        while lines := list(islice(self._file, 65536)):
            whole = [line for line in lines if line.endswith(b"\n")]
            rows = [self._read_row(line, number) for number, line in enumerate(whole, self.rows + 2)]
            digests.append(np.array([digest for digest, _ in rows], np.uint64))
            self.rows += len(rows)
            self.failed += sum("error" in record for _, record in rows)
            end += sum(map(len, whole))
        self._file.truncate(end)
        return np.sort(np.concatenate(digests)) if digests else np.empty(0, np.uint64)

    def _read_row(self, line: bytes, number: int) -> tuple[np.uint64, dict]:
        """The digest of the image's name and its record. Raises LogoEdgeError for a line that `append` did not write."""
        try:
            digest, record = json.loads(line)
            if not isinstance(record["path"], str):
                raise ValueError(f"path is {record['path']!r}")
            return np.uint64(int(digest, 16)), record
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise LogoEdgeError(
                f"{self.path}: line {number} cannot be read ({error!r}); expected a row that `--out` wrote. Delete that line "
                "to have its image classified again, or the file to start anew"
            ) from error


def classify_folder(
    classifier: Classifier, names: Iterable[str], journal: Journal, *, workers: int, batch_size: int = 8,
    progress: Progress | None = None,
) -> None:  # fmt: skip
    """Classifies what the journal does not hold yet and finishes it; memory does not grow with the number of images."""
    missing = (name for name in names if not journal.done(name))
    pairs = iter(classify_named(classifier, ((name, name) for name in missing), workers=workers, batch_size=batch_size))
    while some := list(islice(pairs, batch_size)):
        journal.append((name, record_of(name, result)) for name, result in some)
        if progress:
            progress.show(journal.rows, journal.failed)
    journal.finish()


def classify_named(
    classifier: Classifier, named: Iterable[tuple[str, str | bytes]], *, workers: int = 1, batch_size: int = 8
) -> Iterator[tuple[str, Classification | ImageError]]:
    """(name, result) of each (name, source), in order, read lazily."""
    ahead: deque[str] = deque()

    def sources() -> Iterator[str | bytes]:
        for name, source in named:
            ahead.append(name)
            yield source

    for result in classifier.classify_many(sources(), batch_size=batch_size, workers=workers):
        yield ahead.popleft(), result


def usable_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Progress:
    """Images done, their rate and the time left, on stderr: one live line in a terminal, else a line a minute."""

    def __init__(self, total: int, done: int = 0):
        self.total, self.start_s, self.done_before = total, time.monotonic(), done
        self.live = sys.stderr.isatty()
        self.every_s = 0.2 if self.live else 60.0
        self.shown_s = self.start_s
        if done:
            print(f"goes on after {done:,} of {total:,} images", file=sys.stderr)

    def show(self, done: int, failed: int) -> None:
        now = time.monotonic()
        if now - self.shown_s < self.every_s and done < self.total:
            return
        self.shown_s = now
        rate = (done - self.done_before) / max(now - self.start_s, 1e-9)
        left_s = round(max(self.total - done, 0) / rate) if rate else 0
        line = f"{done:,} of {self.total:,} images, {rate:,.0f}/s, {left_s // 3600}:{left_s // 60 % 60:02}:{left_s % 60:02} left"
        line += f", {failed:,} failed" if failed else ""
        print(f"\r{line:<78}" if self.live else line, end="" if self.live else "\n", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.live:
            print(file=sys.stderr)


def _lock(file: IO[bytes], path: Path) -> None:
    """Keeps the file to this process until it is closed; raises LogoEdgeError where another has it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise LogoEdgeError(
            f"{path}: another process is writing it; wait for its end, or name another --out"
        ) from error


def _digest(name: str) -> str:
    """64 bits, in hexadecimal, of a file's name as the system knows it: what is `shown` of two may be the same."""
    return hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()


def _settings(header: bytes) -> dict | None:
    try:
        return json.loads(header)["settings"]
    except (ValueError, KeyError, TypeError):
        return None


def columns_of(labels: tuple[str, ...], *, enrolled: bool = False) -> list[str]:
    """The columns of a table, with those of a `Match` where there are `enrolled` classes."""
    return [*COLUMNS, *(MATCH if enrolled else ()), *(f"probability_{label}" for label in labels)]


def _flat(record: dict, columns: list[str]) -> dict:
    """The row with one column for each probability and field of a match, and nothing missing."""
    match = record.get("enrolled", {})
    row = record | {column: match.get(key) for column, key in MATCH.items()}
    row |= {f"probability_{label}": value for label, value in record.get("probabilities", {}).items()}
    return {name: row.get(name) for name in columns}


COLUMNS = ("path", "label", "best_guess", "confidence", "prediction_set", "aleatoric", "epistemic", "energy", "is_logo",
           "high_confidence", "low_confidence", "reason", "error")  # fmt: skip
MATCH = {"enrolled": "label", "enrolled_best_guess": "best_guess", "enrolled_similarity": "similarity",
         "enrolled_confidence": "confidence"}  # fmt: skip
NUMBERS = frozenset(("confidence", "aleatoric", "epistemic", "energy", "enrolled_similarity", "enrolled_confidence"))


def _write_jsonl(records: Iterator[dict], columns: list[str], path: Path) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _write_csv(records: Iterator[dict], columns: list[str], path: Path) -> None:
    """`prediction_set` is joined by `|`, truth is 1 or 0, what there is not is empty."""
    import csv

    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for record in records:
            row = _flat(record, columns)
            row["prediction_set"] = None if row["prediction_set"] is None else "|".join(row["prediction_set"])
            writer.writerow({key: int(value) if isinstance(value, bool) else value for key, value in row.items()})


def _write_parquet(records: Iterator[dict], columns: list[str], path: Path) -> None:
    pyarrow = _pyarrow()
    schema = table_schema(columns)
    from pyarrow import parquet

    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while some := list(islice(records, ROW_GROUP)):
            writer.write_table(pyarrow.Table.from_pylist([_flat(record, columns) for record in some], schema=schema))


def table_schema(columns: list[str]):
    """The Arrow schema of a table's `columns_of`."""
    pyarrow = _pyarrow()
    text, number, truth = pyarrow.string(), pyarrow.float32(), pyarrow.bool_()
    kinds = dict.fromkeys(("is_logo", "high_confidence", "low_confidence"), truth) | dict.fromkeys(NUMBERS, number)
    kinds |= {"prediction_set": pyarrow.list_(text)}
    kinds |= {name: number for name in columns if name.startswith("probability_")}
    return pyarrow.schema([(name, kinds.get(name, text)) for name in columns])


def _pyarrow():
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError("parquet", "pyarrow") from error
    return pyarrow
