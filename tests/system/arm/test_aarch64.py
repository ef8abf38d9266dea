"""The runtime on an emulated ARM core: contract vectors to the byte, preprocess.c, golden vectors, the command."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from system.arm import emulate

from logo_edge import Classifier
from logo_edge.bundle.record import DEFAULT_BUNDLE
from logo_edge.images.load import load_image
from logo_edge.model import ARTIFACT_TOLERANCE
from logo_edge.preprocess import preprocess
from logo_edge_compress.convert.export import export_artifact
from logo_edge_compress.convert.flatbuffer import write_flatbuffer
from logo_edge_compress.convert.request import Images
from logo_edge_compress.convert.source import read_source

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(emulate.why_not()), reason=f"no emulated aarch64 here: {emulate.why_not()}"),
]


@pytest.fixture(scope="module", params=emulate.CPUS)
def cpu(request):
    return request.param


@pytest.fixture(scope="module")
def emulated(cpu):
    """The output of the guest's Python on one of the processors."""
    try:
        emulate.build()
    except SystemExit as error:
        pytest.skip(f"no emulated aarch64 here: the emulator or its packages cannot be fetched: {error}")

    def run(*arguments: str) -> str:
        done = emulate.run(*arguments, cpu=cpu, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout

    return run


def test_the_contract_vectors_hold_on_arm(cpu, emulated):
    text = emulated("-m", "pytest", "-q", "-p", "no:cacheprovider", *emulate.TESTS[cpu])
    passed = int(text.rpartition(" passed")[0].split()[-1])
    assert passed >= {emulate.FIRST: 200, "max": 50}[cpu], text


def test_the_doctor_finds_the_golden_vectors_hold_on_arm(emulated):
    imports = "import json; from logo_edge.cli.doctor import examine; from logo_edge.bundle.record import *"
    code = f"{imports}; print(json.dumps(examine(read_bundle(DEFAULT_BUNDLE))))"
    report = json.loads(emulated("-c", code).splitlines()[-1])
    assert report["machine"]["machine"] == "aarch64"
    assert "asimddp" in report["machine"]["isa"]
    assert report["backends"]["onnxruntime"] == {"passes": True, "vectors": 8, "kleidiai": True, "error": None}
    assert report["backends"].keys() == {"onnxruntime", "openvino"}
    assert report["healthy"] == report["backends"]["openvino"]["passes"]


def run_on_both(emulated, backend: str, artifact: Path, folder: Path) -> tuple[str, np.ndarray, np.ndarray | None]:
    """The guest's output, the (4, K) logits of this machine and of the guest; None where it refused the artifact."""
    pixels, logits = folder / "pixels.npy", folder / "logits.npy"
    classifier = Classifier.load(None, backend=backend, artifact=artifact)
    images = sorted((DEFAULT_BUNDLE / "vectors").glob("*.png"))[:2]
    images = np.stack([classifier.read_pixels(path) for path in images])
    np.save(pixels, np.concatenate([images, 255 - images]))
    code = f"""
import numpy as np
from logo_edge import BundleError, Classifier
try:
    classifier = Classifier.load(None, backend={backend!r}, artifact={str(artifact)!r})
except BundleError as error:
    print(error)
else:
    np.save({str(logits)!r}, classifier.logits(np.load({str(pixels)!r})))
"""
    text = emulated("-c", code)
    here = classifier.logits(np.load(pixels))
    assert here.shape == (4, 4)
    return text, here, np.load(logits) if logits.exists() else None


def test_litert_computes_on_arm_what_it_computes_here_or_is_refused(cpu, emulated, tmp_path):
    """LiteRT 2.3.0 gives other INT8 logits on an emulated core with SME; it is not known if QEMU 7 or LiteRT errs."""
    artifact = tmp_path / "model.tflite"
    artifact.write_bytes(write_flatbuffer(onnx.load(DEFAULT_BUNDLE / "model.onnx")))
    text, here, there = run_on_both(emulated, "litert", artifact, tmp_path)
    if cpu != emulate.FIRST and there is None:
        assert re.search(
            r"golden vector 01-simple\.png gives \w+ with logits off by [\d.]+; expected simple within", text
        )
        return
    assert np.array_equal(there, here)


@pytest.mark.parametrize(
    ("kind", "suffix", "tolerance"),
    [("ncnn", "param", 0.08), ("mnn", "mnn", 0.08), ("openvino", "xml", ARTIFACT_TOLERANCE)],
)
def test_other_runtimes_compute_on_arm_what_they_compute_here_or_are_refused(
    cpu, emulated, tmp_path, kind, suffix, tolerance
):
    """NCNN and MNN within two steps of the logits, OpenVINO as its golden vectors allow: it has other INT8 kernels.

    On an emulated core with i8mm, SVE 2 and SME, MNN 3.6.1 and OpenVINO 2026.4 are refused; who errs is not known.
    """
    source = read_source(DEFAULT_BUNDLE)
    images = np.stack(
        [preprocess(load_image(path), source.input) for path in (DEFAULT_BUNDLE / "vectors").glob("*.png")]
    )
    export_artifact(source, kind, "int8", None, tmp_path, Images(images, images), say=print)
    text, here, there = run_on_both(emulated, kind, tmp_path / f"default-int8-{kind}.{suffix}", tmp_path)
    if kind != "ncnn" and cpu != emulate.FIRST and there is None:
        assert "golden vector" in text
        return
    assert there is not None, text
    assert np.abs(there - here).max() < tolerance
    assert np.array_equal(there.argmax(1), here.argmax(1))


def test_the_command_classifies_on_arm_as_its_golden_vectors_say(emulated):
    folder = ROOT / "runtime/logo_edge/default_bundle/vectors"
    vectors = json.loads((folder / "vectors.json").read_text(encoding="utf-8"))["vectors"]
    code = "import platform, sys; assert platform.machine() == 'aarch64'; from logo_edge.cli.main import main; main()"
    records = json.loads(emulated("-c", code, "classify", "--json", str(folder)))
    by_name = {Path(record["path"]).name: record for record in records}
    assert len(vectors) >= 8
    for vector in vectors:
        record = by_name[Path(vector["image"]).name]
        assert (record["label"], record["best_guess"]) == (vector["label"], vector["best_guess"])
        assert record["confidence"] == pytest.approx(vector["confidence"], abs=0.02)
