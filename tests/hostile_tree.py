"""One folder that holds everything that users' folders hold: odd names, links, loops, damage, what is hidden."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
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


@dataclass(frozen=True)
class HostileTree:
    """A folder of class folders with everything that users' folders hold.

    `images` are the files that a verb must look at, relative to `root`; those in `damaged` cannot be read and those in
    `not_utf8` have names that are no UTF-8.
    """

    root: Path
    images: frozenset[str]
    damaged: frozenset[str]
    not_utf8: frozenset[str]


def build_hostile_tree(folder: Path) -> HostileTree:
    """The tree in the new folder `folder / "My Products (2026) [new]"`; a class of it lies outside, behind a link."""
    root, seeds = folder / "My Products (2026) [new]", itertools.count(5000)
    readable = [f"{name}/{index}.png" for name in ("ok", "t-shirts [new]", "a|b", "[draft]") for index in range(6)]
    readable += ["ok/UPPER.PNG", "ok/two\nlines.png", "ok/\x1b[31mred.png", "ok/ blank .png", "ok/more/deep.png"]
    outside, not_utf8 = [f"linked/{index}.png" for index in range(6)], os.fsdecode(b"ok/caf\xe9.png")
    left_out = ["ok/.hidden.png", ".cache/thumbnail.png", "ok/0.png.explain.png", "ok/.git/deep/0.png"]
    for name in (*readable, *left_out, not_utf8):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        draw_mark(next(seeds)).save(root / name, "PNG")
    for name in outside:
        (folder / "elsewhere").mkdir(exist_ok=True)
        draw_mark(next(seeds)).save(folder / "elsewhere" / Path(name).name)
    (root / "linked").symlink_to(folder / "elsewhere", target_is_directory=True)
    (root / "ok" / "loop").symlink_to(root, target_is_directory=True)
    (root / "ok" / "dangling.png").symlink_to(folder / "gone.png")
    (root / "ok" / "cut.png").write_bytes((root / "ok" / "0.png").read_bytes()[:200])
    (root / "ok" / "empty.jpg").write_bytes(b"")
    (root / "ok" / "notes.txt").write_text("no image")
    (root / "ok" / "README").write_text("no image")
    damaged = frozenset(("ok/dangling.png", "ok/cut.png", "ok/empty.jpg"))
    return HostileTree(root, frozenset((*readable, *outside, not_utf8)) | damaged, damaged, frozenset((not_utf8,)))
