"""The shipped bundle on LiteRT and on TensorFlow Lite for Microcontrollers: exported, verified, opened, classified."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from started import cores_of_started_threads
from typer.testing import CliRunner

import logo_edge
from logo_edge import BundleError, Classifier
from logo_edge.backends.base import ModelFile, Resources
from logo_edge.backends.choose import open_backend
from logo_edge.bundle.record import DEFAULT_BUNDLE, read_bundle
from logo_edge.errors import ExportError, MissingExtraError
from logo_edge.images.load import load_image
from logo_edge.preprocess import preprocess
from logo_edge_compress.commands import export
from logo_edge_compress.convert.export import export_artifact
from logo_edge_compress.convert.request import Images
from logo_edge_compress.convert.source import read_source
from logo_edge_compress.convert.tflm import CHIPS
from logo_edge_compress.verify import compare_steps

RUNTIME = Path(logo_edge.__file__).parent
SAMPLES = sorted((RUNTIME / "samples").glob("*.png"))


@pytest.fixture(scope="module")
def source():
    return read_source(RUNTIME / "default_bundle")


@pytest.fixture(scope="module")
def images(source) -> Images:
    drawings = np.stack([preprocess(load_image(path), source.input) for path in SAMPLES])
    turned = [np.rot90(drawings, turns, (1, 2)) for turns in range(4)]
    return Images(drawings, np.concatenate(turned), whole_val=True)


@pytest.fixture(scope="module")
def exported(source, images, tmp_path_factory) -> tuple[Path, dict]:
    """The INT8 artifact of the shipped bundle, and its record."""
    folder = tmp_path_factory.mktemp("litert")
    record = export_artifact(source, "litert", "int8", None, folder, images, say=print)
    return folder / "default-int8-litert.tflite", record


def test_the_shipped_bundle_is_reproduced_to_the_step_and_may_share_its_calibration(exported):
    _, record = exported
    steps = record["steps"]
    assert steps["images"] == 4 * len(SAMPLES)
    assert steps["top1_agreement"] == 1
    assert steps["largest"] <= 1
    assert steps["equal_share"] >= 0.9
    assert steps["shares_calibration"] == (steps["equal_share"] >= 0.97)
    assert record["verified_by"] == "ai-edge-litert"


def test_the_command_says_whether_the_calibration_is_shared(tmp_path):
    for index, sample in enumerate(2 * SAMPLES):
        shutil.copy(sample, tmp_path / f"{index}.png")
    arguments = [str(RUNTIME / "default_bundle"), "--format", "litert", "--data", str(tmp_path), "--out", str(tmp_path)]
    result = CliRunner().invoke(export, arguments)
    assert result.exit_code == 0, result.output
    assert "off by 0 steps of quantization at most: it does not share its parent's calibration" in result.output
    record = json.loads((tmp_path / "default-int8-litert.json").read_text())
    assert record["steps"]["equal_share"] == 1, "but a folder is not val"


def test_only_what_is_equal_on_all_of_val_may_share_a_calibration():
    parent = np.float32(0.5) * np.arange(400, dtype=np.float32).reshape(100, 4)
    rows = np.arange(100)
    for changed, by, transfers in ((3, 0.5, True), (4, 0.5, False), (1, 1.0, False)):
        other = parent.copy()
        other[rows[:changed], 0] += np.float32(by)
        steps = compare_steps(parent, other, 0.5)
        assert (steps.equal_share, steps.largest) == (1 - changed / 100, round(by / 0.5))
        assert steps.is_transfer == transfers
    other = parent.copy()
    other[0, [2, 3]] = other[0, [3, 2]]
    steps = compare_steps(parent, other, 0.5)
    assert (steps.largest, steps.top1_agreement, steps.is_transfer) == (1, 0.99, False)


def test_litert_gives_the_golden_vectors_and_every_result_of_onnx_runtime(exported):
    path, _ = exported
    first, second = Classifier.load(None), Classifier.load(None, backend="litert", artifact=path)
    assert second.backend == "litert"
    assert second.run_vectors(rounds=3) >= 8
    for sample in SAMPLES:
        one, other = first.classify(sample), second.classify(sample)
        assert (one.label, one.best_guess, one.is_logo) == (other.label, other.best_guess, other.is_logo)
        assert one.confidence == pytest.approx(other.confidence, abs=0.01)
        assert one.epistemic == pytest.approx(other.epistemic, abs=0.01)
    pixels = np.stack([first.read_pixels(sample) for sample in SAMPLES])
    assert np.abs(first.embeddings(pixels) - second.embeddings(pixels)).max() < 0.5


@pytest.mark.parametrize("threads", [1, 2])
def test_eight_threads_that_share_it_get_what_one_gets_at_every_batch(exported, threads):
    classifier = Classifier.load(None, backend="litert", artifact=exported[0], threads=threads)
    random, contract = np.random.default_rng(0), classifier.bundle.input
    shape = contract.size_px, contract.size_px, contract.channels
    batches = [random.integers(0, 256, (1 + index % 3, *shape), np.uint8) for index in range(24)]
    expected = [classifier.logits(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(classifier.logits, batches))
    assert all(np.array_equal(one, other) for one, other in zip(results, expected, strict=True))


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_forked_child_classifies_as_its_parent_and_ends(exported, threads):
    program = """
