"""Each verb, recorded: in the home folder it writes only what docs/use/runtime.md lists, and opens no connection."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from PIL import Image

from logo_edge.bundle.record import DEFAULT_BUNDLE
from logo_edge.cli.verbs import VERBS
from logo_edge.privacy import SENDERS, VARIABLES

DOCUMENTED = re.compile(r"\.cache/(logo-edge/|matplotlib/fontlist-)")
LOOPBACK = {"127.0.0.1", "::1", "localhost"}
OTHER_SWITCHES = "CI TF_BUILD JENKINS_URL GITHUB_ACTIONS PYTEST_CURRENT_TEST LOGO_EDGE_CACHE XDG_CACHE_HOME".split()
ROOMS = ("logo_edge", "logo_edge_train", "logo_edge_compress", "logo_edge_bench", "logo_edge_report")
LIBRARIES = ("onnxruntime", "openvino", "ai_edge_litert.interpreter", "ncnn", "MNN", "nncf", "albumentations", "mlflow")
CALLS = {
    "classify": "classify {work}/logos --log {work}/log --backend auto",
    "info": "info --self-test",
    "monitor": "monitor {work}/log",
    "keygen": "keygen {work}/key",
    "doctor": "doctor --json",
    "sign": "sign {work}/bundle --key {work}/key.private.pem",
    "enroll": "enroll plain {work}/logos/simple --file {work}/enrolled.json",
    "similar": "similar {work}/logos/simple/0.png {work}/logos",
    "cluster": "cluster {work}/logos",
    "export-triton": "export-triton --out {work}/models",
    "data": "data where",
    "init": "init {work}/project",
    # Of those that take minutes, how they begin; their libraries have a test of their own below.
    **{
        verb: f"{verb} --help"
        for verb in (
            "train",
            "few-shot",
            "runs",
            "search",
            "compress",
            "calibrate",
            "export",
            "bench",
            "check",
            "evaluate",
            "report",
        )
    },
}
RUN_ALL = """
import json, sys
from pathlib import Path
from logo_edge.cli.verbs import app

work, home, connections = map(Path, sys.argv[1:4])
for verb, call in json.loads(sys.argv[4]).items():
    try:
        status = app(call.format(work=work).split(), standalone_mode=False)
    except Exception as error:
        status = f"{type(error).__name__}: {error}"
    written = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    called = connections.read_text().split() if connections.exists() else []
    print("\\n#", json.dumps([verb, status, written, called]), flush=True)
"""


@dataclass(frozen=True)
class Recorder:
    """Runs programs in an empty home folder, also their working folder, with a library that records connections."""

    home: Path
    connections: Path
    library: Path

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in {*VARIABLES, *OTHER_SWITCHES}}
        return kept | {
            "HOME": str(self.home),
            "LD_PRELOAD": str(self.library),
            "CONNECTIONS": str(self.connections),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def run(self, code: str, *arguments: str | Path, **settings: str) -> str:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(
            command,
            env=self.environment() | settings,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    def written(self) -> set[str]:
        files = {str(path.relative_to(self.home)) for path in self.home.rglob("*") if path.is_file()}
        return {name for name in files if not DOCUMENTED.match(name)}

    def called(self) -> set[str]:
        return set(self.connections.read_text().split()) - LOOPBACK if self.connections.exists() else set()


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    if sys.platform != "linux" or not (compiler := shutil.which("cc")):
        pytest.skip("recording connections takes Linux and a C compiler")
    path = tmp_path_factory.mktemp("recorder") / "connections.so"
    source = Path(__file__).with_name("connections.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", source, "-o", path, "-ldl"], check=True)
    return path


@pytest.fixture
def recorder(tmp_path, library) -> Recorder:
    (tmp_path / "home").mkdir()
    return Recorder(tmp_path / "home", tmp_path / "connections", library)


@pytest.fixture(scope="module")
def calls(tmp_path_factory, library) -> dict[str, tuple]:
    """By verb: its status, and the files in the home folder and addresses called up to its end."""
    work = tmp_path_factory.mktemp("verbs")
    for label, level in (("simple", 40), ("text", 200)):
        (work / "logos" / label).mkdir(parents=True)
        for index in range(60):
            Image.new("RGB", (24, 24), (level + index, level, level)).save(work / "logos" / label / f"{index}.png")
    (work / "log").touch()
    shutil.copytree(DEFAULT_BUNDLE, work / "bundle")
    (work / "home").mkdir()
    recorder = Recorder(work / "home", work / "connections", library)
    out = recorder.run(RUN_ALL, work, recorder.home, recorder.connections, json.dumps(CALLS))
    lines = [json.loads(line[2:]) for line in out.splitlines() if line.startswith("# [")]
    return {verb: (status, written, called) for verb, status, written, called in lines}


def test_every_verb_is_recorded():
    assert set(CALLS) | {"serve"} == {point.name for point in entry_points(group=VERBS)}


@pytest.mark.parametrize("verb", CALLS)
def test_a_verb_writes_nothing_into_the_home_folder_and_calls_nobody(calls, verb):
    status, written, called = calls[verb]
    assert status in (None, 0, 1), "it did what it was asked for"
    assert not (set(called) - LOOPBACK), status
    assert not [name for name in written if not DOCUMENTED.match(name)], status


def test_the_service_writes_nothing_and_calls_nobody(recorder):
    command = [sys.executable, "-m", "logo_edge", "serve", "--port", "0"]
    with subprocess.Popen(
        command, env=recorder.environment(), cwd=recorder.home, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            address = next(
                match[0] for line in process.stderr if (match := re.search(r"http://127\.0\.0\.1:\d+", line))
            )
            picture = (DEFAULT_BUNDLE.parent / "samples" / "01-simple.png").read_bytes()
            request = urllib.request.Request(f"{address}/v1/classify", picture, {"Content-Type": "image/png"})
            assert json.load(urllib.request.urlopen(request))["label"] == "simple"
        finally:
            process.send_signal(signal.SIGTERM)
            process.stderr.read()
    assert (recorder.written(), recorder.called()) == (set(), set())


@pytest.mark.slow
def test_libraries_that_report_to_their_vendors_do_not_once_logo_edge_is_imported(recorder):
    recorder.run(f"import logo_edge, {', '.join(LIBRARIES)}")
    assert (recorder.written(), recorder.called()) == (set(), set())


def test_without_it_they_would_and_the_recorder_sees_it(recorder):
    recorder.run("import onnxruntime, openvino, time; time.sleep(0.5)")
    assert any("Microsoft" in name for name in recorder.written())
    assert "www.google-analytics.com" in recorder.called()


def test_a_users_own_setting_stays(recorder):
    recorder.run("import logo_edge, onnxruntime", ORT_DISABLE_TELEMETRY="0")
    assert any("Microsoft" in name for name in recorder.written())


@pytest.mark.parametrize("room", ROOMS)
def test_importing_any_room_sets_the_switches_before_a_library_could_read_them(room):
    code = f"import {room}, json, os, sys; print(json.dumps([dict(os.environ), sorted(sys.modules)]))"
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    environment, modules = json.loads(done.stdout)
    assert len(VARIABLES) >= 7
    assert environment | VARIABLES == environment
    assert set(SENDERS) <= set(modules)
    assert not {"onnxruntime", "openvino", "albumentations", "mlflow", "wandb", "ray"} & set(modules)
