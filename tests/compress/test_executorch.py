"""ExecuTorch: the shipped bundle with its own scales, in one call of XNNPACK, behind the one protocol."""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import logo_edge
from logo_edge import BundleError, Classifier, LogoEdgeError
from logo_edge.backends.base import ModelFile, Resources
from logo_edge.backends.choose import open_backend
from logo_edge.bundle.record import DEFAULT_BUNDLE
from logo_edge.errors import ExportError, MissingExtraError
from logo_edge.preprocess import InputContract
from logo_edge_compress.convert import executorch
from logo_edge_compress.convert.export import export_artifact
from logo_edge_compress.convert.request import Images
from logo_edge_compress.convert.source import Source, read_source
from logo_edge_compress.onnx.graph import OPSET, save_model
from logo_edge_compress.verify import run_onnx

SAMPLES = sorted((Path(logo_edge.__file__).parent / "samples").glob("*.png"))
OUTPUTS = ("logits", "epistemic", "embedding")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def converter():
    pytest.importorskip("executorch.exir")


@pytest.fixture(scope="module")
def source() -> Source:
    return read_source(DEFAULT_BUNDLE)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """The drawings and their negatives."""
    classifier = Classifier.load()
    drawings = np.stack([classifier.read_pixels(path) for path in SAMPLES])
    return np.concatenate([drawings, 255 - drawings])


@pytest.fixture(scope="module")
def exported(source, pixels, tmp_path_factory) -> tuple[dict, Path]:
    """The record and the program of the shipped bundle."""
    out = tmp_path_factory.mktemp("executorch")
    record = export(source, out, pixels)
    return record, out / "default-int8-executorch.pte"


def export(source: Source, out: Path, pixels: np.ndarray, precision: str = "int8", batch: int | None = None) -> dict:
    images, python = Images(pixels, pixels), Path(sys.executable)
    return export_artifact(
        source, "executorch", precision, batch, out, images, say=lambda _: None, converter_python=python
    )


def test_the_shipped_bundle_keeps_its_scales_in_one_call_of_xnnpack(exported):
    record, _ = exported
    assert record["audit"]["operators"]["executorch_call_delegate"] == 1
    assert record["steps"]["equal_share"] >= 0.8
    assert record["steps"]["largest"] <= 1
    assert record["parity"]["top1_agreement"] == 1
    assert record["verified_by"] == "executorch"


def test_it_gives_the_golden_vectors_and_every_output_of_the_bundle(exported, pixels):
    classifier = Classifier.load(backend="executorch", artifact=exported[1], self_test=True)
    assert classifier.run_vectors() >= 8
    first = open_backend("onnxruntime", ModelFile.read(DEFAULT_BUNDLE / "model.onnx"), Resources())
    second = open_backend("executorch", ModelFile.read(exported[1]), Resources())
    assert second.outputs == frozenset(OUTPUTS)
    for name, one, other in zip(OUTPUTS, first.run(pixels, OUTPUTS), second.run(pixels, OUTPUTS), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert np.abs(one - other).mean() < 1e-2 * np.ptp(one), name
    drawing = classifier.classify(SAMPLES[0])
    assert drawing.epistemic == pytest.approx(Classifier.load().classify(SAMPLES[0]).epistemic, abs=0.01)


def test_batches_of_any_size_and_threads_that_share_it_get_what_one_image_gets(exported, pixels):
    backend = open_backend("executorch", ModelFile.read(exported[1]), Resources(threads=2))
    alone = [backend.run(image[None], ["logits"])[0] for image in pixels]
    assert len({logits.tobytes() for logits in alone}) > 8, "outputs are copies, not one buffer"
    assert np.array_equal(np.concatenate(alone), backend.run(pixels, ["logits"])[0])
    for threads in (1, 3, 2):  # another number replaces the threads that an open program uses
        other = open_backend("executorch", ModelFile.read(exported[1]), Resources(threads=threads))
        for program in (backend, other):
            assert np.array_equal(program.run(pixels[:1], ["logits"])[0], alone[0])
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda image: backend.run(image[None], ["logits"])[0], [*pixels] * 4))
    assert all(np.array_equal(one, other) for one, other in zip(results, alone * 4, strict=True))


