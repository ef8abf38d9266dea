"""Writes the manifest of a folder of images: labels, groups of copies, splits (`logo-edge data organize`)."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from logo_edge.cache import cache_folder
from logo_edge.errors import DatasetError, ImageError
from logo_edge.files import json_text, write_file
from logo_edge.images.load import load_image
from logo_edge.names import shown
from logo_edge_train.data.manifest import FILES, SPLITS, LogoRow, write_manifest
from logo_edge_train.data.processes import map_in_processes
from logo_edge_train.organize.duplicates import MAX_DISTANCE, Look, group_copies, look_at
from logo_edge_train.organize.features import LogoMeasurements, measure_logo
from logo_edge_train.organize.label_proposer import SURE_CONFIDENCE, proposal_classes, propose_label
from logo_edge_train.organize.layout import NOT_UTF8, PlacedImage, read_layout
from logo_edge_train.organize.manifest_file import digest_file, digests_file
from logo_edge_train.organize.splits import (
    SPLIT_SHARES,
    assign_splits,
    class_rng,
    find_uneven_classes,
    groups_of_classes,
)

SMALL_CLASSES = STOP, LEAVE_OUT, MERGE = ("stop", "leave-out", "merge")
MERGED = "other"


@dataclass(frozen=True)
class SkippedFile:
    """A file that is no readable image, and the reason."""

    path: Path
    reason: str


@dataclass(frozen=True)
class OrganizeReport:
    """The result of `organize_folder`.

    counts: split -> class -> images. labelled: rows with a label from a folder; proposed: rows with a proposed label;
    proposed_sure: those with a confidence of at least SURE_CONFIDENCE. unlabelled: images without any label. left_out:
    images that balancing dropped. below_target: classes below the target -> their size. small_classes: classes that
    were left out or merged -> their size. groups: groups in the manifest. near_duplicates: images after the first of
    their group. mixed_groups: groups with several labels. limits: classes whose images all look alike -> their limit
    for copies, as a share of the usual limit. given: splits that folders name. split_groups: groups that these folders
    divide. filled: splits without a folder -> their images, taken from train. uneven: classes whose splits are far from
    70/10/10/10 -> their shares in percent, and their largest group.
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
    small_classes: dict[str, int]
    groups: int
    near_duplicates: int
    mixed_groups: tuple[str, ...]
    limits: dict[str, float]
    given: tuple[str, ...]
    split_groups: tuple[str, ...]
    filled: dict[str, int]
    uneven: dict[str, tuple[tuple[int, ...], int]]


@dataclass(frozen=True)
class _LabelledRow:
    row: LogoRow  # its split is empty unless a folder names it
    proposed: bool
    confidence: float  # 1 for a label from a folder


