"""Pages and tables of results: they hold every measured figure, omit the others, and escape names."""

from __future__ import annotations

import copy
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from logo_edge.errors import BenchError
from logo_edge_bench.commands import bench
from logo_edge_bench.page import html_of, write_report
from logo_edge_bench.percentiles import median_interval, summarize_latencies
from logo_edge_bench.result_tables import markdown_of
from logo_edge_report.charts import lines, pareto_front


def figure(value):
    return {"value": value, "low": value * 0.9, "high": value * 1.1}


def row(name, ms, accuracy, size_bytes, *, count=500, **changes):
    times = np.random.default_rng(0).gamma(20, ms / 20, count)
    recall = {"text": figure(0.9), "complex": figure(0.7)}
    return {
        "name": name,
        "kind": "bundle",
        "backend": "onnxruntime",
        "precision": "int8",
        "note": "",
        "threads": 1,
        "batch": 1,
        "scenario": "SingleStream",
        "load_s": 0.2,
        "size_bytes": size_bytes,
        "peak_rss_bytes": 90e6,
        "joules_per_image": None,
        "images_per_s": figure(100.0),
        "process_start_s": figure(0.4),
        "worst_class": {"label": "complex", **figure(0.7)},
        "accuracy": {"accuracy": figure(accuracy), "accuracy_sure": figure(accuracy), "ece": 0.03, "recall": recall},
        "latency": {stage: summarize_latencies(times, 90) for stage in ("preprocess", "inference", "end_to_end")},
        "noise": {"spread": 0.02},
        **changes,
    }


@pytest.fixture
def result():
    machine = {
        "cpu": "A <b>CPU</b>",
        "architecture": "x86_64",
        "cpus": 2,
        "isa": ["avx2"],
        "governor": [],
        "power_mode": "",
        "python": "3.11",
        "versions": {"onnxruntime": "1"},
        "system": "Linux",
    }
    rows = [
        row("by hand", 4, 0.9, 3_800_000),
        row("ours | best", 2, 0.93, 3_000_000),
        row("few calls", 9, 0.8, 40_000_000, count=50),
    ]
    scaling = {
        "of": "ours",
        "cores": [
            {
                "cores": n,
                "processes": {"images_per_s": figure(100.0 * n), "of_one": figure(float(n))},
                "threads": {"images_per_s": figure(90.0 * n), "of_one": figure(float(n))},
            }
            for n in (1, 2)
        ],
        "batches": [{"batch": n, "inference": figure(200.0), "end_to_end": figure(100.0 + n)} for n in (1, 8)],
        "sizes": [
            {"format": kind, "size_px": size, "ms": figure(size / 64)}
            for kind in ("PNG", "JPEG")
            for size in (32, 4096)
        ],
        "folders": [{"files": n, "images_per_s": 80.0, "peak_rss_bytes": 9e7} for n in (10, 100_000)],
    }
    return {
        "made": "2026-01-02",
        "method": {"name": "quick", "rounds": 7, "window_s": 0.4, "size_px": 192, "settle_within": 0.1},
        "split": "test",
        "machine": machine,
        "conditions": {"before": {"load_average": 0.1}},
        "energy_by": None,
        "warnings": ["load average 3.0"],
        "rows": rows,
        "scaling": scaling,
        "ratios": {"to": "by hand", "of": {"ours | best": figure(0.5), "few calls": figure(2.0)}},
    }


def test_markdown_holds_every_row_and_leaves_out_percentiles_that_few_calls_do_not_support(result):
    text = markdown_of(result)
    assert "93.0%" in text
    assert "Doubtful: load average 3.0." in text
    assert "| ours &#124; best | 0.500 |" in text
    (few,) = [line for line in text.splitlines() if line.startswith("| few calls | 80.0%")]
    cells = [cell.strip() for cell in few.strip("|").split("|")]
    assert cells[10]  # p50
    assert cells[12:15] == ["", "", ""]  # p95, p99 and the bound
    for heading in ("Cores", "Batches", "Sizes and formats", "Folders"):
        assert f"### {heading}" in text


