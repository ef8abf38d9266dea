"""The measurement on a Jetson: CUDA or nothing, clocks, and engines with their own bundle."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from logo_edge.errors import BenchError

JETSON = Path(__file__).resolve().parents[2] / "benchmarks" / "jetson"


@pytest.fixture(autouse=True)
def jetson_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(JETSON))


def test_cuda_that_is_not_there_is_refused_and_not_run_on_the_cpu(labelled):
    cuda_subject = importlib.import_module("cuda_subject")
    with pytest.raises(BenchError, match="expected CUDA first"):
        cuda_subject.load(["red", "green", "blue"], str(labelled[0]))


def test_a_jetsons_clocks_are_read_and_loose_ones_named():
    measure = importlib.import_module("measure")
    text = (
        "SOC family:tegra234  Machine:NVIDIA Jetson Orin Nano Developer Kit\nOnline CPUs: 0-5\ncpu0: Online=1 "
        "Governor=schedutil MinFreq=1510400 MaxFreq=1510400 CurrentFreq=1510400 IdleStates: WFI=0 c7=0\nGPU "
        "MinFreq=306000000 MaxFreq=624750000 CurrentFreq=306000000\nEMC MinFreq=204000000 MaxFreq=2133000000 "
        "CurrentFreq=2133000000 FreqOverride=0\nFAN Dynamic Speed Control=nvfancontrol\n"
    )
    clocks = measure.parse_clocks(text)
    assert clocks["cpu0"] == {"MinFreq": 1510400, "MaxFreq": 1510400, "CurrentFreq": 1510400}
    assert [clock.split()[0] for clock in measure.unpinned(clocks)] == ["GPU", "EMC"]
    with pytest.raises(BenchError, match="names no frequencies"):
        measure.parse_clocks("nothing")
    with pytest.raises(BenchError, match="no .engine"):
        measure.find_engines(JETSON.parent / "peers")


def test_an_engine_is_measured_with_its_own_bundle_and_the_batches_that_it_takes_or_left_out(
    labelled, tmp_path, capsys
):
    from logo_edge.bundle.record import read_bundle

    measure = importlib.import_module("measure")
    bundle = read_bundle(labelled[0])
    own = {"precision": "int8", "source": bundle.name, "batch": "dynamic", "input": asdict(bundle.input)}
    for name, changes in {
        "any": {},
        "single": {"batch": 1},
        "eight": {"batch": 8},
        "other": {"source": "another"},
        "larger": {"input": own["input"] | {"size_px": 999}},
        "lost": None,
    }.items():
        (folder := tmp_path / "jetson" / name / "engines").mkdir(parents=True)
        (folder / f"{name}.engine").touch()
        if changes is not None:
            record = {**own, **changes, "engine": {"file": f"engines/{name}.engine"}}
            (folder.parent / "record.json").write_text(json.dumps(record))
    rows, left_out = measure.engine_systems(labelled[0], measure.find_engines(tmp_path / "jetson"), [1, 8])
    taken = [(Path(row.options["artifact"]).stem, row.batch, row.options.get("batch_size")) for row in rows]
    assert taken == [("any", 1, None), ("any", 8, None), ("single", 1, 1)]
    assert len(left_out) == 5
    messages = capsys.readouterr().err
    for reason in ("exported with --batch 1", "batches of 8 only", "it is of 'another'", "999", "no record names it"):
        assert reason in messages
    assert "--run" not in measure.__doc__