def organize_folder(
    folder: Path,
    manifest_path: Path,
    *,
    target_per_class: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    split_folders: bool | None = None,
    exact_copies: bool = False,
    small_classes: str = STOP,
) -> OrganizeReport:
    """Writes the manifest of the images in `folder` and its subfolders, and returns the report.

    `layout.read_layout` gives labels and splits. Images directly in `folder` are unlabelled: they get a proposed label
    if every class folder is a class of the labelling guide (or there is none), and are only reported otherwise. Copies
    share a group (`duplicates.group_copies`; only equal files with `exact_copies`), and no group is in two splits,
    except where folders give the split: such images never move. `small_classes` decides on classes of fewer than four
    groups: stop, leave out, or merge into the class MERGED. Files whose names are not UTF-8 are skipped.

    Raises DatasetError, if possible before images are measured: the folder or its images are missing, its layout is
    ambiguous, the manifest exists (without `overwrite`) or cannot be written, or a class cannot be split.
    """
    folder, manifest_path = Path(folder), Path(manifest_path)
    if not folder.is_dir():
        raise DatasetError(
            f"{shown(str(folder))}: no such folder; expected one with images, best in a subfolder for each class"
        )
    if target_per_class is not None and target_per_class < len(SPLITS):
        raise DatasetError(
            f"target_per_class is {target_per_class}; expected at least {len(SPLITS)}, one for each split"
        )
    _check_destination(manifest_path, overwrite)
    placed, not_utf8 = read_layout(folder.resolve(), split_folders=split_folders)
    can_propose = {image.label for image in placed} - {""} <= set(proposal_classes())
    placed, few_images = _settle_small_classes(folder, placed, small_classes, can_propose=can_propose)
    jobs = [(image.path, can_propose and not image.label) for image in placed]
    examined = map_in_processes(_examine, jobs, title="Measuring")
    skipped = [SkippedFile(path, NOT_UTF8) for path in not_utf8]
    skipped += [SkippedFile(p.path, e) for p, e in zip(placed, examined, strict=True) if isinstance(e, str)]
    images = [(p, e) for p, e in zip(placed, examined, strict=True) if isinstance(e, _Examined)]
    if not images:
        raise DatasetError(
            f"{shown(str(folder))}: {len(placed) + len(not_utf8)} image files, none of which can be read"
            + (f" (first: {skipped[0].reason})" if skipped else "; expected images such as .png or .jpg")
        )
    names = [_icon_name(image.path, manifest_path.resolve().parent) for image, _ in images]
    groups = group_copies(
        [look.look for _, look in images],
        [image.label for image, _ in images],
        [look.digest for _, look in images],
        exact=exact_copies,
    )
    candidates, unlabelled = [], []
    for (image, details), name, first in zip(images, names, groups.firsts, strict=True):
        if image.label or can_propose:
            row = LogoRow(FILES, "", name, names[first], image.label, split=image.split)
            candidates.append(_label(row, details.measurements))
        else:
            unlabelled.append(image.path)
    candidates, few_groups = _settle_few_groups(folder, candidates, small_classes)
    kept, below_target = _balance(candidates, target_per_class, seed)
    _check_classes(folder, [c.row.label for c in kept])
    given = tuple(split for split in SPLITS if any(c.row.split == split for c in kept))
    rows, filled = assign_splits(folder, [c.row for c in kept], given, seed)
    if manifest_path.is_relative_to(cache_folder()):  # into the user's folders only the manifest is written
        digests = {name: look.digest for name, (_, look) in zip(names, images, strict=True)}
        manifest_path.parent.mkdir(parents=True, exist_ok=True)
        write_file(digests_file(manifest_path), json_text({row.icon: digests[row.icon] for row in rows}))
    write_manifest(manifest_path, rows)
    labels_of, splits_of = _values_of_groups(rows, "label"), _values_of_groups(rows, "split")
    proposals = [c for c in kept if c.proposed]
    return OrganizeReport(
        manifest=manifest_path,
        counts=_count(rows),
        labelled=len(rows) - len(proposals),
        proposed=len(proposals),
        proposed_sure=sum(c.row.sure for c in proposals),
        unlabelled=tuple(unlabelled),
        skipped=tuple(skipped),
        left_out=len(candidates) - len(kept),
        below_target=below_target,
        small_classes={**few_images, **few_groups},
        groups=len(labels_of),
        near_duplicates=len(rows) - len(labels_of),
        mixed_groups=tuple(group for group, labels in labels_of.items() if len(labels) > 1),
        limits={name: limit / MAX_DISTANCE for name, limit in groups.limits.items() if 0 < limit < MAX_DISTANCE},
        given=given,
        split_groups=tuple(group for group, splits in splits_of.items() if len(splits) > 1),
        filled=filled,
        uneven={} if given else find_uneven_classes(rows),
    )


def print_report(report: OrganizeReport) -> None:
    """Prints the counts by class and split, and what was left out and why."""
    from rich.console import Console

    from logo_edge_train.console import LiteralTable, literal

    console = Console()
    table = LiteralTable(title=str(report.manifest))
    splits = [name for name in SPLITS if name in report.counts]
    for heading in ("class", *splits):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for label in sorted({label for cells in report.counts.values() for label in cells}):
        table.add_row(label, *(str(report.counts[split].get(label, 0)) for split in splits))
    console.print(table)
    for line in describe_report(report):
        console.print(literal(line), soft_wrap=True)


