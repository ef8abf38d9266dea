"""The session on a board or phone: what it pushes, what it runs there, and what it brings back.

The board is an SSH server on loopback, which runs commands here. The phone is a script in place of adb.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from logo_edge.bundle.record import read_bundle
from logo_edge.errors import BenchError
from logo_edge_bench.bench import Preset, read_images, read_result, run_bench, write_result
from logo_edge_bench.systems import reference_system
from logo_edge_train.data.manifest import read_manifest

EDGE = Path(__file__).resolve().parents[2] / "benchmarks" / "edge"
SHORT = Preset("short", rounds=1, window_s=0.01, settle_s=5, starts=0, offline=1, settle_within=1000.0, size_px=48)
ADB = """#!/bin/sh
printf '%s\\n' "$*" >> "$ADB_LOG"
[ "$1" = -s ] && shift 2
case $1-$UNPLUGGED in
  push-*?) head -c 2000 "$2" > "$3"; exit 1 ;;
esac
case $1 in
  shell) sh -c "$2" ;;
  push|pull) cp "$2" "$3" ;;
  *) exit 1 ;;
esac
"""
PYTHON = """#!/bin/sh
[ "$3" = doctor ] && echo '{"healthy": false, "advice": ["try another release"]}' && exit 1
for out; do :; done
test -f bundle/bundle.json && test -f logos/0003.png && test -f exports/a.tflite && cp "$RESULT_THERE" "$out"
exit 2
"""
LOADER = """#!/bin/sh
printf '%s\\n' "$@"
env | grep -E '^(PYTHON|LOGO_EDGE|TMPDIR)'
"""


@pytest.fixture
def session(monkeypatch):
    monkeypatch.syspath_prepend(str(EDGE))
    return importlib.import_module("session")


@pytest.fixture
def words(labelled, tmp_path) -> list[str]:
    """The options of a session with the fake bundle, its logos, and an export that no library here can load."""
    bundle = read_bundle(labelled[0])
    (exports := tmp_path / "exports").symlink_to("made", target_is_directory=True)
    (tmp_path / "made").mkdir()
    (exports / "a.tflite").write_bytes(b"not a flatbuffer")
    record = {"format": "litert", "precision": "int8", "source": bundle.name, "files": {"a.tflite": {}}}
    (exports / "a.json").write_text(json.dumps(record | {"input": asdict(bundle.input)}))
    options = {"bundle": labelled[0], "exports": exports, "manifest": labelled[1], "out": tmp_path / "there.json"}
    return [str(word) for name, value in options.items() for word in (f"--{name}", value)]


def test_a_phone_gets_data_and_code_and_its_result_comes_back_with_the_doctors(
    session, words, labelled, tmp_path, monkeypatch, capsys
):
    (programs := tmp_path / "programs").mkdir()
    (programs / "adb").write_text(ADB)
    (programs / "getprop").write_text("#!/bin/sh\necho $1\n")
    script = tmp_path / "python-there"
    script.write_text(PYTHON)
    for program in (*programs.iterdir(), script):
        program.chmod(0o755)
    images = read_images(read_manifest(labelled[1]), "test", ("red", "green", "blue"), tmp_path, 48)
    write_result(run_bench([reference_system(labelled[0])], images, SHORT), tmp_path / "measured.json")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("ADB_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("RESULT_THERE", str(tmp_path / "measured.json"))
    monkeypatch.setattr(session.Adb, "code", lambda device, work: {"python": script})
    phone = tmp_path / "my phone's"
    command = ["adb", "serial-1", "--folder", str(phone), "--threads", "1,4", "--logos", "6", *words]
    monkeypatch.setenv("UNPLUGGED", "while it receives")
    with pytest.raises(SystemExit, match="push .* gave status 1; see above"):
        session.main(command)
    monkeypatch.delenv("UNPLUGGED")
    (tmp_path / "log").unlink()
    session.main(command)
    result = read_result(tmp_path / "there.json")
    assert result["rows"] == read_result(tmp_path / "measured.json")["rows"]
    assert not result["doctor"]["healthy"]
    assert result["device"][:3] == ["ro.product.manufacturer", "ro.product.model", "ro.build.version.release"]
    assert "doctor: try another release" in capsys.readouterr().err
    log = (tmp_path / "log").read_text()
    log = log.replace(shlex.quote(str(phone)), "PHONE").replace(str(phone), "PHONE").splitlines()
    there, bench = "-s serial-1 shell mkdir -p PHONE && cd PHONE && ", "./python -m logo_edge bench bundle"
    assert log[0] == f"{there}rm -rf bundle exports logos source lib pushed.tar"
    assert log[1].startswith("-s serial-1 push ")
    assert log[1].endswith(" PHONE/pushed.tar")
    assert log[2:5] == [
        f"{there}tar -xf pushed.tar && rm pushed.tar",
        f"{there}./python -m logo_edge doctor --bundle bundle --json > doctor.json || test -s doctor.json",
        f"{there}rm -f result.json && ({bench} --artifact exports --manifest logos/manifest.csv --split test --threads "
        "1,4 --quick --out result.json > bench.txt || test -s result.json)",
    ]
    assert [line.split()[2:4] for line in log[5:7]] == [
        ["pull", f"PHONE/{name}"] for name in ("doctor.json", "result.json")
    ]
    assert len(read_manifest(phone / "logos" / "manifest.csv").split("test")) <= 8, "about six"


def test_the_phones_python_starts_through_its_own_loader(session, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "ADB_SHELL", "/bin/sh")
    tmp_path = tmp_path / "my phone's"
    (loader := tmp_path / session.LOADER).parent.mkdir(parents=True)
    loader.write_text(LOADER)
    script = tmp_path / "python"
    script.write_text(session.start_script(str(tmp_path), "python3.11"))
    for program in (loader, script):
        program.chmod(0o755)
    lines = subprocess.run([script, "-c", "two words"], capture_output=True, text=True, check=True).stdout.splitlines()
    libraries = f"{tmp_path}/root/lib/aarch64-linux-gnu:{tmp_path}/root/usr/lib/aarch64-linux-gnu"
    interpreter = f"{tmp_path}/root/usr/bin/python3.11"
    assert lines[:7] == ["--argv0", str(script), "--library-path", libraries, interpreter, "-c", "two words"]
    assert f"PYTHONPATH={tmp_path}/lib:{tmp_path}/site" in lines
    assert f"LOGO_EDGE_CACHE={tmp_path}/cache" in lines
    assert (tmp_path / "tmp").is_dir()


def test_what_is_missing_or_fails_is_named(session, words, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="adb: No such file or directory; install it"):
        session.main(["adb", *words])
    with pytest.raises(BenchError, match="gave status 3; see above"):
        session.call([sys.executable, "-c", "raise SystemExit(3)"])
    for text in ("", "Illegal instruction", "[1]"):
        (tmp_path / "doctor.json").write_text(text)
        with pytest.raises(BenchError, match="doctor printed no report"):
            session.read_report(tmp_path / "doctor.json")


@pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh here")
def test_a_board_that_does_not_answer_any_more_ends_the_session(session):
    program, *words = session.Ssh("board", "folder", None, None)._command
    shown = subprocess.run([program, "-G", *words], capture_output=True, text=True, check=True).stdout
    settings = dict(line.split(" ", 1) for line in shown.splitlines() if " " in line)
    assert 0 < int(settings["serveraliveinterval"]) * int(settings["serveralivecountmax"]) <= 120
    assert settings["batchmode"] == "yes", "nor does it wait for a password"


@pytest.fixture
def board(tmp_path, monkeypatch):
    """An SSH server on loopback that runs commands in its own home; gives the configuration to reach it as `board`."""
    asyncssh = pytest.importorskip("asyncssh", reason="needs asyncssh: make setup installs it")
    if shutil.which("ssh") is None:
        pytest.skip("no ssh here")
    (home := tmp_path / "home").mkdir()
    user, host = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    user.write_private_key(str(tmp_path / "key"))
    (tmp_path / "key").chmod(0o600)
    user.write_public_key(str(tmp_path / "authorized"))
    loop, done = asyncio.new_event_loop(), asyncio.Event()

    async def handle(process) -> None:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        started = await asyncio.create_subprocess_shell(process.command, cwd=home, **pipes)
        await process.redirect(stdin=started.stdin, stdout=started.stdout, stderr=started.stderr)
        await process.stdout.drain()
        process.exit(await started.wait())

    async def listen():
        settings = {"server_host_keys": [host], "authorized_client_keys": str(tmp_path / "authorized")}
        return await asyncssh.listen("127.0.0.1", 0, process_factory=handle, encoding=None, **settings)

    async def wait(server) -> None:
        await done.wait()
        server.close()
        await server.wait_closed()

    server = loop.run_until_complete(listen())
    port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_until_complete, args=(wait(server),))
    thread.start()
    config = tmp_path / "config"
    config.write_text(
        f"Host board\n HostName 127.0.0.1\n Port {port}\n User pi\n IdentityFile {tmp_path / 'key'}\n"
        f" StrictHostKeyChecking no\n UserKnownHostsFile {tmp_path / 'known'}\n"
    )
    yield config
    loop.call_soon_threadsafe(done.set)
    thread.join(30)
    loop.close()


def test_files_go_to_a_boards_folder_of_any_name_and_back(session, board, tmp_path):
    device = session.Ssh("board", "my board's", sys.executable, board)
    (tmp_path / "sent").write_text("there")
    with tarfile.open(tmp_path / "sent.tar", "w") as file:
        file.add(tmp_path / "sent", "a")
    device.push(tmp_path / "sent.tar")
    device.pull("a", tmp_path / "returned")
    assert (tmp_path / "returned").read_text() == "there"
    assert (tmp_path / "home" / "my board's" / "a").exists()


@pytest.mark.slow
def test_a_board_that_ssh_reaches_is_measured(session, board, words, tmp_path):
    session.main(["ssh", "board", "--config", str(board), "--python", sys.executable, "--preset", "ratios", *words])
    result = read_result(tmp_path / "there.json")
    assert result["doctor"]["healthy"]
    assert [row["kind"] for row in result["rows"]] == ["reference", "bundle"]
    assert result["rows"][1]["accuracy"]["count"] == 12
    (reason,) = result["not_measured"].values()  # by whether LiteRT is installed here
    assert "LiteRT cannot load it" in reason or "ai-edge-litert" in reason
    assert result["device"][0].startswith("Linux")
    assert (tmp_path / "home" / "logo-edge-session" / "bench.txt").exists()
