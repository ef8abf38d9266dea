"""The peers: their scripts speak one command line, resume, and their subjects answer as a worker asks them to."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from logo_edge.bundle.record import read_bundle
from logo_edge.errors import LogoEdgeError
from logo_edge_compress.convert import environments
from logo_edge_train.data.manifest import read_manifest, write_manifest
from logo_edge_train.recipe import Recipe

PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
pytestmark = pytest.mark.usefixtures("peers")
SCRIPTS = sorted(path.stem for path in PEERS.glob("*.py") if path.stem not in ("peer", "run"))


def test_every_script_is_a_peer_and_the_runner_knows_them_all():
    assert len(SCRIPTS) >= 8
    runner = (PEERS / "run.py").read_text()
    for name in SCRIPTS:
        module = importlib.import_module(name)
        assert module.NAME
        assert callable(module.train)
        assert callable(module.systems)
        assert f"import {name}\n" in runner


def test_a_peer_that_is_not_trained_says_how_to(tmp_path):
    for name in ("classical", "getitune", "lightly", "timm_finetune", "yolo"):
        with pytest.raises(LogoEdgeError, match=f"python benchmarks/peers/{name}.py train"):
            importlib.import_module(name).systems(tmp_path, 1)
    with pytest.raises(LogoEdgeError, match="nothing is trained; run first: .*timm_finetune.py train"):
        importlib.import_module("olive").systems(tmp_path / "olive", 1)


def test_the_command_line_teaches():
    done = subprocess.run(
        [sys.executable, PEERS / "classical.py", "--help"], capture_output=True, text=True, check=True
    )
    assert "resumes where it was interrupted" in done.stdout


@pytest.fixture
def measured(monkeypatch, tmp_path, labelled):
    """`peer.measure` of a fake peer on the fake bundle; it gets the peer's `extra` and gives result and file."""
    import peer

    from logo_edge_bench.bench import PRESETS, Preset

    short = Preset("short", rounds=1, window_s=0.01, settle_s=5, starts=1, offline=1, settle_within=1000.0, size_px=48)
    bundle, manifest = labelled
    rows = read_manifest(manifest).rows
    for row in rows:
        (tmp_path / f"calib-{row.icon}").write_bytes((tmp_path / row.icon).read_bytes())
    write_manifest(manifest, [*rows, *(replace(row, icon=f"calib-{row.icon}", split="calib") for row in rows)])
    monkeypatch.setitem(PRESETS, "short", short)
    monkeypatch.setattr(peer, "LABELS", manifest)
    monkeypatch.setattr(peer, "reference_system", lambda _, build=peer.reference_system: build(bundle))
    monkeypatch.setattr(peer, "bundle_systems", lambda _, build=peer.bundle_systems, **how: build([bundle], **how))

    def measure(extra, starts):
        module = types.SimpleNamespace(NAME="fake", systems=lambda *_: [], starts=lambda _: starts, extra=extra)
        out = tmp_path / "peers.json"
        arguments = argparse.Namespace(
            work=tmp_path, threads=1, preset="short", split="test", limit=None, out=out, run=None, bundle=None
        )
        return lambda: peer.measure((module,), arguments), out

    return measure


def test_an_extra_or_a_start_that_fails_is_told_and_loses_nothing(measured):
    seen = []

    def extra(work, preset, threads):
        seen.append(json.loads(out.read_text())["rows"])
        raise LogoEdgeError("benchmark_app is not installed")

    measure, out = measured(
        extra, {"Magika": ("/nowhere/python",), "two": (sys.executable, "-c", "raise SystemExit(2)")}
    )
    result = measure()
    assert len(seen[0]) == len(result["rows"]) == 2
    by_hand, bundle = result["rows"]
    assert by_hand["calibrated"]["temperature"] > 0
    assert by_hand["calibrated"]["ece"] != by_hand["accuracy"]["ece"]
    assert "calibrated" not in bundle, "it has a temperature of its own"
    assert result == json.loads(out.read_text())
    assert "/nowhere/python" in result["not_measured"]["process start of Magika"]
    assert "gave status 2" in result["not_measured"]["process start of two"]
    assert result["not_measured"]["fake"] == "benchmark_app is not installed"
    assert result["rows"][1]["process_start_s"]["value"] > 0