def describe_report(report: OrganizeReport) -> list[str]:
    """The lines below the table of counts."""
    lines = [
        f"{report.labelled} labelled by their folders, {report.proposed} by proposal ({report.proposed_sure} sure)",
        f"{report.groups} groups; {report.near_duplicates} copies kept in the split of the first of their group",
    ]
    if report.given:
        lines.append(f"splits given by folders, which are kept: {', '.join(report.given)}")
    lines += [
        f"no folder for {split}: {count} images of train are used for it" for split, count in report.filled.items()
    ]
    remarks = {
        "left out by balancing": report.left_out,
        "skipped": [f"{file.path}: {file.reason.removeprefix(f'{file.path}: ')}" for file in report.skipped],
        "without a label, left out": [str(path) for path in report.unlabelled],
        "copies under different labels, have a look": list(report.mixed_groups),
        "Warning: copies that your folders put into different splits; they are kept there, and figures on those splits "
        "are too good": list(report.split_groups),
        "classes below the target": [f"{label}: {count}" for label, count in report.below_target.items()],
        "classes with too few images": [f"{label}: {count}" for label, count in report.small_classes.items()],
        "classes whose images all look alike, so that only closer ones count as copies": [
            f"{label or '(no label)'}: closer than {share:.1%} of the usual limit"
            for label, share in report.limits.items()
        ],
        f"classes whose splits are not {'/'.join(f'{share:.0%}'[:-1] for share in SPLIT_SHARES.values())}, since no "
        "group of copies is divided (--exact-copies groups equal files only)": [
            f"{label}: {'/'.join(map(str, shares))}, the largest group has {largest} images"
            for label, (shares, largest) in report.uneven.items()
        ],
    }
    for remark, details in remarks.items():
        if isinstance(details, int) and details:
            lines.append(f"{details} {remark}")
        elif details:
            lines += [f"{len(details)} {remark}:", *(f"  {line}" for line in details[:10])]
    return lines


@dataclass(frozen=True)
class _Examined:
    digest: str
    look: Look
    measurements: LogoMeasurements | None  # where a label is to be proposed


def _examine(job: tuple[Path, bool]) -> _Examined | str:
    """The image's look and, if asked for, its measurements; or the reason why it cannot be read."""
    path, is_measured = job
    try:
        image = load_image(path)
        digest = digest_file(path)
    except (ImageError, OSError) as error:
        return str(error)
    return _Examined(digest, look_at(image), measure_logo(image) if is_measured else None)


def _check_destination(path: Path, overwrite: bool) -> None:
    """Raises DatasetError if the manifest exists, is a folder, or its folder cannot be written."""
    if path.is_dir():
        raise DatasetError(
            f"{shown(str(path))}: a folder; name a file for the manifest, such as {path / 'manifest.csv'}"
        )
    if path.exists() and not overwrite:
        raise DatasetError(
            f"{shown(str(path))}: there already, and its labels may have been corrected by hand; name another --out, "
            "or replace it with --overwrite"
        )
    folder = next(parent for parent in path.resolve().parents if parent.exists())
    if not os.access(folder, os.W_OK):
        raise DatasetError(f"{shown(str(folder))}: cannot be written; name another --out for the manifest")


def _icon_name(path: Path, manifest_folder: Path) -> str:
    return Path(os.path.relpath(path, manifest_folder)).as_posix()


def _label(row: LogoRow, measurements: LogoMeasurements | None) -> _LabelledRow:
    if measurements is None:
        return _LabelledRow(replace(row, votes=(row.label,)), proposed=False, confidence=1.0)
    proposal = propose_label(measurements)
    sure = proposal.confidence >= SURE_CONFIDENCE
    row = replace(row, label=proposal.label, votes=(proposal.label,), sure=sure)
    return _LabelledRow(row, proposed=True, confidence=proposal.confidence)


