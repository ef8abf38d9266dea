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
    """Where logo-edge keeps what it fetched, and what it found out about this machine: $LOGO_EDGE_CACHE, else ~/.cache/logo-edge.

    Raises LogoEdgeError where no home folder is known.
    """
    if own := os.environ.get("LOGO_EDGE_CACHE"):
        return Path(own)
    try:
        if os.environ.get("HOME") == "":  # which Path.home takes for /
            raise RuntimeError
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "logo-edge"
    except RuntimeError as error:  # Path.home
        raise LogoEdgeError(
            "no home folder is known: HOME is not set and this user is not in the system's list of users. Set "
            "LOGO_EDGE_CACHE to a folder that can be written"
        ) from error


def remembered(key: dict, find: Callable[[], dict]) -> dict:
    """`find()`, or what it gave before for the same key: what was found out about this machine is kept in a file.

    The file is `backends.json` in the cache folder and keeps the last KEPT findings; where it cannot be written, every
    process finds out again.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    try:
        path = findings_file()
    except LogoEdgeError:  # no home folder is known
        return find()
    known = _read_findings(path)
    if digest not in known:
        known = dict([*known.items(), (digest, {**key, "found": find()})][-KEPT:])
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, json_text(known))
    return known[digest]["found"]


def findings_file() -> Path:
    """Where `remembered` keeps them. Raises LogoEdgeError."""
    return cache_folder() / "backends.json"


def _read_findings(path: Path) -> dict[str, dict]:
    try:
        return {
            digest: entry for digest, entry in json.loads(path.read_bytes()).items() if isinstance(entry["found"], dict)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
