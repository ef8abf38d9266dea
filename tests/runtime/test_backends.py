"""Every backend gives the contract's vectors; a missing one names its extra; idle threads use no CPU."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from started import cores_of_started_threads

from logo_edge import BundleError, Classifier, LogoEdgeError
from logo_edge.backends import choose as backends
from logo_edge.backends.base import ModelFile, Resources
from logo_edge.backends.choose import open_backend
from logo_edge.bundle.record import list_files, read_bundle, write_bundle_record
from logo_edge.cache import cache_folder
from logo_edge.errors import MissingExtraError

ROOT = Path(__file__).parents[2]
COMMITTED = [None, ROOT / "runtime" / "bundles" / "robust"]


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def module(tmp_path) -> Path:
    """A TorchScript module that computes the same as the fake bundle's graph."""
    import torch

    class MeanColour(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.float().mean(dim=(1, 2)) * 6.0 / 255

    path = tmp_path / "model.pt"
    torch.jit.script(MeanColour()).save(str(path))
    return path


@pytest.mark.parametrize("bundle", COMMITTED)
@pytest.mark.parametrize("backend", backends.OWN_GRAPH)
def test_a_committed_bundle_gives_its_golden_vectors_on_every_backend_that_reads_its_graph(bundle, backend):
    classifier = Classifier.load(bundle, backend=backend)
    assert classifier.backend == backend
    assert classifier.run_vectors() >= 8


@pytest.mark.parametrize("bundle", COMMITTED)
@pytest.mark.parametrize("backend", backends.OWN_GRAPH[1:])
def test_a_backend_decides_on_the_drawings_as_onnx_runtime_does(bundle, backend):
    samples = sorted((ROOT / "runtime/logo_edge/samples").glob("*.png"))
    assert len(samples) >= 8
    first, second = (Classifier.load(bundle, backend=name) for name in ("onnxruntime", backend))
    for path in samples:
        one, other = first.classify(path), second.classify(path)
        assert (one.label, one.best_guess, one.is_logo) == (other.label, other.best_guess, other.is_logo)
        assert one.confidence == pytest.approx(other.confidence, abs=0.03)  # INT8 rounds in steps of 0.03 of a logit


def test_a_torchscript_module_gives_the_vectors_and_is_shared_by_threads(fake_bundle, module, pixels):
    bundle = fake_bundle()
    classifier = Classifier.load(bundle, backend="torchscript", artifact=module)
    assert classifier.run_vectors() == 3
    expected = Classifier.load(bundle).logits(pixels)
    with ThreadPoolExecutor(8) as pool:
        for logits in pool.map(classifier.logits, [pixels] * 40):
            assert np.allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("backend", backends.OWN_GRAPH)
def test_eight_threads_that_share_a_backend_get_what_one_gets(fake_bundle, backend):
    run = Classifier.load(fake_bundle(), backend=backend).logits
    batches = [np.random.default_rng(seed).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8) for seed in range(60)]
    expected = [run(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(run, batches))
    assert all(np.array_equal(one, other) for one, other in zip(outputs, expected, strict=True))


@pytest.mark.parametrize(
    ("backend", "package", "extra"),
    [
        ("openvino", "openvino", "openvino"),
        ("litert", "ai_edge_litert", "litert"),
        ("torchscript", "torch", "torchscript"),
        ("tensorrt", "tensorrt", "tensorrt"),
        ("executorch", "executorch", "executorch"),
    ],
)
def test_a_backend_that_is_not_installed_names_its_extra(
    fake_bundle, module, tmp_path, monkeypatch, backend, package, extra
):
    loaded = [name for name in sys.modules if name.startswith(f"{package}.")]  # imported by another test
    for name in (package, *loaded):
        monkeypatch.setitem(sys.modules, name, None)
    suffixes = {"litert": "tflite", "tensorrt": "engine", "executorch": "pte"}
    artifacts = {name: tmp_path / f"made.{suffix}" for name, suffix in suffixes.items()}
    for path in artifacts.values():
        path.write_bytes(b"plan")
    artifact = {"openvino": None, "torchscript": module, **artifacts}[backend]
    with pytest.raises(MissingExtraError, match=rf"logo-edge\[{extra}\]"):
        Classifier.load(fake_bundle(), backend=backend, artifact=artifact)


def test_wrong_backends_and_artifacts_are_refused_with_what_to_do(fake_bundle, fake_model, tmp_path, module):
    bundle, other = fake_bundle(), tmp_path / "other.onnx"
    other.write_bytes(fake_model(classes=5))
    broken = tmp_path / "broken.xml"
    broken.write_text("<net/>")
    broken.with_suffix(".bin").write_bytes(b"")
    for options, message in (
        ({"backend": "tflite"}, "expected one of auto, onnxruntime"),
        ({"backend": "tensorrt"}, "logo-edge export BUNDLE --format tensorrt"),
        ({"backend": "torchscript"}, "logo-edge export RUN --format torchscript"),
        ({"backend": "onnxruntime", "artifact": module}, r"onnxruntime reads \.onnx"),
        ({"backend": "openvino", "artifact": tmp_path / "absent.xml"}, "no such file"),
        ({"backend": "openvino", "artifact": broken}, "OpenVINO cannot load it"),
        ({"backend": "onnxruntime", "artifact": other}, "of 3 classes"),
        ({"backend": "openvino", "artifact": other}, r"gives float32 \(1, 5\)"),
    ):
        with pytest.raises(LogoEdgeError, match=message):
            Classifier.load(bundle, **options)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torchscript"])
def test_an_artifact_of_a_run_lacks_what_packing_added_and_results_say_so_by_none(
    fake_bundle, fake_model, module, tmp_path, backend
):
    both = fake_model(epistemic=True, embedding=True)
    folder = fake_bundle(model=both, embedding=True, optional_outputs=("epistemic",))
    artifact = tmp_path / "run.onnx"
    artifact.write_bytes(fake_model())
    artifact = module if backend == "torchscript" else artifact
    grey = np.full((9, 9, 3), 90, np.uint8)
    classifier = Classifier.load(folder, backend=backend, artifact=artifact)
    whole = Classifier.load(folder).classify(grey)
    unpacked = classifier.classify(grey)
    assert whole.epistemic == pytest.approx(90 / 255, abs=1e-4)
    assert unpacked.epistemic is None
    assert unpacked.probabilities == pytest.approx(whole.probabilities, abs=1e-4)
    with pytest.raises(BundleError, match=rf"{artifact.name}: gives no embedding.*Leave out the artifact"):
        classifier.embeddings(np.zeros((1, 16, 16, 3), np.uint8))


def test_an_artifact_that_has_what_the_bundle_promises_is_asked_for_it(fake_bundle, fake_model, tmp_path):
    both = fake_model(epistemic=True, embedding=True)
    folder = fake_bundle(model=both, embedding=True, optional_outputs=("epistemic",))
    (tmp_path / "whole.onnx").write_bytes(both)
    classifier = Classifier.load(folder, artifact=tmp_path / "whole.onnx")
    assert classifier.classify(np.full((9, 9, 3), 51, np.uint8)).epistemic == pytest.approx(0.2, abs=1e-4)
    assert classifier.embeddings(np.zeros((2, 16, 16, 3), np.uint8)).shape == (2, 3)


@pytest.mark.parametrize("backend", backends.OWN_GRAPH)
def test_a_bundles_own_graph_must_give_all_that_is_promised_on_every_backend(fake_bundle, backend):
    with pytest.raises(BundleError, match=r"promises \['epistemic'\] too"):
        Classifier.load(fake_bundle(optional_outputs=("epistemic",)), backend=backend)


def test_an_artifact_that_is_not_the_bundles_fails_its_vectors(fake_bundle, tmp_path, fake_model):
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(fake_model())
    weights = model.graph.initializer[0]
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights)[:, ::-1].copy(), weights.name))
    onnx.save(model, tmp_path / "swapped.onnx")
    with pytest.raises(BundleError, match="golden vector"):
        Classifier.load(fake_bundle(), artifact=tmp_path / "swapped.onnx")