def _balance(
    candidates: list[_LabelledRow], target: int | None, seed: int
) -> tuple[list[_LabelledRow], dict[str, int]]:
    """At most `target` images a class, and the sizes of the classes below it.

    One image of every group comes before a second image of any; among these, confident labels come first.
    """
    if target is None:
        return candidates, {}
    kept, below_target = set(), {}
    for label in sorted({c.row.label for c in candidates}):
        own = [at for at, c in enumerate(candidates) if c.row.label == label]
        if len(own) < target:
            below_target[label] = len(own)
        shuffled = [own[i] for i in class_rng(seed, label).permutation(len(own))]
        shuffled.sort(key=lambda at: -candidates[at].confidence)
        turns: Counter[str] = Counter()
        order = []
        for at in shuffled:
            order.append((turns[candidates[at].row.group], at))
            turns[candidates[at].row.group] += 1
        kept |= {at for _, at in sorted(order, key=lambda turn: turn[0])[:target]}
    return [candidates[at] for at in sorted(kept)], below_target


def _settle_small_classes(
    folder: Path, placed: list[PlacedImage], mode: str, *, can_propose: bool
) -> tuple[list[PlacedImage], dict[str, int]]:
    """The images without classes that have too few images, and these classes' sizes."""
    counts = Counter(image.label for image in placed if image.label)
    loose = can_propose and any(not image.label for image in placed)  # may belong to any class
    if not loose and placed:
        _check_classes(folder, list(counts.elements()))
    if loose or any(image.split for image in placed):
        return placed, {}
    small = {label: count for label, count in sorted(counts.items()) if count < len(SPLITS)}
    _refuse_small(folder, small, mode, "images")
    if mode == MERGE:
        placed = [replace(image, label=MERGED) if image.label in small else image for image in placed]
    else:
        placed = [image for image in placed if image.label not in small]
    if small:
        _check_classes(folder, [image.label for image in placed if image.label])
    return placed, small


def _settle_few_groups(
    folder: Path, candidates: list[_LabelledRow], mode: str
) -> tuple[list[_LabelledRow], dict[str, int]]:
    """The candidates without classes of too few groups, and these classes' numbers of groups."""
    if any(c.row.split for c in candidates):
        return candidates, {}
    groups = groups_of_classes([c.row.label for c in candidates], [c.row.group for c in candidates])
    small = {label: len(names) for label, names in groups.items() if len(names) < len(SPLITS)}
    alone = mode == MERGE and set(small) == {MERGED}  # merging did not help
    _refuse_small(folder, small, STOP if alone else mode, "different images, copies counted once", is_merged=alone)
    if mode == MERGE:
        merged = {*small, MERGED}
        candidates = [
            replace(c, row=replace(c.row, label=MERGED, votes=(MERGED,))) if c.row.label in merged else c
            for c in candidates
        ]
        if small and len({c.row.group for c in candidates if c.row.label == MERGED}) < len(SPLITS):
            _refuse_small(folder, small, STOP, "different images, copies counted once", is_merged=True)
        return candidates, small
    return [c for c in candidates if c.row.label not in small], small


def _refuse_small(folder: Path, small: dict[str, int], mode: str, unit: str, *, is_merged: bool = False) -> None:
    if small and mode == STOP:
        listed = ", ".join(f"{shown(label)!r} ({count})" for label, count in small.items())
        merge = "" if is_merged else f", or put them together into a class {MERGED!r} (--small-classes {MERGE})"
        raise DatasetError(
            f"{shown(str(folder))}: classes with fewer than {len(SPLITS)} {unit}: {listed}; expected at least one "
            f"image for each of {', '.join(SPLITS)}. Add images, or leave these classes out (--small-classes "
            f"{LEAVE_OUT}){merge}"
        )


def _check_classes(folder: Path, labels: Sequence[str]) -> None:
    if len(set(labels)) < 2:
        classes = (
            f"all {len(labels)} images are of one class, {shown(labels[0])!r}" if labels else "no image has a class"
        )
        raise DatasetError(
            f"{shown(str(folder))}: {classes}; expected at least two class folders "
            "(or images directly in the folder, whose labels are proposed)"
        )


def _values_of_groups(rows: list[LogoRow], field: str) -> dict[str, set[str]]:
    values = defaultdict(set)
    for row in rows:
        values[row.group].add(getattr(row, field))
    return dict(values)


def _count(rows: list[LogoRow]) -> dict[str, dict[str, int]]:
    labels = sorted({row.label for row in rows})
    counts = Counter((row.split, row.label) for row in rows)
    return {split: {label: counts[split, label] for label in labels} for split in SPLITS}
