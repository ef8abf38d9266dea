"""The page of `logo-edge compress`: its candidates and choice, and its HTML."""

from __future__ import annotations

import json

import numpy as np
import pytest
from system.browser.page import CHROMIUM_RUNS, HEADING, SCREENS, SMALL, WIDE, Page, find_barriers

from logo_edge_compress.figures import summarize_rows
from logo_edge_report.compression import make_page
from logo_edge_train.data.manifest import LogoRow
from logo_edge_train.metrics import summarize

LABELS = ("red", "blue & <b>")


def candidate(
    student, name, backend="onnxruntime", *, accuracy=0.9, ms=1.0, megabytes=2.0, status="made", reason=""
) -> dict:
    """One entry of compress_report.json; without figures where it was not made."""
    record = {
        "title": f"{student}, {name}",
        "student": student,
        "name": name,
        "precision": name.partition("-")[0],
        "backend": backend,
        "status": status,
        "reason": reason,
    }
    if status != "made":
        return record
    cost = {"p50_ms": ms, "p95_ms": 2 * ms, "peak_memory_mb": 88.0} if ms else None
    return record | {
        "size_bytes": int(1e6 * megabytes),
        "accuracy": accuracy,
        "worst_recall": 0.8,
        "ece": 0.013,
        "ood": {"noise": 0.9, "charts": 0.8},
        "cost": cost,
        "not_measured": "" if cost else "no engine was built or run: no GPU",
        "parity": {"top1_agreement": 0.99, "kl_nats": 0.0123},
    }


@pytest.fixture
def folder(tmp_path):
    """A finished compression for cpu and jetson: seven candidates, one crashed, one slower than FP32."""
    logits, targets = np.eye(2)[[0, 1, 1, 0]] * 3, np.array([0, 1, 1, 1])
    rows = [LogoRow(f"<pack {k}>", "1", f"{k}", label=LABELS[k], round=k + 1) for k in targets.tolist()]
    stages = [
        {
            "stage": name,
            "size_bytes": size,
            "latency": None,
            "val": summarize(logits, targets, targets > 0, 1.0, LABELS),
            "test": summarize_rows(logits, rows, LABELS),
        }
        for name, size in (("2 teachers, PyTorch", 9_000_000), ("INT8, calibrated", 600_000))
    ]
    target = {"limits": {"size_mb": 4.0, "latency_ms": None, "accuracy_drop": 2.0, "ece": None}, "stages": stages}
    record = {
        "run": "mine <&>",
        "recipe": "cpu",
        "val": 361,
        "outliers": ["charts", "noise"],
        "versions": {"python": "3.11"},
        "int8_range": "INT8 weights keep to 7 bits.",
        "machine": {"cpu": "A CPU", "isa": ["avx2"], "onnxruntime": "1.32"},
        "teachers": {"networks": ["large@192"], "val": {"accuracy": 0.92}},
        "candidates": [
            candidate("small@96", "fp32"),
            candidate("small@96", "int8-minmax", ms=0.5, megabytes=0.6, accuracy=0.89),
            candidate("small@96", "fp16", megabytes=1.0),
            candidate("tiny@64", "fp32", ms=0.1, megabytes=0.9, accuracy=0.84),
            candidate("tiny@64", "int8-minmax", ms=0.2, megabytes=0.3, accuracy=0.83),
            candidate("tiny@64", "int8-tuned", status="failed", reason="ended by SIGABRT: <free>"),
            candidate("small@96", "fp16-tensorrt", "tensorrt", ms=None),
        ],
        "targets": {
            "cpu": target
            | {
                "chosen": "small@96",
                "method": "int8-minmax",
                "sentence": "small@96, int8-minmax: it is the fastest.",
                "dominated": {"small@96, fp32": "small@96, fp16"},
                "misses": {"tiny@64, fp32": ["accuracy drop 8.0 points (limit 2.0 points)"]},
                "refused": {"tiny@64, int8-minmax": "slower than FP32 on this machine: 0.20 ms against 0.10 ms"},
            },
            "jetson": {
                "limits": target["limits"],
                "dominated": {},
                "refused": {},
                "misses": {"small@96, fp16-tensorrt": ["latency not measured here"]},
                "sentence": "no candidate meets the limits\n  small@96: why",
            },
        },
    }
    (tmp_path / "compress_report.json").write_text(json.dumps(record))
    return tmp_path


