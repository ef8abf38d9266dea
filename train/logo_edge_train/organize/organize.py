"""Writes the manifest of a folder or label file: labels, groups of copies, splits (`logo-edge data organize`)."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from logo_edge.cache import cache_folder
from logo_edge.errors import DatasetError, ImageError
from logo_edge.files import json_text, write_file
from logo_edge.images.load import load_image
from logo_edge.names import csv_line, shown
from logo_edge_train.data.manifest import FILES, SPLITS, LogoRow, Manifest, write_manifest
from logo_edge_train.data.processes import map_in_processes
from logo_edge_train.organize.duplicates import MAX_DISTANCE, Look, group_copies, look_at
from logo_edge_train.organize.features import LogoMeasurements, measure_logo
from logo_edge_train.organize.kinds import count_kinds, describe_kinds
from logo_edge_train.organize.label_proposer import SURE_CONFIDENCE, proposal_classes, propose_label
from logo_edge_train.organize.manifest_file import digest_file, digests_file, skipped_file
from logo_edge_train.organize.placed_images import PlacedImage, SkippedFile, listed
from logo_edge_train.organize.sources import find_label_files, read_source
from logo_edge_train.organize.splits import (
    SPLIT_SHARES,
    assign_splits,
    class_rng,
    find_uneven_classes,
    groups_of_classes,
)

SMALL_CLASSES = STOP, LEAVE_OUT, MERGE = ("stop", "leave-out", "merge")
MERGED = "other"
REASONS = 20  # that are printed


@dataclass(frozen=True)
class OrganizeReport:
    """The result of `organize_images`.

    label_files: the files that give labels; none where class folders do. counts: split -> class -> images. labelled:
    rows with a label from the source; proposed: rows with a proposed label; proposed_sure: those with a confidence of
    at least SURE_CONFIDENCE. unlabelled: images without any label. skipped: other files. left_out: images that
    balancing dropped. below_target: classes below the target -> their size. small_classes: classes that were left out
    or merged -> their size. groups: groups in the manifest. near_duplicates: images after the first of their group.
    mixed_groups: groups with several labels. limits: classes whose images all look alike -> their limit for copies, as
    a share of the usual limit. given: splits that the source names; unsplit: images without one, used as train; joined:
    copies without one, in the split of their group. split_groups: groups that these splits divide. filled: splits that
    the source lacks -> their images, taken from train. uneven: classes whose splits are far from 70/10/10/10 -> their
    shares in percent, and their largest group. kinds: kind of picture -> images, of a sample of train.
    """

    manifest: Path
    label_files: tuple[Path, ...]
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
    unsplit: int
    joined: int
    split_groups: tuple[str, ...]
    filled: dict[str, int]
    uneven: dict[str, tuple[tuple[int, ...], int]]
    kinds: Counter[str]


@dataclass(frozen=True)
class _LabelledRow:
    row: LogoRow  # its split is empty unless the source names it
    proposed: bool
    confidence: float  # 1 for a label from the source


def organize_images(
    source: Path,
    manifest_path: Path,
    *,
    target_per_class: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    split_folders: bool | None = None,
    exact_copies: bool = False,
    small_classes: str = STOP,
    multi_label: bool = False,
) -> OrganizeReport:
    """Writes the manifest of the images in a folder and its subfolders, or of a label file, and returns the report.

    `sources.read_source` gives labels and splits. Images without a label, such as those directly in a folder, get a
    proposed label if every class is a class of the labelling guide (or there is none), and are only reported otherwise.
    Copies (`duplicates.group_copies`; only equal files with `exact_copies`) and images of one group of the source share
    a group. No group is in two splits, except where the source gives the split: such images never move. `small_classes`
    decides on classes of fewer than four groups, or without an image in a split that needs it: stop, leave out, or
    merge into the class MERGED.
    Everything that is skipped is listed in `skipped_file(manifest_path)`. With `multi_label`, or a CSV with the column
    labels, an image may have several labels or none, `small_classes` decides on labels, and merging is not possible.

    Raises DatasetError, if possible before images are measured: the source or its images are missing, its layout is
    ambiguous, the manifest exists (without `overwrite`) or cannot be written, or a class cannot be split.
    """
    from logo_edge_train.console import stage_bar

    source, manifest_path = Path(os.path.abspath(source)), Path(manifest_path)
    if target_per_class is not None and target_per_class < len(SPLITS):
        raise DatasetError(
            f"target_per_class is {target_per_class}; expected at least {len(SPLITS)}, one for each split"
        )
    label_files = find_label_files(source)
    _check_destination(manifest_path, overwrite, label_files)
    source = source.resolve() if source.is_dir() else source
    placed, skipped = read_source(source, split_folders=split_folders, multi_label=multi_label)
    multi_label = any(image.labels is not None for image in placed)
    if multi_label and (target_per_class or small_classes == MERGE):
        raise DatasetError(
            f"{shown(str(source))}: an image may have several labels or none; classes are then neither balanced "
            f"(--target-per-class) nor merged (--small-classes {MERGE}). Leave these options out"
        )
    own_files = {manifest_path.resolve(), skipped_file(manifest_path.resolve())}
    skipped = [file for file in skipped if file.path not in own_files]
    can_propose = not multi_label and {image.label for image in placed} - {""} <= set(proposal_classes())
    if multi_label:
        few_images = {}
        _check_classes(source, [label for image in placed for label in image.every_label])
    else:
        placed, few_images = _settle_small_classes(source, placed, small_classes, can_propose=can_propose)
    jobs = [(image.path, can_propose and not image.label) for image in placed]
    examined = map_in_processes(_examine, jobs, title="Measuring")
    skipped += [
        SkippedFile(p.path, e.removeprefix(f"{p.path}: "))
        for p, e in zip(placed, examined, strict=True)
        if isinstance(e, str)
    ]
    images = [(p, e) for p, e in zip(placed, examined, strict=True) if isinstance(e, _Examined)]
    if not images:
        raise DatasetError(
            f"{shown(str(source))}: no image can be used; expected images such as .png or .jpg, best in a "
            "subfolder for each class" + "".join(f"\n  {line}" for line in _count_skipped(skipped))
        )
    names = [_icon_name(image.path, manifest_path.resolve().parent) for image, _ in images]
    with stage_bar("Comparing") as tick:
        groups = group_copies(
            *zip(*((look.look, image.label, look.digest, image.group) for image, look in images), strict=True),
            labels=[image.label if image.labels is None else image.labels for image, _ in images],
            exact=exact_copies,
            tick=tick,
        )
    candidates, unlabelled = [], []
    for (image, details), name, first in zip(images, names, groups.firsts, strict=True):
        if image.label or can_propose:
            row = LogoRow(FILES, "", name, names[first], image.label, split=image.split, labels=image.labels)
            candidates.append(_label(row, details.measurements))
        else:
            unlabelled.append(image.path)
    settle = _settle_few_labelled if multi_label else _settle_few_groups
    candidates, few_groups = settle(source, candidates, small_classes)
    kept, below_target = _balance(candidates, target_per_class, seed)
    balanced = len(candidates) - len(kept)
    given = tuple(split for split in SPLITS if any(c.row.split == split for c in kept))
    unsplit, joined = [], []
    if given:
        split_of = {c.row.group: c.row.split for split in SPLITS[::-1] for c in kept if c.row.split == split}
        joined = [c for c in kept if not c.row.split and split_of.get(c.row.group, "train") != "train"]
        unsplit = [c for c in kept if not c.row.split and split_of.get(c.row.group, "train") == "train"]
        kept = [replace(c, row=replace(c.row, split=c.row.split or split_of.get(c.row.group, "train"))) for c in kept]
    if unsplit:
        given = tuple(split for split in SPLITS if split in (*given, "train"))
    _check_classes(source, [label for c in kept for label in c.row.every_label])
    rows, filled = assign_splits(source, [c.row for c in kept], given, seed)
    kept = [replace(c, row=row) for c, row in zip(kept, rows, strict=True)]
    kept, incomplete = _settle_incomplete(source, kept, small_classes)
    rows = [c.row for c in kept]
    digests = {name: look.digest for name, (_, look) in zip(names, images, strict=True)}
    _write_files(manifest_path, rows, {row.icon: digests[row.icon] for row in rows}, label_files, skipped)
    labels_of, splits_of = _values_of_groups(rows, "label"), _values_of_groups(rows, "split")
    proposals = [c for c in kept if c.proposed]
    return OrganizeReport(
        manifest=manifest_path,
        label_files=tuple(label_files),
        counts=_count(rows),
        labelled=len(rows) - len(proposals),
        proposed=len(proposals),
        proposed_sure=sum(c.row.sure for c in proposals),
        unlabelled=tuple(unlabelled),
        skipped=tuple(skipped),
        left_out=balanced,
        below_target=below_target,
        small_classes={**few_images, **few_groups, **incomplete},
        groups=len(labels_of),
        near_duplicates=len(rows) - len(labels_of),
        mixed_groups=tuple(group for group, labels in labels_of.items() if len(labels) > 1),
        limits={name: limit / MAX_DISTANCE for name, limit in groups.limits.items() if 0 < limit < MAX_DISTANCE},
        given=given,
        unsplit=len(unsplit),
        joined=len(joined),
        split_groups=tuple(group for group, splits in splits_of.items() if len(splits) > 1),
        filled=filled,
        uneven={} if given or multi_label else find_uneven_classes(rows),
        kinds=count_kinds(Manifest(tuple(rows), manifest_path.parent)),
    )


def _write_files(
    manifest_path: Path,
    rows: list[LogoRow],
    digests: dict[str, str],
    label_files: Sequence[Path],
    skipped: Sequence[SkippedFile],
) -> None:
    """Writes the manifest, the list of skipped files if there are any and, in the cache, the digests of its sources."""
    if manifest_path.is_relative_to(cache_folder()):  # into the user's folders only what was asked for is written
        labels = {_icon_name(path, manifest_path.resolve().parent): digest_file(path) for path in label_files}
        manifest_path.parent.mkdir(parents=True, exist_ok=True)
        write_file(digests_file(manifest_path), json_text(digests | labels))
    write_manifest(manifest_path, rows)
    skipped_file(manifest_path).unlink(missing_ok=True)
    if skipped:
        lines = [csv_line((shown(str(file.path)), shown(file.reason))) for file in skipped]
        write_file(skipped_file(manifest_path), "".join([csv_line(("path", "reason")), *lines]))


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
    names = ", ".join(path.name for path in report.label_files) or "their folders"
    lines = [
        f"{report.labelled} labelled by {names}, {report.proposed} by proposal ({report.proposed_sure} sure)",
        f"{report.groups} groups; {report.near_duplicates} further images of a group are in its split",
    ]
    if report.kinds:
        lines.append(describe_kinds(report.kinds))
    if report.given:
        lines.append(f"splits of your own, which are kept: {', '.join(report.given)}")
    lines += [f"no images of {split}: {count} of train are used for it" for split, count in report.filled.items()]
    if report.skipped:
        lines.append(f"{len(report.skipped)} skipped, listed in {skipped_file(report.manifest)}:")
        lines += (f"  {line}" for line in _count_skipped(report.skipped))
    remarks = {
        "left out by balancing": report.left_out,
        "without a split, used as train": report.unsplit,
        "without a split, in a group of val, calib or test and used there": report.joined,
        "without a label, left out": [str(path) for path in report.unlabelled],
        "groups under different labels, have a look": list(report.mixed_groups),
        "Warning: groups that you put into different splits; they are kept there, and figures on those splits "
        "are too good": list(report.split_groups),
        "classes below the target": [f"{label}: {count}" for label, count in report.below_target.items()],
        "classes with too few images": [f"{label}: {count}" for label, count in report.small_classes.items()],
        "classes whose images all look alike, so that only closer ones count as copies": [
            f"{label or '(no label)'}: closer than {share:.1%} of the usual limit"
            for label, share in report.limits.items()
        ],
        f"classes whose splits are not {'/'.join(f'{share:.0%}'[:-1] for share in SPLIT_SHARES.values())}, since no "
        "group is divided (--exact-copies groups equal files only)": [
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


def _count_skipped(skipped: Sequence[SkippedFile]) -> list[str]:
    """Each reason, without its details, with the number of its files and the first of them; the most frequent first."""
    names = defaultdict(list)
    for file in skipped:
        names[file.reason.split(" (")[0]].append(file.path.name)
    ordered = sorted(names.items(), key=lambda item: -len(item[1]))
    lines = [f"{len(files)} x {reason}: {listed(files, most=3)}" for reason, files in ordered[:REASONS]]
    return lines + ([f"{len(ordered) - REASONS} more reasons"] if len(ordered) > REASONS else [])


def _check_destination(path: Path, overwrite: bool, label_files: Sequence[Path]) -> None:
    """Raises DatasetError if the manifest exists, is a folder or a label file, or its folder cannot be written."""
    if any(path.exists() and path.samefile(file) for file in label_files):
        raise DatasetError(f"{shown(str(path))}: the label file itself; name another --out for the manifest")
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
        votes = () if row.labels is not None else (row.label,)
        return _LabelledRow(replace(row, votes=votes), proposed=False, confidence=1.0)
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
    _refuse_small(folder, small, STOP if alone else mode, "different images, each group counted once", is_merged=alone)
    if mode == MERGE:
        candidates = _merge(candidates, {*small, MERGED})
        if small and len({c.row.group for c in candidates if c.row.label == MERGED}) < len(SPLITS):
            _refuse_small(folder, small, STOP, "different images, each group counted once", is_merged=True)
        return candidates, small
    return [c for c in candidates if c.row.label not in small], small


def _settle_few_labelled(
    folder: Path, candidates: list[_LabelledRow], mode: str
) -> tuple[list[_LabelledRow], dict[str, int]]:
    """The candidates of a multi-label source without labels of too few groups, and these labels' numbers of groups."""
    if any(c.row.split for c in candidates):
        return candidates, {}
    groups_of = defaultdict(set)
    for c in candidates:
        for label in c.row.every_label:
            groups_of[label].add(c.row.group)
    small = {label: len(groups) for label, groups in sorted(groups_of.items()) if len(groups) < len(SPLITS)}
    _refuse_small(folder, small, mode, "different images, each group counted once", is_merged=True)
    return [_without_labels(c, small) for c in candidates], small


