"""Assigns whole groups of images to train, val, calib and test, by shares in each class."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from logo_edge.errors import DatasetError
from logo_edge.names import shown
from logo_edge_train.data.manifest import SPLITS, LogoRow

SPLIT_SHARES = {"train": 0.7, "val": 0.1, "calib": 0.1, "test": 0.1}  # 70/20/10, then half of val is calib
SHARE_TOLERANCE = 0.05  # of a class: larger deviations of a split, if of more than one image, are reported


def split_by_group(
    labels: Sequence[str], groups: Sequence[str], *, seed: int, shares: dict[str, float] = SPLIT_SHARES
) -> list[str]:
    """The split of each image, by `shares` in each class; no group is in two splits.

    A group counts for its most common label. A class with four groups is in all four splits. The same arguments give
    the same splits, and a class's splits do not depend on the other classes.
    """
    sizes = Counter(groups)
    split_of = {}
    for label, names in groups_of_classes(labels, groups).items():
        shuffled = [names[i] for i in class_rng(seed, label).permutation(len(names))]
        # largest first, so that small groups even out the shares
        ordered = sorted(shuffled, key=lambda name: -sizes[name])
        total = sum(sizes[name] for name in names)
        wanted = {split: share * total for split, share in shares.items()}
        empty = list(shares)
        for at, name in enumerate(ordered):
            choices = empty if len(ordered) - at <= len(empty) else shares
            split = max(choices, key=wanted.__getitem__)
            split_of[name] = split
            wanted[split] -= sizes[name]
            if split in empty:
                empty.remove(split)
    return [split_of[group] for group in groups]


def split_labels_by_group(
    label_sets: Sequence[tuple[str, ...]], groups: Sequence[str], *, seed: int, shares: dict[str, float] = SPLIT_SHARES
) -> list[str]:
    """The split of each image, by `shares` of each label where images have several; no group is in two splits.

    Iterative stratification: the groups with the label that is left in the fewest groups are assigned first, each to
    the split that lacks most of the label. Sechidis et al. 2011, "On the stratification of multi-label data". Images
    without labels count as a label of their own.
    """
    counts_of: dict[str, Counter[str]] = defaultdict(Counter)
    for labels, group in zip(label_sets, groups, strict=True):
        counts_of[group].update(labels or ("",))
    total = sum(counts_of.values(), Counter())
    wanted = {split: {label: share * count for label, count in total.items()} for split, share in shares.items()}
    rng, split_of, left = np.random.default_rng(seed), {}, sorted(counts_of)
    left = [left[index] for index in rng.permutation(len(left))]
    empty = {label: list(shares) for label in total}  # the splits without an image of the label
    while left:
        holders = Counter(label for group in left for label in counts_of[group])
        rarest = min(holders, key=lambda label: (holders[label], label))
        own = sorted((group for group in left if rarest in counts_of[group]), key=lambda g: -counts_of[g][rarest])
        for at, group in enumerate(own):
            choices = empty[rarest] if len(own) - at <= len(empty[rarest]) else list(shares)
            split = max(choices, key=lambda name: (wanted[name][rarest], sum(wanted[name].values())))
            split_of[group] = split
            for label, count in counts_of[group].items():
                wanted[split][label] -= count
                if split in empty[label]:
                    empty[label].remove(split)
        left = [group for group in left if group not in split_of]
    return [split_of[group] for group in groups]


def assign_splits(
    source: Path, rows: list[LogoRow], given: tuple[str, ...], seed: int
) -> tuple[list[LogoRow], dict[str, int]]:
    """The rows with their splits, and how many rows of train fill each split that is not given.

    Rows with a split keep it. If a split is not given, whole groups of train fill it.
    """
    if not given:
        splits = _split_rows(rows, seed, SPLIT_SHARES)
        return [replace(row, split=split) for row, split in zip(rows, splits, strict=True)], {}
    if "train" not in given:
        raise DatasetError(f"{shown(str(source))}: splits {', '.join(given)} without train; add images of train")
    missing = [split for split in SPLITS if split not in given]
    if not missing:
        return rows, {}
    fixed = {row.group for row in rows if row.split != "train"}
    free = [index for index, row in enumerate(rows) if row.split == "train" and row.group not in fixed]
    shares = {"train": 1 - 0.1 * len(missing), **dict.fromkeys(missing, 0.1)}
    splits = _split_rows([rows[i] for i in free], seed, shares)
    moved = dict(zip(free, splits, strict=True))
    rows = [replace(row, split=moved.get(index, row.split)) for index, row in enumerate(rows)]
    return rows, {split: splits.count(split) for split in missing}


def _split_rows(rows: Sequence[LogoRow], seed: int, shares: dict[str, float]) -> list[str]:
    groups = [row.group for row in rows]
    if any(row.labels is not None for row in rows):
        return split_labels_by_group([row.every_label for row in rows], groups, seed=seed, shares=shares)
    return split_by_group([row.label for row in rows], groups, seed=seed, shares=shares)


def find_uneven_classes(rows: list[LogoRow]) -> dict[str, tuple[tuple[int, ...], int]]:
    """Classes whose large groups make SPLIT_SHARES impossible -> their shares in percent, and their largest group."""
    uneven = {}
    for label in sorted({row.label for row in rows}):
        own = [row for row in rows if row.label == label]
        splits, groups = Counter(row.split for row in own), Counter(row.group for row in own)
        tolerance = max(1, SHARE_TOLERANCE * len(own))  # images
        if max(groups.values()) > tolerance and any(
            abs(splits[split] - share * len(own)) > tolerance for split, share in SPLIT_SHARES.items()
        ):
            shares = tuple(round(100 * splits[split] / len(own)) for split in SPLIT_SHARES)
            uneven[label] = (shares, max(groups.values()))
    return uneven


def groups_of_classes(labels: Sequence[str], groups: Sequence[str]) -> dict[str, list[str]]:
    """The groups of each class, in order; a group counts for its most common label."""
    votes = defaultdict(Counter)
    for label, group in zip(labels, groups, strict=True):
        votes[group][label] += 1
    groups_of = {label: [] for label in sorted(set(labels))}
    for group in sorted(votes):
        groups_of[min(votes[group], key=lambda label: (-votes[group][label], label))].append(group)
    return groups_of


def class_rng(seed: int, label: str) -> np.random.Generator:
    """The generator of a class: it does not depend on other classes."""
    return np.random.default_rng([seed, zlib.crc32(label.encode())])