def test_the_page_says_what_was_chosen_and_what_became_of_every_candidate(folder):
    text = make_page(folder).read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    anchors = [attributes["id"] for attributes in page.all("h2")]
    assert anchors == ["choice", "onnxruntime", "tensorrt", "lost", "stages-cpu", "making"]
    assert len(page.all("svg")) == 2, "no plane where there is but one candidate"
    chosen, latency, _, table, *_ = page.captions
    assert chosen.startswith(
        "For cpu, small@96, int8-minmax: it is the fastest. For jetson, no candidate meets the limits"
    )
    assert "Hollow ones are dominated" in latency
    assert "1 of 5 are dominated" in table
    assert "Refused: tiny@64, int8-minmax is slower than FP32 on this machine" in table
    for mark in ("chosen", "dominated", "refused", "on the front", "failed"):
        assert f"<td>{mark}</td>" in text, mark
    assert text.count("accuracy drop 8.0 points (limit 2.0 points)") == 1
    assert "no engine was built or run: no GPU" in text
    assert "Test split, by round and icon set" in text
    assert "round 2" in text


def test_the_cost_of_layers_stands_beside_that_of_every_int8_candidate(folder):
    path = folder / "compress_report.json"
    record = json.loads(path.read_text())
    layers = [
        {"name": f"layer-{index}", "operator": "depthwise Conv", "weights": 9, "kl_nats": index / 100, "accuracy": 0.9}
        for index in range(20)
    ]
    mixed = candidate("small@96", "int8-mixed") | {"sensitivity": {"layers": layers, "restored": ["layer-19"]}}
    refused = candidate("small@96", "int8-equalised", status="refused", reason="it differs")
    refused["parity"] = {"top1_agreement": 0.5, "kl_nats": 0.9}
    path.write_text(json.dumps(record | {"candidates": [*record["candidates"], refused, mixed]}))
    text = make_page(folder).read_text(encoding="utf-8")
    table = text[text.index("Layer by layer, small@96") :]
    rows = [
        "int8-minmax</th><td>made</td><td>0.0123</td><td>99.0%</td>",
        "int8-equalised</th><td>refused</td><td>0.9000</td><td>50.0%</td>",
        "layer-19</th><td>depthwise Conv</td><td>0.1900</td><td></td>",
        "layer-8</th><td>depthwise Conv</td><td>0.0800</td><td></td>",
    ]
    positions = [table.index(row) for row in rows]
    assert positions == sorted(positions)
    assert "layer-7</th>" not in table, "the twelve most sensitive ones"
    assert "Left in FP32 by int8-mixed: layer-19." in table


def test_what_comes_from_the_run_is_escaped_and_nothing_is_loaded(folder):
    text = make_page(folder).read_text(encoding="utf-8")
    assert "mine &lt;&amp;&gt;" in text
    assert "&lt;free&gt;" in text
    assert "blue &amp; &lt;b&gt;" in text
    assert "&lt;pack 1&gt;" in text
    assert "<script" not in text
    page = Page(text)
    assert [attributes["href"] for attributes in page.all("a") if not attributes["href"].startswith("#")] == []
    assert page.all("img") == []


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM_RUNS, reason="the Chromium that tests use is built for Linux on x86-64")
@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_the_page_fits_the_screen(folder, browser, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.goto(make_page(folder).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(WIDE) == []
    assert page.evaluate(SMALL) == []
    assert page.evaluate(HEADING) > 50, "there is a font"
    assert find_barriers(page) == []
    assert errors == []
