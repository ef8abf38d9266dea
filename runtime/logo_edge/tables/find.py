"""Finds image files: in folders, by globs, and by name."""

from __future__ import annotations

import glob
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from importlib.util import find_spec

from logo_edge.names import shown

RASTER_SUFFIXES = frozenset(
    ".apng .avif .bmp .dib .gif .ico .jfif .jp2 .jpe .jpeg .jpg "
    ".pbm .pgm .png .pnm .ppm .qoi .tga .tif .tiff .webp".split()
)
DECODERS = {
    **dict.fromkeys((".svg", ".svgz"), ("resvg_py", "svg")),
    **dict.fromkeys((".heic", ".heif", ".hif"), ("pillow_heif", "heif")),
}  # suffix -> module, extra that installs it
HIDDEN = "hidden (a dot before its name)"
HEAT_MAP_SUFFIX = ".explain.png"  # --explain writes these files beside the images; they are never classified


def find_images(paths: Iterable[str]) -> Iterator[str]:
    """The path of every image: named files, the images of folders (`walk_images`) and of globs (`**` too).

    A path that does not exist is yielded unchanged: reading it then gives its error.
    """
    for path in paths:
        if os.path.isdir(path):
            yield from walk_images(path)
        elif is_glob(path):
            for match in sorted(set(expand_glob(path))):
                if os.path.isfile(match) and not match.endswith(HEAT_MAP_SUFFIX):
                    yield match
        else:
            yield path


def is_glob(path: str) -> bool:
    """Whether the path is a pattern, and no file or folder has exactly this name."""
    return glob.has_magic(path) and not os.path.lexists(path)


def expand_glob(pattern: str) -> Iterator[str]:
    """The paths that match. A leading folder that exists under its literal name, such as `t [new]`, is no pattern.

    `**` matches folders at any depth, in the order of `walk_images`; circular links end.
    """
    before, deep, after = re.fullmatch(r"(.*?)(?:(?<![^/])(\*\*)(?:/+(.*))?)?", pattern, re.DOTALL).groups()
    if deep:
        for root in expand_glob(before) if before else [os.curdir]:
            for folder, files in _walk(root, [], []):
                folder = folder if before else os.path.relpath(folder) if folder != os.curdir else ""
                paths = (os.path.join(folder, file) for file in files)
                yield from expand_glob(os.path.join(folder, after)) if after else paths
        return
    literal = pattern
    while literal and not os.path.isdir(literal):
        literal = os.path.dirname(literal)
    yield from glob.iglob(glob.escape(literal) + pattern[len(literal) :])


def walk_images(folder: str | os.PathLike, left_out: list[tuple[str, str]] | None = None) -> Iterator[str]:
    """The path of every file below the folder with the suffix of an image, without hidden files and heat maps.

    The files of a folder come first, then its subfolders, each in alphabetical order; folders behind links come last.
    Each folder is visited once, however many links lead to it, so loops end. Formats of DECODERS are images if their
    extra is installed. A folder that cannot be read is yielded as a path: reading it then gives its error. The other
    files and folders are appended to `left_out` with the reason. Every verb finds its images with this function.
    """
    suffixes = RASTER_SUFFIXES | {suffix for suffix, (module, _) in DECODERS.items() if find_spec(module)}
    unreadable: list[OSError] = []
    left_out = deque(maxlen=0) if left_out is None else left_out
    for parent, files in _walk(folder, unreadable, left_out):
        for file in files:
            if reason := _why_no_image(file, suffixes):
                left_out.append((os.path.join(parent, file), reason))
            else:
                yield os.path.join(parent, file)
    yield from (error.filename for error in unreadable)


def _why_no_image(file: str, suffixes: frozenset[str]) -> str:
    """Why a file of this name is not taken as an image; empty if it is."""
    suffix = os.path.splitext(file)[1].lower()
    if file.startswith("."):
        return HIDDEN
    if file.endswith(HEAT_MAP_SUFFIX):
        return "a heat map of --explain"
    if suffix in suffixes:
        return ""
    if suffix in DECODERS:
        return f"no decoder of {suffix} is installed; pip install 'logo-edge[{DECODERS[suffix][1]}]'"
    return f"the suffix {suffix} is not that of an image" if suffix else "no suffix of an image"


def source_folders(paths: Iterable[str]) -> list[str]:
    """The absolute folders and globs among the paths, and the folders of the files among them, each once."""
    folders = {
        path if os.path.isdir(path) or is_glob(path) else os.path.dirname(os.path.abspath(path)) for path in paths
    }
    return sorted(shown(os.path.abspath(folder)) for folder in folders)


def _walk(
    folder: str | os.PathLike, unreadable: list[OSError], left_out: list[tuple[str, str]] | deque
) -> Iterator[tuple[str, list[str]]]:
    """(folder, names of its files) of each folder that is not hidden, once.

    Appends errors to `unreadable`, and other folders with the reason to `left_out`.
    """
    roots, seen = deque([os.fspath(folder)]), set()
    while roots:
        for parent, folders, files in os.walk(roots.popleft(), onerror=unreadable.append):
            status = os.stat(parent)
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                left_out.append((parent, "a link to a folder that is visited under another name"))
                continue
            seen.add((status.st_dev, status.st_ino))
            left_out += ((os.path.join(parent, name), HIDDEN) for name in sorted(folders) if name.startswith("."))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            roots.extend(path for name in folders if os.path.islink(path := os.path.join(parent, name)))
            yield parent, sorted(files)
