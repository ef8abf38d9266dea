"""A classifier that was loaded before `os.fork()`: parent and child both classify, and both end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from logo_edge.backends.base import PerProcess
from logo_edge.backends.choose import BACKENDS
from logo_edge.errors import LogoEdgeError

BEGIN = """
import os, signal, sys
from logo_edge import Classifier

def fork(child):
    sys.stdout.flush()
    if pid := os.fork():
        status = os.waitpid(pid, 0)[1]
        assert status == 0, f"the child ended with wait status {status}"
        return
    signal.alarm(60)  # a child that never ends is killed, and its status says so
    child()
    sys.exit(0)
"""


def run(program: str, *arguments: str | Path) -> str:
    """The output of a program that begins with BEGIN."""
    command = [sys.executable, "-c", BEGIN + program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_child_classifies_as_its_parent_and_ends(fake_bundle, backend, threads):
    folder = fake_bundle()
    program = """
folder, backend, threads = sys.argv[1:]
classifier, image = Classifier.load(folder, backend=backend, threads=int(threads)), folder + "/vectors/1.png"
print(classifier.classify(image).label)
fork(lambda: print(classifier.classify(image).label))
print(classifier.classify(image).label)
fork(lambda: fork(lambda: print(classifier.classify(image).label)))
"""
    assert run(program, folder, backend, str(threads)).split() == ["green"] * 4


def test_a_child_that_classifies_nothing_ends_too(fake_bundle):
    run("classifier = Classifier.load(sys.argv[1], threads=2)\nfork(lambda: None)", fake_bundle())


def test_a_child_has_a_renderer_of_its_own_and_leaves_its_parents_alone():
    program = """
from logo_edge import load_image
from logo_edge.images.svg import _RENDERER as renderer
drawing = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9" fill="red"/></svg>'

def child():
    renderer._lock.acquire(timeout=5) and renderer._lock.release()
    print(load_image(drawing).getpixel((5, 5))[0], renderer._child.pid != before)

load_image(drawing)
before = renderer._child.pid
renderer._child.stdin.write(b"not sent yet")  # as another thread may be doing meanwhile
renderer._lock.acquire()
fork(child)
renderer._lock.release()
state = os.read(renderer._child.stdout.fileno(), 1) if renderer._child.poll() is not None else "alive"
print(state, before == renderer._child.pid)
"""
    assert run(program).splitlines() == ["255 True", "alive True"]


def test_parent_and_child_write_whole_lines_to_one_log(fake_bundle, tmp_path):
    program = """
folder, log = sys.argv[1:]
classifier = Classifier.load(folder, log=log)

def classify():
    for _ in range(50):
        classifier.classify(folder + "/vectors/0.png")

def child():
    assert classifier._log._file is None, "the parent's file, whose lock it would share"
    classify()

classify()
classifier._log._lock.acquire()  # as another thread may hold it
fork(child)
"""
    run(program, fake_bundle(), tmp_path / "log")
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 100
    assert len({len(line) for line in lines} - {0}) <= 3, "the time has fewer digits in some"


def test_classify_many_that_was_begun_before_the_fork_is_refused_in_the_child(fake_bundle):
    program = """
from logo_edge import LogoEdgeError
classifier = Classifier.load(sys.argv[1])
results = classifier.classify_many([sys.argv[1] + "/vectors/0.png"] * 40, batch_size=1, workers=2)

def child():
    try:
        list(results)
    except LogoEdgeError as error:
        print(error)

print(next(results).label)
fork(child)
print(len(list(results)))
"""
    first, refusal, rest = run(program, fake_bundle()).splitlines()
    assert (first, rest) == ("red", "39")
    assert "begin it in the child" in refusal


@pytest.mark.parametrize("name", ["tensorrt", "torchscript"])
def test_a_library_that_no_fork_survives_is_refused_with_the_cure(name):
    class Opened:
        outputs, survives_fork = frozenset({"logits"}), BACKENDS[name].survives_fork

        def run(self, pixels, names):
            return [np.zeros((len(pixels), 2), np.float32)]

    backend = PerProcess(Opened, name)
    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    assert backend.run(pixels, ["logits"])[0].shape == (1, 2)
    backend.leave_to_parent()  # as a fork would have it
    with pytest.raises(LogoEdgeError, match=f"on {name} was loaded before.*load it in each process.*--preload"):
        backend.run(pixels, ["logits"])