def test_fp32_agrees_with_its_graph_and_a_fixed_batch_is_filled_up(tmp_path):
    random = np.random.default_rng(0)
    graph, pixels = write_graph(tmp_path / "tiny.onnx", random), random.integers(0, 256, (16, 16, 16, 3), np.uint8)
    record = export(Source("tiny", InputContract(16), {"fp32": graph}), tmp_path / "out", pixels, "fp32", batch=4)
    assert record["audit"]["layers"] == {"float32": 2}
    program = open_backend("executorch", ModelFile.read(tmp_path / "out/tiny-fp32-batch4-executorch.pte"), Resources())
    for count in (1, 4, 6):
        assert np.allclose(program.run(pixels[:count], ["logits"])[0], run_onnx(graph, pixels[:count]), atol=1e-4)


def write_graph(path: Path, random: np.random.Generator) -> Path:
    """A float graph with an uneven padding and a ReLU6."""
    constants = {
        "scale": np.float32(1 / 128),
        "mean": np.uint8(127),
        "kernel": random.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "low": np.float32(0),
        "high": np.float32(6),
        "axes": np.array([2, 3], np.int64),
        "shape": np.array([0, -1], np.int64),
        "weight": random.normal(size=(4, 8)).astype(np.float32),
        "bias": random.normal(size=4).astype(np.float32),
    }
    nodes = [
        helper.make_node("Transpose", ["pixels"], ["pixels_nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("DequantizeLinear", ["pixels_nchw", "scale", "mean"], ["planes"]),
        helper.make_node("Conv", ["planes", "kernel"], ["maps"], pads=[0, 0, 1, 1], strides=[2, 2]),
        helper.make_node("Clip", ["maps", "low", "high"], ["clipped"]),
        helper.make_node("ReduceMean", ["clipped", "axes"], ["means"]),
        helper.make_node("Reshape", ["means", "shape"], ["features"]),
        helper.make_node("Gemm", ["features", "weight", "bias"], ["logits"], transB=1),
    ]
    pixels = helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, ["batch", 16, 16, 3])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 4])
    tensors = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "tiny", [pixels], [logits], tensors)
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)]), path)
    return path


def test_a_forked_child_is_told_to_load_its_own(exported):
    classifier = Classifier.load(backend="executorch", artifact=exported[1])
    classifier.classify(SAMPLES[0])
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe()
    child = context.Process(target=_classify, args=(classifier, sender))
    child.start()
    assert receiver.poll(60)
    assert "load it in each process" in receiver.recv()
    child.join()


def _classify(classifier: Classifier, sender) -> None:
    try:
        sender.send(str(classifier.classify(SAMPLES[0])))
    except LogoEdgeError as error:
        sender.send(str(error))


def test_what_cannot_be_exported_or_opened_is_refused(source, pixels, tmp_path, monkeypatch, exported):
    with pytest.raises(ExportError, match="--precision fp16: executorch artifacts are fp32 or int8"):
        export(source, tmp_path, pixels, "fp16")
    monkeypatch.setattr(executorch, "run_converter", lambda *_, **__: {"operators": {"executorch_call_delegate": 2}})
    with pytest.raises(ExportError, match="calls XNNPACK 2 times; expected once"):
        export(source, tmp_path, pixels)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "broken.pte").write_bytes(exported[1].read_bytes()[:5000])
    with pytest.raises(BundleError, match="ExecuTorch cannot load it"):
        Classifier.load(backend="executorch", artifact=tmp_path / "broken.pte")
    monkeypatch.setitem(sys.modules, "executorch.extension.pybindings", None)
    with pytest.raises(MissingExtraError, match=r"logo-edge\[executorch\]"):
        Classifier.load(backend="executorch", artifact=exported[1])
