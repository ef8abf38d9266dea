"""Is this the same work? One key from inputs, settings and versions, for every stage that resumes or reuses work.

Finished work is valid under any versions; unfinished work resumes only under the versions that it started with.
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

FITTED_WITH = ("albumentations", "numpy", "pillow", "timm", "torch")  # these decide the weights of a fit
RECORDED = ("python", "logo-edge", *FITTED_WITH, "torchvision", "onnxruntime")
ROWS = "rows.json"  # in a run's folder: `row_hashes` of its manifest at training
HASH_DIGITS = 64
NAMED = 3  # rows or settings that a message lists


def artifact_key(inputs: Mapping[str, Path | str], settings: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    """The hexadecimal sha256 of all inputs, settings and versions; equal keys mean the same work.

    An input is a file, whose content is hashed, or a hash. Settings may contain dataclasses, mappings and lists. Raises
    TypeError for a setting of any other type.
    """
    return identify(inputs, settings, versions).key


@dataclass(frozen=True)
class Identity:
    """What work depends on: sha256 by input, values by dotted setting name, versions by package."""

    inputs: dict[str, str]
    settings: dict[str, Any]
    versions: dict[str, str]

    @property
    def key(self) -> str:
        """The key of `artifact_key`."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def changes(self, kept: Mapping[str, Mapping], *, finished: bool) -> list[str]:
        """The differences to the `kept` identity (the form of `asdict`), each `name then -> now`; [] for the same work.

        Versions count only for unfinished work. For finished work, a setting added since then had its default.
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
    """The Identity of work; the arguments are those of `artifact_key`."""
    hashes = {name: file_hash(item) if isinstance(item, Path) else item for name, item in inputs.items()}
    return Identity(hashes, flatten(settings), dict(versions))


def refuse_other(folder: Path, kind: str, kept: Mapping[str, Mapping], wanted: Identity, *, finished: bool) -> None:
    """Raises RunError with the differences if the `kind` ("a run", "a search") in `folder` is other work."""
    if changed := wanted.changes(kept, finished=finished):
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        raise RunError(
            f"{folder} holds {kind} of other settings or data ({'; '.join(changed[:NAMED])}{more}); give this one "
            "another folder (--out), or remove that one"
        )


def select_settings(recipe: Recipe, *names: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """{dotted name: value} of these fields and sections of the recipe, without those of `without`.

    Raises KeyError if the recipe has no such field or section.
    """
    sections = {name.partition(".")[0] for name in (*names, *without)}
    settings = flatten({field.name: getattr(recipe, field.name) for field in fields(recipe) if field.name in sections})

    def under(name: str) -> set[str]:
        if not (names := {key for key in settings if key == name or key.startswith(f"{name}.")}):
            raise KeyError(f"the recipe has no setting {name!r}")
        return names

    left_out = set().union(*map(under, without))
    return {key: settings[key] for name in names for key in sorted(under(name) - left_out)}


def flatten(value: Any, name: str = "", *, separator: str = ".") -> dict[str, Any]:
    """{joined name: plain value} of nested dataclasses and mappings, with the types of JSON."""
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
        return [flatten(item) if is_dataclass(item) or isinstance(item, Mapping) else _plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"a key cannot contain a setting of type {type(value).__name__}: {value!r}")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) < HASH_DIGITS else f"{text[:12]}..."


def versions(packages: Iterable[str] = RECORDED) -> dict[str, str]:
    """The versions of the installed packages; `python` is Python itself."""
    return {name: number for name in packages if (number := _version(name))}


@cache
def _version(package: str) -> str | None:
    try:
        return platform.python_version() if package == "python" else version(package)
    except PackageNotFoundError:
        return None


@cache
def source_hash(folder: Path) -> str:
    """sha256 of the Python files in `folder`: a version for unreleased code."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """sha256 of the file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def row_hashes(manifest: Manifest, rows: Iterable[LogoRow]) -> list[tuple[str, str]]:
    """(package/icon, sha256) of each row in order, over its columns and, for an image file, over its content.

    An icon of a package is fixed by the package's version, so its columns suffice. `round` is left out, since only
    reports read it.
    """
    hashes = []
    for row in rows:
        columns = asdict(row)
        del columns["round"]
        if row.labels is None:
            del columns["labels"]
        digest = hashlib.sha256(json.dumps(columns).encode())
        path = manifest.image_path(row)
        if row.package == FILES and path.exists():
            digest.update(path.read_bytes())
        hashes.append((f"{row.package}/{row.icon}", digest.hexdigest()))
    return hashes


def data_hash(hashes: list[tuple[str, str]]) -> str:
    """sha256 of the result of `row_hashes`: of all rows and their order."""
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def check_rows(manifest: Manifest, kept: Path, path: Path) -> None:
    """Raises RunError, with the changed rows, if the manifest at `path` differs from `kept`, a run's ROWS file."""
    try:
        then = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{kept}: {getattr(error, 'strerror', None) or error}; expected the run's rows. Train again"
        ) from error
    if changed := describe_changed_rows(then, row_hashes(manifest, manifest.rows)):
        raise RunError(
            f"{path} is not the manifest that {kept.parent} was made of: {changed}. Put it back as it was, or train "
            "again in another folder (--out)"
        )


def describe_changed_rows(then: list[tuple[str, str]], now: list[tuple[str, str]]) -> str:
    """The number of changed, added and removed rows, and the first ones; "" if there are none."""
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
    same = [tuple(row) for row in then] == [tuple(row) for row in now]
    return "" if same else f"the same rows in another order or number: {len(then)} then, {len(now)} now"
