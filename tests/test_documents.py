"""The documents: links lead somewhere, commands and options exist, Python runs, references are those of the code."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import cv2
import httpx
import pytest
import typer
from PIL import Image
from serving import running
from tritonclient.utils import InferenceServerException

from logo_edge import Classifier
from logo_edge.bundle.record import DEFAULT_BUNDLE
from logo_edge.cli.verbs import app
from logo_edge.server.app import create_app
from logo_edge_bench.experiments import references
from logo_edge_bench.experiments.__main__ import build_parser
from logo_edge_train.recipe_io import load_recipe

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = sorted((ROOT / "runtime/logo_edge/samples").glob("*.png"))
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*/*.md"), *ROOT.glob("benchmarks/*/README.md"), *ROOT.glob("runtime/*/*.md")]
)
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in DOCUMENTS}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = [(name, *block) for name, text in TEXTS.items() if name != "docs/use/api.md" for block in BLOCK.findall(text)]
VERBS = typer.main.get_command(app)


def blocks(language: str, word: str = "") -> list:
    """The blocks of the language that hold the word, as parameters of a test."""
    found = [(name, body) for name, kind, body in BLOCKS if kind == language and word in body]
    return [pytest.param(body, id=f"{name}-{number}") for number, (name, body) in enumerate(found)]


def anchors(document: Path) -> set[str]:
    """The anchors of the page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", document.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", TEXTS)
def test_every_link_leads_to_a_file_and_a_heading(name):
    for target in re.findall(r"\]\(\s*([^)\s]+)\)", BLOCK.sub("", TEXTS[name])):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (ROOT / name).parent / path if path else ROOT / name
        assert found.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(found), f"{target}: no such heading"


def test_the_pages_and_their_code_were_found():
    assert len(TEXTS) >= 20
    assert sum(len(re.findall(r"\]\([^)]+\.md", text)) for text in TEXTS.values()) > 50
    assert len(blocks("sh")) > 40
    assert len(blocks("python")) >= 7


def test_the_references_are_those_of_the_code():
    assert {path: path.read_text(encoding="utf-8") for path in references.render_pages()} == references.render_pages()


def test_nothing_is_installed_by_name_from_an_index():
    for name, text in TEXTS.items():
        assert not re.findall(r"pip install '?logo-edge(?! @|\[[\w,]+\] @)", text), name
    assert "logo-edge[" not in (ROOT / "docs/data_to_bundle.ipynb").read_text(encoding="utf-8")


# shell


def list_commands(block: str) -> list[list[str]]:
    """The words of each command of a shell block, without comments, assignments and redirections."""
    text = re.sub(r"\\\n", " ", block)
    names = dict(re.findall(r"\b([A-Z])=([^\s\"]+|\"[^\"]*\")", text))
    text = re.sub(r"\$([A-Z])\b", lambda match: names[match[1]].strip('"'), text)
    text = re.sub(r"\$\([^()]*\)|\$\w+", "VALUE", text)
    commands = [[]]
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for word in [*lexer, ";"]:
            if word in ("do", "done") or not re.search(r"[^&|;<>()]", word):
                commands.append([])
            elif commands[-1] or not re.match(r"\w+=", word):
                commands[-1].append(word)
    return [command for command in commands if command]


def check_verb(words: list[str]) -> None:
    """Raises UsageError where the verb or one of its options does not exist, or has no or too many values."""
    command, context, words = VERBS, VERBS.make_context("logo-edge", [], resilient_parsing=True), list(words)
    while hasattr(command, "get_command"):
        below = command.get_command(context, words[0])
        assert below is not None, f"no verb {words[0]!r}"
        context = below.make_context(words.pop(0), [], parent=context, resilient_parsing=True)
        command = below
    context.resilient_parsing = False
    values, _, _ = command.make_parser(context).parse_args(words)
    if changed := tuple(values.get("override") or ()):
        load_recipe("cpu", changed)


def check_command(words: list[str]) -> bool:
    """Whether the command is ours; raises where it is wrong."""
    if words[0] == "logo-edge":
        check_verb(words[1:])
    elif words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        for target in (word for word in words[1:] if "=" not in word):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"no target {target}"
    elif words[:3] == ["python", "-m", "logo_edge_bench.experiments"]:
        measure = import_module(f"logo_edge_bench.experiments.{words[3]}").measure
        build_parser(measure, words[3], "", Path("out.json")).parse_args(words[4:])
    elif words[0] == "python" and words[1].endswith(".py") and "/" in words[1]:
        assert (ROOT / words[1]).is_file()
    else:
        return False
    return True


@pytest.mark.parametrize("block", blocks("sh"))
def test_commands_and_their_options_exist(block):
    for words in list_commands(block):
        check_command(words)


def test_commands_within_prose_exist():
    texts = (re.sub(BLOCK, "", text) for name, text in TEXTS.items() if name != "CHANGELOG.md")
    commands = {" ".join(code.split()) for text in texts for code in re.findall(r"(?<!`)`(logo-edge [^`]+)`", text)}
    assert len(commands) > 40
    for command in sorted(commands):
        (words, *_) = list_commands(command)
        if re.match(r"[a-z]", words[1]):
            try:
                check_verb(words[1:])
            except Exception as error:
                pytest.fail(f"{command}: {error}")


