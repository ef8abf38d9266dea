"""`logo-edge export-triton`: the graphs agree with the runtime, and Triton's own schema reads the configuration.

Triton itself is not run. `infer` does what its ensemble scheduler does: follows the steps of config.pbtxt.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from contract.cases import contract_of
from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup
from typer.testing import CliRunner

from logo_edge import Classifier, InputContract, load_image, preprocess
from logo_edge.bundle.calibration import Familiarity, Scaling
from logo_edge.bundle.record import RECORD, VECTORS, list_files, write_record
from logo_edge.cli.serve import export_triton
from logo_edge.preprocess import CROP, LETTERBOX
from logo_edge.scale import triton
from logo_edge.scale.preprocess_graph import preprocess_graph

ROOT = Path(__file__).parents[2]
CONTRACT = ROOT / "tests" / "contract"
NUMPY = {
    DataType.TYPE_UINT8: "tensor(uint8)",
    DataType.TYPE_FP32: "tensor(float)",
    DataType.TYPE_STRING: "tensor(string)",
    DataType.TYPE_BOOL: "tensor(bool)",
}


def export(bundle: Path, out: Path, *more: str):
    return CliRunner().invoke(export_triton, ["--bundle", str(bundle), "--out", str(out), *more])


def read_config(repository: Path, model: str) -> ModelConfig:
    return text_format.Parse((repository / model / "config.pbtxt").read_text(encoding="utf-8"), ModelConfig())


def open_graph(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def infer(repository: Path, ensemble: str, image: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of the ensemble, after running the steps of its configuration."""
    config, tensors = read_config(repository, ensemble), {"image": image}
    for step in config.ensemble_scheduling.step:
        session = open_graph(repository / step.model_name / "1" / "model.onnx")
        outputs = list(step.output_map)
        results = session.run(outputs, {key: tensors[value] for key, value in step.input_map.items()})
        tensors |= {step.output_map[key]: value for key, value in zip(outputs, results, strict=True)}
    return {output.name: tensors[output.name] for output in config.output}


def rgba(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGBA"))


@pytest.mark.parametrize(
    ("size_px", "details", "fit"),
    [(96, False, LETTERBOX), (128, False, LETTERBOX), (96, True, LETTERBOX), (96, False, CROP), (96, True, CROP)],
)
def test_the_graph_preprocesses_the_golden_images_to_the_byte(size_px, details, fit):
    vectors = json.loads((CONTRACT / "preprocess_vectors.json").read_text())["vectors"]
    contract = InputContract(size_px, details=details, fit=fit)
    vectors = [vector for vector in vectors if contract_of(vector) == contract]
    assert len(vectors) >= 10
    graph = onnxruntime.InferenceSession(preprocess_graph(contract).SerializeToString())
    for vector in vectors:
        pixels, is_blank = graph.run(None, {"image": rgba(load_image(ROOT / vector["image"]))})
        assert pixels.tobytes() == Image.open(ROOT / vector["expected"]).tobytes(), vector["image"]
        assert is_blank.tolist() == [[vector["blank"]]], vector["image"]


@pytest.mark.parametrize("fit", [LETTERBOX, CROP])
@pytest.mark.parametrize("details", [False, True])
def test_the_graph_preprocesses_noise_of_any_shape_to_the_byte(details, fit):
    contract = InputContract(64, (255, 255, 255), (10, 20, 30), 200.5, details, fit)
    graph = onnxruntime.InferenceSession(preprocess_graph(contract).SerializeToString())
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (1, 900), (900, 1), (64, 64), (63, 64), (64, 63), (65, 2), (3, 5), (640, 200)]
    shapes += [(row, 96) for row in range(150, 200)]  # about where Pillow begins with the vertical pass
    shapes += [tuple(shape) for shape in rng.integers(1, 400, (60, 2))]
    backgrounds = set()
    for index, (height, width) in enumerate(shapes):
        image = rng.integers(0, 256, (height, width, 4), np.uint8)
        if index % 3 == 0:
            image[..., 3] = 255
        if index % 3 == 1:
            image[..., :3] = np.maximum(image[..., :3], 240)
        if index % 2:  # smooth, for the detail planes
            image = np.asarray(Image.fromarray(image[::30, ::30]).resize((width, height), Image.Resampling.BICUBIC))
        expected = preprocess(Image.fromarray(image), contract)
        assert np.array_equal(graph.run(None, {"image": image})[0][0], expected), (height, width)
        backgrounds.add(tuple(expected[0, 0, :3]))
    if fit == LETTERBOX:
        assert {(10, 20, 30), (255, 255, 255)} <= backgrounds
    assert len(backgrounds) > 10  # of opaque images: their own


