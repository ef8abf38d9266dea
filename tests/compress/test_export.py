"""`logo-edge export`: every format agrees with its parent, or is not written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner

import logo_edge
import logo_edge_compress
from logo_edge.backends import tensorrt as backend
from logo_edge.bundle.record import read_bundle, write_bundle_record, write_record
from logo_edge.errors import BundleError, DatasetError, ExportError, MissingExtraError, VerificationError
from logo_edge.preprocess import InputContract
from logo_edge_compress.commands import export
from logo_edge_compress.convert import export as exporting
from logo_edge_compress.convert import tensorrt as engine
from logo_edge_compress.convert.export import export_artifact
from logo_edge_compress.convert.request import Images
from logo_edge_compress.convert.source import Source, read_images, read_source
from logo_edge_compress.onnx.export import export_module, export_onnx
from logo_edge_compress.onnx.graph import OPSET, fix_batch, save_model, store_float16, to_tensorrt
from logo_edge_compress.quantize.static import quantize_body, round_body
from logo_edge_compress.verify import open_onnx, run_artifact, run_onnx
from logo_edge_train.checkpoints import save_member
from logo_edge_train.data.manifest import FILES, LogoRow, read_manifest, write_manifest
from logo_edge_train.keys import ROWS, file_hash, row_hashes
from logo_edge_train.models import LogoNetwork
from logo_edge_train.recipe_io import recipe_from_dict
from logo_edge_train.runs import write_json, write_run_record

MODEL, SIZE, CLASSES = "test_resnet", 32, ("bars", "disc", "word")
LOGOS = 24


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run as `logo-edge compress` leaves it, with a network that separates its logos well."""
    folder = tmp_path_factory.mktemp("exported") / "run"
    student = folder / "compress" / f"{MODEL}-{SIZE}"
    student.mkdir(parents=True)
    torch.manual_seed(0)
    network = LogoNetwork(MODEL, len(CLASSES)).eval()
    rows, random = [], np.random.default_rng(0)
    for index in range(2 * LOGOS):
        picture = np.full((40, 40, 3), 255, np.uint8)
        left, top = random.integers(2, 14, 2)
        picture[top : top + 20, left : left + 22] = random.integers(0, 256, 3)
        Image.fromarray(picture).save(folder / f"{index}.png")
        split = "val" if index % 2 else "train"
        rows.append(LogoRow(FILES, "", f"{index}.png", str(index), CLASSES[index % 3], (), True, split))
    write_manifest(folder / "manifest.csv", rows)
    manifest = read_manifest(folder / "manifest.csv")
    write_json(folder / ROWS, row_hashes(manifest, manifest.rows))
    pixels = read_images(folder / "manifest.csv", InputContract(SIZE)).fitting
    with torch.no_grad():
        spread = network(torch.from_numpy(pixels)).std(0)
        network.backbone.get_classifier().weight /= spread[:, None]
    sha256 = save_member(student / "student.safetensors", network)
    network.load_state_dict(
        {key: value.half().float() if value.ndim > 1 else value for key, value in network.state_dict().items()}
    )
    write_json(student / "student.json", {"student": f"{MODEL}@{SIZE}", "sha256": sha256, "history": []})
    export_onnx(network, SIZE, student / "student-fp32.onnx", body=student / "body.onnx")
    rounded = round_body(student / "body.onnx", pixels, student / "rounded.onnx", reduce_range=True)
    int8 = student / "student-int8-minmax.onnx"
    quantize_body(student / "body.onnx", rounded, pixels, SIZE, int8, method="minmax", reduce_range=True)
    graphs = {
        "fp32": str((student / "student-fp32.onnx").relative_to(folder / "compress")),
        "int8": str(int8.relative_to(folder / "compress")),
    }
    report = {"chosen": f"{MODEL}@{SIZE}", "graphs": graphs}
    write_json(folder / "compress" / "report.json", report)
    recipe = recipe_from_dict({"name": "tiny", "train": {"teachers": [f"{MODEL}@{SIZE}"], "pretrained": False}})
    write_run_record(
        folder,
        {
            "status": "finished",
            "classes": list(CLASSES),
            "recipe": asdict(recipe),
            "manifest": str(folder / "manifest.csv"),
            "members": [],
        },
    )
    return folder


