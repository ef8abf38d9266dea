"""One folder that holds everything that users' folders hold: odd names, links, loops, damage, what is hidden."""

from __future__ import annotations

import itertools
import os
import shutil
import unicodedata
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def draw_mark(seed: int, *, size_px: int = 120) -> Image.Image:
    """A flat mark of three random polygons on transparency; other seeds give plainly other marks."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGBA", (size_px, size_px))
    pen = ImageDraw.Draw(image)
    for _ in range(3):
        corners = [tuple(corner) for corner in rng.uniform(0.02, 0.98, (4, 2)) * size_px]
        pen.polygon(corners, fill=(*(int(c) for c in rng.integers(0, 200, 3)), 255))
    return image


HOSTILE_CLASSES = ("ok", "t-shirts [new]", "a|b", "[draft]", "3M", "v1.2 beta", "caf\u00e9", "\u65e5\u672c")


@dataclass(frozen=True)
class HostileTree:
    """A folder of class folders with everything that users' folders hold.

    `images` are the files that a verb must look at, relative to `root`; those in `damaged` cannot be read and those in
    `not_utf8` have names that are no UTF-8. `left_out`: other files and folders -> a part of the reason.
    """

    root: Path
    images: frozenset[str]
    damaged: frozenset[str]
    not_utf8: frozenset[str]
    left_out: dict[str, str]


def build_hostile_tree(folder: Path) -> HostileTree:
    """The tree in the new folder `folder / "My Products (2026) [new]"`; a class of it lies outside, behind a link."""
    root, seeds = folder / "My Products (2026) [new]", itertools.count(5000)
    names = [unicodedata.normalize("NFD", f" {name} " if name == "v1.2 beta" else name) for name in HOSTILE_CLASSES]
    readable = [f"{name}/{index}.png" for name in names for index in range(6)]
    readable += ["ok/UPPER.PNG", "ok/upper.png", "ok/two\nlines.png", "ok/\x1b[31mred.png", "ok/ blank .png"]
    readable += ["ok/more/deep.png", "3M/\u00e9.png", "3M/e\u0301.png", "3M/2.0 (1).final.png"]
    outside, not_utf8 = [f"linked/{index}.png" for index in range(6)], os.fsdecode(b"ok/caf\xe9.png")
    left_out = {
        "ok/.hidden.png": "dot",
        "ok/._0.png": "dot",
        "ok/.DS_Store": "dot",
        ".cache": "dot",
        "ok/.git": "dot",
        "ok/0.png.explain.png": "heat map",
        "ok/notes.txt": "suffix .txt",
        "3M/Thumbs.db": "suffix .db",
        "ok/README": "no suffix",
        "ok/loop": "link",
    }
    drawn = ("ok/.hidden.png", "ok/0.png.explain.png", ".cache/thumbnail.png", "ok/.git/deep/0.png")
    for name in (*readable, *drawn, not_utf8):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        draw_mark(next(seeds)).save(root / name, "PNG")
    for name in outside:
        (folder / "elsewhere").mkdir(exist_ok=True)
        draw_mark(next(seeds)).save(folder / "elsewhere" / Path(name).name)
    for name, mode in {
        "a.webp": "RGBA",
        "b.avif": "RGBA",
        "c.jpg": "L",
        "d.png": "LA",
        "e.gif": "P",
        "f.tif": "1",
    }.items():
        draw_mark(next(seeds)).convert(mode).save(root / "[draft]" / name)
        readable.append(f"[draft]/{name}")
    if find_spec("pillow_heif"):
        from pillow_heif import from_pillow

        from_pillow(draw_mark(next(seeds))).save(root / "[draft]" / "g.heic")
        readable.append("[draft]/g.heic")
    else:
        (root / "[draft]" / "g.heic").write_bytes(b"no decoder")
        left_out["[draft]/g.heic"] = "no decoder of .heic is installed; pip install 'logo-edge[heif]'"
    for name in ("3M/copy of 0.png", "a|b/3M.png"):
        shutil.copy(root / "3M" / "0.png", root / name)
        readable.append(name)
    for name in ("ok/notes.txt", "ok/README", "ok/.DS_Store", "ok/._0.png", "3M/Thumbs.db"):
        (root / name).write_bytes(b"no image")
    (root / "linked").symlink_to(folder / "elsewhere", target_is_directory=True)
    (root / "ok" / "loop").symlink_to(root, target_is_directory=True)
    (root / "ok" / "dangling.png").symlink_to(folder / "gone.png")
    (root / "ok" / "cut.png").write_bytes((root / "ok" / "0.png").read_bytes()[:200])
    (root / "ok" / "empty.jpg").write_bytes(b"")
    damaged = frozenset(("ok/dangling.png", "ok/cut.png", "ok/empty.jpg"))
    images = frozenset((*readable, *outside, not_utf8)) | damaged
    return HostileTree(root, images, damaged, frozenset((not_utf8,)), left_out)
