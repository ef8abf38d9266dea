"""Which kind of picture is proposed for single pictures whose kind is known.

python -m logo_edge_bench.experiments kinds

The thresholds of organize/kinds.py were chosen on the first LOOKED_AT pictures of each group here; the figures are of
the next ones. A data set takes the most frequent kind of its pictures.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np

from logo_edge_bench.experiments.record import Out, read_logos, write_record
from logo_edge_train.data.outliers import outlier_paths
from logo_edge_train.organize.kinds import kind_of_file

LOOKED_AT = 12
FAMILIES = {
    "fitted": ("scenes", "pages", "scans"),
    "held_out": ("photographs", "text pages", "formulas", "emoji", "emoji-fxemoji", "flags", "flags-flagpack"),
}


def measure(*, count: Annotated[int, "pictures of each group"] = 60, out: Out) -> None:
    groups: dict[str, list[Path]] = {}
    for part, names in FAMILIES.items():
        paths = outlier_paths(part, LOOKED_AT + count)
        groups |= {name: paths[name] for name in names}
    manifest, random = read_logos(), np.random.default_rng(0)
    for name in manifest.classes:
        own = [row for row in manifest.rows if row.label == name]
        picked = [own[index] for index in random.permutation(len(own))[: LOOKED_AT + count]]
        groups[f"logos: {name}"] = manifest.image_paths(picked)
    kinds = {name: Counter(map(kind_of_file, paths[LOOKED_AT:])) for name, paths in groups.items()}
    write_record(out, {"groups": [{"pictures": name, **counts} for name, counts in kinds.items()]})