@pytest.fixture(scope="module")
def source(run) -> Source:
    return read_source(run)


@pytest.fixture(scope="module")
def images(run, source) -> Images:
    return read_images(source.manifest, source.input)


def make(source, kind, precision, batch, out, images, messages=None):
    return export_artifact(
        source, kind, precision, batch, out, images, say=(messages if messages is not None else []).append
    )


@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        (kind, precision)
        for kind in ("onnx", "openvino", "tensorrt", "litert")
        for precision in ("fp32", "fp16", "int8")
    ],
)
def test_every_format_agrees_with_its_parent_and_leaves_a_record(source, images, tmp_path, kind, precision, batch):
    record = make(source, kind, precision, batch, tmp_path, images)
    assert record["parity"]["images"] == LOGOS
    assert record["parity"]["top1_agreement"] >= 0.95
    stem = f"run-{precision}-{'batch1-' if batch else ''}{kind}"
    assert json.loads((tmp_path / f"{stem}.json").read_text()) == json.loads(json.dumps(record))
    assert (record["format"], record["precision"], record["batch"]) == (kind, precision, batch or "dynamic")
    suffixes = {"openvino": ("xml", "bin"), "litert": ("tflite",)}.get(kind, ("onnx",))
    assert set(record["files"]) == {f"{stem}.{suffix}" for suffix in suffixes}
    for name, file in record["files"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == file["sha256"]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*record["files"], f"{stem}.json"}, "nothing temporary is left"


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(("kind", "library", "suffix"), [("ncnn", "ncnn", "bin"), ("mnn", "MNN", "mnn")])
def test_a_run_gives_ncnn_and_mnn_in_every_precision(source, images, tmp_path, kind, library, suffix, precision):
    pytest.importorskip(library, reason=f"needs {library}: make setup installs it")
    if (kind, precision) == ("mnn", "int8"):
        with pytest.raises(VerificationError, match="MNN's INT8 pools wrongly"):
            make(source, kind, precision, None, tmp_path, images)
        return
    record = make(source, kind, precision, None, tmp_path, images)
    assert record["parity"]["top1_agreement"] >= 0.95
    assert record["parity"]["mean_difference"] < {"fp32": 1e-3, "fp16": 0.01, "int8": 0.3}[precision]
    sizes = {name.rpartition(".")[2]: file["size_bytes"] for name, file in record["files"].items()}
    assert sizes.keys() == {suffix, *(["param"] if kind == "ncnn" else [])}
    fp32 = source.graphs["fp32"].stat().st_size
    assert sizes[suffix] < {"fp32": 1.1, "fp16": 0.6, "int8": 0.4}[precision] * fp32


def test_a_torchscript_module_gives_the_students_logits_at_any_batch(source, images, tmp_path):
    record = make(source, "torchscript", "fp32", None, tmp_path, images)
    module = torch.jit.load(tmp_path / "run-fp32-torchscript.pt")
    expected = run_onnx(source.graphs["fp32"], images.verifying[:5])
    assert record["verified_by"] == "torch"
    for count in (1, 5):
        logits = module(torch.from_numpy(images.verifying[:count])).numpy()
        assert np.abs(logits - expected[:count]).max() < 1e-3


def test_a_fixed_batch_is_in_the_graph_and_half_precision_halves_the_file(source, images, tmp_path):
    for precision, batch in (("fp32", 1), ("fp16", None)):
        make(source, "onnx", precision, batch, tmp_path, images)
    fixed, half = onnx.load(tmp_path / "run-fp32-batch1-onnx.onnx"), tmp_path / "run-fp16-onnx.onnx"
    assert [dim.dim_value for dim in fixed.graph.input[0].type.tensor_type.shape.dim] == [1, SIZE, SIZE, 3]
    assert [dim.dim_value for dim in fixed.graph.output[0].type.tensor_type.shape.dim] == [1, len(CLASSES)]
    assert half.stat().st_size < 0.62 * source.graphs["fp32"].stat().st_size
    assert open_onnx(half)(images.verifying).dtype == np.float32


def test_an_artifact_that_disagrees_is_not_written(source, images, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "to_float16", lambda model: negated(model))
    with pytest.raises(VerificationError, match=r"run-fp16-onnx\.onnx differs from its parent on 24 real images"):
        make(source, "onnx", "fp16", None, tmp_path, images)
    assert list(tmp_path.iterdir()) == []


