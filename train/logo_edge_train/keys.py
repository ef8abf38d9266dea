"""Is this the same work? One key from inputs, settings and versions, which every stage that resumes or reuses compares.

Finished work is accepted whatever the versions are now; unfinished work goes on under the versions that it began with.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from logo_edge.errors import RunError
from logo_edge_train.data.manifest import FILES, LogoRow, Manifest
from logo_edge_train.recipe import Recipe

FITTED_WITH = ("albumentations", "numpy", "pillow", "timm", "torch")  # what decides the weights of a fit
RECORDED = ("python", "logo-edge", *FITTED_WITH, "torchvision", "onnxruntime")
ROWS = "rows.json"  # in a run's folder: `row_hashes` of the manifest that it was made of
HASH_DIGITS = 64
NAMED = 3  # rows, or settings, that a message names


def artifact_key(inputs: Mapping[str, Path | str], settings: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    """The sha256, in hexadecimal, of all that a piece of work depends on: equal keys mean the same work.

    An input is a file, of which the content counts, or a hash. Settings may hold dataclasses, mappings and lists.
    Raises TypeError for a setting of any other type, which could not be compared.
    """
    return identify(inputs, settings, versions).key


@dataclass(frozen=True)
class Identity:
    """What a piece of work depends on: sha256 by input, values by dotted name of the setting, versions by package."""

    inputs: dict[str, str]
    settings: dict[str, Any]
    versions: dict[str, str]

    @property
    def key(self) -> str:
        """As `artifact_key` gives it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def changes(self, kept: Mapping[str, Mapping], *, finished: bool) -> list[str]:
        """What differs from the `kept` identity, as `asdict` gives it: `name then -> now` each; empty for the same work.

        Versions count for unfinished work only. A setting that is newer than finished work had its default then.
        """
        changed, defaults = [], flatten(Recipe()) if finished else {}
        for part in ("inputs", "settings") if finished else ("inputs", "settings", "versions"):
            then, now = {**kept.get(part, {})}, getattr(self, part)
            if part == "settings":
                then = {**{name: defaults[name] for name in now.keys() & defaults.keys()}, **then}
            for name in sorted(then.keys() | now.keys()):
                if then.get(name) != now.get(name):
                    values = [_short(values[name]) if name in values else "none" for values in (then, now)]
                    changed.append(f"{name} {' -> '.join(values)}")
        return changed


def identify(inputs: Mapping[str, Path | str], settings: Mapping[str, Any], versions: Mapping[str, str]) -> Identity:
    """The Identity of work on these inputs, with these settings, as `artifact_key` takes them."""
    hashes = {name: file_hash(entry) if isinstance(entry, Path) else entry for name, entry in inputs.items()}
    return Identity(hashes, flatten(settings), dict(versions))


def refuse_other(folder: Path, what: str, kept: Mapping[str, Mapping], wanted: Identity, *, finished: bool) -> None:
    """Raises RunError where `folder` holds a `what` (a run, a search) that is other work, naming what differs."""
    if changed := wanted.changes(kept, finished=finished):
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        raise RunError(
            f"{folder} holds {what} of other settings or data ({'; '.join(changed[:NAMED])}{more}); give this one another "
            "folder (--out), or remove that one"
        )


def select_settings(recipe: Recipe, *names: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """{dotted name: value} of the recipe's fields and sections of these names, less those of `without`.

    Raises KeyError where the recipe has no such field or section.
    """
    every = flatten(recipe)

    def under(name: str) -> set[str]:
        if not (found := {key for key in every if key == name or key.startswith(f"{name}.")}):
            raise KeyError(f"the recipe has no setting {name!r}")
        return found

    left_out = set().union(*map(under, without))
    return {key: every[key] for name in names for key in sorted(under(name) - left_out)}


def flatten(value: Any, name: str = "", *, separator: str = ".") -> dict[str, Any]:
    """{joined name: plain value} of nested dataclasses and mappings, as JSON gives the values back."""
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if not isinstance(value, Mapping):
        return {name: _plain(value)}
    parts = [
        flatten(item, f"{name}{separator}{key}" if name else str(key), separator=separator)
        for key, item in value.items()
    ]
    return {key: item for part in parts for key, item in part.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [
            flatten(entry) if is_dataclass(entry) or isinstance(entry, Mapping) else _plain(entry) for entry in value
        ]
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"a setting of type {type(value).__name__} has no place in a key: {value!r}")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) < HASH_DIGITS else f"{text[:12]}..."


def versions(packages: Iterable[str] = RECORDED) -> dict[str, str]:
    """Version by package, of those that are installed; `python` is Python's own."""
    return {name: found for name in packages if (found := _version(name))}


@cache
def _version(package: str) -> str | None:
    try:
        return platform.python_version() if package == "python" else version(package)
    except PackageNotFoundError:
        return None


@cache
def source_hash(folder: Path) -> str:
    """sha256 of the Python files in `folder`: the version of code that is not released yet."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """sha256 of the file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def row_hashes(manifest: Manifest, rows: Iterable[LogoRow]) -> list[tuple[str, str]]:
    """(package/icon, sha256) of each row in order: of its columns and, beside the manifest, of its image.

    An icon of a package is fixed by the package's version, so the columns say it all. `round` does not count: only
    reports read it.
    """
    hashes = []
    for row in rows:
        columns = asdict(row)
        del columns["round"]
        digest = hashlib.sha256(json.dumps(columns).encode())
        path = manifest.image_path(row, Path())
        if row.package == FILES and path.exists():
            digest.update(path.read_bytes())
        hashes.append((f"{row.package}/{row.icon}", digest.hexdigest()))
    return hashes


def data_hash(hashes: list[tuple[str, str]]) -> str:
    """sha256 of what `row_hashes` gives: of all rows and their order."""
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def check_rows(manifest: Manifest, kept: Path, path: Path) -> None:
    """Raises RunError where the manifest, of the file `path`, is not the one of which `kept`, a run's ROWS, has the rows.

    The rows that differ are counted.
    """
    try:
        then = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{kept}: {getattr(error, 'strerror', None) or error}; expected the rows that the run was made of. Train again"
        ) from error
    if changed := describe_changed_rows(then, row_hashes(manifest, manifest.rows)):
        raise RunError(
            f"{path} is not the manifest that {kept.parent} was made of: {changed}. Put it back as it was, or train again "
            "in another folder (--out)"
        )


def describe_changed_rows(then: list[tuple[str, str]], now: list[tuple[str, str]]) -> str:
    """How many rows were changed, added and removed, and the first of them; empty where both are the same."""
    before, after = dict(map(tuple, then)), dict(map(tuple, now))
    rows = {
        "changed": [name for name in before if name in after and before[name] != after[name]],
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
    }
    if names := [name for part in rows.values() for name in part]:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        counts = ", ".join(f"{len(part)} {kind}" for kind, part in rows.items() if part)
        return f"rows {counts}: {', '.join(names[:NAMED])}{more}"
    same = [tuple(entry) for entry in then] == [tuple(entry) for entry in now]
    return "" if same else f"the same rows in another order or number: {len(then)} then, {len(now)} now"
