"""How every verb of `logo-edge` ends: one exit status and one line on stderr for each kind of failure.

| status | meaning |
| ---: | --- |
| 0 | done |
| 1 | some inputs failed, or a check failed |
| 2 | refused: wrong usage, or input that must be fixed first |
| 3 | the system failed: disk full, read-only, input/output error |
| 130 | interrupted (Ctrl-C) |
| 141 | the reader of the output went away, as `head -1` does |
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from logo_edge.errors import LogoEdgeError, SelectionError
from logo_edge.names import printable

USAGE, SYSTEM, INTERRUPTED, NO_READER = 2, 3, 130, 141
STATUSES = (
    "Exit status: 0 done, 1 some inputs failed or a check failed, 2 refused or wrong usage, 3 the system failed (such "
    "as a full disk), 130 interrupted, 141 nobody reads the output."
)
RERUN = "run the same command again to go on"
SYSTEM_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO))
CURES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space of your quota",
    errno.EFBIG: "the file size limit is reached (ulimit -f)",
    errno.EROFS: "expected a location that can be written",
    errno.EACCES: "expected a location that this user may read and write",
}


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Around a whole command: an error becomes its line on stderr and its exit status, raised as SystemExit."""
    try:
        try:
            yield
        finally:
            _flush_stdout()
    except BrokenPipeError:
        status, lines = NO_READER, []
    except LogoEdgeError as error:
        status = SYSTEM if getattr(error.__cause__, "errno", None) in SYSTEM_ERRORS else USAGE
        lines = str(error).splitlines() if isinstance(error, SelectionError) else [str(error)]
    except KeyboardInterrupt as error:
        status, lines = INTERRUPTED, ["; ".join(("interrupted", *_notes(error)))]
    except OSError as error:
        status, lines = SYSTEM, [describe_os_error(error)]
    else:
        return
    if lines:
        with suppress(OSError):
            print("logo-edge: " + "\n".join(map(printable, lines)), file=sys.stderr, flush=True)
    sys.exit(status)


@contextmanager
def resumable() -> Iterator[None]:
    """Around work that a rerun of the same command resumes: the line of an interruption or system failure says so."""
    try:
        yield
    except (KeyboardInterrupt, OSError) as error:
        note_rerun(error)
        raise


def note_rerun(error: BaseException) -> None:
    """Adds to the error that the same command goes on; `BaseException.add_note`, which Python 3.10 lacks."""
    error.__notes__ = [*getattr(error, "__notes__", ()), RERUN]


def describe_os_error(error: OSError) -> str:
    """The file if known, the system's message, and what to do."""
    name = error.filename2 or error.filename  # of a rename: the final name, not the temporary one
    prefix = f"{os.fsdecode(name)}: " if isinstance(name, (str, bytes, os.PathLike)) else ""
    cures = [CURES[error.errno]] if error.errno in CURES else []
    return prefix + "; ".join((error.strerror or str(error), *cures, *_notes(error)))


def _flush_stdout() -> None:
    """Writes the buffer of stdout; if that fails, drops it, or the interpreter would fail again at its end."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _notes(error: BaseException) -> list[str]:
    return list(dict.fromkeys(getattr(error, "__notes__", ())))
