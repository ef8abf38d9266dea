"""Shapes, a trained and compressed run of them, and costs that nothing has to measure."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from shapes import make_shapes

from logo_edge.files import changing
from logo_edge_compress import timing
from logo_edge_compress.candidates import measure
from logo_edge_compress.timing import Cost


@pytest.fixture(scope="session")
def compressed_shapes(tmp_path_factory) -> Path:
    """The folder of `make_shapes`, made once, also for several workers of pytest-xdist. Tests change copies of it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compressed_shapes"
    with changing(folder), pytest.MonkeyPatch.context() as patch:
        if not (folder / "complete").exists():  # not renamed when complete: the run holds the path of its manifest
            patch.setattr(timing, "ROUND_S", 0.02)
            shutil.rmtree(folder, ignore_errors=True)
            make_shapes(folder)
            (folder / "complete").touch()
    return folder


@pytest.fixture
def folder(compressed_shapes, tmp_path, monkeypatch) -> Path:
    """A copy of the compressed shapes; what is compressed of it again is timed in short rounds."""
    monkeypatch.setattr(timing, "ROUND_S", 0.02)
    return shutil.copytree(compressed_shapes, tmp_path / "shapes", ignore=shutil.ignore_patterns("snapshots"))


@pytest.fixture
def equal_costs(monkeypatch):
    """Every artifact costs the same, and none is opened and timed, which takes seconds each."""
    cost = Cost(1.0, 1.0, 1.0, 1.0, 11, (1.0,) * 11, 100.0)
    monkeypatch.setattr(measure, "measure_side_by_side", lambda artifacts, logs: dict.fromkeys(artifacts, cost))