def test_an_extra_that_breaks_leaves_what_was_measured(measured):
    def extra(work, preset, threads):
        raise RuntimeError("whatever")

    measure, out = measured(extra, {})
    with pytest.raises(RuntimeError, match="whatever"):
        measure()
    assert len(json.loads(out.read_text())["rows"]) == 2


def test_other_labels_are_written_and_learnt_anew(labelled, tmp_path, monkeypatch):
    import peer

    from logo_edge_train.data.manifest import FILES, LogoRow, write_manifest

    def rows(labels):
        return [
            LogoRow(FILES, "", f"{index}.png", str(index), label, (label,), True, split)
            for index, (label, split) in enumerate(zip(labels, ("train", "val"), strict=True))
        ]

    states = []
    for labels in (("red", "blue"), ("blue", "red"), ("blue", "red")):
        write_manifest(tmp_path / "labels.csv", rows(labels))
        data = peer.read_data(manifest=tmp_path / "labels.csv", work=tmp_path / "work")
        (kept,) = data.files("train")[0]
        states.append((kept.parent.name, data.digest, kept.stat().st_mtime_ns))
    assert [label for label, _, _ in states] == ["red", "blue", "blue"]
    assert states[0][1] != states[1][1]
    assert states[1] == states[2]


def test_what_was_begun_with_other_settings_is_deleted_and_counts_as_not_trained(tmp_path):
    import peer

    work = tmp_path / "mine"
    work.mkdir()
    assert not peer.finished(work, {"epochs": 1})
    with peer.timing(work):
        (work / "state.pt").touch()
    peer.finish(work, {"epochs": 1}, "3 logos")
    assert peer.finished(work, {"epochs": 1})
    assert not peer.finished(work, {"epochs": 60})
    assert [path.name for path in work.iterdir()] == ["begun.json"]
    with pytest.raises(LogoEdgeError, match="not found; run first"):
        peer.about(work, "yolo", "MIT")


def test_the_minutes_of_a_training_add_up_and_are_a_lower_bound_after_a_kill(tmp_path):
    import peer

    def minutes(*earlier):
        peer.finish(tmp_path, {}, "logos", *earlier)
        return peer.about(tmp_path, "mine", "MIT")["minutes"]

    (tmp_path / "seconds.json").write_text('{"seconds": 90, "killed": false}')
    with pytest.raises(KeyboardInterrupt), peer.timing(tmp_path):
        raise KeyboardInterrupt
    assert minutes() == "1.5"
    (other := tmp_path / "other").mkdir()
    (other / "seconds.json").write_text('{"seconds": 60, "killed": false}')
    assert minutes(other) == "2.5"
    (tmp_path / "seconds.json").write_text('{"seconds": 90, "killed": false, "running": true}')
    with peer.timing(tmp_path):
        pass
    assert minutes() == ">= 1.5"


def test_a_peer_that_cannot_be_trained_leaves_the_others_and_its_row_says_why(tmp_path, measured, monkeypatch):
    import peer

    monkeypatch.setattr(peer, "read_data", lambda *_, **__: None)
    trained = []

    def fail(*_):
        raise LogoEdgeError("no wheel of it for this Python")

    def untrained(*_):
        raise LogoEdgeError("not found; run first: train")

    broken = types.SimpleNamespace(NAME="broken", train=fail, systems=untrained)
    sound = types.SimpleNamespace(NAME="sound", train=lambda *call: trained.append(call), systems=lambda *_: [])
    out, run = tmp_path / "peers.json", None
    arguments = argparse.Namespace(
        work=tmp_path, threads=1, preset="short", split="test", limit=None, out=out, run=run, bundle=None, epochs=1
    )
    with pytest.raises(LogoEdgeError, match="broken is not trained: no wheel of it"):
        peer.train((broken, sound), arguments)
    assert [(work.name, epochs) for _, work, epochs in trained] == [("sound", 1)]
    result = peer.measure((broken, sound), arguments)
    assert result["not_measured"]["broken"] == "no wheel of it for this Python"


