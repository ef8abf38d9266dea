"""One bundle, measured: its accuracy on a labelled split and its latency, in the same run, from the same artifact."""

from __future__ import annotations

import io
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from logo_edge.bundle import DEFAULT_BUNDLE
from logo_edge.classifier import Classifier
from logo_edge.decision import calibrated_logits
from logo_edge.errors import DatasetError
from logo_edge.images import pyspng, simplejpeg
from logo_edge.manifest import Manifest, labelled_rows, targets_of
from logo_edge.metrics import summarize
from logo_edge.timing import describe_machine, measure_latency

CLASSIFY = "import sys; from logo_edge.cli import main; sys.argv[0] = 'logo-edge'; main()"
BARE_IMPORT = "import numpy, onnxruntime"


def bench_bundle(folder: Path | None, manifest: Manifest, images: Path, *, split: str, runs: int) -> dict:
    """Every figure of one bundle: those of `measure_bundle`, and start-up and machine.

    `images` holds the renders of a manifest of icon sets. Raises DatasetError where the split has no labelled logos.
    """
    figures = measure_bundle(folder, manifest, images, split=split, runs=runs)
    rows = manifest.split(split)
    return {
        **figures,
        "process": measure_process_start(folder or DEFAULT_BUNDLE, manifest.image_path(rows[0], images)),
        "machine": describe_machine(),
    }


def measure_bundle(
    folder: Path | None, manifest: Manifest, images: Path, *, split: str, runs: int, public_key: Path | None = None
) -> dict:
    """Accuracy and calibration on the split, size, and latencies on one thread. Raises as `bench_bundle` does."""
    classifier = Classifier.load(folder, public_key=public_key)
    rows = labelled_rows(manifest, split, classifier.labels, "the bundle's")
    paths = [manifest.image_path(row, images) for row in rows]
    logits = np.concatenate([classifier.logits(classifier.read_pixels(path)[None]) for path in paths])
    targets = targets_of(rows, classifier.labels)
    sure = np.array([row.sure for row in rows], bool)
    bundle, calibration = classifier.bundle, classifier.bundle.calibration
    calibrated = calibrated_logits(logits, calibration.temperature, calibration.scaling)
    return {
        "bundle": bundle.name,
        "size_bytes": bundle.size_bytes,
        "split": split,
        "accuracy": summarize(calibrated, targets, sure, 1.0, classifier.labels),
        "latency": measure_bundle_latency(classifier, paths, runs),
    }


def measure_bundle_latency(classifier: Classifier, paths: list[Path], runs: int) -> dict:
    """Steady-state milliseconds on one thread, over PNG and JPEG files in memory of 256 px, and their parts."""
    pngs = [path.read_bytes() for path in paths[: min(len(paths), 100)]]
    jpegs = [_as_jpeg(data) for data in pngs]
    pixels = classifier.read_pixels(pngs[0])[None]
    plain = Classifier(classifier.bundle, fast_decoders=False)
    calls = {
        "inference": lambda: classifier.logits(pixels),
        "png_256px_end_to_end_pillow": _cycle(plain.classify, pngs),
        "jpeg_256px_end_to_end_pillow": _cycle(plain.classify, jpegs),
        "png_256px_decode_and_preprocess_pillow": _cycle(plain.read_pixels, pngs),
    }
    if pyspng and simplejpeg:
        calls |= {
            "png_256px_end_to_end_fast": _cycle(classifier.classify, pngs),
            "jpeg_256px_end_to_end_fast": _cycle(classifier.classify, jpegs),
        }
    return {name: asdict(measure_latency(call, runs=runs)) for name, call in calls.items()}


def measure_process_start(bundle: Path, image: Path, runs: int = 9) -> dict:
    """Median wall seconds of `logo-edge classify one.png` and of a bare import of NumPy and ONNX Runtime, by turns."""
    commands = {
        "classify_one_png": [sys.executable, "-c", CLASSIFY, "classify", str(image), "--bundle", str(bundle)],
        "bare_import": [sys.executable, "-c", BARE_IMPORT],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs + 1):  # the first round warms the file cache and is dropped
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times[name].append(time.perf_counter() - start)
    medians = {f"{name}_s": statistics.median(values[1:]) for name, values in times.items()}
    return {**medians, "ratio": medians["classify_one_png_s"] / medians["bare_import_s"], "runs": runs}


def measure_install_size() -> dict:
    """Megabytes of site-packages after a bare install of this checkout's wheel, without pip and setuptools."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").exists():
        raise DatasetError("the install size is measured from a checkout; this logo-edge is installed from a wheel")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "-q", "-c", root / "constraints.txt", root], check=True)
        site = next(Path(folder).glob("lib/python*/site-packages"))
        sizes = {
            entry.name: sum(path.stat().st_size for path in [entry, *entry.rglob("*")] if path.is_file())
            for entry in site.iterdir()
            if not entry.name.startswith(("pip", "setuptools", "_distutils_hack", "distutils-precedence"))
        }
    largest = dict(sorted(sizes.items(), key=lambda item: -item[1])[:8])
    return {"megabytes": sum(sizes.values()) / 1e6, "largest": {name: size / 1e6 for name, size in largest.items()}}


def _cycle(call, sources: list[bytes]):
    position = 0

    def once() -> None:
        nonlocal position
        call(sources[position % len(sources)])
        position += 1

    return once


def _as_jpeg(png: bytes) -> bytes:
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image)
    out = io.BytesIO()
    flat.save(out, "JPEG", quality=90)
    return out.getvalue()
