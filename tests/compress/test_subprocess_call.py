"""Work in a separate process: results and reports come back, and failures stay there."""

from __future__ import annotations

import os
import sys
import time

import faulty_converters as converters
import pytest

from logo_edge_compress.subprocess_call import OutOfTimeError, Subprocess, SubprocessError, call_in_subprocess


def test_results_and_reports_come_back_from_another_process(tmp_path):
    reports: list[dict] = []
    assert call_in_subprocess(converters.count, ([1, 2, 4],), tmp_path / "log", report=reports.append) == 7
    assert [item["number"] for item in reports] == [1, 2, 4]
    assert (tmp_path / "log").read_text() == "counted\n", "what it prints is kept, not shown"
    process, _ = call_in_subprocess(converters.say_process, (), tmp_path / "log")
    assert process != os.getpid()


def test_a_process_that_gave_its_result_ends_by_itself_and_leaves_no_semaphores(tmp_path, monkeypatch):
    codes, close = [], Subprocess.close
    monkeypatch.setattr(Subprocess, "close", lambda self: (codes.append(self.process.exitcode), close(self)))
    assert call_in_subprocess(converters.count, ([1],), tmp_path / "log") == 1
    assert codes == [0], "one that is killed leaves them to the resource tracker, which warns"


@pytest.mark.skipif(sys.platform != "linux", reason="loaders are forked on Linux")
def test_the_loaders_of_a_fit_in_such_a_process_share_its_pytorch(tmp_path):
    count, has_own_server = call_in_subprocess(converters.load_batches, (), tmp_path / "log")
    assert count == 3
    assert not has_own_server, "each loader would load PyTorch again"


@pytest.mark.parametrize(
    ("converter", "message"),
    [
        (converters.abort, r"ended by SIGABRT; the end of its log, .*log: free\(\): invalid pointer"),
        (converters.get_killed, "ended by SIGKILL"),
        (converters.leave_early, "ended with status 3 and no result"),
        (converters.divide_by_zero, "ZeroDivisionError: division by zero"),
        (converters.lack_a_library, r"pip install 'logo-edge\[openvino\]'"),
    ],
)
def test_what_goes_wrong_is_an_error_that_says_how(tmp_path, converter, message):
    with pytest.raises(SubprocessError, match=message):
        call_in_subprocess(converter, (), tmp_path / "log")
    assert call_in_subprocess(converters.count, ([1],), tmp_path / "log") == 1, "the next one is none the worse"


def test_one_that_hangs_is_stopped_at_the_deadline(tmp_path):
    call_in_subprocess(converters.count, ([],), tmp_path / "log")  # what all processes share is loaded
    started = time.monotonic()
    with pytest.raises(OutOfTimeError, match="stopped: its time was over"):
        call_in_subprocess(converters.stop_answering, (), tmp_path / "log", deadline=started + 1)
    assert time.monotonic() - started < 60


def test_a_bare_process_has_loaded_no_pytorch_and_can_be_talked_to(tmp_path):
    process = Subprocess(converters.echo, (), tmp_path / "log")
    process.send("one")
    assert process.receive() == "one"
    process.close()
    assert not process.process.is_alive()
