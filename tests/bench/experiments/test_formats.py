"""The experiment `formats`, on the default bundle and a few drawings; its tables, from made-up rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import logo_edge
from logo_edge.images.load import load_image
from logo_edge.preprocess import preprocess
from logo_edge_bench.experiments import compression_tables, formats
from logo_edge_compress.convert.export import FORMATS
from logo_edge_compress.convert.request import Images
from logo_edge_compress.convert.source import Source, read_source
from logo_edge_compress.onnx.dequantize import to_float
from logo_edge_compress.onnx.graph import save_model
from logo_edge_compress.timing import Cost

PACKAGE = Path(logo_edge.__file__).parent
EMULATOR = "import sys\ncode = sys.argv.pop(3)\ndel sys.argv[:2]\nexec(code)\n"  # runs `-- -c CODE ARGUMENT` here


@pytest.fixture(scope="module")
def subject(tmp_path_factory) -> formats.Subject:
    packed, folder = read_source(PACKAGE / "default_bundle"), tmp_path_factory.mktemp("formats")
    drawings = np.stack([preprocess(load_image(path), packed.input) for path in sorted(PACKAGE.glob("samples/*.png"))])
    pixels = np.concatenate([drawings, drawings[:, ::-1]])
    save_model(to_float(onnx.load(packed.graphs["int8"]))[0], folder / "fp32.onnx")
    graphs = {**packed.graphs, "fp32": folder / "fp32.onnx"}
    targets = np.arange(len(pixels)) % 4
    return formats.Subject(
        packed.bundle,
        Source("default", packed.input, graphs),
        None,
        Images(drawings, pixels, whole_val=True),
        dict.fromkeys(formats.SPLITS, pixels),
        dict.fromkeys(formats.SPLITS, targets),
        np.ones(len(pixels), bool),
        folder,
    )


@pytest.fixture
def out(subject, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(formats, "open_subject", lambda *_: (subject, "key"))
    return tmp_path / "formats.json"


def test_every_format_has_rows():
    assert set(FORMATS) <= formats.PRECISIONS_OF_FORMAT.keys()
    assert {"executorch", "coreml"} <= formats.PRECISIONS_OF_FORMAT.keys()


def test_the_bundles_own_graph_agrees_with_itself_shares_its_calibration_and_gives_its_vectors(subject):
    row = formats.measure_row(subject, "onnx", "int8")
    assert (row["parity"]["max_difference"], row["parity"]["images"]) == (0, 16)
    assert row["vectors"] == {"passes": 8}
    assert row["shares_calibration"]
    assert row["size_bytes"] == (subject.folder / row["artifact"]).stat().st_size
    assert row["test"]["count"] == 16
    some = replace(subject, images=replace(subject.images, whole_val=False))
    assert not formats.measure_row(some, "onnx", "int8")["shares_calibration"]
    assert not formats.measure_row(subject, "onnx", "fp32")["shares_calibration"], "another network"


def test_an_onnx_for_tensorrt_has_figures_of_onnx_runtime_and_no_vectors(subject):
    row = formats.measure_row(subject, "tensorrt", "fp16")
    assert (row["backend"], row["verified_by"]) == ("onnxruntime", "onnxruntime")
    assert "no engine was built or run" in row["vectors"]["refused"]
    assert row["parity"]["top1_agreement"] == 1


def test_a_format_that_is_not_there_has_its_reason(subject, monkeypatch):
    assert "is made from a run" in formats.measure_row(subject, "torchscript", "fp32")["refused"]
    monkeypatch.setattr(formats, "FORMATS", ("onnx",))
    assert formats.measure_row(subject, "litert", "int8") == {"refused": "`logo-edge export` has no such format"}


def test_rows_are_kept_failed_ones_are_tried_again_and_those_that_run_here_are_timed(out, subject, monkeypatch):
    asked = []

    def measure_row(subject, kind, precision):
        asked.append(f"{kind} {precision}")
        if kind == "mnn":
            return {"refused": "not installed"}
        vectors = {"refused": "no engine"} if kind == "tensorrt" else {"passes": 8}
        return {"backend": "onnxruntime", "artifact": "fp32.onnx", "parity": {}, "vectors": vectors}

    def measure_side_by_side(opened, logs):
        return {name: Cost(0.5, 0.6, 0.7, 0.8, 10, (0.5,), 90.0) for name in opened}

    monkeypatch.setattr(formats, "measure_row", measure_row)
    monkeypatch.setattr(formats, "measure_side_by_side", measure_side_by_side)
    rows = ["tensorrt int8", "onnx fp32", "mnn int8"]
    formats.measure(rows=rows, arm_images=0, out=out)
    formats.measure(rows=rows, arm_images=0, out=out)
    assert asked == ["onnx fp32", "mnn int8", "tensorrt int8", "mnn int8"]
    record = json.loads(out.read_text())
    assert list(record["rows"]) == ["onnx fp32", "mnn int8", "tensorrt int8"]
    assert {name for name, row in record["rows"].items() if "cost" in row} == {"onnx fp32"}
    assert record["rows"]["onnx fp32"]["cost"]["p50_ms"] == 0.5
    assert record["images"] == {"val": 16, "calib": 16, "test": 16}


def test_logits_on_arm_are_compared_with_those_here_and_a_crash_is_a_reason(subject, tmp_path, monkeypatch):
    row = formats.measure_row(subject, "onnx", "int8")
    monkeypatch.setattr(formats, "EMULATE", tmp_path / "emulate.py")
    formats.EMULATE.write_text(EMULATOR)
    checked = formats.check_on_arm(subject, row, 4)
    assert (checked["passes"], checked["images"], checked["max_difference"]) == (8, 4, 0)
    refused = formats.check_on_arm(subject, {**row, "artifact": "none.onnx"}, 4)
    assert "none.onnx: no such file" in refused["refused"]
    needs_torch = formats.check_on_arm(subject, {**row, "backend": "executorch"}, 4)
    assert needs_torch == {"refused": "not run: it needs PyTorch, which is not among the wheels of the emulated core"}
    formats.EMULATE.write_text("import os, sys\nprint('Illegal instruction', file=sys.stderr, flush=True)\nos.abort()")
    assert formats.check_on_arm(subject, row, 4)["refused"] == "status -6: Illegal instruction"


def made_up(**changes) -> dict:
    return {
        "parity": {"top1_agreement": 1.0, "mean_difference": 0.001, "max_difference": 0.033},
        "steps": {"equal_share": 0.97, "largest": 1, "top1_agreement": 1.0},
        "val_accuracy": {"value": 0.9},
        "test": {"accuracy": {"value": 0.889}, "ece_debiased": {"value": 0.037}},
        "shares_calibration": True,
        "size_bytes": 940_000,
        "vectors": {"passes": 8},
        **changes,
    }


def test_the_tables_show_figures_reasons_once_and_goals():
    rows = {
        "onnx fp32": made_up(val_accuracy={"value": 0.895}),
        "litert int8": made_up(cost={"p50_ms": 0.6}, arm={"passes": 8, "max_difference": 0.0}),
        "ncnn int8": made_up(shares_calibration=False, arm={"refused": "no wheel"}, cost={"refused": "it crashed"}),
        "executorch int8": {"refused": "no such format"},
        "executorch fp32": {"refused": "no such format"},
    }
    images = {"val": 744, "test": 1246}
    origin = {"machine": {"cpu": "a CPU", "isa": ["avx2"]}}
    result = {"bundle": "default", "precision": "int8", "images": images, "rows": rows, "provenance": origin}
    lines = compression_tables.formats(result).splitlines()
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines[2:7]}
    common = ["100.0%", "0.00100", "0.033", "97.0%", "88.9%"]
    assert cells["litert int8"] == [
        *common,
        "3.7% by the bundle's",
        "0.94",
        "0.60",
        "all 8",
        "all 8; differs by 0 at most",
    ]
    assert cells["ncnn int8"] == [*common, "3.7%", "0.94", "(1)", "all 8", "no (2)"]
    assert cells["onnx fp32"][-3:] == ["not timed", "all 8", "not run"]
    assert cells["executorch int8"][0] == cells["executorch fp32"][0] == "not made (3)"
    assert lines[-7] == "Medians on one thread, by turns; a CPU (avx2)."
    assert lines[-5:] == ["(1) it crashed", "", "(2) no wheel", "", "(3) no such format"]
    goals = [
        [cell.strip() for cell in line.split("|")[2:-1]]
        for line in compression_tables.format_goals(result).splitlines()
    ]
    assert goals[2:5] == [["97.0%", ">= 97 %"], ["1", "<= 1"], ["100.0%", "100 %"]]
    assert goals[5:8] == [["not measured", goal] for goal in (">= 97 %", "<= 1", "100 %")]
    assert goals[8] == ["+0.5 (90.0 / 89.5 %)", ">= -0.7"]
