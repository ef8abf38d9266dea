"""Each kind of failure has one exit status and one line, and output is safe for programs and terminals."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from command_line import SHELL, run_command
from PIL import Image

from logo_edge import LogoEdgeError
from logo_edge.exits import INTERRUPTED, NO_READER, SYSTEM, USAGE, exit_on_error, resumable
from logo_edge.files import write_file
from logo_edge.names import printable

NASTY = "a\x1b[31m\u202egnp\n  forged.png"  # a colour, a reversal and a line of its own
ESCAPED = r"a\x1b[31m\u202egnp\n  forged.png"


@pytest.fixture
def bundle(fake_bundle) -> Path:
    return fake_bundle(embedding=True)


@pytest.fixture
def logo(tmp_path) -> Path:
    path = tmp_path / "logos" / "red.png"
    path.parent.mkdir()
    Image.new("RGB", (30, 20), (255, 0, 0)).save(path)
    return path


def verbs(bundle: Path, logo: Path) -> dict[str, list]:
    """Verbs that print results; `plain` is read without Typer, the others with it."""
    return {
        "plain": ["classify", "--bundle", bundle, logo],
        "jsonl": ["classify", "--bundle", bundle, "--threads", "1", "--jsonl", logo],
        "info": ["info", "--bundle", bundle],
        "similar": ["similar", "--bundle", bundle, logo, logo.parent],
        "help": ["--help"],
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["cluster", ""],
        ["enroll", "brand", ""],
        ["export-triton", "--out="],
        ["classify", "logo.png", ""],
        ["train", "--data", ""],
        [""],
    ],
)
def test_an_unset_shell_variable_is_not_the_current_folder(arguments, tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "logo.png")
    done = run_command(*arguments, cwd=tmp_path)
    assert done.returncode == USAGE
    assert b"found an empty value" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["logo.png"]


def test_an_error_while_a_file_is_renamed_names_its_final_path(tmp_path, capsys):
    (tmp_path / "out.json").mkdir()
    with pytest.raises(SystemExit), exit_on_error():
        write_file(tmp_path / "out.json", "{}")
    assert f"logo-edge: {tmp_path / 'out.json'}: Is a directory" in capsys.readouterr().err


def test_every_verb_ends_the_same_way_when_its_reader_goes_away(bundle, logo):
    statuses = {}
    for name, arguments in verbs(bundle, logo).items():
        reader, writer = os.pipe()
        os.close(reader)
        done = run_command(*arguments, stdout=writer)
        os.close(writer)
        statuses[name] = done.returncode, done.stderr
    assert statuses == dict.fromkeys(statuses, (NO_READER, b""))
    assert len(statuses) == 5


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_output_that_cannot_be_written_has_its_own_status(bundle, logo):
    statuses = {}
    for name in ("plain", "info", "help"):
        with open("/dev/full", "wb") as full:
            done = run_command(*verbs(bundle, logo)[name], stdout=full)
        statuses[name] = done.returncode
        assert done.stderr == b"logo-edge: No space left on device; free some space\n", name
    assert statuses == dict.fromkeys(statuses, SYSTEM)


def test_a_log_that_cannot_be_written_gives_one_warning_and_all_answers(bundle, logo):
    for index in range(20):
        (logo.parent / f"{index}.png").write_bytes(logo.read_bytes())
    done = run_command("classify", "--bundle", bundle, "--log", "/dev/full", "--jsonl", logo.parent)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 21
    assert done.stderr.count(b"\n") == 1
    assert b"/dev/full: No space left on device" in done.stderr


def test_a_closed_stdout_is_refused_and_a_closed_stdin_or_stderr_is_empty(bundle, logo):
    def close(*descriptors: int) -> str:
        return (
            f"import os; [os.close(number) for number in {descriptors}]; os.execv({sys.executable!r}, "
            f"[{sys.executable!r}, '-c', {SHELL!r}, *os.sys.argv[1:]])"
        )

    classify = ["classify", "--bundle", bundle]
    for arguments in ([*classify, logo], [*classify, "--threads", "1", logo]):
        done = run_command(*arguments, code=close(1))
        assert (done.returncode, done.stderr.count(b"\n")) == (USAGE, 1), done.stderr
        assert b"standard output is closed; expected" in done.stderr
    empty = run_command(*classify, "-", code=close(0))
    assert (empty.returncode, empty.stderr.count(b"\n")) == (1, 1), empty.stderr
    assert b"0 bytes" in empty.stderr
    both = run_command(*classify, logo, code=close(0, 2))
    assert (both.returncode, both.stderr) == (0, b"")
    assert b"red" in both.stdout
    assert run_command(*classify, logo, code=close(0, 1, 2)).returncode == USAGE


def test_output_is_utf_8_whatever_the_locale_says(bundle, logo):
    name = logo.with_name("ロゴ é.png")
    logo.rename(name)
    env = os.environ | {"PYTHONIOENCODING": "cp1252", "LC_ALL": "C"}
    for arguments in (["classify", "--jsonl"], ["similar", "--json", name]):
        done = run_command(arguments[0], "--bundle", bundle, *arguments[1:], name, env=env)
        assert done.returncode == 0, done.stderr
        record = json.loads(done.stdout.decode("utf-8"))
        assert (record.get("path") or record["results"][0]["path"]) == str(name)
    table = run_command("classify", "--bundle", bundle, name, env=env)
    assert (table.returncode, name.name in table.stdout.decode("utf-8")) == (0, True)


def test_file_names_are_escaped_on_terminals(bundle, logo, tmp_path):
    folder = tmp_path / NASTY.removesuffix(".png")
    folder.mkdir()
    (folder / NASTY).write_bytes(logo.read_bytes())
    (folder / f"b{NASTY}").write_bytes(b"no image")
    commands = {
        "plain table": ["classify", folder],
        "absent": ["classify", "--threads", "1", f"{folder}x"],
        "out": ["classify", folder, "--out", folder / "t.csv"],
        "similar": ["similar", logo, folder],
        "cluster": ["cluster", folder],
        "enroll": ["enroll", "brand", folder / NASTY, "--file", folder / "e.json"],
        "refused": ["enroll", "x", f"{folder}x"],
    }
    for name, arguments in commands.items():
        done = run_command(arguments[0], "--bundle", bundle, *arguments[1:], cwd=tmp_path)
        printed = (done.stdout + done.stderr).decode("utf-8")
        assert ESCAPED.removesuffix(".png") in printed, (name, printed)
        assert not {"\x1b", "\u202e"} & set(printed), name
        assert not [line for line in printed.splitlines() if line.lstrip().startswith("forged")], name


@pytest.mark.parametrize("command", ["info", "serve"])
def test_class_names_are_escaped_on_terminals(fake_bundle, command):
    bundle = fake_bundle(labels=("red", f"green{NASTY}", "blue"))
    options = []
    if command == "serve":
        pytest.importorskip("uvicorn")
        options = ["--host", "192.0.2.1", "--no-token"]  # an address of no machine (RFC 5737)
    done = run_command(command, "--bundle", bundle, *options)
    printed = (done.stdout + done.stderr).decode("utf-8")
    assert f"green{ESCAPED}" in printed, printed
    assert not {"\x1b", "\u202e"} & set(printed), printed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain é ロゴ.png", "plain é ロゴ.png"),
        ("a\u3000b\u00a0c", "a\u3000b\u00a0c"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("\u2066x\u2069\u061c", r"\u2066x\u2069\u061c"),
        ("\u2028", r"\u2028"),
        ("r\udcff", "r\ufffd"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_characters_that_control_a_terminal_are_escaped(text, expected):
    assert printable(text) == expected


def interrupt(arguments: list, ready: Path, code: str) -> subprocess.CompletedProcess:
    """The command, with Ctrl-C once the file `ready` exists."""
    handler = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a background job ignores SIGINT
    )
    command = [sys.executable, "-c", f"{handler}\n{code}", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while not ready.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.mark.parametrize(("more", "resumes"), [(["--out", "t.csv"], True), (["--threads", "1"], False), ([], False)])
def test_ctrl_c_says_to_run_again_only_if_that_resumes(bundle, logo, tmp_path, monkeypatch, more, resumes):
    ready = tmp_path / "ready"
    code = f"""import pathlib, time
