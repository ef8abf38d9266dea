"""The peers: their scripts speak one command line, resume, and their subjects answer as a worker asks them to."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import types
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from logo_edge.errors import BenchError, LogoEdgeError

PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
SCRIPTS = sorted(path.stem for path in PEERS.glob("*.py") if path.stem not in ("peer", "run"))


@pytest.fixture(autouse=True)
def peers_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(PEERS / "subjects"))
    monkeypatch.syspath_prepend(str(PEERS))


@pytest.fixture
def data(tmp_path):
    """Of two classes 24 drawings in each split: red squares are simple, noise is complex."""
    import peer

    random = np.random.default_rng(0)
    for split in peer.SPLITS:
        for index in range(24):
            for label in ("complex", "simple"):
                pixels = (
                    random.integers(0, 256, (40, 60, 3), dtype=np.uint8)
                    if label == "complex"
                    else np.full((40, 60, 3), (200, 0, 0), np.uint8)
                )
                path = tmp_path / "data" / split / label / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return peer.Data(tmp_path / "data", ("complex", "simple"))


def test_every_script_is_a_peer_and_the_runner_knows_them_all():
    assert len(SCRIPTS) >= 6
    runner = (PEERS / "run.py").read_text()
    for name in SCRIPTS:
        module = importlib.import_module(name)
        assert module.NAME
        assert callable(module.train)
        assert callable(module.systems)
        assert f"import {name}\n" in runner


def test_a_peer_that_is_not_trained_says_how_to(tmp_path):
    for name in ("classical", "timm_finetune", "yolo", "magika_start"):
        module = importlib.import_module(name)
        measured = module.starts if name == "magika_start" else lambda work, module=module: module.systems(work, 1)
        with pytest.raises(LogoEdgeError, match=f"python benchmarks/peers/{name}.py train"):
            measured(tmp_path)


def test_the_command_line_teaches():
    done = subprocess.run(
        [sys.executable, PEERS / "classical.py", "--help"], capture_output=True, text=True, check=True
    )
    assert "resumes where it was interrupted" in done.stdout


def test_the_classical_peer_learns_resumes_and_answers(data, tmp_path, capsys):
    import classical
    from classical_subject import load

    (work := tmp_path / "work").mkdir()
    classical.train(data, work, 20)
    assert "val 100.0%" in capsys.readouterr().out
    classical.train(data, work, 20)
    assert "done before" in capsys.readouterr().out
    subject = load(["simple", "complex"], str(work / "model.joblib"), 1)
    files, targets = data.files("val")
    probabilities = np.array(subject.probabilities(list(map(str, files))))
    assert probabilities.shape == (48, 2)
    assert (probabilities.argmax(1) == 1 - np.array(targets)).all()  # the labels were asked for in another order
    stages = subject.stages(list(map(str, files)), 3)
    assert set(stages) == {"preprocess", "inference", "end_to_end"}
    assert len(stages["end_to_end"](5)) == 3
    assert subject.describe()["size_bytes"] > 0


@pytest.mark.slow
def test_the_timm_peer_trains_resumes_exports_and_all_three_agree(data, tmp_path, capsys, monkeypatch):
    import timm_finetune
    from eager_subject import load as load_eager
    from onnx_subject import load as load_onnx

    monkeypatch.setattr(timm_finetune, "NETWORKS", {"mobilenetv3_small_050": False})
    (work := tmp_path / "work").mkdir()
    timm_finetune.train(data, work, 1)
    folder = work / "mobilenetv3_small_050"
    timm_finetune.train(data, work, 1)
    assert "done before" in capsys.readouterr().out
    eager, fp32, int8 = (system.options for system in timm_finetune.systems(work, 1))
    files = [str(path) for path in data.files("val")[0]]
    labels = ["simple", "complex"]
    expected = np.array(load_eager(labels, **eager).probabilities(files))
    assert np.abs(np.array(load_onnx(labels, **fp32).probabilities(files)) - expected).max() < 1e-3
    assert np.abs(np.array(load_onnx(labels, **int8).probabilities(files)) - expected).max() < 0.5
    assert (folder / "int8.onnx").stat().st_size < 0.5 * (folder / "fp32.onnx").stat().st_size


def test_the_opencv_loop_gives_the_bundles_guesses(labelled, tmp_path):
    from opencv_subject import load

    from logo_edge import Classifier

    classifier = Classifier.load(labelled[0])
    files = [str(tmp_path / f"{index}.png") for index in range(12)]
    probabilities = np.array(load(list(classifier.labels), str(labelled[0]), 1).probabilities(files))
    guesses = [classifier.classify(path).best_guess for path in files]
    assert (
        np.mean([classifier.labels[row.argmax()] == guess for row, guess in zip(probabilities, guesses, strict=True)])
        >= 0.75
    )


def test_what_benchmark_app_prints_is_read_and_what_it_does_not_print_is_named():
    from openvino_app import parse

    lines = "Count:            1234 iterations", "   Median:     1.10 ms", "   Average:    1.20 ms", "   Max:   9.00 ms"
    text = "".join(f"[ INFO ] {line}\n" for line in (*lines, "Throughput:   833.33 FPS"))
    assert parse(text) == {"median_ms": 1.1, "average_ms": 1.2, "max_ms": 9.0, "count": 1234.0, "per_s": 833.33}
    assert parse(text.replace("1.10 ms", "840.00 us"))["median_ms"] == pytest.approx(0.84)  # below a millisecond
    with pytest.raises(LogoEdgeError, match="printed no median_ms"):
        parse("[ INFO ] Throughput: 1 FPS")


def test_benchmark_app_runs_on_the_default_bundle():
    pytest.importorskip("openvino")
    from openvino_app import run_app

    from logo_edge.bundle.record import DEFAULT_BUNDLE, read_bundle

    latency = run_app(read_bundle(DEFAULT_BUNDLE).model_path, 1, 1)
    assert latency["count"] >= 1
    assert latency["median_ms"] > 0


@pytest.fixture
def measured(monkeypatch, tmp_path, labelled):
    """`peer.measure` of a fake peer on the fake bundle; it gets the peer's `extra` and gives result and file."""
    import peer

    from logo_edge_bench.bench import PRESETS, Preset

    short = Preset("short", rounds=1, window_s=0.01, settle_s=5, starts=1, offline=1, settle_within=1000.0, size_px=48)
    bundle, manifest = labelled
    monkeypatch.setitem(PRESETS, "short", short)
    monkeypatch.setattr(peer, "LABELS", manifest)
    monkeypatch.setattr(peer, "reference_system", lambda _, build=peer.reference_system: build(bundle))
    monkeypatch.setattr(peer, "bundle_systems", lambda _, build=peer.bundle_systems, **how: build([bundle], **how))

    def measure(extra, starts):
        module = types.SimpleNamespace(NAME="fake", systems=lambda *_: [], starts=lambda _: starts, extra=extra)
        out = tmp_path / "peers.json"
        arguments = argparse.Namespace(work=tmp_path, threads=1, preset="short", split="test", limit=None, out=out)
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


