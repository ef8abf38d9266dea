"""The cache folder, and the results of measurements on this machine that are kept in it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from logo_edge.errors import LogoEdgeError
from logo_edge.files import json_text, write_file

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
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
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


def results_file() -> Path:
    """The file of `remembered`. Raises LogoEdgeError."""
    return cache_folder() / "backends.json"


def _read_results(path: Path) -> dict[str, dict]:
    try:
        results = json.loads(path.read_bytes())
        return {digest: result for digest, result in results.items() if isinstance(result["found"], dict)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
