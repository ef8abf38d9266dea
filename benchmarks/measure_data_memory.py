"""Peak memory of organizing a folder of large photographs and of holding it for training, all processes together.

python benchmarks/measure_data_memory.py [--images 500] [--megapixels 12]  ->  benchmarks/results/data_memory.json

Expected: under 1,500 MB for 500 photographs of 12 megapixels, and the same for 3 megapixels but for what a few images
at full size take.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from logo_edge_train.keys import versions
from logo_edge_train.runs import write_json

RESULT = Path(__file__).parent / "results" / "data_memory.json"
DIFFERENT = 20  # photographs; the others are links to them
SAMPLED_EVERY_S = 0.1
ORGANIZE = "import sys; from logo_edge_train.organize.organize import organize_folder; from pathlib import Path; organize_folder(Path(sys.argv[1]), Path(sys.argv[2]))"
HOLD = """
import sys
from pathlib import Path
from logo_edge_train.data.manifest import read_manifest
from logo_edge_train.data.dataset import LogoDataset
from logo_edge_train.data.lookalikes import find_lookalikes
from logo_edge_train.recipe import AugmentConfig
manifest = read_manifest(sys.argv[2])
find_lookalikes(manifest, manifest.split("train"), Path())
train = LogoDataset(manifest, manifest.split("train"), manifest.classes, Path(), contract=InputContract(192), augment=AugmentConfig())
val = LogoDataset(manifest, manifest.split("val"), manifest.classes, Path(), contract=InputContract(192))
print(len(train) + len(val))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, manifest = Path(name) / "photographs", Path(name) / "manifest.csv"
        write_photographs(folder, arguments.images, arguments.megapixels)
        record = {
            "images": arguments.images,
            "megapixels": arguments.megapixels,
            "cores": os.cpu_count(),
            "peak_mb": {
                stage: round(measure_peak(code, folder, manifest) / 1e6)
                for stage, code in (("organize", ORGANIZE), ("hold for training", HOLD))
            },
            "versions": versions(),
        }
    print(json.dumps(record, indent=1))
    write_json(arguments.out, record)


def write_photographs(folder: Path, count: int, megapixels: float) -> None:
    """JPEGs of smooth noise, 4 : 3, in two class folders."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    for index in range(count):
        path = folder / ("ok", "scratch")[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index < DIFFERENT:
            small = np.random.default_rng(index).integers(0, 256, (12, 16, 3), np.uint8)
            Image.fromarray(small).resize((height * 4 // 3, height), Image.Resampling.BICUBIC).save(path, quality=90)
        else:
            first = index % DIFFERENT
            os.link(folder / ("ok", "scratch")[first % 2] / f"{first}.jpg", path)


def measure_peak(code: str, *arguments: Path) -> int:
    """The most memory in bytes that a process running `code` and its children ever had together, shared pages counted once."""
    process = psutil.Popen([sys.executable, "-c", code, *map(str, arguments)])
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(SAMPLED_EVERY_S):
            peak = max(peak, sum(_pss(one) for one in (process, *_children(process))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        if process.wait():
            raise SystemExit(f"the measured process ended with {process.returncode}")
    finally:
        ended.set()
        watcher.join()
    return peak


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _pss(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except psutil.Error:  # it ended in between
        return 0


if __name__ == "__main__":
    main()