def test_what_was_finished_with_other_settings_counts_as_not_trained(tmp_path):
    import peer

    peer.finish(tmp_path, {"epochs": 1})
    assert peer.finished(tmp_path, {"epochs": 1})
    assert not peer.finished(tmp_path, {"epochs": 60})
    with pytest.raises(LogoEdgeError, match="not found; run first"):
        peer.need(tmp_path / "done.json", "yolo")


ULTRALYTICS = """
import json, sys
from pathlib import Path
import onnxruntime

__version__ = "0"

def say(*words):
    with open(LOG, "a") as log:
        log.write(" ".join(map(str, words)) + "\\n")

class YOLO:
    def __init__(self, path, task=None):
        self.path = Path(path)
        if self.path.suffix == ".onnx":
            self.session = onnxruntime.InferenceSession(path, None, providers=["CPUExecutionProvider"])
        elif self.path.exists():
            self.ckpt = json.loads(self.path.read_text())
    def train(self, resume=False, epochs=None, project="", name="", **settings):
        say("resume" if resume else f"train {epochs}")
        folder = self.path.parent if resume else Path(project) / name / "weights"
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("last.pt", "best.pt"):
            (folder / file).write_text('{"epoch": -1}')
    def export(self, **settings):
        say("export", self.path.name)
"""