def test_a_run_of_ratios_shows_no_milliseconds(result):
    result["method"]["settle_within"] = None
    text = markdown_of(result)
    assert "end to end p50" not in text
    assert "0.500" in text
    assert "<svg" not in html_of([result | {"scaling": None}])


def test_runtimes_are_listed_by_their_forward_pass_and_only_where_there_are_several(result):
    assert "Which runtime" not in markdown_of(result)
    result["rows"] += [
        row("ours, litert", 1, 0.93, 900_000, backend="litert"),
        row("ours, litert, close", 1.01, 0.93, 900_000, backend="litert", precision="fp16"),
        row("ours, by eight", 0.1, 0.93, 900_000, batch=8),
        row("a peer", 0.1, 0.93, 900_000, kind="peer"),
    ]
    text = markdown_of(result).partition("### Which runtime for this CPU\n\n")[2].partition("\n\n")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    shown = [(backend, precision, ratio) for backend, precision, _, _, ratio, *_ in lines]
    assert shown[0] == ("litert", "int8", "1.00 (as fast)")
    assert shown[1] == ("litert", "fp16", "1.01 (as fast)")
    assert [backend for backend, *_ in shown[2:]] == ["onnxruntime"] * 3
    assert shown[2][2].startswith("2.0")
    assert "Which runtime for this CPU" in html_of([result])


def test_the_page_is_whole_escaped_and_needs_nothing_from_outside(result, tmp_path):
    other = copy.deepcopy(result)
    other["machine"]["cpu"] = "B"
    page = write_report([result, other], tmp_path / "report").read_text()
    assert "<b>CPU</b>" not in page
    assert page.count('<h2 id="result-') == 2
    outside = [text for text in re.findall(r"(?:https?:)?//[\w./-]+", page) if "www.w3.org" not in text]
    assert outside == []
    assert not any(tag in page for tag in ("<script", "<img"))
    drawings = page.split("<svg")[1:]
    assert len(drawings) == 2 * (1 + 1 + 4)
    for drawing in drawings:
        ElementTree.fromstring("<svg" + drawing.partition("</svg>")[0] + "</svg>")
    assert page.index("load average 3.0") < page.index("<svg"), "warnings come first"
    assert (tmp_path / "report" / "report.md").read_text().startswith("## A")


def test_the_front_holds_what_nothing_beats_in_both():
    assert pareto_front([(1, 80), (2, 90), (3, 85), (2, 88), (4, 95)]) == {0, 1, 4}
    assert pareto_front([(1, 80), (1, 80)]) == {0, 1}


@pytest.mark.parametrize("values", [{1.0: 5.0}, {0.001: 0.0, 1000.0: 1e6}, {0.0: 1.0, 2.0: 3.0}])
def test_any_curve_can_be_drawn(values):
    text = lines({"one <two>": values}, "x", "y", log_x=True, log_y=True)
    ElementTree.fromstring(text)
    assert "nan" not in text
    assert "inf" not in text


def test_without_the_extra_the_page_is_refused_before_anything_is_measured(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "logo_edge_bench.page")
    for name in ("charts", "svg_chart"):
        monkeypatch.delitem(sys.modules, f"logo_edge_report.{name}")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = CliRunner().invoke(bench, ["--manifest", str(tmp_path / "none.csv"), "--report", str(tmp_path)])
    assert isinstance(done.exception, BenchError)
    assert "needs the Python package matplotlib" in str(done.exception)
    assert "logo-edge bench --from FILE --report DIR" in str(done.exception)


def test_medians_of_rounds_have_an_order(result):
    interval = median_interval([3.0, 1.0, 2.0, 5.0, 4.0, 6.0, 7.0])
    assert (interval["low"], interval["value"], interval["high"]) == (1.0, 4.0, 7.0)
