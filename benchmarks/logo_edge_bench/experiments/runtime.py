"""Speed and memory of the runtime: `python -m logo_edge_bench.experiments runtime [--images 100000] [--rounds 40]`.

Speed is given as ratios measured by turns in one run, and also in CPU seconds, which other programs disturb less: end
to end, relative to a fast decoder and a bare session on the same 512 px images; and the whole process of `logo-edge
classify one.png`, relative to a bare import of NumPy and ONNX Runtime. Memory is the resident set after a number of
images; `tests/runtime/test_memory.py` requires a growth below 2 % on fewer images.
"""

from __future__ import annotations

import io
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import logo_edge  # before onnxruntime: it switches off its telemetry

# isort: split
import numpy as np
import onnxruntime
import psutil
import pyspng
import simplejpeg
from PIL import Image

from logo_edge import Classifier
from logo_edge.bundle.record import read_bundle
from logo_edge.classifier import REDUCED_SHIFT, REDUCED_SIDES
from logo_edge.decision import logo_score, may_change
from logo_edge.images.load import load_reduced
from logo_edge.preprocess import preprocess
from logo_edge_bench.experiments.record import BUNDLES, Out, write_record
from logo_edge_train.data.icons import LABELS
from logo_edge_train.data.manifest import read_manifest

SIDE_PX = 512
SAMPLES = Path(logo_edge.__file__).parent / "samples"
CLASSIFY = "from logo_edge.cli.main import main; main()"
BARE = "import numpy, onnxruntime"
VAL_STEP = 4  # every fourth logo of val becomes a large JPEG
WARM_IMAGES = 1000  # each file about fifteen times; memory after them is compared with memory at the end
CLOCKS = ("wall", "cpu")


