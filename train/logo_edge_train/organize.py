"""A folder of images -> a manifest with labels, near-duplicate groups and splits (`logo-edge data organize`)."""

from __future__ import annotations

import os
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from logo_edge.errors import DatasetError, ImageError
from logo_edge.folders import walk_images
from logo_edge.images import load_image
from logo_edge.manifest import FILES, SPLITS, LogoRow, write_manifest
from logo_edge.parts import ink_box
from logo_edge_train.measure import LogoMeasurements, lay_out, map_over_images, measure_logo
from logo_edge_train.propose import SURE_CONFIDENCE, measure_proposal_accuracy, proposal_classes, propose_label

__all__ = [
    "OrganizeReport",
    "SkippedFile",
    "group_near_duplicates",
    "measure_logo",
    "measure_proposal_accuracy",
    "organize_folder",
    "perceptual_hash",
    "print_report",
    "propose_label",
    "split_by_group",
]

SPLIT_SHARES = {"train": 0.7, "val": 0.1, "calib": 0.1, "test": 0.1}  # 70/20/10, then half of val is calib
HASH_SIDE_PX = 32
HASH_BITS = 64
MAX_HASH_DISTANCE = 8  # of 64 bits; 94 % of such pairs of the labelled logos are one brand, a third of those at 10 bits
MAX_ASPECT_CHANGE = 0.1  # relative
HASH_BLOCK = 1024  # rows of the distance matrix at a time