from logo_edge.classifier import Classifier
def wait(self, *rest, **options):
    pathlib.Path({str(ready)!r}).touch()
    while True:
        time.sleep(0.05)
    yield
Classifier.classify_many = wait
{SHELL}"""
    monkeypatch.chdir(tmp_path)
    done = interrupt(["classify", "--bundle", bundle, logo, *more], ready, code)
    assert done.returncode == INTERRUPTED
    again = "; run the same command again to go on" if resumes else ""
    assert done.stderr.decode() == f"logo-edge: interrupted{again}\n"


def test_help_lists_the_exit_statuses():
    listed = b" ".join(run_command("--help").stdout.split())
    for part in (
        b"0 done",
        b"1 some inputs failed",
        b"2 refused",
        b"3 the system failed",
        b"130 interrupted",
        b"141 nobody",
    ):
        assert part in listed


def test_too_many_bytes_on_stdin_are_refused_by_their_size(bundle, logo):
    modules = "from logo_edge.cli import classify; from logo_edge.images import load"
    code = f"{modules}; load.MAX_FILE_BYTES = classify.MAX_FILE_BYTES = 50; {SHELL}"
    done = run_command("classify", "--bundle", bundle, "-", code=code, input=logo.read_bytes())
    assert done.returncode == 1
    assert b"more than 50" in done.stderr
    assert b"damaged" not in done.stderr


def caused(error: Exception, cause: Exception) -> Exception:
    """The error as `raise error from cause` leaves it."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "resumes", "status", "line"),
    [
        (KeyboardInterrupt(), True, INTERRUPTED, "interrupted; run the same command again to go on"),
        (KeyboardInterrupt(), False, INTERRUPTED, "interrupted"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a\nb"),
            True,
            SYSTEM,
            r"a\nb: No space left on device; free some space; run the same command again to go on",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "x"),
            False,
            SYSTEM,
            "x: Read-only file system; expected a location that can be written",
        ),
        (OSError(errno.EIO, "Input/output error"), False, SYSTEM, "Input/output error"),
        (LogoEdgeError("a\nb"), True, USAGE, r"a\nb"),
        (caused(LogoEdgeError("x: full"), OSError(errno.ENOSPC, "No space left on device")), False, SYSTEM, "x: full"),
        (caused(LogoEdgeError("x: no"), PermissionError(errno.EACCES, "Permission denied")), False, USAGE, "x: no"),
    ],
)
def test_each_failure_has_its_line_and_its_status(capsys, error, resumes, status, line):
    with pytest.raises(SystemExit) as ended, exit_on_error(), resumable() if resumes else nullcontext():
        raise error
    assert ended.value.code == status
    assert capsys.readouterr().err == f"logo-edge: {line}\n"


def test_a_wrong_usage_quotes_names_escaped():
    done = run_command("info", "a\x1b[31m\u202egnp.b")  # Click escapes the first only
    assert done.returncode == USAGE
    assert rb"(a\x1b[31m\u202egnp.b)" in done.stderr
