"""Each peer's script: it learns from little, resumes, exports, and its subject answers as a worker asks it to."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from logo_edge.errors import LogoEdgeError
from logo_edge_compress.convert import environments

pytestmark = pytest.mark.usefixtures("peers")


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
def test_the_timm_peer_trains_resumes_exports_and_all_agree(data, tmp_path, capsys, monkeypatch):
    import timm_finetune
    from eager_subject import load as load_eager
    from onnx_subject import load as load_onnx

    tiny = timm_finetune.Variant("mobilenetv3_small_050", pretrained=False, distilled=False)
    monkeypatch.setattr(timm_finetune, "VARIANTS", {"tiny": tiny})
    (work := tmp_path / "work").mkdir()
    timm_finetune.train(data, work, 1)
    timm_finetune.train(data, work, 1)
    assert "done before" in capsys.readouterr().out
    rows = timm_finetune.systems(work, 1)
    assert rows[0].about["learned_from"] == "ImageNet-1k (weights); 48 labelled logos"
    assert rows[0].about["licence"] == "Apache-2.0"
    assert re.fullmatch(r"\d+\.\d", rows[0].about["minutes"])
    files = [str(path) for path in data.files("val")[0]]
    labels = ["simple", "complex"]
    eager, fp32, *int8 = (system.options for system in rows)
    expected = np.array(load_eager(labels, **eager).probabilities(files))
    assert np.abs(np.array(load_onnx(labels, **fp32).probabilities(files)) - expected).max() < 1e-3
    assert [Path(options["model"]).name for options in int8] == ["int8-onnxruntime.onnx", "int8-nncf.onnx"]
    for options in int8:
        assert np.abs(np.array(load_onnx(labels, **options).probabilities(files)) - expected).max() < 0.5
        assert Path(options["model"]).stat().st_size < 0.5 * Path(fp32["model"]).stat().st_size


def test_a_timm_fit_goes_on_after_its_last_epoch(data, tmp_path, capsys):
    import timm
    import timm_finetune

    images = timm_finetune.Images.read(data)

    def fit(epochs):
        timm_finetune.fit(tmp_path, timm.create_model("test_resnet", num_classes=2), images, epochs)
        return [line.split(",")[0] for line in capsys.readouterr().out.splitlines()]

    name = tmp_path.name
    assert fit(1) == [f"{name}: epoch 1 of 1"]
    assert fit(2) == [f"{name}: goes on after epoch 1", f"{name}: epoch 2 of 2"]


@pytest.mark.slow
def test_the_timm_peer_is_distilled_from_the_teachers_of_a_run(data, tmp_path, monkeypatch):
    import timm_finetune
    import torch

    from logo_edge_train.data.manifest import FILES, LogoRow, write_manifest
    from logo_edge_train.recipe_io import recipe_from_dict
    from logo_edge_train.runs import read_run
    from logo_edge_train.train import train_ensemble

    rows = [
        LogoRow(FILES, "", f"data/{split}/{label}/{index}.png", f"{split}{label}{index}", label, (label,), True, split)
        for split in ("train", "val", "calib", "test")
        for label in data.labels
        for index in range(24)
    ]
    for split in ("calib", "test"):
        shutil.copytree(tmp_path / "data" / "val", tmp_path / "data" / split)
    write_manifest(tmp_path / "labels.csv", rows)
    fit = {"epochs": 1, "batch_size": 16}
    recipe = {
        "train": {"teachers": ["test_resnet@32"], "pretrained": False, "fit": fit},
        "distill": {"students": ["test_resnet@32"], "pretrained": False, "epistemic": "off", "fit": fit},
    }
    cpu = torch.device("cpu")
    train_ensemble(
        tmp_path / "labels.csv", recipe_from_dict(recipe), tmp_path / "run", device=cpu, report=lambda _: None
    )
    tiny = timm_finetune.Variant("test_resnet", pretrained=False, distilled=True)
    monkeypatch.setattr(timm_finetune, "VARIANTS", {"tiny": tiny})
    (work := tmp_path / "timm").mkdir()
    timm_finetune.train(data, work, 1)
    with pytest.raises(LogoEdgeError, match="run first"):
        timm_finetune.systems(work, 1)  # without a run there are no teachers
    own = replace(data, run=read_run(tmp_path / "run"), size_px=32)
    timm_finetune.train(own, work, 1)
    fp32, *_ = timm_finetune.systems(work, 1)
    assert fp32.name == "timm test_resnet distilled, ONNX Runtime FP32"
    assert fp32.about["learned_from"].endswith("48 labelled logos; the unlabelled pool; 1 teachers of run")
    assert json.loads((work / "tiny" / "student" / "student.json").read_text())["student"] == "test_resnet@32"


def test_an_int8_graph_with_its_first_layers_in_float_is_kept_where_val_is_better(data, tmp_path):
    import onnx
    import timm_finetune

    from logo_edge_compress.onnx.graph import save_model

    images, tried = timm_finetune.Images.read(data), []

    def graph(label):
        """Answers `label` for every picture, after a convolution."""
        make, tensor = onnx.helper, onnx.numpy_helper.from_array
        logits = np.eye(2, dtype=np.float32)[[label]]
        nodes = [
            make.make_node("Conv", ["planes", "weights"], ["maps"], name="stem"),
            make.make_node("ReduceMean", ["maps"], ["mean"], axes=[1, 2, 3], keepdims=0),
            make.make_node("Mul", ["mean", "zero"], ["nothing"]),
            make.make_node("Add", ["nothing", "answer"], ["logits"]),
        ]
        values = {"weights": np.ones((1, 3, 1, 1), np.float32), "zero": np.zeros(1, np.float32), "answer": logits}
        planes = make.make_tensor_value_info("planes", onnx.TensorProto.FLOAT, ["batch", 3, 64, 64])
        answer = make.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, 2])
        initializers = [tensor(value, name) for name, value in values.items()]
        body = make.make_graph(nodes, "answers", [planes], [answer], initializers)
        return make.make_model(body, opset_imports=[make.make_opsetid("", 17)], ir_version=8)

    images.labels["val"][:] = 1
    save_model(graph(0), tmp_path / "fp32.onnx")

    def make(fp32, int8, inputs, in_float):
        tried.append((len(inputs), in_float))
        save_model(graph(1 if in_float else 0), int8)

    timm_finetune.choose_int8(tmp_path, images, "mine", make)
    assert tried == [(48, []), (48, ["stem"])]
    kept = {
        item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(tmp_path / "int8-mine.onnx").graph.initializer
    }
    assert kept["answer"].tolist() == [[0, 1]]
    assert not list(tmp_path.glob("*.partial.onnx"))


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
        import os

        at = f"{settings.get('imgsz')} px, offline {os.environ['YOLO_OFFLINE']}"
        say("resume" if resume else f"train {epochs} at {at}")
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
    import yolo

    monkeypatch.setattr(environments, "open_environment", lambda *_, **__: Path(sys.executable))
    monkeypatch.setattr(environments, "shared_folders", lambda lock: [str(tmp_path / "packages")])
    (work := tmp_path / "work").mkdir()

    def trained(epochs, stopped_after=None):
        if stopped_after is not None:
            (work / "done.json").unlink()
            (work / "fit" / "weights" / "last.pt").write_text(json.dumps({"epoch": stopped_after}))
        ultralytics.write_text("")
        yolo.train(data, work, epochs)
        return ultralytics.read_text().splitlines()

    finishing = ["strip best.pt", "export best.pt"]
    assert trained(1) == ["train 1 at 64 px, offline True", *finishing]
    assert trained(1) == []
    assert trained(5) == ["train 5 at 64 px, offline True", *finishing]
    assert trained(5, stopped_after=2) == ["resume", *finishing]
    assert trained(5, stopped_after=4) == finishing
    assert trained(5, stopped_after=-1) == finishing


def test_yolo_runs_on_as_many_threads_as_it_says_and_in_its_own_settings(labelled, tmp_path, monkeypatch, ultralytics):
    import onnxruntime
    import peer
    import yolo

    monkeypatch.setattr(onnxruntime, "InferenceSession", onnxruntime.InferenceSession)
    subject = importlib.import_module("yolo_subject").load(["red"], str(labelled[0] / "model.onnx"), 128, 1)
    assert subject.model.session.get_session_options().intra_op_num_threads == 1
    assert sys.modules["ultralytics.utils.torch_utils"].NUM_THREADS == 1
    assert {"threads": 1, "spinning": True}.items() <= subject.describe().items()
    monkeypatch.setattr(environments, "open_environment", lambda *_, **__: Path(sys.executable))
    (work := tmp_path / "work").mkdir()
    peer.finished(work, {"size_px": 96})
    with peer.timing(work):
        (work / "fit" / "weights").mkdir(parents=True)
    for name in ("best.pt", "best.onnx"):
        (work / "fit" / "weights" / name).touch()
    peer.finish(work, {"size_px": 96}, "logos")
    for system in yolo.systems(work, 1):
        assert system.environment["YOLO_OFFLINE"] == "True"
        assert system.environment["YOLO_AUTOINSTALL"] == "False"
        assert system.environment["YOLO_CONFIG_DIR"] == str(work)
        assert "site-packages" in system.environment["PEER_SHARED"]
        assert (system.options["size_px"], system.about["licence"]) == (96, "AGPL-3.0")
