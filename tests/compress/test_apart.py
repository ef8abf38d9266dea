"""Work in a process of its own: results and reports come back, and whatever goes wrong stays there."""

from __future__ import annotations

import os
import time

import faulty_converters as converters
import pytest

from logo_edge_compress.subprocess_call import Apart, ApartError, OutOfTimeError, run_apart


def test_results_and_reports_come_back_from_another_process(tmp_path):
    reports: list[dict] = []
    assert run_apart(converters.count, ([1, 2, 4],), tmp_path / "log", report=reports.append) == 7
    assert [item["number"] for item in reports] == [1, 2, 4]
    assert (tmp_path / "log").read_text() == "counted\n", "what it prints is kept, not shown"
    process, _ = run_apart(converters.say_process, (), tmp_path / "log")
    assert process != os.getpid()


def test_a_process_that_gave_its_result_ends_by_itself_and_leaves_no_semaphores(tmp_path, monkeypatch):
    codes, close = [], Apart.close
    monkeypatch.setattr(Apart, "close", lambda self: (codes.append(self.process.exitcode), close(self)))
    assert run_apart(converters.count, ([1],), tmp_path / "log") == 1
    assert codes == [0], "one that is killed leaves them to the resource tracker, which warns"


@pytest.mark.parametrize(
    ("converter", "told"),
    [
        (converters.abort, r"ended by SIGABRT; its last words, in .*log: free\(\): invalid pointer"),
        (converters.get_killed, "ended by SIGKILL"),
        (converters.leave_early, "ended with status 3 and no result"),
        (converters.divide_by_zero, "ZeroDivisionError: division by zero"),
        (converters.lack_a_library, r"pip install 'logo-edge\[openvino\]'"),
    ],
)
def test_what_goes_wrong_is_an_error_that_says_how(tmp_path, converter, told):
    with pytest.raises(ApartError, match=told):
        run_apart(converter, (), tmp_path / "log")
    assert run_apart(converters.count, ([1],), tmp_path / "log") == 1, "the next one is none the worse"


def test_one_that_hangs_is_stopped_at_the_deadline(tmp_path):
    run_apart(converters.count, ([],), tmp_path / "log")  # what all processes share is loaded
    started = time.monotonic()
    with pytest.raises(OutOfTimeError, match="stopped: its time was over"):
        run_apart(converters.stop_answering, (), tmp_path / "log", deadline=started + 1)
    assert time.monotonic() - started < 60


def test_a_bare_process_has_loaded_no_pytorch_and_can_be_talked_to(tmp_path):
    apart = Apart(converters.echo, (), tmp_path / "log", bare=True)
    apart.send("one")
    assert apart.receive() == "one"
    apart.close()
    assert not apart.process.is_alive()
