"""Memory, minutes and the honesty of progress bars for many large images: organize, train (smoke), compress.

python -m logo_edge_bench.experiments large_images [--images 20000] [--megapixels 12] [--folder DIR]

Draws the images (JPEG, 4 classes) into the folder, and adds a row to the result. It resumes: images and stages that are
done are not repeated. `hold` reads the images for a training at 192 px and compares look-alikes, as smoke trains on 96
images only. `reduced` holds as many images of their reduced size, without decoding any. Memory is that of all processes
together, shared pages counted once. Expected: below 2,000 MB, for any number; hours on two busy cores.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np

from logo_edge_bench.experiments.process_memory import run_and_weigh
from logo_edge_bench.experiments.record import RUNS, Out, read_record, write_record

CLASSES = {"amber": (30, 150, 230), "green": (60, 190, 80), "grey": (140, 140, 140), "violet": (200, 60, 150)}  # BGR
COLUMNS = 160
SAMPLE_S = 0.5
SETTLED = 0.1  # of a bar's time: until then it has too little to promise by
UNKNOWN, UNKNOWN_S = "999:00:00", 999 * 3600
SHORT_S = 5  # bars that are shorter promise nothing of use
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TIME = r"(\d+:\d\d:\d\d|-:--:--)"  # left, which is the last one of a line; dashes until it is known
BAR = re.compile(rf"^\s*(\S.*?)\s+[━╸╺]{{8,}}(?:.*{TIME})")
HOLD = """
import sys
from logo_edge.preprocess import InputContract
from logo_edge_train.data.lookalikes import find_lookalikes
from logo_edge_train.data.manifest import read_manifest
from logo_edge_train.evaluate import evaluation_sets
from logo_edge_train.data.dataset import LogoDataset
from logo_edge_train.recipe import AugmentConfig
manifest, contract = read_manifest(sys.argv[1]), InputContract(192)
find_lookalikes(manifest, manifest.split("train"))
train = LogoDataset(manifest, manifest.split("train"), manifest.classes, contract=contract, augment=AugmentConfig())
held_out = evaluation_sets(manifest, manifest.classes, contract)
print(sum(len(train[index][0]) > 0 for index in range(0, len(train), 97)))
"""

REDUCED = """
import sys
from PIL import Image
from logo_edge_train.data.images import StoredImages
stored = StoredImages(Image.new("RGB", (288, 216), (index % 256, 1, 2)) for index in range(int(sys.argv[1])))
assert all(stored[index].getpixel((9, 9))[0] == index % 256 for index in range(0, len(stored), 97))
"""
MOST_REDUCED = (1_000, 4_000, 14_000)  # of 12 megapixels at 192 px; 14,000 is the train split of 20,000


def measure(
    *,
    images: int = 20_000,
    megapixels: float = 12,
    folder: Annotated[Path, "of the images, the run and the bundle; kept"] = RUNS / "large_images",
    out: Out,
) -> None:
    work = folder / f"{images}-{megapixels:g}"
    manifest, run = work / "manifest.csv", work / "run"
    command = [sys.executable, "-c", "from logo_edge.cli.main import main; main()"]
    stages = {
        "organize": [*command, "data", "organize", str(work / "images"), "--out", str(manifest), "--overwrite"],
        "hold": [sys.executable, "-c", HOLD, str(manifest)],
        "train": [*command, "train", "--recipe", "smoke", "--data", str(manifest), "--out", str(run)],
        "compress": [*command, "compress", str(run), "--out", str(work / "bundle")],
    }
    record = read_record(out, {"rows": []})
    same = [row for row in record["rows"] if (row["images"], row["megapixels"]) == (images, megapixels)]
    row = same[0] if same else {"images": images, "megapixels": megapixels, "cores": os.cpu_count(), "stages": {}}
    record["rows"] += [] if same else [row]
    if "reduced" not in record:
        peaks = {count: run_and_weigh([sys.executable, "-c", REDUCED, str(count)], 0.05) for count in MOST_REDUCED}
        record["reduced"] = [{"images": count, "peak_mb": round(peak / 1e6)} for count, peak in peaks.items()]
        write_record(out, record)
    write_images(work / "images", images, megapixels)
    for name, words in stages.items():
        if name not in row["stages"]:
            if name == "train":
                shutil.rmtree(run, ignore_errors=True)
            row["stages"][name] = run_watched(words)
            print(f"{images:,} images of {megapixels:g} megapixels, {name}: {row['stages'][name]}", flush=True)
            write_record(out, record)


def write_images(folder: Path, count: int, megapixels: float) -> None:
    """JPEGs of smooth noise, 4 : 3, in a colour of their class, none like another."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    for index in range(count):
        name = list(CLASSES)[index % len(CLASSES)]
        path = folder / name / f"{index:05}.jpg"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        cells = np.random.default_rng(index).integers(0, 160, (9, 12, 1))
        small = np.clip(cells - 80 + np.array(CLASSES[name]), 0, 255).astype(np.uint8)
        picture = cv2.resize(small, (height * 4 // 3, height), interpolation=cv2.INTER_CUBIC)
        part = path.with_suffix(".part.jpg")
        cv2.imwrite(str(part), picture, [cv2.IMWRITE_JPEG_QUALITY, 85])
        part.rename(path)


def run_watched(command: list[str]) -> dict:
    """Minutes, peak memory in MB, and what the progress bars promised, of a command in a terminal."""
    ours, theirs = pty.openpty()
    lines: list[tuple[float, str]] = []
    reader = threading.Thread(target=_read_lines, args=(ours, lines), daemon=True)
    reader.start()
    start = time.monotonic()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "LINES": "50", "TERM": "xterm-256color"}
    try:
        peak = run_and_weigh(command, SAMPLE_S, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    except Exception:
        print("\n".join(line for _, line in lines[-30:]), file=sys.stderr)
        raise
    finally:
        os.close(theirs)
    seconds = time.monotonic() - start
    reader.join(5)
    load = round(os.getloadavg()[1], 1)  # of five minutes
    return {"minutes": round(seconds / 60, 2), "load": load, "peak_mb": round(peak / 1e6), **judge_bars(lines, seconds)}


def _read_lines(terminal: int, lines: list[tuple[float, str]]) -> None:
    text = ""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            return
        *whole, text = re.split(r"[\r\n]+", text + ESCAPES.sub("", data.decode("utf-8", "replace")))
        lines += [(time.monotonic(), line) for line in whole]


def judge_bars(lines: list[tuple[float, str]], seconds: float) -> dict:
    """How far the promised end of a bar was from its real end, and the share of the time in which a bar was shown.

    `lines` are (time, line of the terminal). A bar of at least SHORT_S is judged after SETTLED of its time.
    `promised_late_s` and `promised_early_s`: the largest errors, and the bar.
    """
    shown: dict[str, list[tuple[float, float]]] = {}  # bar -> (time, promised seconds)
    for at, line in lines:
        if match := BAR.match(line):
            hours, minutes, rest = map(int, match[2].replace("-:--:--", UNKNOWN).split(":"))
            shown.setdefault(match[1], []).append((at, 3600 * hours + 60 * minutes + rest))
    errors, covered_s = [(0.0, "")], 0.0
    for name, promises in shown.items():
        running = [at for at, left in promises if left] or [promises[0][0]]
        first, last = promises[0][0], running[-1]
        end = next((at for at, _ in promises if at > last), last)
        covered_s += end - first
        if end - first >= SHORT_S:
            settled = first + SETTLED * (end - first)
            judged = [(at, left) for at, left in promises if settled <= at <= end and left < UNKNOWN_S]
            errors += [(at + left - end, name) for at, left in judged]
    return {
        "bars": len(shown),
        "covered": round(min(1.0, covered_s / seconds), 3),
        "promised_late_s": [round(max(errors)[0], 1), max(errors)[1]],
        "promised_early_s": [round(-min(errors)[0], 1), min(errors)[1]],
    }
