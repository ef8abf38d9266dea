"""The rows that a stage learns from: the train split, the unlabelled pool, or a sample of both."""

from __future__ import annotations

import numpy as np

from logo_edge_train.data.icons import UNLABELLED
from logo_edge_train.data.lookalikes import leave_out
from logo_edge_train.data.manifest import FILES, LogoRow, Manifest, read_manifest
from logo_edge_train.keys import data_hash, row_hashes


def pool_rows(manifest: Manifest, *, use_unlabelled: bool, max_images: int) -> list[LogoRow]:
    """The train split and, with `use_unlabelled`, the `unlabelled_rows`, without look-alikes of held-out images."""
    rows = manifest.split("train") + (unlabelled_rows(manifest) if use_unlabelled else [])
    left_out, _ = leave_out(manifest, rows)
    return stratified_sample([row for row in rows if row not in left_out], max_images)


def unlabelled_rows(manifest: Manifest) -> list[LogoRow]:
    """The manifest's rows without a label, and the rows of unlabelled.csv from the icon sets that the manifest names.

    Rows of unlabelled.csv that are in the manifest or in a held-out group are left out.
    """
    rows, sets = manifest.unlabelled, {(row.package, row.version) for row in manifest.rows if row.package != FILES}
    if sets:
        pool = [row for row in read_manifest(UNLABELLED).rows if (row.package, row.version) in sets]
        rows = rows + leave_out_groups(manifest, pool)
    return rows


def leave_out_groups(manifest: Manifest, rows: list[LogoRow]) -> list[LogoRow]:
    """The rows that are neither in the manifest nor in a held-out group."""
    listed = {(row.package, row.icon) for row in manifest.rows}
    held_out = {row.group for row in manifest.split("val", "calib", "test")}
    return [row for row in rows if (row.package, row.icon) not in listed and row.group not in held_out]


def stratified_sample(rows: list[LogoRow], count: int, seed: int = 0) -> list[LogoRow]:
    """About `count` rows in order, the same share of each label but at least one; all rows if `count` is 0."""
    if not count or count >= len(rows):
        return rows
    order = np.random.default_rng(seed).permutation(len(rows))
    share, kept = count / len(rows), set()
    for label in sorted({row.label for row in rows}):
        members = [index for index in order if rows[index].label == label]
        kept.update(members[: max(1, round(len(members) * share))])
    return [row for index, row in enumerate(rows) if index in kept]


def data_inputs(manifest: Manifest, *, use_unlabelled: bool) -> dict[str, str]:
    """The hashes, for an artifact_key, of the manifest's rows and, with `use_unlabelled`, of the unlabelled pool."""
    inputs = {"data": data_hash(row_hashes(manifest, manifest.rows))}
    if use_unlabelled:
        inputs["pool"] = data_hash(row_hashes(manifest, unlabelled_rows(manifest)))
    return inputs