def test_the_row_of_the_bundle_has_the_minutes_of_its_own_run_alone(labelled, tmp_path):
    import peer

    bundle = read_bundle(labelled[0])
    bundle = replace(bundle, provenance={"teachers": ["big@64"], "student": "small", "recipe": "mine"})
    student = tmp_path / "compress" / f"small-{bundle.input.size_px}" / "student.json"
    student.parent.mkdir(parents=True)
    student.write_text(json.dumps({"history": [{"seconds": 60}, {"seconds": 30}]}))

    def facts(teacher):
        members = [{"architecture": teacher, "history": [{"seconds": 90}]}]
        run = types.SimpleNamespace(
            record={"members": members}, folder=tmp_path, recipe=Recipe(), read_manifest=lambda: manifest
        )
        return peer.about_bundle(bundle, run)

    manifest = types.SimpleNamespace(split=lambda name: [name] * 5)
    assert facts("big@64")["minutes"] == "3.0"
    assert facts("big@64")["learned_from"] == "5 labelled logos; the unlabelled pool; 1 teachers, by recipe mine"
    assert facts("another@64") == peer.about_bundle(bundle, None)
    assert peer.about_bundle(bundle, None)["minutes"] == ""


def test_the_pool_is_train_and_the_unlabelled_logos_without_labels(tmp_path):
    import peer

    from logo_edge_train.data.manifest import FILES, LogoRow, write_manifest

    random, rows = np.random.default_rng(0), []
    for index, split in enumerate(("train", "train", "val", "test", "")):
        Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
        labels = ("red", ("red",), True, split) if split else ()
        rows.append(LogoRow(FILES, "", f"{index}.png", str(index), *labels))
    write_manifest(tmp_path / "labels.csv", rows)
    data = peer.read_data(manifest=tmp_path / "labels.csv", work=tmp_path / "work")
    assert [path.name for path in sorted(data.pool().iterdir())] == ["00000.png", "00001.png", "00002.png"]


def test_packages_that_a_peer_takes_from_ours_come_last_on_its_path(monkeypatch):
    monkeypatch.setenv("PEER_SHARED", "/ours/one:/ours/two")
    monkeypatch.setattr(sys, "path", ["/its/own"])
    sys.modules.pop("shared", None)
    path = PEERS / "subjects" / "shared.py"
    exec(compile(path.read_text(), str(path), "exec"), {})
    assert sys.path == ["/its/own", "/ours/one", "/ours/two"]


def test_what_peers_install_is_locked_by_hashes_and_none_of_it_is_ours():
    locks = sorted((PEERS / "locks").glob("*.txt"))
    assert {path.stem for path in locks} >= {"getitune", "lightly", "magika", "olive", "yolo"}
    for lock in locks:
        versions, _ = environments.read_lock(lock)
        lines = [line for line in lock.read_text().splitlines() if not line.startswith("#")]
        assert len(lines) == len(versions) >= 1
        assert all("--hash=sha256:" in line for line in lines), lock


@pytest.mark.parametrize("package", ["ultralytics", "lightly_train", "olive", "getitune"])
def test_packages_of_peers_stay_outside_this_environment(package):
    import importlib.util

    found = importlib.util.find_spec(package)
    assert found is None or Path(found.origin).parent == PEERS  # our scripts have their names
    assert package.replace("_", "-") not in (PEERS.parents[1] / "pyproject.toml").read_text()
    importing = [path.parent.name for path in PEERS.rglob("*.py") if f"\nfrom {package}" in path.read_text()]
    assert set(importing) <= {"inside", "subjects"}
