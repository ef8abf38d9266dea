"""A file is replaced atomically or stays as it was, with other writers and wherever the writer is killed."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from logo_edge.files import changing, folder_beside, json_text, replacing, write_file


def test_a_file_is_written_with_the_permissions_that_open_would_give(tmp_path):
    before = os.umask(0o022)
    try:
        write_file(tmp_path / "text.json", "é\n")
        write_file(tmp_path / "bytes", b"\xff")
    finally:
        os.umask(before)
    assert (tmp_path / "text.json").read_bytes() == "é\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\xff"
    assert stat.S_IMODE((tmp_path / "bytes").stat().st_mode) == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bytes", "text.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "kept.json"
    write_file(path, "old")

    def fail() -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    with pytest.raises(OSError, match="directory"):
        write_file(tmp_path, "a file in place of a folder")
    assert [file.name for file in tmp_path.iterdir()] == ["kept.json"]


def test_writers_of_one_file_at_once_never_fail_and_one_of_them_wins_whole(tmp_path):
    path, contents = tmp_path / "shared", [bytes([index]) * 50_000 for index in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_file(path, content), contents * 5))
    assert path.read_bytes() in contents
    assert [file.name for file in tmp_path.iterdir()] == ["shared"]


def test_what_a_killed_writer_left_is_deleted_by_the_next_and_what_a_live_one_holds_is_not(tmp_path):
    path = tmp_path / "kept"
    code = (
        "import sys, time; from logo_edge.files import replacing\n"
        f"with replacing({str(path)!r}) as part: part.write_text('half'); print(flush=True); time.sleep(60)"
    )
    killed = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    killed.stdout.readline()
    (left,) = tmp_path.iterdir()
    with replacing(path) as part:
        assert left.read_text() == "half", "its writer lives"
        part.write_text("whole")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert sorted(tmp_path.iterdir()) == sorted([left, path])
    code = f"from logo_edge.files import write_file; write_file({str(path)!r}, 'again')"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "again"


def test_a_folder_of_a_killed_process_is_deleted_by_the_next_that_succeeds_and_that_of_a_live_one_is_not(tmp_path):
    path, other = tmp_path / "made [1]", tmp_path / ".made [1]-mine"
    other.mkdir()
    code = (
        "import time; from logo_edge.files import folder_beside\n"
        f"with folder_beside({str(path)!r}) as folder: print(folder, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    left = Path(process.stdout.readline().strip())
    with folder_beside(path) as folder:
        (folder / "made").mkdir()
        (folder / "made").rename(path)
    assert sorted(tmp_path.iterdir()) == sorted([left, other, path]), "its maker lives"
    process.kill()
    process.wait()
    with pytest.raises(ZeroDivisionError), folder_beside(path):
        raise ZeroDivisionError
    assert left.exists(), "it may hold what was to be replaced"
    with folder_beside(path):
        pass
    assert sorted(tmp_path.iterdir()) == sorted([other, path])


def test_changes_of_one_file_wait_for_each_other_and_none_is_lost(tmp_path):
    path = tmp_path / "count"
    write_file(path, "0")

    def add(_) -> None:
        with changing(path):
            write_file(path, str(int(path.read_text()) + 1))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(add, range(60)))
    assert path.read_text() == "60"
    assert [file.name for file in tmp_path.iterdir()] == ["count"]


def test_a_change_that_fails_lets_the_next_one_in(tmp_path):
    with pytest.raises(ZeroDivisionError), changing(tmp_path / "file"):
        raise ZeroDivisionError
    waited = threading.Thread(target=lambda: changing(tmp_path / "file").__enter__(), daemon=True)
    waited.start()
    waited.join(10)
    assert not waited.is_alive()


def test_json_for_machines_is_strict():
    value = {"a": float("nan"), "b": [1.5, float("-inf"), {"c": (2, None, True)}], "ロゴ": "é"}
    text = json_text(value)
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": None,
        "b": [1.5, None, {"c": [2, None, True]}],
        "ロゴ": "é",
    }
    assert "ロゴ" in text
    assert json_text({"a": 1}, indent=None) == '{"a": 1}\n'