def test_auto_measures_once_and_remembers_the_fastest(fake_bundle, findings, monkeypatch):
    from logo_edge import timing

    times, measured = iter([3.0, 2.0]), []

    def measure(calls):
        measured.extend(call() for call in calls.values())
        return {name: next(times) for name in calls}

    monkeypatch.setattr(timing, "measure_by_turns", measure)
    bundle = fake_bundle()
    assert [Classifier.load(bundle, backend="auto").backend for _ in range(3)] == ["openvino"] * 3
    assert len(measured) == 2
    (kept,) = (finding for finding in json.loads(findings.read_text()).values() if "backends" in finding)
    assert kept["found"] == {"onnxruntime": 3.0, "openvino": 2.0}
    times = iter([2.0, 3.0])
    cores = (min(os.sched_getaffinity(0)),)
    assert Classifier.load(bundle, backend="auto", cores=cores).backend == "onnxruntime", (
        "measured again on other cores"
    )
    monkeypatch.setitem(sys.modules, "openvino", None)
    findings.write_text("damaged")
    times = iter([1.0])
    assert Classifier.load(bundle, backend="auto").backend == "onnxruntime"


def test_auto_says_what_is_wrong_with_an_artifact_that_nothing_here_can_run(fake_bundle, tmp_path, monkeypatch):
    find_spec = backends.find_spec
    monkeypatch.setattr(backends, "find_spec", lambda name: None if name == "tensorrt" else find_spec(name))
    (tmp_path / "made.engine").write_bytes(b"plan")
    (tmp_path / "made.h5").write_bytes(b"model")
    for name, error, message in (
        ("absent.onnx", LogoEdgeError, r"absent\.onnx: no such file; expected an artifact"),
        ("absent.xml", LogoEdgeError, r"absent\.xml: no such file; expected an artifact"),
        ("made.h5", LogoEdgeError, r"found suffix .\.h5.; expected one of \.onnx, \.xml, \.tflite, .*\.pt"),
        ("made.engine", MissingExtraError, r"logo-edge\[tensorrt\]"),
    ):
        with pytest.raises(error, match=message):
            Classifier.load(fake_bundle(), backend="auto", artifact=tmp_path / name)


