"""MNN runs an artifact beside a bundle: a copy for each thread and process, and nothing on stdout."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from logo_edge import BundleError, Classifier
from logo_edge.errors import MissingExtraError

pytest.importorskip("MNN", reason="needs MNN: make setup installs it")

BUILD = """
import onnx, sys
from onnx import helper, TensorProto
import _tools
graph, path = sys.argv[1:]
model = onnx.load(graph)
(cast, mean, *rest) = model.graph.node
mean.input[0] = "pixels"
mean.attribute[0].ints[:] = [2, 3]  # planes, not an image
del model.graph.node[:]
model.graph.node.extend([mean, *rest])
del model.graph.input[:]
model.graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, 16, 16]))
for output in model.graph.output:
    output.type.tensor_type.shape.dim[0].dim_value = 1
onnx.save(model, graph)
_tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", graph, "--MNNModel", path, "--bizCode", "none"])
"""
"""Makes the fake bundle's graph an MNN model; in a process of its own, since MNN ends the process when it refuses."""


@pytest.fixture
def both(fake_model) -> bytes:
    return fake_model(epistemic=True, embedding=True)


@pytest.fixture
def model(both, tmp_path) -> Path:
    (tmp_path / "graph.onnx").write_bytes(both)
    path = tmp_path / "model.mnn"
    command = [sys.executable, "-c", BUILD, tmp_path / "graph.onnx", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert path.exists(), done.stdout + done.stderr
    return path


@pytest.fixture
def bundle(fake_bundle, both) -> Path:
    return fake_bundle(model=both, embedding=True, optional_outputs=("epistemic",))


def test_a_model_gives_the_vectors_and_all_outputs_and_is_shared_by_threads(bundle, model):
    classifier, graph = Classifier.load(bundle, backend="mnn", artifact=model), Classifier.load(bundle)
    assert classifier.run_vectors() == 3
    batches = [np.random.default_rng(seed).integers(0, 256, (3, 16, 16, 3), np.uint8) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for batch, logits in zip(batches, pool.map(classifier.logits, batches), strict=True):
            assert logits.dtype == np.float32
            assert np.allclose(logits, graph.logits(batch), atol=1e-4)
    assert np.allclose(classifier.embeddings(batches[0]), graph.embeddings(batches[0]), atol=1e-3)
    grey = np.full((9, 9, 3), 51, np.uint8)
    assert classifier.classify(grey).epistemic == pytest.approx(0.2, abs=1e-4)


def test_what_mnn_cannot_load_is_refused(bundle, model):
    model.write_bytes(b"no model")
    with pytest.raises(BundleError, match=r"model\.mnn: MNN .* cannot load it"):
        Classifier.load(bundle, backend="mnn", artifact=model)


def test_without_mnn_its_extra_is_named(bundle, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "MNN", None)
    with pytest.raises(MissingExtraError, match=r"logo-edge\[mnn\]"):
        Classifier.load(bundle, backend="mnn", artifact=model)


@pytest.mark.parametrize(("threads", "ending"), [(1, "green green"), (2, "green refused")])
def test_a_child_opens_the_model_again_or_says_that_its_threads_do_not_survive(bundle, model, threads, ending):
    program = """
import os, signal, sys
from logo_edge import Classifier, LogoEdgeError
folder, model, threads = sys.argv[1:]
classifier = Classifier.load(folder, backend="mnn", artifact=model, threads=int(threads))
print(classifier.classify(folder + "/vectors/1.png").label, flush=True)
if pid := os.fork():
    sys.exit(os.waitpid(pid, 0)[1] != 0)
signal.alarm(60)
try:
    print(classifier.classify(folder + "/vectors/1.png").label)
except LogoEdgeError as error:
    assert "does not survive a fork" in str(error)
    print("refused")
"""
    command = [sys.executable, "-c", program, bundle, model, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n".join(ending.split()) + "\n", "nothing of MNN's own is on stdout"


def test_threads_that_import_mnn_at_once_leave_stdout_where_it_was(bundle, model):
    program = """
import os, sys, threading
from logo_edge import Classifier
sys.setswitchinterval(1e-6)
folder, model = sys.argv[1:]
bundle = Classifier.load(folder).bundle
load = lambda: Classifier(bundle, backend="mnn", artifact=model)
loading = [threading.Thread(target=load) for _ in range(8)]
for thread in loading:
    thread.start()
for thread in loading:
    thread.join()
os.write(1, b"here")
"""
    for _ in range(3):
        command = [sys.executable, "-c", program, bundle, model]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stdout) == (0, "here"), done.stderr


def test_its_threads_keep_to_the_cores_whoever_calls(model):
    """In a process of its own: MNN's threads stay when a model ends."""
    program = """
import os, sys
from pathlib import Path
from started import cores_of_started_threads
import numpy as np
from logo_edge.backends.base import ModelFile, Resources
from logo_edge.backends.choose import open_backend
core = min(os.sched_getaffinity(0))
def run():
    backend = open_backend("mnn", ModelFile.read(Path(sys.argv[1])), Resources(threads=3, cores=(core,)))
    backend.run(np.zeros((1, 16, 16, 3), np.uint8), ["logits"])
cores = cores_of_started_threads(run)
assert len(cores) >= 2, cores
assert all(kept == {core} for kept in cores), cores
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", program, model]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
