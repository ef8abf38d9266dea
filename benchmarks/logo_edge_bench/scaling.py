"""Scaling of a bundle over cores, batches, sizes and formats of images, and folders; end to end, in the runtime."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from logo_edge.classifier import Classifier
from logo_edge.errors import BenchError
from logo_edge.images.load import load_image
from logo_edge_bench import machine
from logo_edge_bench.bench import Images, Preset, Say
from logo_edge_bench.percentiles import median_interval
from logo_edge_bench.processes import Worker, median_ms, on_cpus
from logo_edge_bench.systems import CLASSIFY, System

BATCHES = (1, 2, 4, 8, 16, 32)
SIZES_PX = (32, 64, 128, 256, 512, 1024, 2048, 4096)
FORMATS = {"PNG": {}, "JPEG": {"quality": 90}, "WEBP": {"quality": 90}, "GIF": {}, "BMP": {}, "TIFF": {}}
FOLDERS = (10, 1_000, 100_000)
FOLDERS_QUICK = (10, 1_000)
DRAWINGS = 3  # of each size and format


def measure_scaling(system: System, images: Images, preset: Preset, *, say: Say = lambda line: None) -> dict:
    """The curves of one system of a bundle. Folders of 100,000 files only with the full preset."""
    bundle, quick = system.options["bundle"], preset.name != "full"
    say("scaling: cores")
    cores = measure_cores(system, images, preset)
    say("scaling: batches")
    batches = measure_batches(system, images, preset)
    say("scaling: sizes and formats")
    sizes = measure_sizes(system, images, preset)
    say("scaling: folders")
    folders = measure_folders(bundle, images.timed, FOLDERS_QUICK if quick else FOLDERS)
    return {"of": system.name, "cores": cores, "batches": batches, "sizes": sizes, "folders": folders}


def measure_cores(system: System, images: Images, preset: Preset) -> list[dict]:
    """Images per second over 1, 2, 4, ... cores and all: processes, one on each core, and the runtime's own threads.

    `of_one` is the ratio to one core, by rounds in which every number of cores had its turn.
    """
    cpus = machine.usable_cpus()
    counts = sorted({min(2**power, len(cpus)) for power in range(len(cpus).bit_length() + 1)})
    single = replace(system, threads=1, batch=1)
    per_s: dict[int, list[float]] = {count: [] for count in counts}
    pooled: dict[int, list[float]] = {count: [] for count in counts}
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Worker(single, [cpu], list(images.labels))) for cpu in cpus]
        for worker in workers:
            worker.ask("load")
            worker.ask("prepare", paths=images.timed, batch=1)
            worker.ask("time", stage="end_to_end", seconds=preset.window_s)
        for _ in range(preset.rounds):
            for count in counts:
                per_s[count].append(_together(workers[:count], preset.window_s * 2))
    classifier, sources = (
        Classifier.load(system.options["bundle"], public_key=system.options.get("public_key")),
        list(images.timed) * max(1, preset.offline // 100),
    )
    for _ in range(preset.rounds):
        for count in counts:
            with on_cpus(cpus[:count]):
                start = time.perf_counter()
                done = sum(1 for _ in classifier.classify_many(sources, workers=count))
                pooled[count].append(done / (time.perf_counter() - start))
    return [
        {"cores": count, "processes": _scaled(per_s[count], per_s[1]), "threads": _scaled(pooled[count], pooled[1])}
        for count in counts
    ]


def measure_batches(system: System, images: Images, preset: Preset) -> list[dict]:
    """Images per second by batch, of the forward pass alone and end to end, on the system's threads."""
    images_per_s: dict[int, dict[str, list[float]]] = {}
    cpus = machine.usable_cpus()[: system.threads]
    with contextlib.ExitStack() as stack:
        workers = {}
        for batch in BATCHES:
            workers[batch] = stack.enter_context(Worker(replace(system, batch=batch), cpus, list(images.labels)))
            workers[batch].ask("load")
            workers[batch].ask("prepare", paths=images.timed, batch=batch)
            workers[batch].ask("time", stage="end_to_end", seconds=preset.window_s)
            images_per_s[batch] = {"inference": [], "end_to_end": []}
        for _ in range(preset.rounds):
            for batch, worker in workers.items():
                for stage, values in images_per_s[batch].items():
                    reply = worker.ask("time", stage=stage, seconds=preset.window_s)
                    values.append(batch * len(reply["ns"]) / reply["wall_ns"] * 1e9)
    return [
        {"batch": batch, **{stage: median_interval(values) for stage, values in stages.items()}}
        for batch, stages in images_per_s.items()
    ]