@pytest.mark.parametrize(("own", "version"), [({}, "1.5.1"), ({"__version__": "1.5.2"}, "1.5.2")])
def test_the_version_of_a_library_that_does_not_say_it_is_that_of_its_package(monkeypatch, own, version):
    library = ModuleType("executorch")
    vars(library).update(own)
    monkeypatch.setitem(sys.modules, "executorch", library)
    monkeypatch.setattr(backends, "installed_versions", lambda: {"executorch": "1.5.1"})
    assert backends.loaded_version("executorch") == version


def test_cores_are_kept_to_and_the_caller_is_left_alone(fake_bundle):
    before = os.sched_getaffinity(0)
    core = min(before)
    model = ModelFile.read(fake_bundle() / "model.onnx")
    threads = set(os.listdir("/proc/self/task"))
    backend = open_backend("onnxruntime", model, Resources(threads=3, cores=(core,)))
    started = set(os.listdir("/proc/self/task")) - threads
    assert len(started) == 2  # the third is the caller's
    assert all(os.sched_getaffinity(int(thread)) == {core} for thread in started)
    assert os.sched_getaffinity(0) == before
    del backend
    with pytest.raises(LogoEdgeError, match="cores 4711"):
        open_backend("onnxruntime", model, Resources(cores=(4711,)))


@pytest.mark.parametrize("backend", backends.OWN_GRAPH)
def test_no_core_is_burnt_while_a_classifier_with_several_threads_is_idle(fake_bundle, backend, pixels):
    classifier = Classifier.load(fake_bundle(), backend=backend, threads=4)
    for _ in range(20):
        classifier.logits(pixels)
    time.sleep(0.3)
    start = time.process_time()
    time.sleep(1.0)
    assert time.process_time() - start < 0.1


