"""The CSV of corrections that `logo-edge data review` keeps: saved at once, and merged by `logo-edge data apply`."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path

from logo_edge.errors import DatasetError
from logo_edge.files import changing, write_file
from logo_edge.names import csv_line, shown
from logo_edge_train.review.corrections import COLUMNS, Correction, Name, parse_corrections


class CorrectionsFile:
    """A CSV of corrections that is saved at once: new ones are appended, a changed or removed one rewrites the file.

    Several processes may save to it, and a person may edit it meanwhile. A line that a power failure cut is dropped.
    """

    def __init__(self, path: Path):
        self.path = path
        self._corrections: dict[Name, Correction] = {}
        self._stamp = ()

    def read(self) -> dict[Name, Correction]:
        """The corrections by image. Raises DatasetError like `parse_corrections`, or for other columns; OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with changing(self.path):
            self._refresh()
            return dict(self._corrections)

    def save(
        self, changes: Mapping[Name, Correction | None], known: Mapping[Name, Correction | None] | None = None
    ) -> dict[Name, Correction | None]:
        """Sets or, where None, removes corrections; they are on the disk when this returns. Raises as `read` does.

        `known`: the corrections that who decides has seen. Where the file has another one meanwhile, it stays, and is
        returned.
        """
        with changing(self.path):
            self._refresh()
            others = {
                name: now
                for name, seen in (known or {}).items()
                if _decision(now := self._corrections.get(name)) not in (_decision(seen), _decision(changes[name]))
            }
            changes = {name: correction for name, correction in changes.items() if name not in others}
            added = {name: correction for name, correction in changes.items() if correction}
            if self._corrections.keys().isdisjoint(changes):
                self._append("".join(_line(*item) for item in added.items()))
                self._corrections |= added
            else:
                kept = {name: item for name, item in self._corrections.items() if changes.get(name, item)}
                self._write(kept | added)
                self._corrections = kept | added
            self._stamp = _stamp(self.path)
            return others

    def _write(self, corrections: Mapping[Name, Correction]) -> None:
        lines = (_line(name, item) for name, item in corrections.items())
        write_file(self.path, "".join((csv_line(COLUMNS), *lines)))

    def _append(self, lines: str) -> None:
        size_bytes = self.path.stat().st_size
        try:
            with self.path.open("ab") as file:
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            os.truncate(self.path, size_bytes)
            raise

    def _refresh(self) -> None:
        """Reads the file if it has changed; gives a new one its heading, and mends a last line without an end."""
        if not self.path.exists():
            self._write({})
        if _stamp(self.path) == self._stamp:
            return
        content = self.path.read_bytes()
        head, last = content.partition(b"\n")[0], content.rpartition(b"\n")[2]
        if head.decode("utf-8-sig", "replace").strip() != csv_line(COLUMNS).strip():
            raise DatasetError(
                f"{shown(str(self.path))}: begins with {shown(head.decode('utf-8', 'replace'))!r}; expected the "
                f"columns {', '.join(COLUMNS)}, so that `data review` can append to it"
            )
        if last or content.count(b'"') % 2:
            cells, start = _last_record(content)
            if len(cells) < len(COLUMNS):
                write_file(self.path, content[:start])  # a power failure has cut it
        self._corrections = parse_corrections(self.path)
        if last:
            self._write(self._corrections)
        self._stamp = _stamp(self.path)


def _last_record(content: bytes) -> tuple[list[str], int]:
    """The cells of the last record, which may have several lines, and where it begins."""
    lines = content.splitlines(keepends=True)
    reader, cells, first, after = csv.reader(line.decode("utf-8", "replace") for line in lines), [], 0, 0
    for record in reader:
        cells, first, after = record, after, reader.line_num
    return cells, sum(map(len, lines[:first]))


def _decision(correction: Correction | None) -> tuple[str, bool | None] | None:
    return correction and (correction.label, correction.sure)


def _line(name: Name, correction: Correction) -> str:
    sure = "" if correction.sure is None else int(correction.sure)
    return csv_line((*name, correction.before, correction.label, sure))


def _stamp(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
