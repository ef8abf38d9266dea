"""The cost of `make train compress` in a clean clone: seconds of each half, and peak memory.

    python -m logo_edge_bench.experiments pipeline --recipe cpu

Set-up, the fetch and the rendering of the logos are included: the clone has its own environment and cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Annotated

from logo_edge_bench.experiments.process_memory import run_and_weigh
from logo_edge_bench.experiments.record import ROOT, Out, result_path, write_plain
from logo_edge_bench.experiments.shipped import test_split
from logo_edge_bench.experiments.tables import Table
from logo_edge_bench.markdown import markdown, share

RESULT = result_path("cpu_pipeline")
SAMPLE_S = 5.0


def measure(
    *, recipe: str = "cpu", out: Out = RESULT, note: Annotated[str, "a sentence on other programs that ran"] = ""
) -> None:
    with tempfile.TemporaryDirectory(prefix="logo-edge-") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        environment = {**os.environ, "LOGO_EDGE_CACHE": str(Path(folder) / "cache")}
        seconds, peaks_gb = {}, {}
        for target in ("train", "compress"):
            start_s = time.perf_counter()
            peak = run_and_weigh(["make", target, f"RECIPE={recipe}"], SAMPLE_S, cwd=clone, env=environment)
            seconds[target], peaks_gb[target] = time.perf_counter() - start_s, peak / 1e9
        report = json.loads((clone / "runs" / recipe / "compress" / "report.json").read_text())
    record = {
        "recipe": recipe,
        "seconds": seconds,
        "minutes": sum(seconds.values()) / 60,
        "peak_memory_gb": peaks_gb,
        "cores": os.cpu_count(),
        "test": report["stages"][-1]["test"],
        "note": note,
    }
    write_plain(out, record)
    print(f"{record['minutes']:.0f} minutes, at most {max(peaks_gb.values()):.1f} GB")


def table(result: dict, report: dict) -> str:
    """The cost of the `cpu` recipe from a clean clone, and the accuracy of its bundle."""
    required = report["stages"][-1]["test"]["accuracy"]["value"] - 0.015
    split = test_split(result["test"]["count"])
    train, compress = (result["seconds"][half] / 60 for half in ("train", "compress"))
    rows = [
        ["`make train`, with set-up, fetch and rendering", f"{train:.0f} minutes", ""],
        ["`make compress`", f"{compress:.0f} minutes", "<= 20"],
        ["together", f"{result['minutes']:.0f} minutes", "<= 60"],
        ["peak memory", f"{max(result['peak_memory_gb'].values()):.1f} GB", "<= 8 GB"],
        [f"its bundle on the {split}, all", share(result["test"]["accuracy"]), f"{required:.1%}"],
        [f"its bundle on the {split}, sure", share(result["test"]["accuracy_sure"]), ""],
    ]
    text = markdown([f"recipe `cpu`, {result['cores']} cores", "measured", "must reach"], rows)
    return f"{text}\n\n{result['note']}" if result.get("note") else text


TABLES = {"pipeline": Table(table, ("cpu_pipeline", "default_report"))}