@pytest.mark.parametrize("backend", backends.OWN_GRAPH)
def test_signals_reach_python_after_classifiers_ended_in_the_order_in_which_they_began(backend):
    """Each Core of OpenVINO 2026.4 sets the stack of signals: a freed one ended the process at the next signal."""
    code = f"""
import faulthandler, signal
from logo_edge import Classifier
faulthandler.enable()
first, second = (Classifier.load(backend={backend!r}) for _ in range(2))
del first, second
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
signal.raise_signal(signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_the_runtime_imports_no_other_backend_until_it_is_asked_for():
    code = (
        "import sys; from logo_edge import Classifier; Classifier.load(); "
        "print([name for name in ('torch', 'openvino', 'tensorrt') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_user_without_a_home_is_told_where_to_put_the_cache(monkeypatch):
    for name in ("LOGO_EDGE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    monkeypatch.setenv("HOME", "")  # as a service's environment may have it: the cache would be /.cache
    with pytest.raises(LogoEdgeError, match="no home folder is known"):
        cache_folder()
    monkeypatch.delenv("HOME")

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(LogoEdgeError, match="no home folder is known.*Set LOGO_EDGE_CACHE"):
        cache_folder()


def write_export(folder: Path, files: dict[str, bytes], **record) -> None:
    """Files with the record of `logo-edge export`, under the first one's name."""
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    listed = {name: {"sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()}
    (folder / next(iter(files))).with_suffix(".json").write_text(json.dumps({"files": listed, **record}))


@pytest.mark.parametrize("changed", ["model.param", "model.bin"])
def test_an_artifact_that_is_not_what_its_export_recorded_reaches_no_library(tmp_path, changed):
    write_export(tmp_path, {"model.param": b"layers", "model.bin": b"weights"})
    assert ModelFile.read(tmp_path / "model.param").weights == b"weights"
    with (tmp_path / changed).open("ab") as file:
        file.write(b"more")
    with pytest.raises(BundleError, match=rf"{changed}: not the file that was exported"):
        ModelFile.read(tmp_path / "model.param")


def test_an_engine_is_compared_with_the_record_in_the_folder_above_it(tmp_path):
    engine = {"file": "engines/orin.engine", "sha256": hashlib.sha256(b"plan").hexdigest()}
    write_export(tmp_path, {"model.onnx": b"graph"}, engine=engine)
    (tmp_path / "other.json").write_text("[1, 2]")
    (tmp_path / "engines").mkdir()
    (path := tmp_path / "engines" / "orin.engine").write_bytes(b"plan")
    assert ModelFile.read(path).data == b"plan"
    path.write_bytes(b"another plan")
    with pytest.raises(BundleError, match="not the file that was exported"):
        ModelFile.read(path)


def test_an_artifact_without_a_record_is_left_to_the_golden_vectors(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"module")
    for text in ("", "[]", '{"files": {"model.pt": {}}}', '{"files": {"other.pt": {"sha256": "0"}}}'):
        (tmp_path / "model.json").write_text(text)
        assert ModelFile.read(tmp_path / "model.pt").data == b"module"


def test_an_artifact_in_the_bundle_is_the_one_that_the_bundle_lists(fake_bundle, fake_model, monkeypatch):
    folder = fake_bundle()
    (folder / "other.onnx").write_bytes(fake_model())
    write_bundle_record(replace(read_bundle(folder), files=list_files(folder)))
    bundle = read_bundle(folder)
    monkeypatch.chdir(folder.parent)
    assert Classifier(bundle, artifact=f"{folder.name}/other.onnx").run_vectors() == 3
    (folder / "other.onnx").write_bytes(b"changed since the bundle was read")
    with pytest.raises(BundleError, match=r"other\.onnx: not the file that was packed"):
        Classifier(bundle, artifact=folder / "other.onnx")


def test_auto_leaves_out_a_library_that_fails_in_any_way(fake_bundle, monkeypatch):
    def fail(*_):
        raise RuntimeError("module compiled against another NumPy")

    monkeypatch.setattr(backends.BACKENDS["openvino"], "__init__", fail)
    assert Classifier.load(fake_bundle(), backend="auto").backend == "onnxruntime"


def test_torchs_threads_keep_to_the_cores_whoever_calls(tmp_path):
    import torch

    convolutions = torch.nn.Sequential(torch.nn.Conv2d(32, 64, 3), torch.nn.Conv2d(64, 64, 3)).double()
    image, core = torch.zeros((1, 32, 64, 64), dtype=torch.double), min(os.sched_getaffinity(0))
    torch.jit.trace(convolutions, image).save(str(tmp_path / "model.pt"))
    before = torch.get_num_threads()
    backend = open_backend("torchscript", ModelFile.read(tmp_path / "model.pt"), Resources(threads=3, cores=(core,)))
    cores = cores_of_started_threads(lambda: backend.run(image.numpy(), ["logits"]))
    torch.set_num_threads(before)
    assert cores == [{core}] * len(cores)
    assert len(cores) >= 2
