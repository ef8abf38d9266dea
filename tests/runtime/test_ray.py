"""`--engine ray` on a cluster of two workers on this machine gives the local table, also if a worker dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import psutil
import pytest
from command_line import SHELL
from pictures import marked
from typer.testing import CliRunner

from logo_edge import Classifier
from logo_edge.cli.classify_typer import classify
from logo_edge.tables.find import find_images
from logo_edge.tables.folder import describe_settings
from logo_edge.tables.journal import Journal
from logo_edge.tables.writers import record_of

pytest.importorskip("ray")
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
IMAGES, BEGUN = 1000, 300
WORKER = "MapWorker"  # in the title of the processes that classify


@pytest.fixture(scope="module")
def logos(tmp_path_factory) -> Path:
    """A folder of IMAGES logos, named by their colours, and a file that is no image."""
    folder = tmp_path_factory.mktemp("logos")
    for index in range(IMAGES):
        colour = list(COLOURS)[index % 3]
        marked(COLOURS[colour], (8, 8)).save(folder / f"{index:05}-{colour}.png")
    (folder / "zbad.png").write_bytes(b"no image")
    return folder


def begin_table(bundle: Path, logos: Path, out: Path) -> None:
    """Leaves the journal of a local run that was interrupted after BEGUN images."""
    classifier = Classifier.load(bundle)
    with Journal(out, classifier.labels, describe_settings(classifier)) as journal:
        for name in islice(find_images([str(logos)]), BEGUN):
            journal.append([(name, record_of(name, classifier.classify(name)))])


def is_growing(journal: Path) -> bool:
    """Whether a run has added some rows to the journal; only that run can read it."""
    try:
        return journal.with_name(f"{journal.name}-wal").stat().st_size > 100_000
    except FileNotFoundError:
        return False


def classifying(process: psutil.Process) -> list[psutil.Process]:
    """The processes of the cluster that classify."""
    workers = []
    for child in process.children(recursive=True):
        try:
            if WORKER in " ".join(child.cmdline()):
                workers.append(child)
        except psutil.Error:  # gone meanwhile
            continue
    return workers


@pytest.mark.slow
@pytest.mark.timeout(2400)  # a cluster takes seconds to start, and minutes where the machine is busy
def test_it_goes_on_after_an_interruption_and_a_killed_worker_loses_no_row_and_doubles_none(
    fake_bundle, logos, tmp_path
):
    bundle, out = fake_bundle(), tmp_path / "table.jsonl"
    begin_table(bundle, logos, out)
    journal = tmp_path / "table.jsonl.part"
    arguments = ["--bundle", str(bundle), "--out", str(out), "--engine", "ray", "--workers", "2", str(logos)]
    process = subprocess.Popen(
        [sys.executable, "-c", SHELL, "classify", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )
    was_growing = []

    def kill_a_worker() -> None:
        while process.poll() is None and not is_growing(journal):
            time.sleep(0.02)
        for worker in classifying(psutil.Process(process.pid))[:1]:
            worker.send_signal(signal.SIGKILL)
            was_growing.append(is_growing(journal))

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    output, _ = process.communicate(timeout=2300)
    killer.join()
    assert process.returncode == 1, output  # one image is none
    assert was_growing == [True], "the run ended before a worker could be killed"
    assert f"goes on after {BEGUN:,} of {IMAGES + 1:,} images" in output
    assert f"{IMAGES + 1:,} images, 1 of them failed" in output
    assert not journal.exists()
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert Counter(row["path"] for row in rows) == Counter(str(image) for image in logos.iterdir())
    assert len(rows) == IMAGES + 1
    assert sum("error" in row for row in rows) == 1
    assert all("error" in row or row["label"] == Path(row["path"]).stem.split("-")[1] for row in rows)


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--out", "x.csv", "--log", "y"],
        ["--out", "x.csv", "--cores", "0"],
        ["--out", "x.csv", "--enrolled", "z.json"],
    ],
)
def test_the_engine_makes_tables_only(fake_bundle, logos, more):
    result = CliRunner().invoke(classify, [str(logos), "--engine", "ray", *more])
    assert result.exit_code == 2
    assert "goes with --out" in result.stderr
    assert "expected local or ray" in CliRunner().invoke(classify, [str(logos), "--engine", "x"]).stderr


def test_without_the_extra_it_says_what_to_install(fake_bundle, logos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    result = CliRunner().invoke(
        classify, ["--bundle", str(fake_bundle()), str(logos), "--engine", "ray", "--out", str(tmp_path / "x.csv")]
    )
    assert "pip install 'logo-edge[scale]'" in str(result.exception)
    assert os.path.exists(tmp_path / "x.csv.part")