@dataclass(frozen=True)
class SkippedFile:
    """A file that gave no image, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class OrganizeReport:
    """What `organize_folder` found and wrote.

    `counts` maps split -> class -> images. `labelled` counts the manifest's rows whose label a folder gave, `proposed`
    the others, `proposed_sure` those of them with a confidence of at least SURE_CONFIDENCE. `unlabelled` lists images
    that no label could be proposed for, `left_out` counts those that balancing dropped, `below_target` maps the
    classes that are too small for the target to their size. `groups` counts the manifest's groups, `near_duplicates`
    its images beyond the first of their group; `mixed_groups` names the groups whose images carry different labels,
    which deserve a look.
    """

    manifest: Path
    counts: dict[str, dict[str, int]]
    labelled: int
    proposed: int
    proposed_sure: int
    unlabelled: tuple[Path, ...]
    skipped: tuple[SkippedFile, ...]
    left_out: int
    below_target: dict[str, int]
    groups: int
    near_duplicates: int
    mixed_groups: tuple[str, ...]


@dataclass(frozen=True)
class _Candidate:
    row: LogoRow
    proposed: bool
    confidence: float  # 1 where the folder gave the label


def organize_folder(
    folder: Path, manifest_path: Path, *, target_per_class: int | None = None, seed: int = 0
) -> OrganizeReport:
    """The report on the manifest that was written for the images in `folder` and its subfolders.

    A first-level subfolder names the class of all images below it; images directly in `folder` are unlabelled. Those
    get a proposed label where every class folder is a class of the labelling guide (or there is none), and are only
    reported otherwise. Near-duplicates share a group, and no group stands in two splits.

    Raises DatasetError where the folder or its images are missing, or where a class cannot be split.
    """
    folder, manifest_path = Path(folder), Path(manifest_path)
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; expected one with images, best in a subfolder for each class")
    root = folder.resolve()
    paths = [Path(path) for path in walk_images(root)]
    examined = map_over_images(_examine, paths, title="Measuring")
    skipped = tuple(SkippedFile(p, e) for p, e in zip(paths, examined, strict=True) if isinstance(e, str))
    images = [(p, e) for p, e in zip(paths, examined, strict=True) if not isinstance(e, str)]
    if not images:
        raise DatasetError(
            f"{folder}: {len(paths)} files, none of them an image that Pillow reads"
            + (f" (first: {skipped[0].reason})" if skipped else "; expected images")
        )
    names = [_icon_name(path, manifest_path.resolve().parent) for path, _ in images]
    groups = group_near_duplicates(
        [image.hash for _, image in images], [image.measurements.aspect_ratio for _, image in images]
    )
    class_names = [_class_folder(path, root) for path, _ in images]
    can_propose = set(class_names) - {""} <= set(proposal_classes())
    candidates, unlabelled = [], []
    for (path, image), name, group, label in zip(images, names, groups, class_names, strict=True):
        if label or can_propose:
            candidates.append(_label(LogoRow(FILES, "", name, names[group], label), image.measurements))
        else:
            unlabelled.append(path)
    kept, below_target = _balance(candidates, target_per_class, seed)
    labels, groups = [c.row.label for c in kept], [c.row.group for c in kept]
    _check_classes(folder, labels, groups)
    splits = split_by_group(labels, groups, seed=seed)
    rows = [replace(c.row, split=split) for c, split in zip(kept, splits, strict=True)]
    write_manifest(manifest_path, rows)
    labels_of = _labels_of_groups(rows)
    proposals = [c for c in kept if c.proposed]
    return OrganizeReport(
        manifest=manifest_path,
        counts=_count(rows),
        labelled=len(rows) - len(proposals),
        proposed=len(proposals),
        proposed_sure=sum(c.row.sure for c in proposals),
        unlabelled=tuple(unlabelled),
        skipped=skipped,
        left_out=len(candidates) - len(kept),
        below_target=below_target,
        groups=len(labels_of),
        near_duplicates=len(rows) - len(labels_of),
        mixed_groups=tuple(group for group, labels in labels_of.items() if len(labels) > 1),
    )


def print_report(report: OrganizeReport) -> None:
    """Prints what was found, what was left out and why, and what deserves a look."""
    from rich.console import Console
    from rich.table import Table

    console, table = Console(highlight=False), Table(title=str(report.manifest))
    labels = sorted({label for cells in report.counts.values() for label in cells})
    for heading in ("split", *labels):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for split in (name for name in SPLITS if name in report.counts):
        table.add_row(split, *(str(report.counts[split].get(label, 0)) for label in labels))
    console.print(table)
    console.print(
        f"{report.labelled} labelled by their folders, {report.proposed} by proposal ({report.proposed_sure} sure)"
    )
    console.print(f"{report.groups} groups; {report.near_duplicates} near-duplicates kept on one side each")
    remarks = {
        "left out by balancing": report.left_out,
        "skipped, no image": [f"{skipped.path}: {skipped.reason}" for skipped in report.skipped],
        "without a label, left out": [str(path) for path in report.unlabelled],
        "near-duplicates of different labels, have a look": list(report.mixed_groups),
        "classes below the target": [f"{label}: {count}" for label, count in report.below_target.items()],
    }
    for remark, found in remarks.items():
        if isinstance(found, int) and found:
            console.print(f"{found} {remark}")
        elif found:
            console.print(f"{len(found)} {remark}:", *[f"  {line}" for line in found[:10]], sep="\n")


def perceptual_hash(image: Image.Image) -> int:
    """64 bits that hardly change with size, margins, format and compression of a drawing.

    The logo on its background, cut to its ink, is squeezed to 32 x 32 grey levels; the bits tell which of the 64
    lowest frequencies of its cosine transform, the mean left out, lie above their median. Zauner 2010,
    "Implementation and benchmarking of perceptual image hash functions". The squeezing loses the aspect ratio, which
    `group_near_duplicates` compares by itself: letterboxed, all wordmarks would look alike.
    """
    pixels, ink = lay_out(image)
    grey = cv2.cvtColor(np.ascontiguousarray(pixels[ink_box(ink)]), cv2.COLOR_RGB2GRAY)
    square = cv2.resize(grey, (HASH_SIDE_PX, HASH_SIDE_PX), interpolation=cv2.INTER_AREA)
    down, across = np.indices(square.shape)
    lowest_first = np.lexsort((across.ravel(), (down + across).ravel()))[1 : HASH_BITS + 1]
    frequencies = cv2.dct(square.astype(np.float32)).ravel()[lowest_first]  # (64,)
    return int.from_bytes(np.packbits(frequencies > np.median(frequencies)).tobytes(), "big")


def group_near_duplicates(
    hashes: Sequence[int], aspect_ratios: Sequence[float], *, max_distance: int = MAX_HASH_DISTANCE
) -> list[int]:
    """For each image the index of the first image of its group.

    Two images belong together where their hashes differ in at most `max_distance` bits and their aspect ratios by at
    most a tenth; so do all that a chain of such pairs connects.
    """
    parents = list(range(len(hashes)))

    def find_root(at: int) -> int:
        while parents[at] != at:
            parents[at] = parents[parents[at]]
            at = parents[at]
        return at

    raw = b"".join(value.to_bytes(HASH_BITS // 8, "big") for value in hashes)
    signs = np.unpackbits(np.frombuffer(raw, np.uint8)).reshape(-1, HASH_BITS).astype(np.float32) * 2 - 1  # (N, 64)
    logs = np.log(np.array(aspect_ratios, np.float64))
    for start in range(0, len(hashes), HASH_BLOCK):
        block = slice(start, start + HASH_BLOCK)
        near = (HASH_BITS - signs[block] @ signs.T) / 2 <= max_distance  # (B, N)
        near &= np.abs(logs[block, None] - logs) <= np.log1p(MAX_ASPECT_CHANGE)
        for one, other in np.argwhere(near):
            first, second = sorted((find_root(int(one) + start), find_root(int(other))))
            parents[second] = first
    return [find_root(at) for at in range(len(hashes))]


def split_by_group(
    labels: Sequence[str], groups: Sequence[str], *, seed: int, shares: dict[str, float] = SPLIT_SHARES
) -> list[str]:
    """train, val, calib or test for each image: 70/10/10/10 in each class, or other `shares`; no group in two splits.

    A group counts for its commonest label. Every class with four groups reaches all four splits. The same arguments
    give the same splits, and a class's splits do not depend on the other classes.
    """
    sizes = Counter(groups)
    split_of = {}
    for label, names in _groups_of_classes(labels, groups).items():
        shuffled = [names[i] for i in _class_rng(seed, label).permutation(len(names))]
        # the largest first, so that the small ones even out what is missing
        ordered = sorted(shuffled, key=lambda name: -sizes[name])
        total = sum(sizes[name] for name in names)
        missing = {split: share * total for split, share in shares.items()}
        empty = list(shares)
        for at, name in enumerate(ordered):
            choices = empty if len(ordered) - at <= len(empty) else shares
            split = max(choices, key=missing.__getitem__)
            split_of[name] = split
            missing[split] -= sizes[name]
            if split in empty:
                empty.remove(split)
    return [split_of[group] for group in groups]


@dataclass(frozen=True)
class _Examined:
    hash: int
    measurements: LogoMeasurements


def _examine(path: Path) -> _Examined | str:
    """The image's hash and measurements, or why there are none."""
    try:
        image = load_image(path)
    except ImageError as error:
        return str(error)
    return _Examined(perceptual_hash(image), measure_logo(image))


