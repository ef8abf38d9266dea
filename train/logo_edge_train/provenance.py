"""Where figures come from: the date, the code, the machine, the libraries and the measured bundles."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable
from datetime import datetime, timezone
from itertools import chain, count
from pathlib import Path

from logo_edge.bundle.record import RECORD, Bundle
from logo_edge.machine import describe_machine
from logo_edge_train.keys import versions

CHECKOUT = Path(__file__).resolve().parents[2]
CODE = ("--", ":/", ":(exclude,top)benchmarks/results")


def provenance(bundles: Iterable[Bundle] = (), *, preset: str = "") -> dict:
    """The stamp of a file of figures, ready for JSON.

    date: of today (UTC); commit: see `current_commit`; machine, versions: of this process; preset: of the measurement;
    bundles: name -> sha256 of its model and of its record, for the bundles that the figures were measured on; further
    ones of a name are "name 2", "name 3" and so on.
    """
    hashes: dict[str, dict[str, str]] = {}
    for bundle in bundles:
        names = chain([bundle.name], (f"{bundle.name} {number}" for number in count(2)))
        hashes[next(name for name in names if name not in hashes)] = hashes_of(bundle)
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": current_commit(),
        "machine": describe_machine(),
        "versions": versions(),
        **({"preset": preset} if preset else {}),
        "bundles": hashes,
    }


def hashes_of(bundle: Bundle) -> dict[str, str]:
    """The sha256 of the bundle's model and of its bundle.json."""
    record = hashlib.sha256((bundle.folder / RECORD).read_bytes()).hexdigest()
    return {"model_sha256": bundle.model_sha256, "record_sha256": record}


def current_commit(checkout: Path = CHECKOUT) -> str:
    """The commit, with "+" where tracked files other than results differ; empty where the folder is no checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != checkout.resolve():
            return ""  # an installed package, in a folder of another repository
        changes = git("status", "--porcelain", "--untracked-files=no", *CODE)
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
