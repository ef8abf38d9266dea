"""The tables at the end of a compression stay readable with many classes."""

from __future__ import annotations

import io

from rich.console import Console

from logo_edge_compress.report import print_stages


def test_the_stages_of_twenty_classes_fit_a_narrow_terminal():
    names = [f"class [{at}]" for at in range(20)]
    share = {"value": 0.5, "low": 0.4, "high": 0.6}
    figures = {
        "count": 9,
        "accuracy": share,
        "accuracy_sure": share,
        "calibration_error_debiased": share,
        "recall": dict.fromkeys(names, share),
    }
    stages = [
        {"stage": name, "val": figures, "size_bytes": 10**6, "latency": None}
        for name in ("2 teachers, PyTorch", "student, PyTorch", "INT8 ONNX", "INT8, calibrated")
    ]
    console = Console(file=io.StringIO(), width=80)
    print_stages({"bundle": "b", "stages": stages}, console)
    text = console.file.getvalue()
    assert "…" not in text
    assert all(f"recall of {name} " in text for name in names)
    assert text.count("50.0%") == 4 * 23