def _without_labels(candidate: _LabelledRow, labels: Collection[str]) -> _LabelledRow:
    kept = [label for label in candidate.row.every_label if label not in labels]
    return replace(candidate, row=candidate.row.with_labels(kept))


def _merge(rows: list[_LabelledRow], labels: Collection[str]) -> list[_LabelledRow]:
    return [replace(c, row=replace(c.row, label=MERGED, votes=(MERGED,))) if c.row.label in labels else c for c in rows]


def _settle_incomplete(source: Path, kept: list[_LabelledRow], mode: str) -> tuple[list[_LabelledRow], dict[str, int]]:
    """The rows without classes that train, val or calib lacks, as given splits may leave them, and their sizes."""
    sizes = Counter(label for c in kept for label in c.row.every_label)
    pairs = {(label, c.row.split) for c in kept for label in c.row.every_label}
    lacking = {
        label: splits
        for label in sorted(sizes)
        if (splits := [split for split in SPLITS[:3] if (label, split) not in pairs])
    }
    if not lacking:
        return kept, {}
    if mode == STOP or MERGED in lacking or (mode == LEAVE_OUT and len(sizes) - len(lacking) < 2):
        texts = [f"{shown(label)!r} (none in {', '.join(splits)})" for label, splits in lacking.items()]
        raise DatasetError(
            f"{shown(str(source))}: classes that your splits leave out: {', '.join(texts)}; expected an image of each "
            "class in train, val and calib. Add images, give no splits, or let `logo-edge data organize` leave these "
            f"classes out (--small-classes {LEAVE_OUT}) or put them together into a class {MERGED!r} (--small-classes "
            f"{MERGE})"
        )
    if mode == MERGE:
        return _settle_incomplete(source, _merge(kept, lacking), STOP)[0], {label: sizes[label] for label in lacking}
    sizes_of_lacking = {label: sizes[label] for label in lacking}
    if any(c.row.labels is not None for c in kept):
        return [_without_labels(c, lacking) for c in kept], sizes_of_lacking
    return [c for c in kept if c.row.label not in lacking], sizes_of_lacking


