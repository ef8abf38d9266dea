"""Folders of any size: finding their images, and classifying them into one table that an interruption does not lose.

Rows go to a journal beside the table, `OUT.part`, a batch at a time. When all are there, the table is written and put in
place in one step. Run again, what the journal holds is not classified again. An engine that classifies elsewhere needs
`find_images`, `record_of` and `Journal` alone.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from logo_edge.classifier import Classifier
from logo_edge.ending import AGAIN
from logo_edge.errors import ImageError, LogoEdgeError, MissingExtraError
from logo_edge.files import replacing
from logo_edge.names import csv_line, join_names, shown
from logo_edge.results import Classification, Match

STDIN = "-"
RASTER = frozenset(
    ".apng .avif .bmp .dib .gif .ico .jfif .jp2 .jpe .jpeg .jpg "
    ".pbm .pgm .png .pnm .ppm .qoi .tga .tif .tiff .webp".split()
)
EXPLAINED = ".explain.png"  # what --explain leaves beside an image is none to classify
FORMATS = (".csv", ".jsonl", ".parquet")
FOLDERS = "folder"  # of the settings: where the images come from
ENROLLED = "enrolment_sha256"  # of the settings: which enrolment, if any
ROW_GROUP = 10_000  # rows of a Parquet file that are in memory at a time
BUSY = 5  # SQLite's result codes, https://sqlite.org/rescode.html
SYSTEM_ERRORS = {8: errno.EROFS, 10: errno.EIO, 13: errno.ENOSPC, 14: errno.EACCES}


def find_images(paths: Iterable[str]) -> Iterator[str]:
    """The path of every image: files as they are named, folders as `walk_images` does, globs (`**` too).

    A path that does not exist comes out as it is, to fail by itself.
    """
    for path in paths:
        if os.path.isdir(path):
            yield from walk_images(path)
        elif is_glob(path):
            for found in sorted(set(expand_glob(path))):
                if os.path.isfile(found) and not found.endswith(EXPLAINED):
                    yield found
        else:
            yield path


def is_glob(path: str) -> bool:
    """Whether the path is a pattern, and no file or folder of that very name."""
    return glob.has_magic(path) and not os.path.lexists(path)


def expand_glob(pattern: str) -> Iterator[str]:
    """What the pattern matches. Leading folders that exist under that very name, such as `t [new]`, are no pattern.

    `**` stands for folders at any depth as `walk_images` visits them, so that links in a circle end.
    """
    before, deep, after = re.fullmatch(r"(.*?)(?:(?<![^/])(\*\*)(?:/+(.*))?)?", pattern, re.DOTALL).groups()
    if deep:
        for folder in expand_glob(before) if before else [os.curdir]:
            for where, files in _walk(folder, []):
                where = where if before else os.path.relpath(where) if where != os.curdir else ""
                yield from (
                    expand_glob(os.path.join(where, after)) if after else (os.path.join(where, file) for file in files)
                )
        return
    literal = pattern
    while literal and not os.path.isdir(literal):
        literal = os.path.dirname(literal)
    yield from glob.iglob(glob.escape(literal) + pattern[len(literal) :])


def walk_images(folder: str | os.PathLike) -> Iterator[str]:
    """The path of every file below the folder that has an image's suffix, hidden ones and heat maps of --explain left out.

    A folder's own files come first, then its subfolders, both in alphabetical order; folders that links lead to come
    last. Each folder is visited once, however many links lead to it, so that loops end. SVG is an image where the extra
    `svg` is installed. A folder that cannot be read comes out as it is, to fail by itself. Every verb finds its images
    here.
    """
    suffixes = RASTER | {".svg", ".svgz"} if find_spec("resvg_py") else RASTER
    unreadable: list[OSError] = []
    for where, files in _walk(folder, unreadable):
        for file in files:
            suffix = os.path.splitext(file)[1].lower()
            if suffix in suffixes and not file.startswith(".") and not file.endswith(EXPLAINED):
                yield os.path.join(where, file)
    yield from (error.filename for error in unreadable)


def _walk(folder: str | os.PathLike, unreadable: list[OSError]) -> Iterator[tuple[str, list[str]]]:
    """Each folder, hidden ones left out, once, with the names of its files; the errors of those that cannot be read."""
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
            yield where, sorted(files)


def record_of(name: str, result: Classification | ImageError) -> dict:
    """The row of one image: its path and every field of its classification, or its path and the error."""
    if isinstance(result, ImageError):
        return {"path": shown(name), "error": shown(str(result))}
    return {
        "path": shown(name),
        "label": result.label,
        "best_guess": result.best_guess,
        "confidence": rounded(result.confidence),
        "probabilities": {label: rounded(value) for label, value in result.probabilities.items()},
        "prediction_set": None if result.prediction_set is None else list(result.prediction_set),
        "aleatoric": rounded(result.aleatoric),
        "epistemic": rounded(result.epistemic),
        "logo_score": rounded(result.logo_score),
        "is_logo": result.is_logo,
        "high_confidence": result.high_confidence,
        "low_confidence": result.low_confidence,
        "reason": result.reason,
        **({} if result.enrolled is None else {"enrolled": _match(result.enrolled)}),
    }


def _match(match: Match) -> dict:
    return vars(match) | {name: rounded(getattr(match, name)) for name in ("similarity", "confidence")}


def rounded(value: float | None) -> float | None:
    """Six decimals; None where there is no finite number, which JSON cannot say."""
    return round(value, 6) if value is not None and math.isfinite(value) else None


def folders_of(paths: Iterable[str]) -> list[str]:
    """Where the images of one table come from: the absolute folders and globs, and the folders of files, each once."""
    folders = {
        path if os.path.isdir(path) or is_glob(path) else os.path.dirname(os.path.abspath(path)) for path in paths
    }
    return sorted(shown(os.path.abspath(folder)) for folder in folders)


def describe_settings(classifier: Classifier) -> dict:
    """What the rows of one table have in common: which model decided, on which backend, and how."""
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
    }


class Journal:
    """The rows of a table that is being made: `done` says which are there, `append` adds some, `finish` writes the table.

    A context manager over a SQLite database beside the table, which belongs to one process at a time. A row is that of
    one file: of its absolute path, size and times of change. A file that was replaced since is classified again, and
    rows of files that a later run does not name are left out of its table.
    """

    def __init__(self, out: Path, labels: tuple[str, ...], settings: dict, *, overwrite: bool = False):
        """`settings`: those of `describe_settings` and, where there are any, the `folders_of` the images.

        Raises LogoEdgeError where `out` exists (unless `overwrite`), is of no known kind, cannot be there, or its journal
        was begun with other settings or is damaged; MissingExtraError for Parquet without pyarrow; OSError.
        """
        if out.suffix.lower() not in FORMATS:
            raise LogoEdgeError(f"{out}: found suffix {out.suffix!r}; expected one of {', '.join(FORMATS)}")
        if out.suffix.lower() == ".parquet":
            _pyarrow()
        self.out, self.columns = out, columns_of(labels, enrolled=settings.get(ENROLLED) is not None)
        self.path = out.with_name(f"{out.name}.part")
        if out.is_dir():
            raise LogoEdgeError(f"{out}: a folder; name a file, such as {out / ('results' + out.suffix)}")
        if out.exists() and not overwrite:
            self._drop_finished()
            raise LogoEdgeError(f"{out}: there already; name another --out, or replace it with --overwrite")
        self.rows = self.failed = self.added = 0
        self._begun: dict[str, str] = {}  # what is being classified, and its stamp before it was read
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab"):  # tells, unlike SQLite, why it cannot be written
                pass
        except (PermissionError, NotADirectoryError, FileExistsError, IsADirectoryError) as error:
            raise LogoEdgeError(f"{self.path}: {error.strerror}; expected a folder that can be written") from error
        self._connect()
        try:
            self._open(json.loads(json.dumps(settings)))
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind, error: BaseException | None, trace) -> None:
        if isinstance(error, (KeyboardInterrupt, OSError)):
            error.add_note(AGAIN)
        self._database.close()

    def done(self, name: str) -> bool:
        """Whether the journal holds the image's row; if not, the file's size and times are noted for `append`."""
        key, stamp = _key(name), _stamp(name)
        row = self._execute("SELECT run, failed FROM rows WHERE path = ? AND stamp = ?", key, stamp).fetchone()
        if row is None:
            self._begun[name] = stamp
            return False
        if row[0] != self._run:
            self._execute("UPDATE rows SET run = ?, name = ? WHERE path = ?", self._run, os.fsencode(name), key)
            self.rows, self.failed = self.rows + 1, self.failed + row[1]
            if self.rows % ROW_GROUP == 0:
                self._commit()
        return True

    def append(self, named: Iterable[tuple[str, dict]]) -> None:
        """Adds rows of `record_of`, each after the name that it is of; they are in the file when it returns.

        They survive the end of this process, and all but the latest survive a power failure. Raises OSError.
        """
        for name, record in named:
            stamp = self._begun.pop(name, None)
            stamp = _stamp(name) if stamp is None else stamp
            failed, text = "error" in record, json.dumps(record, allow_nan=False)
            row = _key(name), stamp, self._run, os.fsencode(name), failed, text
            self._execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?)", *row)
            self.rows, self.failed, self.added = self.rows + 1, self.failed + failed, self.added + 1
        self._commit()

    def finish(self) -> None:
        """Writes the table, in order of path, and puts it in place; the journal goes once the disk has the table."""
        self._execute("DELETE FROM rows WHERE run != ?", self._run)
        self.rows, self.failed = self._execute("SELECT count(*), coalesce(sum(failed), 0) FROM rows").fetchone()
        self._commit()
        write = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}[self.out.suffix.lower()]
        with replacing(self.out) as part:
            write(self.records(), self.columns, part)
            self._execute("UPDATE journal SET written = ?", _file_id(part))
            self._commit()
        self._drop()

    def records(self) -> Iterator[dict]:
        """Every row of the journal, one at a time, in order of path. Raises LogoEdgeError where it is damaged."""
        try:
            for name, record in self._execute("SELECT name, record FROM rows ORDER BY path"):
                yield json.loads(record) | {"path": shown(os.fsdecode(name))}
        except (self._database.Error, ValueError) as error:
            raise self._explain(error) from error

    def _connect(self) -> None:
        import sqlite3  # 3 ms that a start without --out need not pay

        self._database = sqlite3.connect(self.path, timeout=0)

    def _drop(self) -> None:
        """Closes and removes the journal."""
        self._database.close()
        for path in (self.path.with_name(f"{self.path.name}-wal"), self.path):
            path.unlink(missing_ok=True)

    def _drop_finished(self) -> None:
        """Removes what a run left that was killed after it had put the table in place; another journal stays."""
        if not self.path.exists():
            return
        self._connect()
        try:
            if self._execute("SELECT written FROM journal").fetchone() == (_file_id(self.out),):
                self._drop()
        except (LogoEdgeError, OSError):  # in use, or not ours
            pass
        finally:
            self._database.close()

    def _open(self, settings: dict) -> None:
        """Takes the database for this process, checks it, and writes the settings into a new one."""
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
            self._execute(f"PRAGMA {pragma}")
        self._execute("BEGIN IMMEDIATE")
        if not self._execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._execute("CREATE TABLE journal (settings TEXT, runs INTEGER, written TEXT)")
            self._execute(
                "CREATE TABLE rows (path BLOB PRIMARY KEY, stamp TEXT, run INTEGER, name BLOB, failed INTEGER, record TEXT) "
                "WITHOUT ROWID"
            )
            self._execute("INSERT INTO journal VALUES (?, 0, NULL)", json.dumps(settings))
        elif (problem := self._execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise self._explain(ValueError(problem))
        (text,) = self._execute("SELECT settings FROM journal").fetchone()
        begun = json.loads(text)
        differing = sorted(key for key in settings | begun if begun.get(key) != settings.get(key))
        if FOLDERS not in settings or FOLDERS not in begun:  # an engine of its own need not name them
            differing = [key for key in differing if key != FOLDERS]
        if differing:
            raise LogoEdgeError(
                f"{self.path}: begun with another {', '.join(differing)} ({_values(begun, differing)}; now "
                f"{_values(settings, differing)}); go on with the same, name another --out, or delete the file to start anew"
            )
        self._execute("UPDATE journal SET runs = runs + 1")
        (self._run,) = self._execute("SELECT runs FROM journal").fetchone()
        (self.begun,) = self._execute("SELECT count(*) FROM rows").fetchone()
        self._commit()

    def _execute(self, statement: str, *values) -> Iterator[tuple]:
        try:
            return self._database.execute(statement, values)
        except self._database.Error as error:
            raise self._explain(error) from error

    def _commit(self) -> None:
        try:
            self._database.commit()
        except self._database.Error as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> LogoEdgeError | OSError:
        """The error as what it is: of the system, of another process, or of a damaged file."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without its extension
        if code in SYSTEM_ERRORS:
            number = SYSTEM_ERRORS[code]
            return OSError(number, os.strerror(number), os.fspath(self.path))
        if code == BUSY:
            return LogoEdgeError(f"{self.path}: another process is writing it; wait for its end, or name another --out")
        return LogoEdgeError(
            f"{self.path}: damaged, or not a journal of this version ({error}); expected what `--out` wrote. Delete it to "
            "classify all images again"
        )