import os, signal, sys
from logo_edge import Classifier
artifact, threads, image = sys.argv[1:]
classifier = Classifier.load(None, backend="litert", artifact=artifact, threads=int(threads))
before = classifier.classify(image).probabilities
if pid := os.fork():
    assert os.waitpid(pid, 0)[1] == 0
else:
    signal.alarm(60)
    sys.exit(classifier.classify(image).probabilities != before)
assert classifier.classify(image).probabilities == before
"""
    command = [sys.executable, "-c", program, str(exported[0]), threads, str(SAMPLES[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_litert_cannot_load_and_a_missing_library_are_named(exported, tmp_path, monkeypatch):
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(exported[0].read_bytes()[:2000])
    with pytest.raises(BundleError, match=r"broken\.tflite: LiteRT cannot load it"):
        Classifier.load(None, backend="litert", artifact=broken)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(MissingExtraError, match=r"logo-edge\[litert\]"):
        Classifier.load(None, backend="litert", artifact=exported[0])


def test_tflm_is_int8_of_one_image(source, images, tmp_path):
    for precision, batch in (("fp32", None), ("int8", 8)):
        with pytest.raises(ExportError, match="tflm is INT8 and takes one image"):
            export_artifact(source, "tflm", precision, batch, tmp_path, images, say=print)


@pytest.mark.slow
@pytest.mark.network
def test_a_microcontrollers_model_runs_in_tflm_and_its_c_array_is_the_model(source, images, tmp_path):
    record = export_artifact(source, "tflm", "int8", None, tmp_path, images, say=print)
    assert record["parity"]["top1_agreement"] >= 0.95
    assert record["batch"] == 1
    assert not record["steps"]["shares_calibration"], "TFLM's kernels round otherwise"
    arena = record["arena_bytes"]
    assert arena["total"] == arena["head"] + arena["tail"] > source.input.size_px**2 * source.input.channels
    assert "RP2350 (Pico 2)" in record["fits"]
    assert {"RP2040 (Pico)", "nRF52840"} <= CHIPS.keys() - set(record["fits"])
    model = (tmp_path / "default-int8-tflm.tflite").read_bytes()
    header = tmp_path / "default-int8-tflm.h"
    assert hashlib.sha256(model).hexdigest() in header.read_text()
    assert json.loads((tmp_path / "default-int8-tflm.json").read_text())["output"] == record["output"]
    if compiler := shutil.which("cc"):
        program = tmp_path / "dump.c"
        program.write_text(
            f'#include "{header.name}"\n#include <stdio.h>\n'
            "int main(void) { return fwrite(logo_edge_model, 1, sizeof logo_edge_model, stdout) == 0; }\n"
        )
        subprocess.run([compiler, "-std=c11", "-Wall", "-Werror", program, "-o", tmp_path / "dump"], check=True)
        assert subprocess.run([tmp_path / "dump"], capture_output=True, check=True).stdout == model


def test_its_threads_keep_to_the_cores_whoever_calls(exported):
    core, contract = min(os.sched_getaffinity(0)), read_bundle(DEFAULT_BUNDLE).input
    backend = open_backend("litert", ModelFile.read(exported[0]), Resources(threads=3, cores=(core,)))
    for batch in (1, 2):  # another batch may start other threads
        pixels = np.zeros((batch, contract.size_px, contract.size_px, contract.channels), np.uint8)
        cores = cores_of_started_threads(lambda pixels=pixels: backend.run(pixels, ["logits"]))
        assert cores == [{core}] * len(cores)
        assert len(cores) >= 2