def test_the_decision_graph_gives_the_decision_vectors(fake_bundle):
    vectors = json.loads((CONTRACT / "decision_vectors.json").read_text())["vectors"]
    assert len(vectors) >= 30
    for vector in vectors:
        folder = fake_bundle(
            labels=tuple(vector["labels"]),
            temperature=vector["temperature"],
            abstain_below=vector["abstain_below"],
            strict_below=vector["strict_below"],
            scaling=vector["scaling"] and Scaling(**vector["scaling"]),
            familiarity=None if vector["not_a_logo_below"] is None else Familiarity(vector["not_a_logo_below"], 0.05),
        )
        graph = triton.decision_graph(Classifier.load(folder, mode=vector["mode"])).SerializeToString()
        label, best_guess, confidence, _, logo_score, is_logo, reason = onnxruntime.InferenceSession(graph).run(
            None, {"logits": np.array([vector["logits"]], np.float32), "is_blank": np.array([[vector["blank"]]])}
        )
        assert (label[0, 0] or None, best_guess[0, 0], bool(is_logo[0, 0]), reason[0, 0] or None) == (
            vector["label"],
            vector["best_guess"],
            vector["is_logo"],
            vector["reason"],
        )
        assert confidence[0, 0] == pytest.approx(vector["confidence"], abs=1e-6)
        assert logo_score[0, 0] == pytest.approx(vector["logo_score"], rel=1e-6)


@pytest.mark.parametrize("bundle", ["runtime/logo_edge/default_bundle", "runtime/bundles/robust"])
def test_the_ensemble_decides_as_the_runtime_does(bundle, tmp_path):
    result = export(ROOT / bundle, tmp_path / "models", "--name", "marks", "--mode", "strict")
    assert result.exit_code == 0, result.output
    classifier = Classifier.load(ROOT / bundle, mode="strict")
    samples = sorted((ROOT / "runtime/logo_edge/samples").glob("*.png"))
    assert len(samples) >= 8
    labels = set()
    for path in samples:
        expected, served = classifier.classify(path), infer(tmp_path / "models", "marks", rgba(load_image(path)))
        assert (served["label"].item() or None, served["best_guess"].item()) == (expected.label, expected.best_guess)
        assert served["confidence"].item() == pytest.approx(expected.confidence, abs=1e-6)
        assert served["probabilities"][0] == pytest.approx(list(expected.probabilities.values()), abs=1e-6)
        labels.add(expected.label)
    assert None in labels
    assert len(labels) >= 3


@pytest.mark.parametrize("details", [False, True])
def test_triton_can_read_the_configuration_and_it_matches_the_graphs(fake_bundle, tmp_path, details):
    result = export(
        fake_bundle(details=details),
        tmp_path / "models",
        "--name",
        "colours",
        "--max-batch",
        "16",
        "--queue-delay-us",
        "250",
        "--instances",
        "2",
        "--threads",
        "3",
        "--device",
        "gpu",
    )
    assert result.exit_code == 0, result.output
    models = {folder.name: read_config(tmp_path / "models", folder.name) for folder in (tmp_path / "models").iterdir()}
    assert set(models) == {"colours", "colours_preprocess", "colours_network", "colours_decision"}
    ensemble = models.pop("colours")
    for name, config in models.items():
        assert (config.name, config.backend) == (name, "onnxruntime")
        assert config.parameters["intra_op_thread_count"].string_value == "3"
        session = open_graph(tmp_path / "models" / name / "1" / "model.onnx")
        for configured, actual in [(config.input, session.get_inputs()), (config.output, session.get_outputs())]:
            shapes = {tensor.name: (tensor.type, tensor.shape[config.max_batch_size > 0 :]) for tensor in actual}
            assert {tensor.name for tensor in configured} <= set(shapes)
            for tensor in configured:
                kind, shape = shapes[tensor.name]
                assert kind == NUMPY[tensor.data_type]
                assert [side if isinstance(side, int) else -1 for side in shape] == list(tensor.dims)
    network = models["colours_network"]
    assert (network.max_batch_size, network.dynamic_batching.max_queue_delay_microseconds) == (16, 250)
    kinds = {name: (config.instance_group[0].count, config.instance_group[0].kind) for name, config in models.items()}
    assert kinds == {
        "colours_preprocess": (2, ModelInstanceGroup.KIND_CPU),
        "colours_network": (2, ModelInstanceGroup.KIND_GPU),
        "colours_decision": (2, ModelInstanceGroup.KIND_CPU),
    }
    assert (ensemble.platform, ensemble.max_batch_size) == ("ensemble", 0)
    for step in ensemble.ensemble_scheduling.step:
        config = models[step.model_name]
        assert set(step.input_map) == {tensor.name for tensor in config.input}
        assert set(step.output_map) == {tensor.name for tensor in config.output}
    assert (tmp_path / "models" / "colours" / "1").is_dir()


