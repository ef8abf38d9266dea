"""Jobs side by side: the first failure is raised at once and ends the other jobs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from logo_edge.errors import RunError
from logo_edge_train import parallel

PATIENCE_S = 60


def start_lightly(threads: int) -> None:
    """Replaces the initializer, which imports PyTorch."""


def work(kind: str, folder: Path, report) -> None:
    """Marks that it runs; "fails" raises once "long" runs, which would then take another minute."""
    (folder / f"{kind} began").touch()
    if kind.startswith("queued"):
        return
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and not (kind == "fails" and (folder / "long began").exists()):
        time.sleep(0.02)
    if kind == "fails":
        raise RunError("loss is not finite")
    (folder / "long ended").touch()


def test_a_failed_job_cancels_those_that_wait_and_ends_those_that_run(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "_start_worker", start_lightly)
    monkeypatch.setattr(parallel, "count_cores", lambda: 2)
    jobs = [(kind, tmp_path) for kind in ("long", "fails", *(f"queued {index}" for index in range(8)))]
    with pytest.raises(RunError, match="loss is not finite"):
        parallel.run_side_by_side(work, jobs, lambda _: None, workers=2)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"long began", "fails began"} <= names
    assert "long ended" not in names
    assert "queued 7 began" not in names


def test_the_jobs_of_one_worker_end_with_the_first_that_fails(tmp_path):
    (tmp_path / "long began").touch()
    with pytest.raises(RunError, match="loss is not finite"):
        parallel.run_side_by_side(work, [("fails", tmp_path), ("queued", tmp_path)], lambda _: None, workers=1)
    assert not (tmp_path / "queued began").exists()
