"""How many logos each split holds, how often the first two annotators agree on them, and how many outliers there are.

python -m logo_edge_bench.experiments labels
"""

from __future__ import annotations

from logo_edge_train.data.icons import LABELS, UNLABELLED
from logo_edge_train.data.manifest import SPLITS, LogoRow, read_manifest
from logo_edge_train.data.outliers.parts import FAMILIES


def measure() -> dict:
    """{"splits": {split, or "all": counts and shares}, "unlabelled": count, "outliers": {part: counts}}."""
    rows = read_manifest(LABELS).rows
    parts = {split: [row for row in rows if row.split == split] for split in SPLITS} | {"all": list(rows)}
    return {
        "splits": {name: count(part) for name, part in parts.items()},
        "unlabelled": len(read_manifest(UNLABELLED).rows),
        "outliers": {
            part: {
                "all": sum(family.count for family in families.values()),
                "near": sum(family.count for family in families.values() if family.near),
            }
            for part, families in FAMILIES.items()
        },
    }


def count(rows: list[LogoRow]) -> dict:
    return {
        "logos": len(rows),
        "rounds": {str(number): sum(row.round == number for row in rows) for number in (1, 2, 3)},
        "labels": {label: sum(row.label == label for row in rows) for label in sorted({row.label for row in rows})},
        "sure": sum(row.sure for row in rows),
        "agreement": sum(row.votes[0] == row.votes[1] for row in rows) / len(rows),
    }