def measure_sizes(system: System, images: Images, preset: Preset) -> list[dict]:
    """End-to-end milliseconds by format and longer side, and the size of a file."""
    measured = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Worker(replace(system, batch=1), machine.usable_cpus()[: system.threads], list(images.labels)) as worker,
    ):
        worker.ask("load")
        for kind, options in FORMATS.items():
            for size_px in SIZES_PX:
                paths = [_drawn(path, kind, size_px, options, Path(folder)) for path in images.paths[:DRAWINGS]]
                worker.ask("prepare", paths=list(map(str, paths)), batch=1)
                worker.ask("time", stage="end_to_end", least=DRAWINGS)
                rounds = [
                    median_ms(worker.ask("time", stage="end_to_end", seconds=preset.window_s / 4, least=DRAWINGS))
                    for _ in range(min(preset.rounds, 7))
                ]
                kilobytes = sum(path.stat().st_size for path in paths) / len(paths) / 1e3
                measured.append(
                    {
                        "format": kind,
                        "size_px": size_px,
                        "kilobytes": round(kilobytes, 1),
                        "ms": median_interval(rounds),
                    }
                )
                for path in paths:
                    path.unlink()
    return measured


def measure_folders(bundle: str, sources: tuple[str, ...], counts: tuple[int, ...]) -> list[dict]:
    """Peak memory and images per second of `logo-edge classify FOLDER --jsonl`, by the number of files in the folder.

    The files are hard links to a few images, so that a folder of 100,000 takes no disk.
    """
    measured = []
    for count in counts:
        with tempfile.TemporaryDirectory(dir=Path(sources[0]).parent) as folder:
            for index in range(count):
                os.link(sources[index % len(sources)], Path(folder) / f"{index:06d}.png")
            command = [sys.executable, "-c", CLASSIFY, "classify", folder, "--jsonl", "--bundle", bundle]
            seconds, peak, lines = _run_and_weigh(command)
        if lines != count:
            raise BenchError(f"{count} images classified gave {lines} lines")
        measured.append({"files": count, "seconds": seconds, "images_per_s": count / seconds, "peak_rss_bytes": peak})
    return measured


def _run_and_weigh(command: list[str]) -> tuple[float, int, int]:
    """Wall seconds, peak resident bytes and the number of output lines of a command."""
    weigh = (
        "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    start, lines = time.perf_counter(), 0
    process = subprocess.Popen(
        [sys.executable, "-c", weigh, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr))
    reader.start()
    for _ in process.stdout:
        lines += 1
    process.wait()
    reader.join()
    seconds = time.perf_counter() - start
    if process.returncode:
        raise BenchError(f"{' '.join(command)} gave status {process.returncode}: {''.join(errors)[-500:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, int(errors[-1]) * unit, lines


def _together(workers: list[Worker], seconds: float) -> float:
    """Images per second of workers that run at the same time."""
    replies: list[dict] = []
    threads = [
        threading.Thread(
            target=lambda worker=worker: replies.append(worker.ask("time", stage="end_to_end", seconds=seconds))
        )
        for worker in workers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(replies) < len(workers):
        raise BenchError("a worker failed while several ran; its output is above")
    return sum(len(reply["ns"]) / reply["wall_ns"] * 1e9 for reply in replies)


def _scaled(per_s: list[float], of_one: list[float]) -> dict:
    ratios = (np.array(per_s) / np.array(of_one)).tolist()
    return {"images_per_s": median_interval(per_s), "of_one": median_interval(ratios)}


def _drawn(path: str, kind: str, size_px: int, options: dict, folder: Path) -> Path:
    """The image on white, its longer side of `size_px`, written in the format."""
    image = load_image(path).convert("RGBA")
    scale = size_px / max(image.size)
    image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image)
    target = folder / f"{Path(path).stem}-{size_px}.{kind.lower()}"
    flat.save(target, kind, **options)
    return target
