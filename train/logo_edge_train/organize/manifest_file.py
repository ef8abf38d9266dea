"""Where the manifest of a folder or label file lies, and whether it still describes the images."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from pathlib import Path

from logo_edge.cache import cache_folder
from logo_edge.names import shown
from logo_edge.tables.find import walk_images
from logo_edge_train.data.manifest import FILES, read_manifest
from logo_edge_train.organize.label_files import READERS
from logo_edge_train.organize.sources import find_label_files, read_source
from logo_edge_train.organize.tables import SUFFIXES


def manifest_of(source: Path) -> Path:
    """The path of the manifest of a source: itself, manifest.csv in a folder or, existing or not, one in the cache.

    In the cache, since only `data organize` may write into the user's data. A label file is a source, not a manifest.
    """
    if source.is_dir() and (own := source / "manifest.csv").exists():
        return own
    if not source.is_dir() and (not source.is_file() or _is_manifest(source)):
        return source
    digest = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:16]
    return cache_folder() / "manifests" / digest / "manifest.csv"


def _is_manifest(file: Path) -> bool:
    """Whether a file is to be read as a manifest: no label file, or a CSV without the columns path and label(s)."""
    if file.suffix.lower() != ".csv":
        return file.suffix.lower() not in (*READERS, *SUFFIXES)
    with file.open(encoding="utf-8-sig", errors="replace") as text:
        columns = set(re.findall(r"\w+", text.readline().lower()))
    return "package" in columns or not ("path" in columns and columns & {"label", "labels"})


def compare_with_source(manifest_path: Path, source: Path) -> str:
    """How the images of the source differ from its manifest, and what to do; empty if they are the same.

    For a manifest in the cache, the content of images and label files is compared too, since groups and splits follow
    the pixels.
    """
    manifest = read_manifest(manifest_path)
    base = manifest.folder.resolve()
    listed = {os.path.normpath(base / row.icon) for row in manifest.rows if row.package == FILES}
    if find_label_files(source):
        images, _ = read_source(Path(os.path.abspath(source)), multi_label=manifest.multi_label)
        present = {str(image.path) for image in images}
    else:
        present = set(walk_images(source.resolve()))
    gone = sum(not os.path.exists(path) for path in listed - present)
    digests_path = digests_file(manifest_path)
    digests = json.loads(digests_path.read_text(encoding="utf-8")) if digests_path.exists() else {}
    known = [(base / name, digest) for name, digest in digests.items()]
    changed = sum(path.exists() and digest_file(path) != digest for path, digest in known)
    if not (added := len(present - listed)) and not gone and not changed:
        return ""
    again = f"logo-edge data organize {shlex.quote(str(source))} --out {shlex.quote(str(manifest_path))} --overwrite"
    return shown(
        f"{manifest_path} is used as it stands: {added} images of {source} are not in it (skipped, or added since), "
        f"and {gone} of its own are gone, {changed} have another content than when it was written. `{again}` "
        "writes it again, without what was corrected by hand"
    )


def digests_file(manifest_path: Path) -> Path:
    """The JSON beside a manifest in the cache: {path from its folder: digest of the image or label file}."""
    return manifest_path.with_suffix(".digests.json")


def skipped_file(manifest_path: Path) -> Path:
    """The CSV beside a manifest with the path of each file that was skipped, and the reason."""
    return manifest_path.with_suffix(".skipped.csv")


def digest_file(path: Path) -> str:
    """The BLAKE2 digest of the file's content, in hexadecimal."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
