"""The cache folder, and the results of measurements on this machine that are kept in it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from logo_edge.errors import LogoEdgeError
from logo_edge.files import json_text, noting, write_file

KEPT = 200  # results; the file is read at every start


def cache_folder() -> Path:
    """The folder of fetched files and of results about this machine: $LOGO_EDGE_CACHE, else ~/.cache/logo-edge.

    Raises LogoEdgeError where no home folder is known.
    """
    if given := os.environ.get("LOGO_EDGE_CACHE"):
        return Path(given)
    try:
        if os.environ.get("HOME") == "":  # Path.home would give /
            raise RuntimeError
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "logo-edge"
    except RuntimeError as error:  # Path.home
        raise LogoEdgeError(
            "no home folder is known: HOME is not set and this user is not in the system's list of users. Set "
            "LOGO_EDGE_CACHE to a folder that can be written"
        ) from error


def remembered(key: dict, measure: Callable[[], dict]) -> dict:
    """The result of `measure()`, or its result from before for the same key.

    Results are kept in `backends.json` in the cache folder, the last KEPT of them; where it cannot be written, every
    process measures again.
    """
    digest = _digest(key)
    try:
        path = results_file()
    except LogoEdgeError:  # no home folder is known
        return measure()
    known = _read_results(path)
    if digest not in known:
        known = dict([*known.items(), (digest, {**key, "found": measure()})][-KEPT:])
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, json_text(known))
    return known[digest]["found"]


@contextmanager
def trying(key: dict) -> Iterator[Path | None]:
    """For a block in which a library may end the process; yields the note of an earlier one that it has ended, if any.

    The note lies in the folder `trials` beside the results while the block runs, and stays if the process crashes or is
    killed there. Where it cannot be written, none is known.
    """
    with ExitStack() as stack:
        try:
            note = results_file().parent / "trials" / _digest(key)
            note.parent.mkdir(parents=True, exist_ok=True)
            was_left = stack.enter_context(noting(note))
        except (OSError, LogoEdgeError):
            was_left = False
        yield note if was_left else None


def _digest(key: dict) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def results_file() -> Path:
    """The file of `remembered`. Raises LogoEdgeError."""
    return cache_folder() / "backends.json"


def _read_results(path: Path) -> dict[str, dict]:
    try:
        results = json.loads(path.read_bytes())
        return {digest: result for digest, result in results.items() if isinstance(result["found"], dict)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
