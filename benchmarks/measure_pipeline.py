"""Runs `make train compress` in a clean clone and writes what it cost: seconds of each half, peak memory.

    python benchmarks/measure_pipeline.py --recipe cpu --out benchmarks/results/cpu_pipeline.json

Set-up, the fetch and the rendering of the logos are part of it: the clone has its own environment and cache. Memory is
the sum of the proportional set sizes of all its processes (pages that they share count once), sampled every 5 seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_S = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--note", default="", help="a sentence on what else the machine did meanwhile")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="logo-edge-") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        environment = {**os.environ, "LOGO_EDGE_CACHE": str(Path(folder) / "cache")}
        seconds, peaks = {}, {}
        for target in ("train", "compress"):
            start, peak = time.perf_counter(), [0]
            process = subprocess.Popen(["make", target, f"RECIPE={arguments.recipe}"], cwd=clone, env=environment)
            watcher = threading.Thread(target=_watch, args=(process, peak))
            watcher.start()
            if process.wait():
                raise SystemExit(f"make {target} ended with {process.returncode}")
            watcher.join()
            seconds[target], peaks[target] = time.perf_counter() - start, peak[0] / 1e9
        report = json.loads((clone / "runs" / arguments.recipe / "compress" / "report.json").read_text())
    result = {
        "recipe": arguments.recipe,
        "seconds": seconds,
        "minutes": sum(seconds.values()) / 60,
        "peak_memory_gb": peaks,
        "cores": os.cpu_count(),
        "test": report["stages"][-1]["test"],
        "note": arguments.note,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['minutes']:.0f} minutes, at most {max(peaks.values()):.1f} GB")


def _watch(process: subprocess.Popen, peak: list[int]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], _memory_bytes(process.pid))
        time.sleep(SAMPLE_S)


def _memory_bytes(root: int) -> int:
    """The summed proportional set sizes of a process and all its descendants (Linux)."""
    total = 0
    with suppress(psutil.NoSuchProcess):  # the whole pipeline has ended
        process = psutil.Process(root)
        for member in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += member.memory_full_info().pss
    return total


if __name__ == "__main__":
    main()
