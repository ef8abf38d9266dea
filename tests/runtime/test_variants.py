"""A bundle may carry its network in several precisions and formats; `auto` takes the quickest that agrees here."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from logo_edge import Classifier, machine, timing
from logo_edge.bundle.record import VECTORS, VariantEntry, list_files, read_bundle, write_bundle_record, write_record
from logo_edge.errors import BundleError
from logo_edge.files import json_text

FILE, OWN_VECTORS = "variants/double.onnx", "variants/double.json"


@pytest.fixture
def carrying(fake_bundle, fake_model):
    """A function that gives the folder of a bundle with a variant of doubled logits and a temperature of 2."""

    def make(*, vectors_scale: float = 2.0, **options):
        folder = fake_bundle(**options)
        (folder / FILE).parent.mkdir()
        model = onnx.load_from_string(fake_model())
        weights = model.graph.initializer[0]
        weights.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weights), weights.name))
        onnx.save(model, folder / FILE)
        vectors = json.loads((folder / VECTORS).read_text())
        for vector in vectors["vectors"]:
            vector["logits"] = [vectors_scale * logit for logit in vector["logits"]]
        (folder / OWN_VECTORS).write_text(json_text(vectors))
        bundle = read_bundle(folder)
        calibration = replace(
            bundle.calibration,
            temperature=2.0,
            abstain_below={**bundle.calibration.abstain_below, "balanced": 0.6, "strict": 0.7},
        )
        variant = VariantEntry(FILE, "fp32", OWN_VECTORS, calibration)
        write_bundle_record(replace(bundle, variants=(variant,), files=list_files(folder)))
        return folder

    return make


@pytest.fixture
def quickest(monkeypatch):
    """A function that makes one choice the quickest; the list of all measurements."""
    measured = []

    def take(name: str):
        def measure(calls):
            measured.append(sorted(calls))
            return {choice: 1.0 if choice == name else 2.0 for choice in calls}

        monkeypatch.setattr(timing, "measure_by_turns", measure)
        return measured

    return take


def test_the_quickest_that_agrees_runs_with_its_own_calibration_and_is_remembered(carrying, quickest):
    measured, folder = quickest(f"{FILE}, onnxruntime"), carrying()
    classifier = Classifier.load(folder, backend="auto")
    assert (classifier.bundle.model.file, classifier.backend) == (FILE, "onnxruntime")
    assert (classifier.bundle.calibration.temperature, classifier.threshold) == (2.0, 0.6)
    own, picture = Classifier.load(folder), np.full((9, 9, 3), (200, 90, 30), np.uint8)
    assert (own.bundle.model.file, own.threshold) == ("model.onnx", 0.5)
    assert classifier.classify(picture).probabilities == pytest.approx(own.classify(picture).probabilities, abs=1e-5)
    assert classifier.model_sha256 != own.model_sha256
    copied = pickle.loads(pickle.dumps(classifier))
    assert copied.bundle.model.file == FILE
    assert len(measured) == 1
    assert {"onnxruntime", f"{FILE}, onnxruntime"} <= set(measured[0])


def test_a_variant_that_fails_its_vectors_is_not_even_timed(carrying, quickest):
    measured, folder = quickest(f"{FILE}, onnxruntime"), carrying(vectors_scale=2.5)
    assert Classifier.load(folder, backend="auto").bundle.model.file == "model.onnx"
    assert not any(FILE in name for name in measured[0])


def test_a_variant_gives_no_embedding_and_says_how_to_get_one(carrying, quickest):
    quickest(f"{FILE}, onnxruntime")
    classifier = Classifier.load(carrying(embedding=True), backend="auto")
    with pytest.raises(BundleError, match="a variant gives no embedding; open the bundle's own model"):
        classifier.embeddings(np.zeros((1, 16, 16, 3), np.uint8))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"file": "absent.onnx"}, "listed files with listed vectors"),
        ({"vectors": "absent.json"}, "listed files with listed vectors"),
        ({"calibration": {}}, "abstain_below"),
        ({"precision": 8}, r"variants\[0\]\.precision is 8"),
    ],
)
def test_a_wrong_variant_stops_the_bundle_at_load(carrying, change, complaint):
    folder = carrying()
    record = json.loads((folder / "bundle.json").read_text())
    record["variants"][0] |= change
    write_record(folder, json_text(record).encode())
    with pytest.raises(BundleError, match=complaint):
        read_bundle(folder)


def test_calls_are_timed_by_turns():
    order = []
    times = timing.measure_by_turns(
        {name: lambda name=name: order.append(name) for name in "ab"}, rounds=3, runs=2, warmup_s=0.0
    )
    assert order == list("aabb" * 3)
    assert set(times) == {"a", "b"}


def test_a_variant_of_a_kind_that_this_release_does_not_know_is_left_out(carrying, quickest):
    measured, folder = quickest("onnxruntime"), carrying()
    bundle = read_bundle(folder)
    (folder / "variants" / "later.h5").write_bytes(b"model")
    later = replace(bundle.variants[0], file="variants/later.h5")
    write_bundle_record(replace(bundle, variants=(*bundle.variants, later), files=list_files(folder)))
    assert Classifier.load(folder, backend="auto").bundle.model.file == "model.onnx"
    assert f"{FILE}, onnxruntime" in measured[0]


def test_a_choice_is_not_that_of_a_bundle_with_the_two_models_exchanged(carrying, quickest):
    measured, folder = quickest("onnxruntime"), carrying()
    assert Classifier.load(folder, backend="auto").bundle.model.file == "model.onnx"
    bundle = read_bundle(folder)
    own, other = (folder / name for name in ("model.onnx", FILE))
    contents = own.read_bytes(), other.read_bytes()
    other.write_bytes(contents[0]), own.write_bytes(contents[1])
    own, other = (folder / name for name in (VECTORS, OWN_VECTORS))
    contents = own.read_bytes(), other.read_bytes()
    other.write_bytes(contents[0]), own.write_bytes(contents[1])
    variant = replace(bundle.variants[0], calibration=bundle.calibration)
    exchanged = replace(
        bundle, calibration=bundle.variants[0].calibration, variants=(variant,), files=list_files(folder)
    )
    write_bundle_record(exchanged)
    quickest(f"{FILE}, onnxruntime")
    assert Classifier.load(folder, backend="auto").bundle.model.file == FILE
    assert len(measured) == 2


def test_a_choice_is_not_that_of_another_kind_of_core(carrying, quickest, monkeypatch):
    """ARM cores have no model name: two boards with one home folder differ by the rest of their description."""
    measured, folder = quickest("onnxruntime"), carrying()
    for part in ("0xd08", "0xd0b", "0xd0b"):
        monkeypatch.setattr(machine, "describe_core", lambda part=part: {"CPU part": part, "Features": "fp asimd"})
        Classifier.load(folder, backend="auto")
    assert len(measured) == 2


def test_of_equally_quick_ones_the_bundles_own_model_runs(carrying, quickest):
    quickest("none")
    classifier = Classifier.load(carrying(), backend="auto")
    assert (classifier.bundle.model.file, classifier.backend) == ("model.onnx", "onnxruntime")


START = """
import os, signal, sys
from logo_edge import Classifier
from logo_edge.backends.choose import BACKENDS
from logo_edge.backends.onnxruntime import OnnxRuntime

