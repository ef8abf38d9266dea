"""The kind of picture that a data set holds, proposed from its images: logo, photo or document."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image

from logo_edge.images.load import load_reduced
from logo_edge.likeness.parts import LONG_SIDE_PX, lay_on_paper
from logo_edge_train.data.manifest import Manifest
from logo_edge_train.recipe import AugmentConfig

LOGO, PHOTO, DOCUMENT = "logo", "photo", "document"
SAMPLED = 60  # images of train that are looked at
CALM_LEVELS = 2  # largest range of the 3 x 3 px around a pixel of a flat colour
LEAST_CALM = 0.4  # share of such pixels; photographs have fewer
STROKE_PX = 9  # at a longer side of 160 px: wider than a stroke of lettering
INK_LEVELS = 32  # by which lettering is darker than the paper around it
LEAST_LINES = 6  # edges of dark strokes along the mean column of a page
LEAST_MARKS = 20  # separate dark strokes on a page
LEAST_PAPER, MOST_TINT, PAPER_SHARE = 160, 40, 0.7  # its grey level, its saturation, its share of the page
DIRECTIONS = {"left", "right", "clockwise", "counterclockwise", "anticlockwise", "mirrored"}
COLOURS = set(
    "red orange yellow green blue purple violet pink brown black white grey gray cyan magenta turquoise beige gold "
    "silver".split()
)

Augment = TypeVar("Augment", bound=AugmentConfig)


def kind_of(image: Image.Image) -> str:
    """LOGO, PHOTO or DOCUMENT, by the alpha channel, the edges and the colours at a longer side of 160 px.

    A page is opaque bright paper with many thin dark strokes, one line above another. A photograph is opaque, and few
    of its pixels equal their neighbours. All others are logos: marks, icons, flags, cut-outs on a clear background.
    """
    if image.mode == "RGBA" and image.getextrema()[3][0] < 128:
        return LOGO
    pixels, _ = lay_on_paper(image)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    around = np.ones((STROKE_PX, STROKE_PX), np.uint8)
    paper, tints = (cv2.morphologyEx(part, cv2.MORPH_CLOSE, around) for part in (grey, pixels))
    strokes = paper - grey > INK_LEVELS
    lines = np.count_nonzero(np.diff(strokes, axis=0)) / strokes.shape[1]
    marks = cv2.connectedComponentsWithStats(strokes.astype(np.uint8), connectivity=8)[2][1:, cv2.CC_STAT_AREA]
    level = np.median(paper)
    if (
        lines >= LEAST_LINES
        and (marks > 2).sum() >= LEAST_MARKS
        and level >= LEAST_PAPER
        and np.median(np.ptp(tints, axis=2)) <= MOST_TINT
        and (np.abs(paper - level) < 24).mean() >= PAPER_SHARE
    ):
        return DOCUMENT
    around = np.ones((3, 3), np.uint8)
    ranges = (cv2.dilate(pixels, around) - cv2.erode(pixels, around)).max(2)
    return PHOTO if (ranges <= CALM_LEVELS).mean() < LEAST_CALM else LOGO


def kind_of_file(path: Path) -> str:
    """The kind of an image file, read at reduced scale if that is quicker. Raises ImageError if it cannot be read."""
    decoded, _ = load_reduced(path, 2 * LONG_SIDE_PX)
    return kind_of(decoded if isinstance(decoded, Image.Image) else Image.fromarray(decoded))


def count_kinds(manifest: Manifest) -> Counter[str]:
    """Images by kind, among SAMPLED labelled images of train; the same ones each time.

    Raises DatasetError if images are missing, ImageError if one cannot be read.
    """
    rows = manifest.split("train")
    picked = np.random.default_rng(0).permutation(len(rows))[:SAMPLED]
    return Counter(map(kind_of_file, manifest.image_paths([rows[index] for index in sorted(picked)])))


def settle_kind(augment: Augment, manifest: Manifest) -> Augment:
    """The augmentation with its kind of picture: its own or, for auto, the most frequent one of `count_kinds`.

    Views of a proposed kind `spare_classes`.
    """
    if augment.kind != "auto":
        return augment
    kind = count_kinds(manifest).most_common(1)[0][0]
    return spare_classes(replace(augment, kind=kind), manifest.classes)


def spare_classes(augment: Augment, classes: Iterable[str]) -> Augment:
    """The augmentation without operations that would change a class, as far as the classes' names tell.

    Photographs are not mirrored if a class is named after a direction. No view has another hue, saturation or
    background colour if a class is named after a colour.
    """
    words = {word for name in classes for word in re.split(r"[\W_]+", name.lower())}
    if words & DIRECTIONS:
        augment = replace(augment, photo=replace(augment.photo, p_mirror=0.0))
    if words & COLOURS:
        scenes = {name: replace(getattr(augment, name), p_colour=0.0) for name in (PHOTO, DOCUMENT)}
        augment = replace(augment, p_colour=0.0, p_background=0.0, **scenes)
    return augment


def describe_kinds(counts: Counter[str]) -> str:
    """One sentence: the counts of `count_kinds`, and what they mean for a training."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    return (
        f"kinds of picture, of {counts.total()} images of train: {kinds}. A training draws views of "
        f"{counts.most_common(1)[0][0]}s, unless its recipe names another kind (train.augment.kind)"
    )
