"""The page of `logo-edge data describe --page`: a manifest and its images, to look at before a training."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from logo_edge.errors import DatasetError
from logo_edge.names import printable, shown
from logo_edge_report import charts
from logo_edge_report.page import Exhibit, Panel, Section, Table, render_page
from logo_edge_report.sheets import make_sheet, thumbnail
from logo_edge_train.csv_table import CsvTable
from logo_edge_train.data.images import map_images
from logo_edge_train.data.manifest import LogoRow, Manifest
from logo_edge_train.keys import file_hash, versions
from logo_edge_train.organize.describe import Description, describe_manifest
from logo_edge_train.organize.kinds import count_kinds, describe_kinds
from logo_edge_train.organize.limits import describe_limits
from logo_edge_train.organize.splits import SPLIT_SHARES, find_uneven_classes
from logo_edge_train.recipe import CalibrateConfig
from logo_edge_train.review.frozen_features import Features
from logo_edge_train.review.survey import UNLIKE, Survey, survey_images, unused_files
from logo_edge_train.runs import write_text

SHOWN = 24  # images or pairs of a sheet
LISTED = 50  # files of a table
BARS = 40  # of a chart
PER_CLASS = 8  # images of the montage
SMALL_PX = 64  # the smallest input of a recipe is 64 px
LONG = 4  # times as long as wide: letterboxed, at most a quarter of the input is left for the image
SUSPECT_COLUMNS = ("package", "version", "icon", "label", "suggested")
USES = {"train": "to fit", "val": "to choose", "calib": "for temperature and thresholds", "test": "for reports only"}


def make_page(
    manifest_path: Path, out: Path, *, features: Features, folder: Path | None = None, suspects: Path | None = None
) -> Path:
    """Writes the page of the manifest to `out`, and returns `out`.

    Files that `data organize` skipped and, with `folder`, images below it that the manifest does not list are shown
    with the reason. `suspects` is the CSV of
    `data suspects`. Raises DatasetError for a manifest without labels, missing images or another CSV.
    """
    manifest = features.manifest
    if not manifest.classes:
        raise DatasetError(f"{manifest_path} has no labels; the page shows images by class. Label some, or organize")
    doubtful = read_suspects(suspects, manifest) if suspects else []
    description, survey = describe_manifest(manifest), survey_images(manifest, features)
    left_out = unused_files(manifest, manifest_path, folder, features.tick)
    sections = [
        classes_section(description),
        splits_section(manifest, description),
        files_section(survey, count_kinds(replace(manifest, rows=tuple(survey.rows)))),
        copies_section(manifest, survey),
        outliers_section(manifest, survey),
        *([suspects_section(manifest, doubtful)] if suspects else []),
        *([left_out_section(left_out, survey.unreadable)] if left_out or survey.unreadable else []),
        montage_section(manifest, survey),
    ]
    page = render_page(
        sections,
        title=printable(str(folder or manifest_path)),
        about="images before a training",
        lead=f"{description.rows:,} images, {len(manifest.classes)} classes, {description.groups:,} groups of copies.",
        description="",
        recipe="",
        making={
            "manifest": f"{printable(str(manifest_path))}, sha256 {file_hash(manifest_path)[:16]}",
            "sources": ", ".join(f"{printable(name)} ({count:,})" for name, count in description.sources.items()),
            **versions(),
        },
        command="logo-edge data describe --page",
        files="",
    )
    write_text(out, page)
    return out


def classes_section(description: Description) -> Section:
    """Images by class and split, and how unequal the classes are."""
    counts = description.counts
    totals = {name: sum(cells[name] for cells in counts.values()) for name in description.classes}
    order = sorted(totals, key=lambda name: (-totals[name], name))
    rows = [
        (
            printable(name),
            *(f"{cells[name]:,}" for cells in counts.values()),
            f"{totals[name]:,}",
            f"{totals[name] / description.rows:.1%}",
            f"{description.sure[name]:.0%}",
        )
        for name in order
    ]
    rows.append(("all", *(f"{sum(cells.values()):,}" for cells in counts.values()), f"{description.rows:,}", "", ""))
    shares = np.array([totals[name] for name in order]) / description.rows
    even = float(np.exp(-(shares * np.log(shares)).sum()))
    largest, smallest = order[0], order[-1]
    caption = (
        f"The largest class, {printable(largest)}, has {totals[largest] / totals[smallest]:.1f} times as many images "
        f"as the smallest, {printable(smallest)}. The effective number of classes (of their entropy) is {even:.1f} of "
        f"{len(order)}."
    )
    barred = order if len(order) <= BARS else [*order[: BARS // 2], *order[-BARS // 2 :]]
    bars = {printable(name): {split: cells[name] for split, cells in counts.items()} for name in barred}
    note = "" if len(barred) == len(order) else f" The {BARS // 2} largest and the {BARS // 2} smallest classes."
    return Section(
        "classes",
        "Classes",
        (
            Exhibit(
                "Images by class and split",
                "Sure: the share of labels that are marked sure.",
                table=Table(("class", *counts, "all", "share", "sure"), tuple(rows)),
            ),
            Exhibit(
                "Imbalance",
                caption + note,
                (Panel("Images by class, stacked by split", charts.stacked_bars(bars, "images")),),
            ),
        ),
    )


def splits_section(manifest: Manifest, description: Description) -> Section:
    """The splits that a training will use."""
    groups = {split: {row.group for row in manifest.rows if row.split == split} for split in description.counts}
    lacking = {
        split: [name for name in manifest.classes if not cells[name]] for split, cells in description.counts.items()
    }
    rows = tuple(
        (
            split,
            USES[split],
            f"{sum(cells.values()):,}",
            f"{sum(cells.values()) / description.rows:.1%}",
            f"{len(groups[split]):,}",
            f"{min(cells[name] for name in manifest.classes):,}",
        )
        for split, cells in description.counts.items()
    )
    sentences = [
        f"No image of {split}: {_listed(names)}; figures by class are missing there."
        for split, names in lacking.items()
        if names
    ]
    sentences += [f"No image is in {split}." for split in USES if split not in description.counts]
    if description.split_groups:
        sentences.append(
            f"{len(description.split_groups)} groups are in more than one split, first "
            f"{printable(description.split_groups[0])}: figures on those splits are too good."
        )
    uneven = find_uneven_classes([row for row in manifest.rows if row.label])
    if uneven:
        asked = "/".join(f"{share:.0%}"[:-1] for share in SPLIT_SHARES.values())
        sentences.append(
            f"Not {asked}, since groups are not divided: "
            + _listed(f"{name} ({'/'.join(map(str, shares))})" for name, (shares, _) in uneven.items())
            + "."
        )
    sentences = sentences or ["Every class has images in every split, and no group is divided."]
    head = ("split", "used", "images", "share", "groups", "smallest class")
    exhibits = [Exhibit("Splits", " ".join(sentences), table=Table(head, rows))]
    if limits := describe_limits(manifest, CalibrateConfig()):
        exhibits.append(Exhibit("Too few images", " ".join(f"{printable(line)}." for line in limits)))
    return Section("splits", "Splits", tuple(exhibits))


def files_section(survey: Survey, kinds: Counter[str]) -> Section:
    """Formats, sizes, shapes and kinds of the images."""
    by_format = defaultdict(list)
    for image in survey.images:
        by_format[image.format].append(image)
    rows = tuple(
        (
            printable(name),
            f"{len(images):,}",
            f"{np.median([max(image.size_px) for image in images]):.0f} px",
            f"{sum(image.alpha for image in images):,}",
            f"{sum(image.size_bytes for image in images) / 1e6:.1f}",
        )
        for name, images in sorted(by_format.items(), key=lambda item: -len(item[1]))
    )
    longer = np.array([max(image.size_px) for image in survey.images])
    ratios = np.array([image.size_px[0] / image.size_px[1] for image in survey.images])
    small, long = int((longer < SMALL_PX).sum()), int((np.maximum(ratios, 1 / ratios) > LONG).sum())
    exhibits = [
        Exhibit(
            "Formats",
            f"{len(survey.unreadable):,} files cannot be read." if survey.unreadable else "Every file can be read.",
            table=Table(("format", "images", "median longer side", "with alpha", "MB"), rows),
        ),
        *([Exhibit("Kinds of picture", f"{describe_kinds(kinds)}.")] if kinds else []),
    ]
    if len(longer):
        exhibits += [
            Exhibit(
                "Sizes",
                f"The longer sides have {longer.min()} to {longer.max()} px, half of them at most "
                f"{np.median(longer):.0f}; {small:,} images have less than {SMALL_PX} px and are enlarged.",
                (Panel("Histogram of longer sides", charts.log_histogram(longer, "longer side, px", "images")),),
            ),
            Exhibit(
                "Shapes",
                f"{long:,} images are more than {LONG} times as long in one direction as in the other: letterboxed, "
                "they fill less than a quarter of the input.",
                (Panel("Histogram of aspect ratios", charts.log_histogram(ratios, "width / height", "images")),),
            ),
        ]
    return Section("files", "Files, sizes and shapes", tuple(exhibits))


def copies_section(manifest: Manifest, survey: Survey) -> Section:
    """Copies in different splits, and copies with different labels."""
    across, disputed, copies = [], [], int((survey.groups != np.arange(len(survey.rows))).sum())
    for index in np.flatnonzero(survey.groups != np.arange(len(survey.rows))):
        first, row = survey.rows[survey.groups[index]], survey.rows[index]
        if row.split != first.split:
            across.append((first, row))
        if row.label != first.label:
            disputed.append((first, row))
    exhibits = [
        Exhibit("All copies", f"{copies:,} of {len(survey.rows):,} images look like an earlier one of the manifest.")
    ]
    for title, pairs, verdict in (
        ("Copies in different splits", across, "figures on val, calib and test are too good by them"),
        ("Copies with different labels", disputed, "at most one of the two labels is right"),
    ):
        caption = f"{len(pairs):,} pairs{f', {SHOWN} shown' if len(pairs) > SHOWN else ''}; {verdict}."
        exhibits.append(
            Exhibit(title, caption, (_pairs(manifest, pairs[:SHOWN], title),)) if pairs else Exhibit(title, "None.")
        )
    return Section("copies", "Copies", tuple(exhibits))


def outliers_section(manifest: Manifest, survey: Survey) -> Section:
    """The images that are least like the others of their class."""
    factors = np.nan_to_num(survey.outlier_factors)
    order = [index for index in np.argsort(-factors, kind="stable") if factors[index] > UNLIKE]
    compared = int(np.isfinite(survey.outlier_factors).sum())
    caption = (
        f"{len(order):,} of {compared:,} compared images have a local outlier factor above {UNLIKE} within their class "
        "(Breunig et al. 2000, on features of an ImageNet network); copies, and classes with few images, are not "
        "compared. Look whether they belong there."
    )
    rows = [survey.rows[index] for index in order[:SHOWN]]
    notes = [f"{row.label}: {factors[index]:.1f}" for index, row in zip(order, rows, strict=False)]
    panels = (_sheet(manifest, rows, "Images unlike their class", notes),) if rows else ()
    return Section("outliers", "Outliers", (Exhibit("Unlike their class", caption, panels),))


def suspects_section(manifest: Manifest, doubtful: list[tuple[LogoRow, str]]) -> Section:
    """The labels that `data suspects` lists."""
    caption = (
        f"{len(doubtful):,} labels are probably wrong by `logo-edge data suspects`, the first "
        f"{min(SHOWN, len(doubtful))} shown. Its contact sheet corrects them."
    )
    rows = [row for row, _ in doubtful[:SHOWN]]
    notes = [f"{row.label}, or {suggested}?" for row, suggested in doubtful[:SHOWN]]
    panels = (_sheet(manifest, rows, "Suspect labels", notes),) if rows else ()
    return Section("suspects", "Suspect labels", (Exhibit("Suspects", caption, panels),))


def left_out_section(left_out: list[tuple[str, str]], unreadable: list[tuple[str, str]]) -> Section:
    """The files that no training will use, with the reasons."""
    files = [*unreadable, *left_out]
    rows = tuple((printable(name), printable(reason)) for name, reason in files[:LISTED])
    caption = f"{len(files):,} files{f', {LISTED} shown' if len(files) > LISTED else ''}."
    exhibit = Exhibit("Files and reasons", caption, table=Table(("file", "reason"), rows))
    return Section("left-out", "Not used", (exhibit,))


def montage_section(manifest: Manifest, survey: Survey) -> Section:
    """Some images of every class, as a network sees them: letterboxed."""
    rng, exhibits = np.random.default_rng(0), []
    for name in manifest.classes:
        own = [row for row in survey.rows if name in row.every_label]
        picked = [own[i] for i in rng.permutation(len(own))[:PER_CLASS]]
        panels = (_sheet(manifest, picked, printable(name), [row.split for row in picked]),) if picked else ()
        exhibits.append(Exhibit(printable(name), f"{len(picked)} of {len(own):,} images, by chance.", panels))
    return Section("montage", "Every class", tuple(exhibits))


def read_suspects(path: Path, manifest: Manifest) -> list[tuple[LogoRow, str]]:
    """(row, suggested label) of the CSV's images in order, without rows that have another label by now.

    Raises DatasetError for a file that is no such CSV, or that lists none of the manifest's images.
    """
    expected = "expected the suspects.csv of `logo-edge data suspects` on this manifest"
    rows = {(row.package, row.version, row.icon): row for row in manifest.rows}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = CsvTable(file)
            if missing := [name for name in SUSPECT_COLUMNS if name not in (reader.fieldnames or ())]:
                raise DatasetError(f"{shown(str(path))}: no column {', '.join(missing)}; {expected}")
            records = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{shown(str(path))}: {error}; {expected}") from error
    known = [(rows.get((record["package"], record["version"], record["icon"])), record) for record in records]
    if records and not any(row for row, _ in known):
        raise DatasetError(f"{shown(str(path))}: none of its {len(records)} images is in the manifest; {expected}")
    return [(row, record["suggested"]) for row, record in known if row and row.label == record["label"]]


def _sheet(manifest: Manifest, rows: Sequence[LogoRow], label: str, notes: Iterable[str]) -> Panel:
    tiles = [[tile] for tile in map_images(manifest, list(rows), thumbnail)]
    return Panel(label, sheet=make_sheet(tiles, [_name(row) for row in rows], [printable(note) for note in notes]))


def _pairs(manifest: Manifest, pairs: list[tuple[LogoRow, LogoRow]], label: str) -> Panel:
    tiles = [map_images(manifest, list(pair), thumbnail) for pair in pairs]
    texts = [" and ".join(map(_name, pair)) for pair in pairs]
    notes = [" and ".join(printable(f"{row.label} in {row.split}") for row in pair) for pair in pairs]
    return Panel(label, sheet=make_sheet(tiles, texts, notes))


def _name(row: LogoRow) -> str:
    """The file with its folder: an image may lie far from the manifest."""
    return printable("/".join(Path(row.icon).parts[-2:]))


def _listed(names: Iterable[str], most: int = 6) -> str:
    texts = [printable(name) for name in names]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
