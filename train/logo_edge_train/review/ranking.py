"""Writes review lists as CSV and contact sheet: labels that are probably wrong, and images worth a label."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from scipy.stats import rankdata

from logo_edge.errors import DatasetError
from logo_edge.files import write_file
from logo_edge.names import csv_line, shown
from logo_edge_train.console import LiteralTable, literal
from logo_edge_train.data.lookalikes import leave_out
from logo_edge_train.data.manifest import LogoRow, Manifest, read_one_label, targets_of
from logo_edge_train.data.pool import unlabelled_rows
from logo_edge_train.recipe import ReviewConfig
from logo_edge_train.review.confident import choose_diverse, find_label_errors
from logo_edge_train.review.frozen_features import Features, Tick
from logo_edge_train.review.panel import Panel, review_labels
from logo_edge_train.review.sheet import write_sheet
from logo_edge_train.uncertainty import decompose

SUSPECTS, NEXT = "suspects", "next"
FIGURES = {SUSPECTS: ("margin", "members_against"), NEXT: ("margin", "disagreement")}

SHOWN = 10  # rows in the terminal


def list_suspects(
    manifest_path: Path, config: ReviewConfig, folder: Path, *, count: int, device: torch.device, tick: Tick
) -> dict:
    """Writes suspects.csv and suspects.html into `folder`: the `count` most probably wrong labels of train and val.

    judged.csv has all labels of train and val, the most doubtful first. Returns the result of `write_list` and
    {reviewed, held_out, accuracy, suspects, estimated_errors, rows}: the numbers of reviewed labels and of excluded
    ones (calib, test), the ensemble's accuracy, the number of suspects, the estimated number of rows of each label in
    each other class, and the records. Raises DatasetError like `review_labels`.
    """
    manifest = read_one_label(manifest_path)
    features = Features(manifest, config, folder, device, tick)
    reviewed = review_labels(features)
    rows, classes, mean = reviewed.rows, reviewed.classes, reviewed.probabilities.mean(0)
    targets = targets_of(rows, classes)
    errors = find_label_errors(mean, targets)
    against = (reviewed.probabilities.argmax(2) != targets).mean(0)  # (N,)

    def describe(order: np.ndarray) -> list[dict]:
        return [
            describe_row(rows[at], mean[at], classes, rank, margin=errors.margins[at], members_against=against[at])
            for rank, at in enumerate(order, start=1)
        ]

    records = describe(errors.suspects[:count])
    accuracy, suspects = float((mean.argmax(1) == targets).mean()), len(errors.suspects)
    held_out = len(manifest.split("calib", "test"))
    lead = (
        f"{suspects} of {len(targets)} labels of train and val are suspect by confident learning (Northcutt et al. "
        "2021), the worst first. The models that judge a label have not seen its group; they agree with "
        f"{accuracy:.1%} of all labels. The {held_out} labels of calib and test take no part."
    )
    pairs = {
        label: {other: round(float(errors.joint[i, j]), 1) for j, other in enumerate(classes) if i != j}
        for i, label in enumerate(classes)
    }
    write_table(folder / "judged.csv", SUSPECTS, describe(np.argsort(-errors.margins, kind="stable")), classes)
    files = write_list(SUSPECTS, "Labels that are probably wrong", lead, records, manifest_path, reviewed, features)
    return {
        **files,
        "reviewed": len(targets),
        "held_out": held_out,
        "accuracy": round(accuracy, 4),
        "suspects": suspects,
        "estimated_errors": pairs,
        "rows": records,
    }


def list_next(
    manifest_path: Path, config: ReviewConfig, folder: Path, *, count: int, device: torch.device, tick: Tick
) -> dict:
    """Writes next.csv and next.html into `folder`: the `count` unlabelled images whose labels would help most.

    The worth of an image is its mean rank, 0 to 1, by the members' disagreement and by the closeness of its two most
    likely classes; each next image also differs from those before it. Returns the result of `write_list` and {pool,
    left_out, rows}: the numbers of candidates and of excluded images, and the records. Raises DatasetError if nothing
    is unlabelled, and like `review_labels`.
    """
    manifest = read_one_label(manifest_path)
    pool, left_out = labelling_pool(manifest)
    if not pool:
        raise DatasetError(
            f"{manifest_path} has no image without a label that could be one of train ({left_out} look like images of "
            "val, calib or test, or are of their groups); expected rows with an empty label"
        )
    features = Features(manifest, config, folder, device, tick)
    reviewed = review_labels(features, pool)
    predicted = fill_missing(reviewed.others.reshape(-1, *reviewed.others.shape[2:]))  # (M F, N, K)
    mean, disagreement = predicted.mean(0), decompose(np.log(predicted)).epistemic  # (N, K), and (N,) nats
    second, first = np.sort(mean, axis=1)[:, -2:].T
    worth = (rank_share(disagreement) + rank_share(second - first)) / 2
    chosen = choose_diverse(worth, features.read(config.networks[:1], pool), count)
    margin = first - second
    records = [
        describe_row(pool[at], mean[at], reviewed.classes, rank, margin=margin[at], disagreement=disagreement[at])
        for rank, at in enumerate(chosen, start=1)
    ]
    lead = (
        f"{len(records)} of {len(pool)} images without a label, the most useful first: models that were fitted to "
        "different parts of train and val disagree on them, or find two classes about as likely, and they look unlike "
        "each other. A label makes an image a row of train."
    )
    files = write_list(NEXT, "Images worth a label", lead, records, manifest_path, reviewed, features)
    return {**files, "pool": len(pool), "left_out": left_out, "rows": records}


def labelling_pool(manifest: Manifest) -> tuple[list[LogoRow], int]:
    """The unlabelled rows that may become rows of train, and the number of excluded ones.

    Excluded are rows in another split, in a group of another split, or that look like an image of one.
    """
    rows = unlabelled_rows(manifest)
    groups = {row.group for row in manifest.rows if row.split != "train"}
    free = [row for row in rows if row.split == "train" and row.group not in groups]
    lookalikes, _ = leave_out(manifest, free)
    pool = [row for row in free if row not in lookalikes]
    return pool, len(rows) - len(pool)


def fill_missing(predicted: np.ndarray) -> np.ndarray:
    """(M, N, K) probabilities above 0; NaN, where a member has no prediction, becomes the mean of the others."""
    return np.maximum(np.where(np.isnan(predicted), np.nanmean(predicted, 0), predicted), 1e-7)


def rank_share(values: np.ndarray) -> np.ndarray:
    """(N,) for each value the share of values that are at most as large."""
    return rankdata(values, "max") / len(values)


def describe_row(
    row: LogoRow, probabilities: np.ndarray, classes: tuple[str, ...], rank: int, **figures: float
) -> dict:
    """The record of a listed row: its columns, the most likely class, the figures, and all probabilities."""
    return {
        "rank": rank,
        "package": row.package,
        "version": row.version,
        "icon": row.icon,
        "split": row.split,
        "label": row.label,
        "sure": int(row.sure) if row.label else "",
        "suggested": classes[int(probabilities.argmax())],
        **{name: round(float(value), 4) for name, value in figures.items()},
        "probabilities": {name: round(float(p), 4) for name, p in zip(classes, probabilities, strict=True)},
    }


def write_list(
    name: str, title: str, lead: str, records: list[dict], manifest_path: Path, reviewed: Panel, features: Features
) -> dict[str, str]:
    """Writes the list's files; returns {csv, sheet, apply}: their paths, and the command that merges corrections.

    The CSV has an empty column `corrected`: filled in, it is also a file of corrections.
    """
    table, sheet = features.folder / f"{name}.csv", features.folder / f"{name}.html"
    write_table(table, name, records, reviewed.classes)
    command = shown(f"logo-edge data apply corrections.csv --data {shlex.quote(str(manifest_path.resolve()))}")
    write_sheet(sheet, title, lead, command, records, reviewed.classes, features)
    return {"csv": shown(str(table)), "sheet": shown(str(sheet)), "apply": command}


def write_table(path: Path, name: str, records: list[dict], classes: tuple[str, ...]) -> None:
    """Writes the records of the list of this name as CSV."""
    columns = ("rank", "package", "version", "icon", "split", "label", "sure", "suggested", *FIGURES[name])
    head = (*columns, *(f"p_{label}" for label in classes), "corrected")
    lines = [(*map(record.get, columns), *record["probabilities"].values(), "") for record in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, "".join(map(csv_line, [head, *lines])))


def print_suspects(listed: dict) -> None:
    """Prints the number of suspect labels, the worst ones, and the next step."""
    print_list(
        f"{listed['suspects']} of {listed['reviewed']} labels of train and val are suspect; the ensemble agrees with "
        f"{listed['accuracy']:.1%} of all. {listed['held_out']} labels of calib and test took no part.",
        listed,
        "members_against",
    )


def print_next(listed: dict) -> None:
    """Prints the number of candidates, the first ones, and the next step."""
    print_list(
        f"{len(listed['rows'])} of {listed['pool']} images without a label; {listed['left_out']} others are, or look "
        "like, images of val, calib or test.",
        listed,
        "disagreement",
    )


def print_list(lead: str, listed: dict, figure: str) -> None:
    """Prints a lead, the first rows with one of their figures, and the files' paths."""
    console = Console()
    console.print(literal(lead), soft_wrap=True)
    table = LiteralTable(box=None, pad_edge=False)
    for heading in ("", "image", "label", "suggested", "probability", figure.replace("_", " ")):
        table.add_column(heading, overflow="fold")
    for record in listed["rows"][:SHOWN]:
        table.add_row(
            str(record["rank"]),
            f"{record['package']}/{record['icon']}",
            record["label"] or "-",
            record["suggested"],
            f"{record['probabilities'][record['suggested']]:.0%}",
            f"{record[figure]:.2f}",
        )
    if listed["rows"]:
        console.print(table)
    for line in (f"wrote {listed['csv']}", f"Open {listed['sheet']}, then: {listed['apply']}"):
        console.print(literal(line), soft_wrap=True)
