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
from logo_edge_bench.experiments.record import ROOT, Out, result_path, write_record

SAMPLE_S = 5.0


def measure(
    *,
    recipe: str = "cpu",
    note: Annotated[str, "a sentence on other programs that ran"] = "",
    out: Out = result_path("cpu_pipeline"),
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
    write_record(out, record)
    print(f"{record['minutes']:.0f} minutes, at most {max(peaks_gb.values()):.1f} GB")
