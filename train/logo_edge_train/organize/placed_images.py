"""Images with the label, split and group that their source gives, and files that are left out with the reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from logo_edge.errors import DatasetError
from logo_edge.names import alike, cleaned, shown

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "calib": "calib",
    "calibration": "calib",
    "test": "test",
    "testing": "test",
}
NOT_UTF8 = "its name, or that of its folder, is not UTF-8, which a manifest holds; rename it"


@dataclass(frozen=True)
class PlacedImage:
    """An image with the label, split and group that its source gives; empty if it gives none.

    `labels` is None unless an image may have several labels or none.
    """

    path: Path
    label: str = ""
    split: str = ""
    group: str = ""
    labels: tuple[str, ...] | None = None

    @property
    def every_label(self) -> tuple[str, ...]:
        """Its label or labels; empty if unknown or none."""
        return self.labels if self.labels is not None else (self.label,) if self.label else ()


@dataclass(frozen=True)
class SkippedFile:
    """A file, or an image that a label file names, that is not used, and the reason."""

    path: Path
    reason: str


def with_clean_labels(source: Path, placed: Sequence[PlacedImage]) -> list[PlacedImage]:
    """The images with stripped labels in NFC. Raises DatasetError if two labels look the same, or one is blank."""
    looks = defaultdict(set)
    for image in placed:
        for label in image.every_label:
            looks[alike(label)].add(label)
    if "" in looks:
        raise DatasetError(
            f"{shown(str(source))}: a class's name is blank ({listed(sorted(looks[''], key=str))}); name it"
        )
    same = [sorted(names) for _, names in sorted(looks.items()) if len(names) > 1]
    if same:
        raise DatasetError(
            f"{shown(str(source))}: classes whose names differ only in case, blanks at an end or Unicode form: "
            f"{'; '.join(' and '.join(map(ascii, names)) for names in same)}. Give each class one name (class folders: "
            "put the images into one folder)"
        )
    return [
        replace(image, label=cleaned(image.label), labels=image.labels and tuple(map(cleaned, image.labels)))
        for image in placed
    ]


def listed(names: Sequence[str], most: int = 6) -> str:
    """The first names in quotes, and the number of the others."""
    texts = [repr(shown(name)) for name in names]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