@pytest.mark.parametrize("line", ["classify --fast x.png", "train --set train.fast=1", "data fast"])
def test_a_wrong_command_is_found(line):
    with pytest.raises((Exception, AssertionError), match="fast"):
        check_command(["logo-edge", *line.split()])


# Python


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with all that the examples name."""
    for name in ("image.png", "logo.png", "unknown.png", "a.png", "b.png"):
        shutil.copyfile(SAMPLES[0], tmp_path / name)
    shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundles/mine")
    subprocess.run([sys.executable, "-m", "logo_edge", "enroll", "acme", "a.png"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    camera = SimpleNamespace(read=lambda: (True, cv2.imread(str(SAMPLES[2]))))
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: camera)
    return tmp_path


@pytest.mark.parametrize("block", blocks("python"))
def test_python_runs(block, folder):
    names = {"__name__": "block", "Classifier": Classifier, "paths": ["a.png", "b.png"]}
    if "tritonclient" in block:  # it runs up to the server, which is not here
        with pytest.raises(InferenceServerException, match="connect"):
            exec(block.replace(":8001", ":9"), names)
        return
    if "127.0.0.1:8000" not in block:
        exec(block, names)
        return
    with running(create_app(Classifier.load())) as client:
        exec(block.replace("127.0.0.1:8000", f"127.0.0.1:{client.base_url.port}"), names)


def test_a_frame_of_a_camera_is_classified_as_its_file_is(folder):
    (block,) = blocks("python", "VideoCapture")
    exec(block.values[0], names := {"__name__": "block"})
    opaque = Image.open(SAMPLES[2]).convert("RGB")  # a drawing whose colours matter
    expected = Classifier.load().classify(opaque).probabilities
    assert names["result"].probabilities == pytest.approx(expected)


# a service of one's own


def write_module(folder: Path, name: str) -> Path:
    """The file of the Python block that begins with its name as a comment."""
    (body,) = [body for _, kind, body in BLOCKS if kind == "python" and body.startswith(f"# {name}\n")]
    (folder / name).write_text(body, encoding="utf-8")
    return folder / name


@pytest.fixture
def service(folder, monkeypatch):
    """The application of app.py."""
    write_module(folder, "app.py")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "app", raising=False)
    yield import_module("app").app
    del sys.modules["app"]


def test_the_service_answers_and_refuses(service, folder):
    with running(service) as client:
        answer = client.post("/logo", content=(folder / "logo.png").read_bytes())
        assert answer.json()["label"] == Classifier.load().classify("logo.png").label
        shown = json.loads(next(body for _, kind, body in BLOCKS if kind == "json" and '"best_guess"' in body))
        sample = client.post("/logo", content=SAMPLES[1].read_bytes()).json()
        shown = {
            name: pytest.approx(value, abs=0.01) if isinstance(value, float) else value for name, value in shown.items()
        }
        assert sample == shown | {"probabilities": pytest.approx(shown["probabilities"], abs=0.01)}
        assert client.post("/logo", content=b"no image").status_code == 422
        assert client.post("/logo", content=bytes((4 << 20) + 1)).status_code == 413


def test_the_service_is_busy_when_a_queue_waits_for_its_threads(service, folder):
    go, image = threading.Event(), (folder / "logo.png").read_bytes()
    with running(service) as client, ThreadPoolExecutor(40) as pool:
        real, active = service.state.classifier, []

        def classify(body):
            active.append(body)
            assert go.wait(60)
            return real.classify(body)

        service.state.classifier = SimpleNamespace(classify=classify)
        answers = [pool.submit(client.post, "/logo", content=image) for _ in range(34)]
        deadline = time.monotonic() + 60
        while service.state.threads.statistics().tasks_waiting < 32 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(active) == 2, "the limiter admits as many images as it says"
        assert client.post("/logo", content=image).status_code == 503
        go.set()
        assert [answer.result().status_code for answer in answers] == [200] * 34


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "gunicorn app:app -k uvicorn_worker.UvicornWorker -w 2 -b 127.0.0.1:0",
        "gunicorn service:app -k uvicorn_worker.UvicornWorker -w 2 -b 127.0.0.1:0 --preload",
        "uvicorn app:app --workers 2 --port 0",
    ],
)
def test_workers_answer(command, folder):
    for name in ("app.py", "service.py"):
        write_module(folder, name)
    program, *arguments = command.split()
    address = re.compile(r"(?:Listening at|running on):? (http://127\.0\.0\.1:\d+)")
    log = folder / "log"
    with log.open("w") as out:
        server = subprocess.Popen([sys.executable, "-m", program, *arguments], cwd=folder, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 120
        while "startup complete" not in log.read_text():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        url = address.search(log.read_text())[1]
        path, image = "/logo" if "app:app" in command else "/v1/classify", (folder / "logo.png").read_bytes()
        for _ in range(8):
            headers = {"Content-Type": "image/png"}
            answer = httpx.post(url + path, content=image, headers=headers, timeout=60)
            assert answer.json()["label"] == Classifier.load().classify("logo.png").label
    finally:
        server.terminate()
        assert server.wait(60) in (0, -signal.SIGTERM), log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_pool_of_processes_classifies(method, folder):
    program = write_module(folder, "pool.py")
    program.write_text(program.read_text().replace('"spawn"', f'"{method}"', 1))
    done = subprocess.run([sys.executable, program, "a.png", "b.png"], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == repr([Classifier.load().classify("a.png").label] * 2), done.stderr