def measure(
    *,
    images: Annotated[int, "measure memory over this number of images, such as 100000"] = 0,
    workers: int = 2,
    rounds: int = 40,
    out: Out,
) -> None:
    record = {
        "steady_state_512px": measure_steady_state(Classifier.load(), rounds),
        "start": measure_start(max(9, rounds // 2)),
        "load_average": os.getloadavg()[0],
        "reduced_jpeg": {name: measure_reduced(folder) for name, folder in BUNDLES.items()},
    }
    if images:
        record["memory"] = measure_memory(images, workers)
    print(json.dumps(record, indent=1))
    write_record(out, record, map(read_bundle, BUNDLES.values()))


def encode(kind: str) -> list[bytes]:
    """The sample drawings as PNG with transparency, or as JPEG on white."""
    files = []
    for path in sorted(SAMPLES.glob("*.png")):
        image = Image.open(path, formats=("PNG", "JPEG", "WEBP")).convert("RGBA").resize((SIDE_PX, SIDE_PX))
        if kind == "JPEG":
            flat = Image.new("RGBA", image.size, "white")
            flat.alpha_composite(image)
            image = flat.convert("RGB")
        file = io.BytesIO()
        image.save(file, kind, **({"quality": 90} if kind == "JPEG" else {}))
        files.append(file.getvalue())
    return files


def bare_session(classifier: Classifier) -> Callable[[], object]:
    """One forward pass of the bundle's graph, in a plain session of ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(classifier.bundle.model_path), options)
    pixels = {"pixels": classifier.read_pixels(next(SAMPLES.glob("*.png")))[None]}
    return lambda: session.run(None, pixels)


def measure_steady_state(classifier: Classifier, rounds: int) -> dict:
    """Medians over `rounds` of every drawing, in milliseconds, by turns: wall and CPU."""
    run, figures = bare_session(classifier), {}
    for kind, decode in (("PNG", pyspng.load), ("JPEG", simplejpeg.decode_jpeg)):
        files = encode(kind)
        calls = {"bare": lambda data, decode=decode: (decode(data), run()), "classify": classifier.classify}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for turn in range(rounds + 2):
            for data in files:
                for name, call in calls.items() if turn % 2 else reversed(calls.items()):
                    wall, cpu = time.perf_counter(), time.thread_time()
                    call(data)
                    times[name].append((time.perf_counter() - wall, time.thread_time() - cpu))
        kept = {name: np.array(values[2 * len(files) :]) * 1e3 for name, values in times.items()}
        medians = {name: np.median(values, axis=0).tolist() for name, values in kept.items()}
        figures[kind.lower()] = {
            **{f"{name}_{clock}_ms": medians[name][index] for name in calls for index, clock in enumerate(CLOCKS)},
            **{f"ratio_{clock}": medians["classify"][i] / medians["bare"][i] for i, clock in enumerate(CLOCKS)},
            "calls": len(kept["bare"]),
        }
    return figures


def measure_start(rounds: int) -> dict:
    """Medians of whole processes, by turns, in seconds; modules are already compiled, like after pip."""
    commands = {"bare": [BARE], "classify": [CLASSIFY, "classify", str(SAMPLES / "01-simple.png")]}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, arguments in commands.items():
            before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run([sys.executable, "-c", *arguments], check=True, capture_output=True, env=environment)
            wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            if turn:
                times[name].append((wall, cpu))
    figures = {}
    for index, clock in enumerate(CLOCKS):
        medians = {name: statistics.median(values[index] for values in times[name]) for name in commands}
        figures |= {f"{name}_{clock}_s": median for name, median in medians.items()}
        figures[f"ratio_{clock}"] = medians["classify"] / medians["bare"]
    return figures | {"rounds": rounds}


def measure_memory(count: int, workers: int) -> dict:
    """The resident set in bytes after WARM_IMAGES of `count` and after all, in PNG and JPEG of many sizes.

    Raises ValueError for a count that is not above WARM_IMAGES.
    """
    if count <= WARM_IMAGES:
        raise ValueError(f"{count} images; expected more than the {WARM_IMAGES} after which memory is first read")
    classifier, process = Classifier.load(), psutil.Process()
    generator = np.random.default_rng(0)
    files = [*encode("PNG"), *encode("JPEG")]
    for _ in range(48):
        width, height = generator.integers(16, 1200, 2).tolist()
        file = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file, "JPEG")
        files.append(file.getvalue())

    def sources() -> Iterator[bytes]:
        for index in range(count):
            yield files[index % len(files)]

    warm = 0
    for index, _ in enumerate(classifier.classify_many(sources(), workers=workers), start=1):
        if index == WARM_IMAGES:
            warm = process.memory_info().rss
    end = process.memory_info().rss
    return {"images": count, "workers": workers, "warm_bytes": warm, "end_bytes": end, "growth": end / warm - 1}


def measure_reduced(bundle: Path) -> dict:
    """The shift of logits when val's logos as large JPEGs are decoded at a lower scale, and the share decoded again."""
    classifier, random = Classifier.load(bundle), np.random.default_rng(0)
    manifest, shifts, decoded_again = read_manifest(LABELS), [], []
    for index, row in enumerate(manifest.split("val")[::VAL_STEP]):
        image = Image.open(manifest.image_path(row), formats=("PNG", "JPEG", "WEBP")).convert("RGBA")
        flat = Image.new("RGBA", image.size, "white")
        flat.alpha_composite(image)
        longer = int(random.integers(1300, 3000))
        size = (longer, max(1, longer * flat.height // flat.width))
        file = io.BytesIO()
        flat.convert("RGB").resize(size).save(file, "JPEG", quality=(50, 75, 90)[index % 3], subsampling=index % 3)
        decoded, size_px = load_reduced(file.getvalue(), REDUCED_SIDES * classifier.bundle.input.least_px)
        small = preprocess(decoded, classifier.bundle.input, size_px)[None]
        if size_px is None:
            continue
        logits = classifier.logits(small)
        whole = classifier.logits(classifier.read_pixels(file.getvalue())[None])
        shifts.append(float(np.abs(logits - whole).max()))
        calibration, calibrated, score = (
            classifier.bundle.calibration,
            classifier.calibrated(logits),
            logo_score(logits),
        )
        limits = classifier.threshold, classifier.coverage, REDUCED_SHIFT
        decoded_again.append(bool(may_change(calibration, calibrated, score, *limits)[0]))
    return {
        "images": len(shifts),
        "largest_shift": max(shifts),
        "bound": REDUCED_SHIFT,
        "decoded_again": float(np.mean(decoded_again)),
    }
