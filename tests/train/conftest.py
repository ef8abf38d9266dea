"""Fixtures of the tests that train networks."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import MUTED, write_squares

from logo_edge_train import train
from logo_edge_train.data.manifest import Manifest, read_manifest


@pytest.fixture
def one_process(monkeypatch) -> None:
    """Teachers learn one after the other in this process: for tests to which it does not matter, that is quicker."""
    monkeypatch.setattr(train, "count_workers", lambda *_: 1)


@pytest.fixture
def logos(tmp_path: Path) -> Manifest:
    """Three classes by colour: 8 logos to learn from, 4 each to choose, calibrate and report on."""
    return read_manifest(write_squares(tmp_path, MUTED, {"train": 8, "val": 4, "calib": 4, "test": 4}, framed=True))
