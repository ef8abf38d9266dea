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
    """Where the manifest of a folder of images lies: its own manifest.csv, else, there or not, one in the cache.

    The cache, so that nothing is written into the user's data unless `data organize` is asked to.
    """
    own, resolved = folder / "manifest.csv", folder.resolve()
    if own.exists():
        return own
    digest = hashlib.sha256(os.fsencode(resolved)).hexdigest()[:16]
    return cache_folder() / "manifests" / digest / "manifest.csv"


def compare_with_folder(manifest_path: Path, folder: Path) -> str:
    """What the images of the folder and of its manifest have not in common, and what to do; empty where they are the same.

    Of a manifest in the cache the content of each file is compared too: groups and splits follow the pixels.
    """
    manifest = read_manifest(manifest_path)
    below = manifest.folder.resolve()
    listed = {os.path.normpath(below / row.icon) for row in manifest.rows if row.package == FILES}
    present = set(walk_images(folder.resolve()))
    gone = sum(not os.path.exists(path) for path in listed - present)
    kept = digests_file(manifest_path)
    digests = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    known = [(below / row.icon, digests[row.icon]) for row in manifest.rows if row.icon in digests]
    changed = sum(path.exists() and digest_file(path) != digest for path, digest in known)
    if not (added := len(present - listed)) and not gone and not changed:
        return ""
    again = f"logo-edge data organize {shlex.quote(str(folder))} --out {shlex.quote(str(manifest_path))} --overwrite"
    return shown(
        f"{manifest_path} is used as it stands: {added} images of {folder} are not in it (skipped, or added since), and "
        f"{gone} of its own are gone, {changed} have another content than when it was written. `{again}` writes it again, without what was corrected by hand"
    )


def digests_file(manifest_path: Path) -> Path:
    """The JSON beside a manifest in the cache that has the digest of each row's file, by its icon."""
    return manifest_path.with_suffix(".digests.json")


def digest_file(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
