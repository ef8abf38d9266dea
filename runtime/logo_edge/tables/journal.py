"""The journal of a table that is being written: rows survive an interruption, and a rerun goes on after them."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from logo_edge.errors import LogoEdgeError
from logo_edge.exits import note_rerun
from logo_edge.files import replacing
from logo_edge.names import shown
from logo_edge.tables.writers import ROW_GROUP, WRITERS, Table, columns_of, import_pyarrow

FOLDERS = "folder"  # key of the settings: where the images come from
ENROLLED = "enrolment_sha256"  # key of the settings: the enrolment, or None
MULTI_LABEL = "multi_label"  # key of the settings: whether rows have several labels
BUSY = 5  # SQLite's result codes, https://sqlite.org/rescode.html
SYSTEM_ERRORS = {8: errno.EROFS, 10: errno.EIO, 13: errno.ENOSPC, 14: errno.EACCES}


class Journal:
    """Rows of a table that is being written: `holds` asks for one, `append` adds some, `finish` writes the table.

    A context manager over a SQLite database beside the table, `OUT.part`, which one process at a time may open. A row
    belongs to one file: its absolute path, size and times of change. A file that was replaced since is classified
    again. Rows of files that a later run does not name are left out of its table.
    """

    def __init__(self, out: Path, labels: tuple[str, ...], settings: dict, *, overwrite: bool = False):
        """`settings`: those of `describe_settings` and, under FOLDERS, the `source_folders` of the images, if known.

        Raises LogoEdgeError if `out` exists (unless `overwrite`), has no known suffix or cannot be written, or if its
        journal has other settings or is damaged; MissingExtraError for Parquet without pyarrow; OSError.
        """
        if out.suffix.lower() not in WRITERS:
            raise LogoEdgeError(f"{out}: found suffix {out.suffix!r}; expected one of {', '.join(WRITERS)}")
        if out.suffix.lower() == ".parquet":
            import_pyarrow()  # so that a missing extra is reported before hours of work
        kinds = {"enrolled": settings.get(ENROLLED) is not None, "multi_label": settings.get(MULTI_LABEL, False)}
        self.out, self.columns = out, columns_of(labels, **kinds)
        self.path = out.with_name(f"{out.name}.part")
        if out.is_dir():
            raise LogoEdgeError(f"{out}: a folder; name a file, such as {out / ('results' + out.suffix)}")
        if out.exists() and not overwrite:
            self._drop_finished()
            raise LogoEdgeError(f"{out}: there already; name another --out, or replace it with --overwrite")
        self.rows = self.failed = self.added = 0
        self._stamps: dict[str, str] = {}  # of the images that are being classified, before they were read
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab"):  # unlike SQLite, this gives the reason when it fails
                pass
        except (PermissionError, NotADirectoryError, FileExistsError, IsADirectoryError) as error:
            raise LogoEdgeError(f"{self.path}: {error.strerror}; expected a folder that can be written") from error
        self._connect()
        self._settings = json.loads(json.dumps(settings))
        try:
            self._open(self._settings)
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind, error: BaseException | None, trace) -> None:
        if isinstance(error, (KeyboardInterrupt, OSError)):
            note_rerun(error)
        self._database.close()

    def holds(self, name: str) -> bool:
        """Whether the journal has the image's row; if not, the file's size and times are kept for `append`."""
        key, stamp = _key(name), _stamp(name)
        row = self._execute("SELECT run, failed FROM rows WHERE path = ? AND stamp = ?", key, stamp).fetchone()
        if row is None:
            self._stamps[name] = stamp
            return False
        if row[0] != self._run:
            self._execute("UPDATE rows SET run = ?, name = ? WHERE path = ?", self._run, os.fsencode(name), key)
            self.rows, self.failed = self.rows + 1, self.failed + row[1]
            if self.rows % ROW_GROUP == 0:
                self._commit()
        return True

    def append(self, named: Iterable[tuple[str, dict]]) -> None:
        """Adds (name, row of `record_of`) pairs; the file holds them when this returns.

        They survive the end of this process; all but the latest survive a power failure. Raises OSError.
        """
        for name, record in named:
            stamp = self._stamps.pop(name, None)
            stamp = _stamp(name) if stamp is None else stamp
            failed, text = "error" in record, json.dumps(record, allow_nan=False)
            row = _key(name), stamp, self._run, os.fsencode(name), failed, text
            self._execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?)", *row)
            self.rows, self.failed, self.added = self.rows + 1, self.failed + failed, self.added + 1
        self._commit()

    def finish(self) -> None:
        """Writes the table, sorted by path, and puts it in place; deletes the journal once the table is on the disk."""
        self._execute("DELETE FROM rows WHERE run != ?", self._run)
        self.rows, self.failed = self._execute("SELECT count(*), coalesce(sum(failed), 0) FROM rows").fetchone()
        self._commit()
        with replacing(self.out) as part:
            WRITERS[self.out.suffix.lower()](Table(self.rows_by_path(), self.columns, self._settings), part)
            self._execute("UPDATE journal SET written = ?", _file_id(part))
            self._commit()
        self._drop()

    def rows_by_path(self) -> Iterator[tuple[str, dict]]:
        """(name, record) of every row, one at a time, sorted by path. Raises LogoEdgeError if a row is damaged."""
        try:
            for stored, record in self._execute("SELECT name, record FROM rows ORDER BY path"):
                name = os.fsdecode(stored)
                yield name, json.loads(record) | {"path": shown(name)}
        except (self._database.Error, ValueError) as error:
            raise self._explain(error) from error

    def _connect(self) -> None:
        import sqlite3  # 3 ms, which only --out should cost

        self._database = sqlite3.connect(self.path, timeout=0)

    def _drop(self) -> None:
        """Closes and removes the journal."""
        self._database.close()
        for path in (self.path.with_name(f"{self.path.name}-wal"), self.path):
            path.unlink(missing_ok=True)

    def _drop_finished(self) -> None:
        """Deletes the journal of a run that was killed after it put this table in place; any other journal stays."""
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
        """Locks the database for this process and checks it; writes the settings if it is new."""
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
            self._execute(f"PRAGMA {pragma}")
        self._execute("BEGIN IMMEDIATE")
        if not self._execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._execute("CREATE TABLE journal (settings TEXT, runs INTEGER, written TEXT)")
            self._execute(
                "CREATE TABLE rows (path BLOB PRIMARY KEY, stamp TEXT, run INTEGER, name BLOB, failed INTEGER, "
                "record TEXT) WITHOUT ROWID"
            )
            self._execute("INSERT INTO journal VALUES (?, 0, NULL)", json.dumps(settings))
        elif (problem := self._execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise self._explain(ValueError(problem))
        (text,) = self._execute("SELECT settings FROM journal").fetchone()
        stored = json.loads(text)
        compared = settings | stored
        if FOLDERS not in settings or FOLDERS not in stored:  # another engine need not name them
            compared.pop(FOLDERS, None)
        if differing := sorted(key for key in compared if stored.get(key) != settings.get(key)):
            changes = f"{_values(stored, differing)}; now {_values(settings, differing)}"
            raise LogoEdgeError(
                f"{self.path}: begun with another {', '.join(differing)} ({changes}); use the same again, name another "
                "--out, or delete the file to start over"
            )
        self._execute("UPDATE journal SET runs = runs + 1")
        (self._run,) = self._execute("SELECT runs FROM journal").fetchone()
        (self.resumed,) = self._execute("SELECT count(*) FROM rows").fetchone()
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
        """The error by its cause: the system, another process, or a damaged file."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code
        if code in SYSTEM_ERRORS:
            number = SYSTEM_ERRORS[code]
            return OSError(number, os.strerror(number), os.fspath(self.path))
        if code == BUSY:
            return LogoEdgeError(
                f"{self.path}: another process is writing it; wait for it to end, or name another --out"
            )
        return LogoEdgeError(
            f"{self.path}: damaged, or not a journal of this version ({error}); expected a file that `--out` wrote. "
            "Delete it to classify all images again"
        )


def _key(name: str) -> bytes:
    """The bytes of the file's absolute path: two paths that `shown` makes equal may differ."""
    return os.fsencode(os.path.abspath(name))


def _stamp(name: str) -> str:
    """Size and times, which change with the file's content; empty if the system gives none.

    The time of the last status change detects a replacement of equal size and modification time.
    """
    try:
        status = os.stat(name)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _file_id(path: Path) -> str:
    """Identifies the file, also after a rename."""
    status = os.stat(path)
    return f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"


def _values(settings: dict, keys: list[str]) -> str:
    return ", ".join(", ".join(value) if isinstance(value := settings.get(key), list) else str(value) for key in keys)
