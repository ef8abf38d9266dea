"""Files that are replaced atomically, and changed by one process at a time. Every room writes through this.

A killed process, a power cut or a full disk leaves the old file or the new one.
"""

from __future__ import annotations

import glob
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: temporary files of killed writers stay, and nothing waits for another process
    fcntl = None

PART = ".logo-edge-{}.part"  # a file that is being written; each has its own name
PARTS = ".{}-*.parts"  # temporary folders beside the file or folder of that name


@contextmanager
def replacing(path: str | os.PathLike, *, flush: bool = True) -> Iterator[Path]:
    """The path of a new, empty file in the folder of `path`, which replaces `path` when the block ends.

    The content is flushed to the disk before the rename, unless `flush` is False (for thousands of files that can be
    made again). Where the block raises, the new file is deleted and `path` stays as it was. When a process first
    writes to a folder, it deletes the temporary files of killed writers there. Raises OSError.
    """
    path = Path(path)
    if fcntl:
        _delete_parts(path.parent)
    part = path.parent / PART.format(os.urandom(8).hex())
    lock = _lock(part, os.O_EXCL)
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
        if lock is not None:
            os.close(lock)


def write_file(path: str | os.PathLike, content: bytes | str) -> None:
    """Writes the file atomically, as `replacing` does; text as UTF-8. Raises OSError."""
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def folder_beside(path: str | os.PathLike) -> Iterator[Path]:
    """A new temporary folder beside `path`, deleted at the end; the block renames its result from there to `path`.

    Where the block does not raise, such folders of killed processes are deleted too. Raises OSError.
    """
    import shutil  # these two take 4 ms, which a start should not cost
    import tempfile

    path = Path(path).absolute()
    prefix, suffix = PARTS.format(path.name).split("*")
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix, suffix=suffix))
    lock = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        if fcntl:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
        if fcntl:
            for other in path.parent.glob(PARTS.format(glob.escape(path.name))):
                _delete_unlocked(other)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def json_text(value, *, indent: int | None = 1) -> str:
    """The value as strict JSON (RFC 8259) with a final newline:

    `null` for NaN and infinity, non-ASCII text unescaped.
    """
    return json.dumps(without_nan(value), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def without_nan(value):
    """The same nested value with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def changing(path: str | os.PathLike) -> Iterator[None]:
    """Waits until no other process or thread is in such a block for `path`, so that `path` does not change inside it.

    The lock is a file beside `path`, which is deleted at the end. Raises OSError.
    """
    file = Path(path).parent / f".{Path(path).name}.lock"
    lock = _lock(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


@contextmanager
def noting(path: str | os.PathLike) -> Iterator[bool]:
    """Keeps a file at `path` while the block runs; yields whether an earlier process ended inside such a block.

    The file of such a process stays. Waits while another process is in the block; where files have no locks, that one
    counts as ended too. Raises OSError.
    """
    path = Path(path)
    lock = _lock(path)
    try:
        was_left = path.stat().st_size > 0
        if not was_left:
            path.write_bytes(b"in progress\n")
        try:
            yield was_left
        finally:
            if not was_left:
                path.unlink(missing_ok=True)
    finally:
        if lock is not None:
            os.close(lock)


def _lock(path: Path, flags: int = 0) -> int | None:
    """A descriptor that holds the lock of the file, which is created if missing; None where files have no locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
        if fcntl is None:
            os.close(descriptor)
            return None
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # the previous holder has deleted the file


@lru_cache(maxsize=1024)
def _delete_parts(folder: Path) -> None:
    """Deletes the temporary files in the folder that no process has locked."""
    for part in folder.glob(PART.format("*")):
        _delete_unlocked(part)


def _delete_unlocked(path: Path) -> None:
    """Deletes the file or folder, unless a process has locked it."""
    import shutil

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