def classify_folder(
    classifier: Classifier,
    names: Iterable[str],
    journal: Journal,
    *,
    workers: int,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> None:
    """Classifies what the journal does not hold yet and finishes it; memory does not grow with the number of images."""
    missing = (name for name in names if not journal.done(name))
    pairs = iter(classify_named(classifier, ((name, name) for name in missing), workers=workers, batch_size=batch_size))
    while some := list(islice(pairs, batch_size)):
        journal.append((name, record_of(name, result)) for name, result in some)
        if progress:
            progress.show(journal)
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

    def __init__(self, total: int, begun: int = 0):
        """`begun`: the rows of an earlier run, of images that may have changed since."""
        self.total, self.start_s = total, time.monotonic()
        self.live = sys.stderr.isatty()
        self.every_s = 0.2 if self.live else 60.0
        self.shown_s = self.start_s
        if begun:
            print(f"goes on after {begun:,} of {total:,} images", file=sys.stderr)

    def show(self, journal: Journal) -> None:
        now = time.monotonic()
        if now - self.shown_s < self.every_s and journal.rows < self.total:
            return
        self.shown_s = now
        rate = journal.added / max(now - self.start_s, 1e-9)
        left_s = round(max(self.total - journal.rows, 0) / rate) if rate else 0
        line = (
            f"{journal.rows:,} of {self.total:,} images, {rate:,.0f}/s, "
            f"{left_s // 3600}:{left_s // 60 % 60:02}:{left_s % 60:02} left"
        )
        line += f", {journal.failed:,} failed" if journal.failed else ""
        print(f"\r{line:<78}" if self.live else line, end="" if self.live else "\n", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.live:
            print(file=sys.stderr)


def _key(name: str) -> bytes:
    """The file's absolute path, as the system has it: names that are `shown` alike may differ."""
    return os.fsencode(os.path.abspath(name))


def _stamp(name: str) -> str:
    """What changes with the file's content; empty where the system gives nothing.

    The time of its last change of state tells a file that was replaced by one of the same size and modification time.
    """
    try:
        status = os.stat(name)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _file_id(path: Path) -> str:
    """What stays the same where the file is renamed, and of no other file."""
    status = os.stat(path)
    return f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"


def _values(settings: dict, keys: list[str]) -> str:
    return ", ".join(", ".join(value) if isinstance(value := settings.get(key), list) else str(value) for key in keys)


def columns_of(labels: tuple[str, ...], *, enrolled: bool = False) -> list[str]:
    """The columns of a table, with those of a `Match` where there are `enrolled` classes."""
    return [*COLUMNS, *(MATCH if enrolled else ()), *(f"probability_{label}" for label in labels)]


def _flat(record: dict, columns: list[str]) -> dict:
    """The row with one column for each probability and field of a match, and nothing missing."""
    match = record.get("enrolled", {})
    row = record | {column: match.get(key) for column, key in MATCH.items()}
    row |= {f"probability_{label}": value for label, value in record.get("probabilities", {}).items()}
    return {name: row.get(name) for name in columns}


COLUMNS = (
    "path",
    "label",
    "best_guess",
    "confidence",
    "prediction_set",
    "aleatoric",
    "epistemic",
    "logo_score",
    "is_logo",
    "high_confidence",
    "low_confidence",
    "reason",
    "error",
)
MATCH = {
    "enrolled": "label",
    "enrolled_best_guess": "best_guess",
    "enrolled_similarity": "similarity",
    "enrolled_confidence": "confidence",
}
NUMBERS = frozenset(
    ("confidence", "aleatoric", "epistemic", "logo_score", "enrolled_similarity", "enrolled_confidence")
)


def _write_jsonl(records: Iterator[dict], columns: list[str], path: Path) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def _write_csv(records: Iterator[dict], columns: list[str], path: Path) -> None:
    r"""`prediction_set` is joined by `|`, in names `\|` and `\\`; truth is 1 or 0, what there is not is empty."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(csv_line(columns))
        for record in records:
            row = _flat(record, columns)
            if row["prediction_set"] is not None:
                row["prediction_set"] = join_names(row["prediction_set"])
            file.write(csv_line(int(value) if isinstance(value, bool) else value for value in row.values()))


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