class Crashing(OnnxRuntime):  # in the given method of the backend "openvino", whose library is installed here
    def __init__(self, *options):
        self.runs = 0
        if WHEN == "opened":
            os.kill(os.getpid(), signal.SIGSEGV)
        super().__init__(*options)

    def run(self, *options):
        self.runs += 1
        if WHEN == "timed" and self.runs > 40:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().run(*options)

bundle, WHEN = sys.argv[1:]
BACKENDS["openvino"] = Crashing
print(Classifier.load(bundle, backend="auto").backend)
"""


@pytest.mark.parametrize(
    ("when", "complaint"),
    [("opened", "openvino is left out"), ("timed", "onnxruntime runs, and no comparison with openvino")],
)
def test_a_library_that_crashes_ends_one_start_and_is_left_out_of_the_next(
    fake_bundle, tmp_path, monkeypatch, when, complaint
):
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    start = [sys.executable, "-c", START, fake_bundle(), when]
    crashed, next_one, third = (subprocess.run(start, capture_output=True, text=True, timeout=120) for _ in range(3))
    assert (crashed.returncode, crashed.stdout) == (-signal.SIGSEGV, "")
    assert (next_one.returncode, next_one.stdout) == (0, "onnxruntime\n"), next_one.stderr
    assert f"{complaint}: an earlier process ended while it tried that" in next_one.stderr
    assert f"delete {tmp_path / 'cache' / 'trials'} and backends.json" in next_one.stderr
    assert (third.stdout, third.stderr) == ("onnxruntime\n", ""), "the choice is remembered"


def test_no_note_of_a_trial_stays_where_no_process_ends(carrying, quickest, findings):
    quickest(f"{FILE}, onnxruntime")
    assert Classifier.load(carrying(), backend="auto").bundle.model.file == FILE
    assert list((findings.parent / "trials").iterdir()) == []
