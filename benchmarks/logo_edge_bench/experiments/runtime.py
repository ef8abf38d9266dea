"""Speed and memory of the runtime: `python -m logo_edge_bench.experiments runtime [--images 100000] [--rounds 40]`.

Speed is given as ratios measured by turns in one run, and also in CPU seconds, which other programs disturb less: end
to end, relative to a fast decoder and a bare session on the same images, 512 px each or a folder of small files; and
the whole process of `logo-edge classify one.png`, relative to a bare import of NumPy and ONNX Runtime. Two threads are
compared with one, for each stage: a decoder that keeps Python's lock gains nothing. Memory is the resident set after a
number of images; `tests/runtime/test_memory.py` requires a growth below 2 % on fewer images.
"""

from __future__ import annotations

import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
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
SMALL_FILES, SMALL_PX = 1000, (48, 160)  # half PNG, half JPEG
BUSY_LOAD = 2  # a load average from which on the machine is busy


def measure(
    *,
    images: Annotated[int, "measure memory over this number of images, such as 100000"] = 0,
    workers: int = 2,
    rounds: int = 40,
    out: Out,
) -> None:
    classifier, load = Classifier.load(), os.getloadavg()[0]
    record = {
        "preset": "full" if load < BUSY_LOAD else "busy machine",
        "steady_state_512px": measure_steady_state(classifier, rounds),
        "small_files": measure_folder(classifier, max(3, rounds // 8)),
        "threads": measure_threads(classifier, max(3, rounds // 4)),
        "start": measure_start(max(9, rounds)),
        "load_average": load,
        "reduced_jpeg": {name: measure_reduced(folder) for name, folder in BUNDLES.items()},
    }
    if images:
        record["memory"] = measure_memory(images, workers)
    print(json.dumps(record, indent=1))
    write_record(out, record, map(read_bundle, BUNDLES.values()))


def encode(kind: str, side_px: int = SIDE_PX) -> list[bytes]:
    """The sample drawings as PNG with transparency, or as JPEG on white."""
    files = []
    for path in sorted(SAMPLES.glob("*.png")):
        image = Image.open(path, formats=("PNG", "JPEG", "WEBP")).convert("RGBA").resize((side_px, side_px))
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


def measure_folder(classifier: Classifier, rounds: int) -> dict:
    """Medians over `rounds` of SMALL_FILES small files, in milliseconds a file, by turns: wall and CPU.

    Bare is to read and decode each file and to run the session.
    """
    run, random = bare_session(classifier), np.random.default_rng(0)
    decoders = {".png": pyspng.load, ".jpeg": simplejpeg.decode_jpeg}
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        while len(paths) < SMALL_FILES:
            for kind in ("PNG", "JPEG"):
                for data in encode(kind, int(random.integers(*SMALL_PX, endpoint=True))):
                    paths.append(Path(folder, f"{len(paths):04}.{kind.lower()}"))
                    paths[-1].write_bytes(data)
        names = [str(path) for path in paths[:SMALL_FILES]]

        def bare() -> None:
            for path in paths[:SMALL_FILES]:
                decoders[path.suffix](path.read_bytes())
                run()

        calls = {"bare": bare, "classify": lambda: list(classifier.classify_many(names))}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for turn in range(rounds + 1):
            for name, call in calls.items():
                wall, cpu = time.perf_counter(), time.thread_time()
                call()
                if turn:
                    times[name].append((time.perf_counter() - wall, time.thread_time() - cpu))
    medians = {name: np.median(values, axis=0) * 1e3 / SMALL_FILES for name, values in times.items()}
    return {
        **{f"{name}_{clock}_ms": float(medians[name][index]) for name in calls for index, clock in enumerate(CLOCKS)},
        **{f"ratio_{clock}": float(medians["classify"][i] / medians["bare"][i]) for i, clock in enumerate(CLOCKS)},
        "files": SMALL_FILES,
    }


def measure_threads(classifier: Classifier, rounds: int) -> dict:
    """For each stage of 512 px images, the images a second of two threads relative to one: medians over `rounds`.

    `alone` is the same without the time that the threads waited for a core, which other programs had (Linux): they then
    wait for each other alone.
    """
    pngs, jpegs = encode("PNG"), encode("JPEG")
    pictures = [simplejpeg.decode_jpeg(data) for data in jpegs]
    pixels = [preprocess(picture, classifier.bundle.input)[None] for picture in pictures]
    stages = {
        "Pillow, PNG": (lambda data: Image.open(io.BytesIO(data), formats=("PNG",)).load(), pngs),
        "pyspng": (pyspng.load, pngs),
        "own decoder, PNG": (lambda data: load_reduced(data, None), pngs),
        "Pillow, JPEG": (lambda data: Image.open(io.BytesIO(data), formats=("JPEG",)).load(), jpegs),
        "simplejpeg": (simplejpeg.decode_jpeg, jpegs),
        "preprocessing": (lambda picture: preprocess(picture, classifier.bundle.input), pictures),
        "session": (classifier.logits, pixels),
        "classify, PNG": (classifier.classify, pngs),
        "classify, JPEG": (classifier.classify, jpegs),
    }
    figures = {}
    for name, (call, arguments) in stages.items():
        time_threads(call, arguments, 1)
        pairs = [[time_threads(call, arguments * 8, threads) for threads in (1, 2)] for _ in range(rounds)]
        ratios = np.median([2 * one / two for one, two in np.array(pairs)], axis=0)
        figures[name] = {"wall": float(ratios[0]), "alone": float(ratios[1])}
    return figures


def time_threads(call: Callable, arguments: list, threads: int) -> tuple[float, float]:
    """Seconds until each of the threads has called it with every argument; and without their waits for a core."""
    barrier, times = threading.Barrier(threads), []

    def work() -> None:
        barrier.wait()
        start, waited = time.perf_counter(), waited_s()
        for argument in arguments:
            call(argument)
        wall = time.perf_counter() - start
        times.append((wall, wall - (waited_s() - waited)))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    wall, alone = np.mean(times, axis=0).tolist()
    return wall, alone


def waited_s() -> float:
    """How long this thread could have run and had no core; 0 where the system does not say. Linux, sched-stats.rst."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except OSError:
        return 0.0


def measure_start(rounds: int) -> dict:
    """Medians of whole processes, by turns, in seconds, and of the turns' ratios.

    Modules are already compiled, like after pip.
    """
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
        pairs = zip(times["classify"], times["bare"], strict=True)  # of one turn, under the same load
        figures[f"ratio_{clock}"] = statistics.median(ours[index] / bare[index] for ours, bare in pairs)
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
