"""The peers: their scripts speak one command line, resume, and their subjects answer as a worker asks them to."""

from __future__ import annotations

import importlib
import subprocess
import sys
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
        assert callable(module.candidates)
        assert f"import {name}\n" in runner


def test_a_peer_that_is_not_trained_says_how_to(tmp_path):
    for name in ("classical", "timm_finetune", "yolo", "magika_start"):
        module = importlib.import_module(name)
        measured = module.starts if name == "magika_start" else lambda work, module=module: module.candidates(work, 1)
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
    eager, fp32, int8 = (candidate.options for candidate in timm_finetune.candidates(work, 1))
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
    found = np.array(load(list(classifier.labels), str(labelled[0]), 1).probabilities(files))
    guesses = [classifier.classify(path).best_guess for path in files]
    assert (
        np.mean([classifier.labels[row.argmax()] == guess for row, guess in zip(found, guesses, strict=True)]) >= 0.75
    )


def test_what_benchmark_app_prints_is_read_and_what_it_does_not_print_is_named():
    from openvino_app import parse

    text = "[ INFO ] Count:            1234 iterations\n[ INFO ]    Median:     1.10 ms\n[ INFO ]    Average:    1.20 ms\n[ INFO ]    Max:   9.00 ms\n[ INFO ] Throughput:   833.33 FPS\n"
    assert parse(text) == {"median_ms": 1.1, "average_ms": 1.2, "max_ms": 9.0, "count": 1234.0, "per_s": 833.33}
    assert parse(text.replace("1.10 ms", "840.00 us"))["median_ms"] == pytest.approx(0.84)  # below a millisecond
    with pytest.raises(LogoEdgeError, match="printed no median_ms"):
        parse("[ INFO ] Throughput: 1 FPS")


def test_benchmark_app_runs_on_the_default_bundle():
    pytest.importorskip("openvino")
    from openvino_app import run_app

    from logo_edge.bundle import DEFAULT_BUNDLE, read_bundle

    found = run_app(read_bundle(DEFAULT_BUNDLE).model_path, 1, 1)
    assert found["count"] >= 1
    assert found["median_ms"] > 0


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
        "SOC family:tegra234  Machine:NVIDIA Jetson Orin Nano Developer Kit\nOnline CPUs: 0-5\n"
        "cpu0: Online=1 Governor=schedutil MinFreq=1510400 MaxFreq=1510400 CurrentFreq=1510400 IdleStates: WFI=0 c7=0\n"
        "GPU MinFreq=306000000 MaxFreq=624750000 CurrentFreq=306000000\n"
        "EMC MinFreq=204000000 MaxFreq=2133000000 CurrentFreq=2133000000 FreqOverride=0\nFAN Dynamic Speed Control=nvfancontrol\n"
    )
    clocks = measure.parse_clocks(text)
    assert clocks["cpu0"] == {"MinFreq": 1510400, "MaxFreq": 1510400, "CurrentFreq": 1510400}
    assert [entry.split()[0] for entry in measure.unpinned(clocks)] == ["GPU", "EMC"]
    with pytest.raises(BenchError, match="names no frequencies"):
        measure.parse_clocks("nothing")
    with pytest.raises(BenchError, match="no .engine"):
        measure.find_engines(PEERS)
