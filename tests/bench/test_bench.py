"""`logo-edge bench`: accuracy and latency of one artifact in one run; documents show what was committed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from logo_edge import Classifier
from logo_edge.errors import DatasetError
from logo_edge.manifest import FILES, LogoRow, read_manifest, write_manifest
from logo_edge_bench.bench import bench_bundle, measure_bundle_latency
from logo_edge_bench.commands import bench

ROOT = Path(__file__).resolve().parents[2]


def test_accuracy_and_latency_come_from_the_same_run(labelled, tmp_path):
    bundle, manifest = labelled
    out = tmp_path / "result.json"
    result = CliRunner().invoke(bench, [str(bundle), "--manifest", str(manifest), "--runs", "10", "--out", str(out)])
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text())
    assert figures["accuracy"]["count"] == 12
    assert figures["accuracy"]["accuracy"]["value"] == pytest.approx(10 / 12)
    assert figures["accuracy"]["accuracy_sure"]["value"] == pytest.approx(5 / 6)
    assert figures["latency"]["inference"]["runs"] == 10
    assert 0 < figures["latency"]["inference"]["p50_ms"] <= figures["latency"]["inference"]["p90_ms"]
    assert figures["process"]["classify_one_png_s"] > 0
    assert figures["machine"]["onnxruntime"]


def test_both_decoders_are_measured_where_both_are_installed(labelled, tmp_path):
    latency = measure_bundle_latency(Classifier.load(labelled[0]), [tmp_path / "0.png"], runs=10)
    assert {"png_256px_end_to_end_pillow", "png_256px_end_to_end_fast", "jpeg_256px_end_to_end_fast"} <= set(latency)


def test_classes_that_are_not_the_bundles_are_named(labelled, tmp_path):
    write_manifest(tmp_path / "other.csv", [LogoRow(FILES, "", "0.png", "0", "zebra", (), True, "test")])
    with pytest.raises(DatasetError, match="classes zebra are not the bundle's"):
        bench_bundle(labelled[0], read_manifest(tmp_path / "other.csv"), tmp_path, split="test", runs=10)


def test_an_empty_split_is_named(labelled, tmp_path):
    with pytest.raises(DatasetError, match="split 'val' has no labelled logos"):
        bench_bundle(labelled[0], read_manifest(labelled[1]), tmp_path, split="val", runs=10)


def test_the_documents_tables_are_those_of_the_committed_results():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "tables.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_bench_room_needs_only_the_runtime():
    code = "import sys, logo_edge_bench.bench, logo_edge_bench.commands; print([m for m in ('torch', 'onnx', 'cv2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
