"""Peak memory of organizing a folder of large photographs and of holding it for training, all processes together.

python -m logo_edge_bench.experiments data_memory [--images 500] [--megapixels 12]

Expected: under 1,500 MB for 500 photographs of 12 megapixels, and for 3 megapixels the same but for the few images that
are decoded at full size.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from logo_edge_bench.experiments.process_memory import run_and_weigh

DIFFERENT = 20  # photographs; the others are links to them
SAMPLE_S = 0.1
ORGANIZE = """
import sys
from pathlib import Path
from logo_edge_train.organize.organize import organize_folder
organize_folder(Path(sys.argv[1]), Path(sys.argv[2]))
"""
HOLD = """
import sys
from pathlib import Path
from logo_edge.preprocess import InputContract
from logo_edge_train.data.manifest import read_manifest
from logo_edge_train.data.dataset import LogoDataset
from logo_edge_train.data.lookalikes import find_lookalikes
from logo_edge_train.recipe import AugmentConfig
manifest = read_manifest(sys.argv[2])
find_lookalikes(manifest, manifest.split("train"))
classes, contract = manifest.classes, InputContract(192)
train = LogoDataset(manifest, manifest.split("train"), classes, contract=contract, augment=AugmentConfig())
val = LogoDataset(manifest, manifest.split("val"), classes, contract=contract)
print(len(train) + len(val))
"""


def measure(*, images: int = 500, megapixels: float = 12) -> dict:
    with tempfile.TemporaryDirectory() as name:
        folder, manifest = Path(name) / "photographs", Path(name) / "manifest.csv"
        write_photographs(folder, images, megapixels)
        peaks = {}
        for stage, code in (("organize", ORGANIZE), ("hold for training", HOLD)):
            command = [sys.executable, "-c", code, str(folder), str(manifest)]
            peaks[stage] = round(run_and_weigh(command, SAMPLE_S) / 1e6)
    record = {"images": images, "megapixels": megapixels, "cores": os.cpu_count(), "peak_mb": peaks}
    print(json.dumps(record, indent=1))
    return record


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