def negated(model):
    (last,) = [node for node in model.graph.node if "logits" in node.output]
    last.output[0] = "upside_down"
    model.graph.node.append(helper.make_node("Neg", ["upside_down"], ["logits"], name="negate"))
    return model


def test_the_graph_for_tensorrt_quantizes_to_s8_about_zero_and_needs_nothing_that_tensorrt_lacks(source, images):
    parent = onnx.load(source.graphs["int8"])
    assert any("zero point of 0" in line for line in engine.unsupported_operators(parent)), "the bundle's own is U8"
    model = to_tensorrt(parent)
    assert engine.unsupported_operators(model) == []
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    points = [
        kinds[node.input[2]] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    assert len(points) > 10
    assert set(points) == {TensorProto.INT8}
    kernels = {
        tensor.name
        for tensor in parent.graph.initializer
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 4
    }
    assert kernels
    assert kernels <= set(kinds), "the weights are the very integers of the bundle"
    assert parent == onnx.load(source.graphs["int8"]), "the parent is left as it is"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda graph: setattr(graph.node[-1], "op_type", "NonsenseOp"), "NonsenseOp .*no such operator"),
        (lambda graph: setattr(graph.node[-1], "domain", "com.microsoft"), "no such operator"),
        (
            lambda graph: graph.node.remove(graph.node[0]) or graph.node[0].input.__setitem__(0, "pixels"),
            "only cast uint8",
        ),
        (lambda graph: graph.initializer.remove(first_weights(graph)), "constant weights"),
        (
            lambda graph: graph.node.append(helper.make_node("ReduceMean", ["logits", "logits"], ["mean"])),
            "'logits' as",
        ),
    ],
)
def test_what_tensorrt_would_refuse_is_named(source, change, complaint):
    model = to_tensorrt(onnx.load(source.graphs["fp32"]))
    assert engine.unsupported_operators(model) == []
    change(model.graph)
    assert any(re.search(complaint, line) for line in engine.unsupported_operators(model))
    model.opset_import[0].version = 25
    assert any("opset 25" in line for line in engine.unsupported_operators(model))
    assert OPSET in engine.OPSETS


def first_weights(graph):
    name = next(node.input[1] for node in graph.node if node.op_type == "Conv")
    return next(tensor for tensor in graph.initializer if tensor.name == name)