def _icon_name(path: Path, manifest_folder: Path) -> str:
    return Path(os.path.relpath(path, manifest_folder)).as_posix()


def _class_folder(path: Path, root: Path) -> str:
    """The first-level folder that the image lies in; empty for one directly in the root."""
    parts = path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else ""


def _label(row: LogoRow, measurements: LogoMeasurements) -> _Candidate:
    if row.label:
        return _Candidate(replace(row, votes=(row.label,)), proposed=False, confidence=1.0)
    proposal = propose_label(measurements)
    sure = proposal.confidence >= SURE_CONFIDENCE
    row = replace(row, label=proposal.label, votes=(proposal.label,), sure=sure)
    return _Candidate(row, proposed=True, confidence=proposal.confidence)


def _balance(candidates: list[_Candidate], target: int | None, seed: int) -> tuple[list[_Candidate], dict[str, int]]:
    """At most `target` images a class, and the sizes of the classes below it.

    One image of every group comes before a second one of any; then the confident labels come first.
    """
    if target is None:
        return candidates, {}
    if target < len(SPLITS):
        raise DatasetError(f"target_per_class is {target}; expected at least {len(SPLITS)}, one for each split")
    kept, below_target = set(), {}
    for label in sorted({c.row.label for c in candidates}):
        own = [at for at, c in enumerate(candidates) if c.row.label == label]
        if len(own) < target:
            below_target[label] = len(own)
        shuffled = [own[i] for i in _class_rng(seed, label).permutation(len(own))]
        shuffled.sort(key=lambda at: -candidates[at].confidence)
        turns: Counter[str] = Counter()
        order = []
        for at in shuffled:
            order.append((turns[candidates[at].row.group], at))
            turns[candidates[at].row.group] += 1
        kept |= {at for _, at in sorted(order, key=lambda entry: entry[0])[:target]}
    return [candidates[at] for at in sorted(kept)], below_target


def _class_rng(seed: int, label: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(label.encode())])


def _groups_of_classes(labels: Sequence[str], groups: Sequence[str]) -> dict[str, list[str]]:
    """The groups of each class, in order; a group counts for its commonest label."""
    votes = defaultdict(Counter)
    for label, group in zip(labels, groups, strict=True):
        votes[group][label] += 1
    found = {label: [] for label in sorted(set(labels))}
    for group in sorted(votes):
        found[min(votes[group], key=lambda label: (-votes[group][label], label))].append(group)
    return found


def _check_classes(folder: Path, labels: Sequence[str], groups: Sequence[str]) -> None:
    groups_of_classes = _groups_of_classes(labels, groups)
    if len(groups_of_classes) < 2:
        raise DatasetError(
            f"{folder}: all {len(labels)} images are of one class, {labels[0]!r}; expected at least two class folders "
            "(or images directly in the folder, whose labels are proposed)"
        )
    for label, names in groups_of_classes.items():
        if len(names) < len(SPLITS):
            raise DatasetError(
                f"{folder}: class {label!r} has {len(names)} different images, near-duplicates counted once; expected "
                f"at least {len(SPLITS)}, one for each of {', '.join(SPLITS)}. Add images or merge the class"
            )


def _labels_of_groups(rows: list[LogoRow]) -> dict[str, set[str]]:
    found = defaultdict(set)
    for row in rows:
        found[row.group].add(row.label)
    return dict(found)


def _count(rows: list[LogoRow]) -> dict[str, dict[str, int]]:
    labels = sorted({row.label for row in rows})
    counts = Counter((row.split, row.label) for row in rows)
    return {split: {label: counts[split, label] for label in labels} for split in SPLITS}
