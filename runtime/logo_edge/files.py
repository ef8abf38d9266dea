"""Files that are replaced in one step, and changed by one process at a time.

A killed process, a power cut or a full disk leaves the old file or the new one. Every room writes through this.
"""

from __future__ import annotations

import glob
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where parts of killed writers stay and nothing waits for another process
    fcntl = None

PART = ".logo-edge-{}.part"  # a file that is being written; no two have one name
PARTS = ".{}-*.parts"  # folders beside the file or folder of that name, in which it is made


@contextmanager
def replacing(path: str | os.PathLike, *, flush: bool = True) -> Iterator[Path]:
    """The path of a new, empty file in the folder of `path`, which replaces `path` when the block ends.

    Its content is on the disk before it gets the name, unless `flush` is False, for thousands of files that can be made
    again. Where the block raises, it is deleted and `path` stays as it was. A process deletes the parts that killed
    writers left in a folder when it first writes there. Raises OSError.
    """
    path = Path(path)
    if fcntl:
        _delete_parts(path.parent)
    part = path.parent / PART.format(os.urandom(8).hex())
    held = _hold(part, os.O_EXCL)
    try:
        yield part
        if flush:
            _flush(part)
        os.replace(part, path)
        if flush:
            with suppress(OSError):  # a system that cannot flush folders
                _flush(path.parent)
    finally:
        part.unlink(missing_ok=True)
        if held is not None:
            os.close(held)


def write_file(path: str | os.PathLike, content: bytes | str) -> None:
    """Writes the file in one step, as `replacing` does; text becomes UTF-8. Raises OSError."""
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def folder_beside(path: str | os.PathLike) -> Iterator[Path]:
    """A new folder beside `path`: what is made in it is renamed to `path` in the block, and it is deleted at its end.

    Where the block does not raise, such folders of killed processes are deleted as well. Raises OSError.
    """
    path = Path(path).absolute()
    prefix, suffix = PARTS.format(path.name).split("*")
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix, suffix=suffix))
    held = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        if fcntl:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(held, fcntl.LOCK_EX)
        yield folder
        if fcntl:
            for other in path.parent.glob(PARTS.format(glob.escape(path.name))):
                _delete_unheld(other)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def json_text(value, *, indent: int | None = 1) -> str:
    """The value as strict JSON (RFC 8259) with a newline at its end: `null` for what is not finite, letters as they are."""
    return json.dumps(without_nan(value), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def without_nan(value):
    """The same nested value with None for every number that is not finite: JSON knows none of those."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def changing(path: str | os.PathLike) -> Iterator[None]:
    """Waits until no other process or thread is in such a block for `path`: what is read in it stays true to its end.

    The lock is a file beside `path`, which is deleted at the end. Raises OSError.
    """
    lock = Path(path).parent / f".{Path(path).name}.lock"
    held = _hold(lock)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        if held is not None:
            os.close(held)


def _hold(path: Path, flags: int = 0) -> int | None:
    """A descriptor of the file, made where there is none, that holds its lock; None where files have no locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
        if fcntl is None:
            os.close(descriptor)
            return None
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # whoever held it deleted it meanwhile


@lru_cache(maxsize=1024)
def _delete_parts(folder: Path) -> None:
    """Deletes the parts in the folder that no process holds."""
    for part in folder.glob(PART.format("*")):
        _delete_unheld(part)


def _delete_unheld(path: Path) -> None:
    """Deletes the file or folder, unless a process holds its lock."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        finally:
            os.close(descriptor)


def _flush(path: Path) -> None:
    """Waits until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
