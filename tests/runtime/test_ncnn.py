"""NCNN runs an artifact beside a bundle: one network shared by threads, one for each process."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import channel_weights

from logo_edge import BundleError, Classifier
from logo_edge.backends.ncnn import FLOAT16
from logo_edge.errors import MissingExtraError

pytest.importorskip("ncnn", reason="needs NCNN: make setup installs it")

MEAN_COLOUR = """7767517
5 7
Input input 0 1 pixels
Reduction mean 1 1 pixels colour 0=3 1=0 -23303=2,1,2 4=0 5=1
Split copies 1 3 colour embedding one other
InnerProduct dense 1 1 one logits 0=3 1=0 2=9
Reduction mean_of_means 1 1 other epistemic 0=3 1=1 4=0 5=1
"""
"""Computes the same as the fake bundle's graph; its `epistemic` is the mean of the pixels, not divided by 255."""


def write_network(folder: Path, *, half: bool = False) -> Path:
    weights = np.ascontiguousarray(channel_weights(3).T)
    content = FLOAT16 + weights.astype(np.float16).tobytes() + bytes(2) if half else bytes(4) + weights.tobytes()
    path = folder / "network.param"
    path.write_text(MEAN_COLOUR)
    path.with_suffix(".bin").write_bytes(content)
    return path


@pytest.fixture
def network(tmp_path) -> Path:
    return write_network(tmp_path)


def test_a_network_gives_the_vectors_and_is_shared_by_threads(fake_bundle, network):
    bundle = fake_bundle()
    classifier, graph = Classifier.load(bundle, backend="ncnn", artifact=network), Classifier.load(bundle)
    assert classifier.run_vectors() == 3
    batches = [np.random.default_rng(seed).integers(0, 256, (3, 16, 16, 3), np.uint8) for seed in range(60)]
    with ThreadPoolExecutor(8) as pool:
        for batch, logits in zip(batches, pool.map(classifier.logits, batches), strict=True):
            assert logits.dtype == np.float32
            assert np.allclose(logits, graph.logits(batch), atol=1e-4)


def test_further_outputs_have_the_shapes_of_the_graphs(fake_bundle, fake_model, network):
    both = fake_model(epistemic=True, embedding=True)
    folder = fake_bundle(model=both, embedding=True, optional_outputs=("epistemic",))
    classifier = Classifier.load(folder, backend="ncnn", artifact=network)
    pixels = np.full((2, 16, 16, 3), 51, np.uint8)
    assert np.allclose(classifier.embeddings(pixels), np.full((2, 3), 51), atol=1e-3)
    assert classifier.classify(np.full((9, 9, 3), 51, np.uint8)).epistemic == pytest.approx(51, abs=0.01)


def test_a_network_stored_in_half_precision_runs(fake_bundle, tmp_path):
    classifier = Classifier.load(fake_bundle(), backend="ncnn", artifact=write_network(tmp_path, half=True))
    assert classifier.run_vectors() == 3


def test_full_precision_is_not_rounded_to_half(fake_bundle, network):
    logits = Classifier.load(fake_bundle(), backend="ncnn", artifact=network).logits(
        np.full((1, 16, 16, 3), 99, np.uint8)
    )
    exact = 99 * channel_weights(3).sum(0)
    assert np.abs(exact - np.float16(exact)).max() > 1e-4, "half precision would show"
    assert np.abs(logits - exact).max() < 1e-5


@pytest.mark.parametrize("broken", ["<net/>", MEAN_COLOUR.replace("Reduction", "pnnx.Expression"), "cut"])
def test_what_ncnn_cannot_load_is_refused(fake_bundle, network, broken):
    if broken == "cut":
        network.with_suffix(".bin").write_bytes(bytes(8))
    else:
        network.write_text(broken)
    with pytest.raises(BundleError, match=r"network\.param: NCNN .* cannot load it"):
        Classifier.load(fake_bundle(), backend="ncnn", artifact=network)


def test_without_ncnn_its_extra_is_named(fake_bundle, network, monkeypatch):
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(MissingExtraError, match=r"logo-edge\[ncnn\]"):
        Classifier.load(fake_bundle(), backend="ncnn", artifact=network)


@pytest.mark.parametrize(("threads", "ending"), [(1, "green green"), (2, "green refused")])
def test_a_child_opens_the_network_again_or_says_that_openmp_does_not_survive(fake_bundle, network, threads, ending):
    program = """
import os, signal, sys
from logo_edge import Classifier, LogoEdgeError
folder, network, threads = sys.argv[1:]
classifier = Classifier.load(folder, backend="ncnn", artifact=network, threads=int(threads))
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
    command = [sys.executable, "-c", program, fake_bundle(), network, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ending.split()), done.stderr
