"""Progress bars are judged by what they promised; drawn images are there once."""

from __future__ import annotations

import sys

from PIL import Image

from logo_edge_bench.experiments import large_images
from logo_edge_bench.experiments.large_images import judge_bars, run_watched, write_images

BAR = "━━━━━━━━━━╸━━━━━━━━━"


def test_the_largest_errors_of_a_promised_end_are_found_by_bar():
    lines = [
        (0.0, f"Measuring {BAR}  0% -:--:--"),
        (2.0, f"Measuring {BAR}  2% 0:59:00"),  # too early to be judged
        (20.0, f"  Measuring {BAR} 20% 0:01:30"),  # promises 110
        (60.0, "a line of text 0:00:01"),
        (60.0, f"Measuring {BAR} 60% 0:00:10"),  # promises 70
        (100.0, f"Measuring {BAR} 100% 0:00:00"),
        (110.0, f"teacher 1/1: images {BAR} 1/2 0:00:01 0:00:02"),  # time since the start, and left
        (112.0, f"teacher 1/1: images {BAR} 2/2 0:00:03 0:00:00"),  # short
    ]
    judged = judge_bars(lines, 204)
    assert judged["bars"] == 2
    assert judged["covered"] == 0.5
    assert judged["promised_late_s"] == [10.0, "Measuring"]
    assert judged["promised_early_s"] == [30.0, "Measuring"]


def test_a_command_in_a_terminal_is_weighed_and_its_bar_read(monkeypatch):
    monkeypatch.setattr(large_images, "SAMPLE_S", 0.05)
    script = (
        "import time; from logo_edge_train.console import stage_bar\n"
        "with stage_bar('Reading [9]') as tick:\n"
        "    for done in range(21): tick(done, 20); time.sleep(0.05)"
    )
    figures = run_watched([sys.executable, "-c", script])
    assert figures["bars"] == 1
    assert 0 < figures["covered"] < 1
    assert 5 < figures["peak_mb"] < 500
    assert figures["minutes"] > 0


def test_images_are_drawn_once_and_a_lost_one_again(tmp_path):
    write_images(tmp_path, 8, 0.01)
    files = sorted(tmp_path.rglob("*.jpg"))
    assert len({file.read_bytes() for file in files}) == 8
    assert {Image.open(file).size for file in files} == {(116, 87)}
    before = {file: file.stat().st_mtime_ns for file in files}
    files[3].unlink()
    write_images(tmp_path, 8, 0.01)
    assert [file for file in files if file.stat().st_mtime_ns != before[file]] == [files[3]]
