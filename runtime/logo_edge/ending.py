"""How every verb of `logo-edge` ends: one exit status and one line on stderr for each kind of end.

| status | meaning |
| ---: | --- |
| 0 | all was done |
| 1 | some inputs failed, or a check did not hold |
| 2 | refused: wrong usage, or input that must be mended first |
| 3 | the system failed: disk full, read-only, input/output error |
| 130 | interrupted (Ctrl-C) |
| 141 | the reader of the output went away, as `head -1` does |
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from logo_edge.errors import LogoEdgeError, SelectionError
from logo_edge.names import printable

USAGE, SYSTEM, INTERRUPTED, NO_READER = 2, 3, 130, 141
STATUSES = (
    "Exit status: 0 done, 1 some inputs failed or a check did not hold, 2 refused or wrong usage, 3 the system failed (such "
    "as a full disk), 130 interrupted, 141 nobody reads the output."
)
AGAIN = "run the same command again to go on"
SYSTEM_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO))
CURES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space of your quota",
    errno.EFBIG: "the limit of a file's size is reached (ulimit -f)",
    errno.EROFS: "expected a place that can be written",
    errno.EACCES: "expected a place that this user may read and write",
}


def prepare_streams() -> None:
    """UTF-8 on stdout and stderr whatever the locale, and no standard stream missing.

    A closed stream would leave its descriptor to the next file that is opened, which whoever prints would then
    overwrite. Raises LogoEdgeError where stdout is closed: what a verb finds out would be lost.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))
    if sys.stdout is None:
        raise LogoEdgeError("standard output is closed; expected a file, a pipe or a terminal, such as >/dev/null")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


@contextmanager
def ending() -> Iterator[None]:
    """Around a whole command: turns an error into its line on stderr and its exit status, as SystemExit."""
    try:
        try:
            yield
        finally:
            _flush()
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


def _flush() -> None:
    """Writes what stdout still holds, or else drops it: the interpreter would try, and fail, once more at its end."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


@contextmanager
def resumed_by_rerun() -> Iterator[None]:
    """Around work that the same command goes on with: an interruption or a failure of the system says so."""
    try:
        yield
    except (KeyboardInterrupt, OSError) as error:
        error.add_note(AGAIN)
        raise


def describe_os_error(error: OSError) -> str:
    """The file where it is known, what the system said of it, and what to do."""
    name = error.filename2 or error.filename  # where a file was to be put, rather than its name until then
    where = f"{os.fsdecode(name)}: " if isinstance(name, (str, bytes, os.PathLike)) else ""
    cures = [CURES[error.errno]] if error.errno in CURES else []
    return where + "; ".join((error.strerror or str(error), *cures, *_notes(error)))


def _notes(error: BaseException) -> list[str]:
    return list(dict.fromkeys(getattr(error, "__notes__", ())))
