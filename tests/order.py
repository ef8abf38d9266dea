"""The order of the files of tests, in which pytest-xdist hands them out: `--dist loadfile --no-loadscope-reorder`."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
SLOWEST = (  # more than a minute each, the slowest first; the second also makes what others of its room share
    "system/arm/test_aarch64.py",
    "compress/test_compress.py",
    "bench/test_own_images.py",
    "system/web/test_package.py",
    "bench/test_regression.py",
    "compress/test_compress_recipes.py",
    "bench/test_project.py",
    "compress/test_distill.py",
    "compress/test_multi_label_run.py",
    "compress/test_executorch.py",
    "train/test_distributed.py",
    "train/test_fit.py",
    "system/notebook/test_notebooks.py",
)


def slowest_first(items: list[pytest.Item]) -> None:
    """Moves the tests of SLOWEST to the front, so that at the end no worker waits long for another."""
    rank = {HERE / name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))
