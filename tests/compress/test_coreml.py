"""Core ML: the saved program, read back, has the weights, ports and operators that it should; it is not run here."""

from __future__ import annotations

import platform
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from logo_edge.bundle.record import DEFAULT_BUNDLE
from logo_edge.errors import ExportError, VerificationError
from logo_edge_compress.convert import coreml
from logo_edge_compress.convert.export import export_artifact
from logo_edge_compress.convert.request import Images
from logo_edge_compress.convert.source import Source, read_source
from logo_edge_compress.onnx.dequantize import to_float
from logo_edge_compress.onnx.graph import save_model
from logo_edge_compress.verify import run_onnx

STEM = "default-int8-coreml"


def export(
    out: Path, pixels: np.ndarray, precision: str = "int8", batch: int | None = None, say=lambda _: None
) -> dict:
    source, python = read_source(DEFAULT_BUNDLE), Path(sys.executable)
    return export_artifact(
        source, "coreml", precision, batch, out, Images(pixels, pixels), say=say, converter_python=python
    )


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    from logo_edge import Classifier

    classifier = Classifier.load()
    drawings = np.stack([classifier.read_pixels(path) for path in sorted((DEFAULT_BUNDLE / "vectors").glob("*.png"))])
    return np.concatenate([drawings, 255 - drawings])


@pytest.mark.slow
def test_the_saved_program_has_8_bit_weights_takes_a_picture_and_agrees_with_the_bundle(pixels, tmp_path):
    pytest.importorskip("coremltools")
    messages: list[str] = []
    record = export(tmp_path, pixels, say=messages.append)
    assert record["not_done"].startswith("not run: Core ML runs on Apple's systems alone")
    assert record["not_done"] in messages
    assert record["verified_by"] == "onnxruntime, on the program read back"
    assert record["ports"] == {
        "pixels": "multiArrayType",  # a picture of more than three planes is no image to Core ML
        "logits": "multiArrayType",
        "epistemic": "multiArrayType",
        "embedding": "multiArrayType",
    }
    operators = record["audit"]["operators"]
    convolutions, quantized = operators["conv"], operators["constexpr_affine_dequantize"]
    assert record["audit"]["layers"]["float16"] >= convolutions
    assert record["audit"]["bytes"]["int8"] > 10 * record["audit"]["bytes"]["float16"]
    assert quantized >= convolutions > 20
    assert set(record["files"]) == {f"{STEM}.mlpackage.zip", f"{STEM}-readback.onnx"}
    assert record["files"][f"{STEM}.mlpackage.zip"]["size_bytes"] < 1e6
    names = zipfile.ZipFile(tmp_path / f"{STEM}.mlpackage.zip").namelist()
    assert f"{STEM}.mlpackage/Data/com.apple.CoreML/weights/weight.bin" in names
    save_model(to_float(onnx.load(DEFAULT_BUNDLE / "model.onnx"))[0], tmp_path / "float.onnx")
    for output, most in (("logits", 0.6), ("epistemic", 0.1)):
        expected = run_onnx(tmp_path / "float.onnx", pixels, output=output)
        found = run_onnx(tmp_path / f"{STEM}-readback.onnx", pixels, output=output)
        assert np.abs(expected - found).max() < most, output


def test_what_core_ml_does_not_take_is_refused_before_the_work(pixels, tmp_path, monkeypatch):
    with pytest.raises(ExportError, match="takes one picture"):
        export(tmp_path, pixels, batch=8)
    with pytest.raises(ExportError, match="--precision fp32: coreml artifacts are fp16 or int8"):
        export(tmp_path, pixels, "fp32")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(ExportError, match=r"no package for Linux on aarch64; convert on Linux x86-64 or macOS"):
        export(tmp_path, pixels)


def test_nothing_is_written_beside_the_graph_of_a_run(pixels, tmp_path, monkeypatch):
    def read_the_graph(name: str, arguments: dict, folder: Path, **_) -> dict:
        model = onnx.load(arguments["graph"])
        assert not any(node.op_type == "QuantizeLinear" for node in model.graph.node)
        save_model(model, folder / f"{arguments['stem']}-readback.onnx")
        return {"operators": {}, "ports": {}, "layers": {}, "weights": {"classifier": "int8"}, "bytes": {}}

    monkeypatch.setattr(coreml, "run_converter", read_the_graph)
    graph = tmp_path / "run" / "student-int8.onnx"
    graph.parent.mkdir()
    graph.write_bytes((DEFAULT_BUNDLE / "model.onnx").read_bytes())
    source = Source("mine", read_source(DEFAULT_BUNDLE).input, {"int8": graph})
    images = Images(pixels, pixels)
    record = export_artifact(
        source, "coreml", "int8", None, tmp_path / "out", images, say=print, converter_python=Path(sys.executable)
    )
    assert list(record["files"]) == ["mine-int8-coreml-readback.onnx"]
    assert list(graph.parent.iterdir()) == [graph]


def test_a_program_whose_weights_are_others_is_not_written(pixels, tmp_path, monkeypatch):
    def write_another(name: str, arguments: dict, folder: Path, **_) -> dict:
        model = onnx.load(arguments["graph"])
        (weights,) = (
            tensor for tensor in model.graph.initializer if tensor.name.startswith("backbone.classifier.weight")
        )
        weights.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weights), weights.name))
        save_model(model, folder / f"{arguments['stem']}-readback.onnx")
        return {"operators": {}, "ports": {}, "layers": {}, "weights": {"classifier": "int8"}, "bytes": {}}

    monkeypatch.setattr(coreml, "run_converter", write_another)
    with pytest.raises(VerificationError, match="differs from its parent on 16 real images"):
        export(tmp_path, pixels)
    assert list(tmp_path.iterdir()) == []