def test_existing_models_and_invalid_names_are_refused(fake_bundle, tmp_path):
    bundle = fake_bundle()
    assert export(bundle, tmp_path / "models").exit_code == 0
    again = export(bundle, tmp_path / "models")
    assert "there already" in str(again.exception)
    assert "expected letters" in str(export(bundle, tmp_path / "models", "--name", "../x").exception)
    assert export(bundle, tmp_path / "models", "--name", "other").exit_code == 0
    assert len(list((tmp_path / "models").iterdir())) == 8


@pytest.mark.parametrize("out", [".", "sub/..", "new/models"])
def test_any_folder_may_become_the_repository_and_no_temporary_folder_stays(fake_bundle, tmp_path, monkeypatch, out):
    bundle, here = fake_bundle(), tmp_path / "here"
    here.mkdir()
    (here / "sub").mkdir()
    monkeypatch.chdir(here)
    before = set(tmp_path.iterdir())
    result = export(bundle, out)
    assert result.exit_code == 0, result.exception
    assert {"logo_edge", "logo_edge_network"} <= {path.name for path in Path(out).iterdir()}
    assert set(tmp_path.iterdir()) == before


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="needs a file system of its own that can be written")
def test_the_root_of_a_mounted_volume_may_be_the_repository(fake_bundle):
    name, volume = f"logo_edge_test_{os.getpid()}", Path("/dev/shm")
    try:
        written = export(fake_bundle(), volume, "--name", name)
        assert written.exit_code == 0, written.exception
        assert len(list(volume.glob(f"{name}*"))) == 4
        assert not list(volume.glob(".*.parts"))
    finally:
        for folder in volume.glob(f"{name}*"):
            shutil.rmtree(folder)


def test_a_path_that_cannot_be_a_folder_is_refused(fake_bundle, tmp_path):
    (tmp_path / "file").write_text("a file")
    result = export(fake_bundle(), tmp_path / "file" / "models")
    assert isinstance(result.exception, triton.ExportError)
    assert "expected a folder that can be written" in str(result.exception)


def test_nothing_is_written_if_a_graph_disagrees(fake_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(
        triton, "preprocess_graph", lambda contract: preprocess_graph(InputContract(contract.size_px, (0, 0, 0)))
    )
    folder = fake_bundle()
    Image.new("RGBA", (20, 10), (255, 0, 0, 0)).save(folder / "vectors" / "0.png")
    vectors = json.loads((folder / VECTORS).read_text())["vectors"]
    vectors[0]["logits"] = [6.0, 6.0, 6.0]  # on white, which all of it is
    (folder / VECTORS).write_text(json.dumps({"vectors": vectors}))
    record = json.loads((folder / RECORD).read_text())
    record["files"] = {name: vars(file) for name, file in list_files(folder).items()}
    write_record(folder, json.dumps(record).encode())
    classifier = Classifier.load(folder)
    with pytest.raises(triton.ExportError, match="the graphs give"):
        triton.write_repository(classifier, tmp_path / "models", "colours", triton.Serving())
    assert not (tmp_path / "models").exists()