def _refuse_small(folder: Path, small: dict[str, int], mode: str, unit: str, *, is_merged: bool = False) -> None:
    if small and mode == STOP:
        sizes = ", ".join(f"{shown(label)!r} ({count})" for label, count in small.items())
        merge = "" if is_merged else f", or put them together into a class {MERGED!r} (--small-classes {MERGE})"
        raise DatasetError(
            f"{shown(str(folder))}: classes with fewer than {len(SPLITS)} {unit}: {sizes}; expected at least one "
            f"image for each of {', '.join(SPLITS)}. Add images, or let `logo-edge data organize` leave these classes "
            f"out (--small-classes {LEAVE_OUT}){merge}"
        )


def _check_classes(folder: Path, labels: Sequence[str]) -> None:
    if len(set(labels)) < 2:
        classes = (
            f"all {len(labels)} images are of one class, {shown(labels[0])!r}" if labels else "no image has a class"
        )
        raise DatasetError(
            f"{shown(str(folder))}: {classes}; expected at least two classes "
            "(or images directly in the folder, whose labels are proposed)"
        )


def _values_of_groups(rows: list[LogoRow], field: str) -> dict[str, set[str]]:
    values = defaultdict(set)
    for row in rows:
        values[row.group].add(getattr(row, field))
    return dict(values)


def _count(rows: list[LogoRow]) -> dict[str, dict[str, int]]:
    named = [(row.split, label) for row in rows for label in row.every_label or (row.label,)]  # or NO_LABELS
    labels, counts = sorted({label for _, label in named}), Counter(named)
    return {split: {label: counts[split, label] for label in labels} for split in SPLITS}