@pytest.fixture
def ultralytics(tmp_path, monkeypatch):
    """A package of that name that only logs its calls; gives the log."""
    (package := tmp_path / "packages" / "ultralytics").mkdir(parents=True)
    (package / "utils").mkdir()
    log = tmp_path / "log"
    (package / "__init__.py").write_text(f"LOG = {str(log)!r}\n{ULTRALYTICS}")
    (package / "utils" / "__init__.py").touch()
    (package / "utils" / "torch_utils.py").write_text(
        "from ultralytics import say\nNUM_THREADS = 9\ndef strip_optimizer(path):\n    say('strip', path.name)\n"
    )
    monkeypatch.syspath_prepend(str(package.parent))
    yield log
    for name in [name for name in sys.modules if name.startswith(("ultralytics", "yolo_subject"))]:
        del sys.modules[name]


def test_yolo_goes_on_where_it_stopped_and_begins_anew_for_other_epochs(data, tmp_path, monkeypatch, ultralytics):
    import peer
    import yolo

    monkeypatch.setattr(peer, "own_python", lambda *_, **__: sys.executable)
    environment = {**yolo._training_environment(tmp_path), "PYTHONPATH": str(tmp_path / "packages")}
    monkeypatch.setattr(yolo, "_training_environment", lambda work: environment)
    (work := tmp_path / "work").mkdir()

    def trained(epochs, stopped_after=None):
        if stopped_after is not None:
            (work / "done.json").unlink()
            (work / "fit" / "weights" / "last.pt").write_text(json.dumps({"epoch": stopped_after}))
        ultralytics.write_text("")
        yolo.train(data, work, epochs)
        return ultralytics.read_text().splitlines()

    finishing = ["strip best.pt", "export best.pt"]
    assert trained(1) == ["train 1", *finishing]
    assert trained(1) == []
    assert trained(5) == ["train 5", *finishing]
    assert trained(5, stopped_after=2) == ["resume", *finishing]
    assert trained(5, stopped_after=4) == finishing
    assert trained(5, stopped_after=-1) == finishing


def test_yolo_runs_on_as_many_threads_as_it_says_and_in_its_own_settings(labelled, tmp_path, monkeypatch, ultralytics):
    import onnxruntime
    import yolo

    monkeypatch.setattr(onnxruntime, "InferenceSession", onnxruntime.InferenceSession)
    subject = importlib.import_module("yolo_subject").load(["red"], str(labelled[0] / "model.onnx"), 128, 1)
    assert subject.model.session.get_session_options().intra_op_num_threads == 1
    assert sys.modules["ultralytics.utils.torch_utils"].NUM_THREADS == 1
    assert {"threads": 1, "spinning": True}.items() <= subject.describe().items()
    work = tmp_path / "work"
    for path in ("environment/bin/python", "done.json", "fit/weights/best.pt", "fit/weights/best.onnx"):
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).touch()
    for system in yolo.systems(work, 1):
        assert system.environment["YOLO_OFFLINE"] == "True"
        assert system.environment["YOLO_AUTOINSTALL"] == "False"
        assert system.environment["YOLO_CONFIG_DIR"] == str(work)


def test_what_peers_install_is_pinned():
    import magika_start
    import yolo

    assert all("==" in package for package in [*yolo.PACKAGES, *magika_start.PACKAGES])


def test_yolo_stays_outside_this_environment():
    import importlib.util

    assert importlib.util.find_spec("ultralytics") is None
    assert "ultralytics" not in (PEERS.parents[1] / "pyproject.toml").read_text()
    assert "import ultralytics" not in (PEERS / "yolo.py").read_text().split('TRAIN = """')[0]


def test_cuda_that_is_not_there_is_refused_and_not_run_on_the_cpu(labelled, monkeypatch):
    monkeypatch.syspath_prepend(str(PEERS.parent / "jetson"))
    cuda_subject = importlib.import_module("cuda_subject")
    with pytest.raises(BenchError, match="expected CUDA first"):
        cuda_subject.load(["red", "green", "blue"], str(labelled[0]))


def test_a_jetsons_clocks_are_read_and_loose_ones_named(monkeypatch):
    monkeypatch.syspath_prepend(str(PEERS.parent / "jetson"))
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
        measure.find_engines(PEERS)


def test_an_engine_is_measured_with_its_own_bundle_and_the_batches_that_it_takes_or_left_out(
    labelled, tmp_path, monkeypatch, capsys
):
    from logo_edge.bundle.record import read_bundle

    monkeypatch.syspath_prepend(str(PEERS.parent / "jetson"))
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
