"""Where the manifest of a folder of images lies, and whether it still describes the folder."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from pathlib import Path

from logo_edge.cache import cache_folder
from logo_edge.names import shown
from logo_edge.tables.find import walk_images
from logo_edge_train.data.manifest import FILES, read_manifest


def manifest_of(folder: Path) -> Path:
    """The path of the manifest of a folder of images: its own manifest.csv or, existing or not, one in the cache.

    In the cache, since only `data organize` may write into the user's data.
    """
    own, resolved = folder / "manifest.csv", folder.resolve()
    if own.exists():
        return own
    digest = hashlib.sha256(os.fsencode(resolved)).hexdigest()[:16]
    return cache_folder() / "manifests" / digest / "manifest.csv"


def compare_with_folder(manifest_path: Path, folder: Path) -> str:
    """How the images of the folder differ from its manifest, and what to do; empty if they are the same.

    For a manifest in the cache, the files' content is compared too, since groups and splits follow the pixels.
    """
    manifest = read_manifest(manifest_path)
    base = manifest.folder.resolve()
    listed = {os.path.normpath(base / row.icon) for row in manifest.rows if row.package == FILES}
    present = set(walk_images(folder.resolve()))
    gone = sum(not os.path.exists(path) for path in listed - present)
    digests_path = digests_file(manifest_path)
    digests = json.loads(digests_path.read_text(encoding="utf-8")) if digests_path.exists() else {}
    known = [(base / row.icon, digests[row.icon]) for row in manifest.rows if row.icon in digests]
    changed = sum(path.exists() and digest_file(path) != digest for path, digest in known)
    if not (added := len(present - listed)) and not gone and not changed:
        return ""
    again = f"logo-edge data organize {shlex.quote(str(folder))} --out {shlex.quote(str(manifest_path))} --overwrite"
    return shown(
        f"{manifest_path} is used as it stands: {added} images of {folder} are not in it (skipped, or added since), "
        f"and {gone} of its own are gone, {changed} have another content than when it was written. `{again}` "
        "writes it again, without what was corrected by hand"
    )


def digests_file(manifest_path: Path) -> Path:
    """The JSON beside a manifest in the cache: {icon: digest of the row's file}."""
    return manifest_path.with_suffix(".digests.json")


def digest_file(path: Path) -> str:
    """The BLAKE2 digest of the file's content, in hexadecimal."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