@pytest.mark.parametrize(
    ("scale", "complaint"),
    [(np.float32(0), "constants above 0"), (np.ones(8, np.float32), "activations with one scale")],
)
def test_a_scale_that_tensorrt_would_refuse_is_named(source, scale, complaint):
    model = to_tensorrt(onnx.load(source.graphs["int8"]))
    name = next(node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear")
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    tensor.CopyFrom(onnx.numpy_helper.from_array(scale, name))
    assert any(complaint in line for line in engine.unsupported_operators(model))


def test_a_device_exports_without_the_training_stack():
    absent = "import sys; sys.modules.update(dict.fromkeys(('scipy', 'sklearn', 'torch', 'torchvision', 'onnxscript')))"
    imports = "import logo_edge_compress.commands, logo_edge_compress.convert.export, logo_edge_compress.convert.source"
    subprocess.run([sys.executable, "-c", f"{absent}; {imports}"], check=True)


def test_an_engine_serves_one_gpu_one_tensorrt_and_one_model():
    names = {
        engine.engine_name(gpu, version, model)
        for gpu in ("NVIDIA Jetson Orin Nano", "Orin (nvgpu)")
        for version in ("10.3.0", "11.4.0")
        for model in (b"one", b"two")
    }
    assert len(names) == 8
    name = engine.engine_name("Orin (nvgpu)", "10.3.0", b"one")
    assert name == engine.engine_name("Orin (nvgpu)", "10.3.0", b"one")
    assert name.startswith("orin-nvgpu-trt10.3.0-")


def test_the_trtexec_line_names_shapes_only_where_the_batch_is_free(source):
    free = onnx.load(source.graphs["fp32"])
    line = engine.trtexec_line(free, Path("there/model.onnx"), "model.engine")
    assert line.startswith("trtexec --onnx=model.onnx --stronglyTyped --saveEngine=model.engine --timingCacheFile=")
    assert f"--minShapes=pixels:1x{SIZE}x{SIZE}x3" in line
    assert f"--maxShapes=pixels:32x{SIZE}x{SIZE}x3" in line
    fixed = fix_batch(free, 1)
    assert "Shapes" not in engine.trtexec_line(fixed, Path("model.onnx"), "model.engine")


def test_without_tensorrt_the_graph_is_written_and_the_command_says_what_it_could_not_do(
    source, images, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    messages: list[str] = []
    record = make(source, "tensorrt", "int8", None, tmp_path, images, messages)
    assert record["engine"] is None
    assert "tensorrt" in record["not_done"]
    assert record["kept_range"] in engine.KEPT_RANGES
    (line,) = (line for line in messages if line.startswith("not done: no engine was built or run here"))
    assert "JetPack 6.1, 6.2 or 7" in line
    assert "strongly typed" in line
    assert any("trtexec --onnx=run-int8-tensorrt.onnx" in line for line in messages)


def test_an_engine_that_disagrees_is_deleted_with_its_graph(source, images, tmp_path, monkeypatch):
    def build(path, folder):
        folder.mkdir(parents=True)
        (folder / "made.engine").write_bytes(b"plan")
        return folder / "made.engine"

    monkeypatch.setattr(engine, "why_no_engine", str)
    monkeypatch.setattr(engine, "build_engine", build)
    monkeypatch.setattr(engine, "open_artifact", lambda *_: lambda pixels: np.zeros((len(pixels), 3), np.float32))
    with pytest.raises(VerificationError, match=r"made\.engine differs"):
        make(source, "tensorrt", "fp32", None, tmp_path, images)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    parent = open_onnx(source.graphs["fp32"])
    (tmp_path / "engines").rmdir()
    monkeypatch.setattr(engine, "open_artifact", lambda *_: parent)
    record = make(source, "tensorrt", "fp32", None, tmp_path, images)
    assert record["engine"]["file"] == "engines/made.engine"
    assert record["engine"]["parity"]["images"] == LOGOS


def test_missing_libraries_are_named_with_their_extra(source, images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"logo-edge\[openvino\]"):
        make(source, "openvino", "int8", None, tmp_path, images)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"logo-edge\[tensorrt\]"):
        engine.build_engine(source.graphs["fp32"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_tensorrt_code_fits_the_stubs_of_its_library(tmp_path):
    assert find_spec("tensorrt_stubs"), "pip install -c constraints.txt --no-deps tensorrt-stubs, as the Makefile does"
    wrong = {
        engine: (("builder.create_network(", "builder.make_network("), ("STRONGLY_TYPED", "LOOSELY_TYPED")),
        backend: (("engine.num_io_tensors", "engine.num_tensors"), ("TensorIOMode.OUTPUT", "TensorIOMode.OUT")),
    }
    own = tmp_path / "own.py"
    for module, replacements in wrong.items():
        source = Path(module.__file__).read_text()
        own.write_text(source)
        assert type_errors(own) == []
        for right, mistaken in replacements:
            own.write_text(source.replace(right, mistaken))
            (error,) = type_errors(own)
            assert "is unknown" in error, mistaken


def type_errors(path: Path) -> list[str]:
    """basedpyright's errors of one file; mypy cannot read the stubs, which have flaws of syntax."""
    rooms = [str(Path(module.__file__).resolve().parents[1]) for module in (logo_edge, logo_edge_compress)]
    settings = {
        "include": [path.name],
        "extraPaths": rooms,
        "typeCheckingMode": "standard",
        "reportMissingModuleSource": False,
    }
    (path.parent / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [
        sys.executable,
        "-m",
        "basedpyright",
        "--outputjson",
        "--pythonpath",
        sys.executable,
        "-p",
        str(path.parent),
    ]
    report = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    assert report["summary"]["filesAnalyzed"] == 1
    return [diagnostic["message"] for diagnostic in report["generalDiagnostics"] if diagnostic["severity"] == "error"]


@pytest.mark.parametrize(("kind", "precision"), [("onnx", "fp16"), ("openvino", "fp32"), ("tensorrt", "fp16")])
def test_a_bundle_in_fp16_which_computes_in_fp32_is_exported_as_one(fake_bundle, tmp_path, kind, precision):
    folder = fake_bundle()
    record = json.loads((folder / "bundle.json").read_text())
    path = folder / record["model"]["file"]
    save_model(store_float16(onnx.load(path)), path)
    record["model"]["precision"] = "fp16"
    data = path.read_bytes()
    record["files"][path.name] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    write_record(folder, json.dumps(record).encode())
    images = Images(*(np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8) for _ in range(2)))
    assert make(read_source(folder), kind, precision, None, tmp_path, images)["parity"]["top1_agreement"] == 1


def test_a_bundle_gives_what_it_holds_and_says_where_the_rest_is(fake_bundle, tmp_path):
    source = read_source(fake_bundle())
    assert list(source.graphs) == ["fp32"]
    images = Images(*(np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8) for _ in range(2)))
    assert make(source, "onnx", "fp32", None, tmp_path, images)["parity"]["images"] == 9
    with pytest.raises(ExportError, match=r"holds its model in fp32 only.*logo-edge export RUN"):
        make(source, "onnx", "int8", None, tmp_path, images)
    with pytest.raises(ExportError, match="TorchScript is made from a run"):
        make(source, "torchscript", "fp32", None, tmp_path, images)
    with pytest.raises(ExportError, match="neither a bundle"):
        read_source(tmp_path)
    damaged = fake_bundle()
    (damaged / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError):
        read_source(damaged)


def test_a_model_that_is_swapped_after_its_bundle_was_read_is_not_exported(fake_bundle, tmp_path):
    bundle = fake_bundle()
    source = read_source(bundle)
    (bundle / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes() + b"\x12\x00")
    images = Images(*(np.zeros((9, 16, 16, 3), np.uint8) for _ in range(2)))
    with pytest.raises(BundleError, match="model.onnx"):
        make(source, "onnx", "fp32", None, tmp_path / "out", images)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_export_on_a_full_disk_or_killed_at_its_end_leaves_no_record_of_the_files_of_two(
    fake_bundle, tmp_path, monkeypatch
):
    source, out = read_source(fake_bundle()), tmp_path / "out"
    images = Images(*(np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8) for _ in range(2)))
    record = make(source, "openvino", "fp32", None, out, images)
    earlier = dict.fromkeys((*record["files"], "fake-fp32-openvino.json"), b"of an earlier export")
    for name, content in earlier.items():
        (out / name).write_bytes(content)

    def fill_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(exporting, "write_file", fill_disk)
        with pytest.raises(OSError, match="No space left"):
            make(source, "openvino", "fp32", None, out, images)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == earlier
    renamed, replacing = [], os.replace

    def interrupt(part, path):
        if Path(path).parent == out and renamed:
            raise KeyboardInterrupt
        renamed.extend([path] * (Path(path).parent == out))
        replacing(part, path)

    with monkeypatch.context() as killed:
        killed.setattr(exporting.os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make(source, "openvino", "fp32", None, out, images)
    assert len(renamed) == 1
    assert [str(path) for path in out.iterdir()] == [str(path) for path in renamed], "nothing of the earlier export"
    again = make(source, "openvino", "fp32", None, out, images)["files"]
    assert {name: file_hash(out / name) for name in again} == {name: file["sha256"] for name, file in again.items()}


def test_a_folder_of_images_is_split_and_too_few_are_refused(tmp_path):
    contract = InputContract(16)
    for index in range(20):
        Image.new("RGB", (20, 20), (index, 0, 0)).save(tmp_path / f"{index:02}.png")
    images = read_images(tmp_path, contract)
    assert (images.fitting[:, 0, 0, 0].tolist(), images.verifying[:, 0, 0, 0].tolist()) == (
        list(range(0, 20, 2)),
        list(range(1, 20, 2)),
    )
    for index in range(10):
        (tmp_path / f"{index:02}.png").unlink()
    with pytest.raises(DatasetError, match="5 images to verify on"):
        read_images(tmp_path, contract)


def test_a_free_batch_is_verified_with_one_image_and_with_many():
    seen: list[int] = []

    def forward(pixels):
        seen.append(len(pixels))
        return np.zeros((len(pixels), 2), np.float32)

    assert run_artifact(forward, np.zeros((40, 4, 4, 3), np.uint8), None).shape == (40, 2)
    assert seen == [1, 32, 7]
    seen.clear()
    run_artifact(forward, np.zeros((3, 4, 4, 3), np.uint8), 1)
    assert seen == [1, 1, 1]


def test_what_the_new_exporter_cannot_do_is_traced_by_the_old_one(tmp_path, monkeypatch):
    whole = torch.onnx.export

    def failing(*args, dynamo, **options):
        if dynamo:
            raise torch.onnx.errors.OnnxExporterError("no such operator")
        return whole(*args, dynamo=dynamo, **options)

    torch.manual_seed(0)
    network, planes = LogoNetwork(MODEL, 3).eval(), torch.rand(2, 3, SIZE, SIZE)
    monkeypatch.setattr(torch.onnx, "export", failing)
    with pytest.warns(UserWarning, match="the new exporter failed: no such operator"):
        export_module(network.backbone, planes, tmp_path / "traced.onnx")
    with torch.no_grad():
        expected = network.backbone(planes).numpy()
    assert np.abs(open_onnx(tmp_path / "traced.onnx")(planes.numpy()) - expected).max() < 1e-4
    assert open_onnx(tmp_path / "traced.onnx")(planes.numpy()[:1]).shape == (1, 3)


def test_the_command_says_what_was_written_and_verified(run, tmp_path):
    result = CliRunner().invoke(export, [str(run), "--format", "onnx", "--batch", "1", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "run-int8-batch1-onnx.onnx" in result.output
    assert f"verified on {LOGOS} images against student-int8-minmax.onnx: top-1 agreement 100.0%" in result.output
    for arguments, complaint in (
        (["--format", "tflite"], "expected one of onnx, openvino"),
        (["--format", "onnx", "--precision", "int4"], "expected one of fp32"),
        (["--format", "onnx", "--batch", "0"], "expected dynamic, or a number"),
    ):
        result = CliRunner().invoke(export, [str(run), *arguments, "--out", str(tmp_path)])
        assert result.exit_code == 2
        assert complaint in " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("../../out", "out"),
        ("/a b\n\0c", "a-b-c"),
        ("..", "unnamed"),
        ("\u00e9" * 300, "\u00e9" * 60),
        ("v1.2+a_b", "v1-2+a_b"),
    ],
)
def test_a_bundles_name_leads_to_no_other_folder(fake_bundle, tmp_path, name, written):
    folder, out = fake_bundle(), tmp_path / "there" / "out"
    bundle = replace(read_bundle(folder), name=name)
    write_bundle_record(bundle)
    images = Images(*(np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8) for _ in range(2)))
    record = make(read_source(folder), "onnx", "fp32", None, out, images)
    assert record["source"] == name
    assert list(record["files"]) == [f"{written}-fp32-onnx.onnx"]
    assert sorted(path.name for path in out.iterdir()) == [f"{written}-fp32-onnx.json", f"{written}-fp32-onnx.onnx"]
    assert list(out.parent.iterdir()) == [out]


def test_exports_at_once_to_one_folder_leave_a_record_of_the_files_of_one(
    fake_bundle, fake_model, tmp_path, monkeypatch
):
    """The second process replaces files while the first one does: it waits."""
    images = Images(*(np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8) for _ in range(2)))
    sources = [read_source(fake_bundle()), read_source(fake_bundle(model=fake_model(epistemic=True)))]
    replacing, slowly = os.replace, threading.Barrier(2)

    def replace_slowly(part, path):
        replacing(part, path)
        if Path(path).parent == tmp_path / "out":
            with suppress(threading.BrokenBarrierError):
                slowly.wait(2)  # both have replaced a file, if both may

    monkeypatch.setattr(exporting.os, "replace", replace_slowly)
    exports = [
        threading.Thread(target=make, args=(source, "onnx", "fp32", None, tmp_path / "out", images))
        for source in sources
    ]
    for thread in exports:
        thread.start()
    for thread in exports:
        thread.join()
    record = json.loads((tmp_path / "out" / "fake-fp32-onnx.json").read_text())
    assert {name: file_hash(tmp_path / "out" / name) for name in record["files"]} == {
        name: file["sha256"] for name, file in record["files"].items()
    }
