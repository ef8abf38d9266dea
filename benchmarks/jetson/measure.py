"""Measures bundles on a Jetson: TensorRT FP16 and INT8 beside ONNX Runtime on the CPU and, if built in, CUDA.

Run it on the device, as README.md beside it says. It writes the JSON of `logo-edge bench`, so that its rows join the
tables:

    python benchmarks/jetson/measure.py --bundle bundles/mine --engines jetson/mine --manifest labels.csv \\
      --images images --out jetson.json

An engine of another bundle, or without single images, is left out with its reason in the result.

Not run so far, for lack of a Jetson. The parts that need none are tested in tests/bench/test_peers.py.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from logo_edge.bundle.record import DEFAULT_BUNDLE, Bundle, read_bundle
from logo_edge.errors import BenchError, LogoEdgeError
from logo_edge_bench.bench import PRESETS, read_images, run_bench, write_result
from logo_edge_bench.result_tables import markdown_of
from logo_edge_bench.systems import System, bundle_systems, record_of, reference_system, why_other
from logo_edge_train.data.manifest import read_manifest

SUBJECTS = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=None, help="left out: the embedded default")
    parser.add_argument(
        "--engines", type=Path, default=None, help="folder of engines that logo-edge export wrote on this device"
    )
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--images", type=Path, default=Path())
    parser.add_argument("--split", default="test")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--preset", choices=list(PRESETS), default="full")
    parser.add_argument(
        "--any-clocks", action="store_true", help="measure although clocks are not pinned; the result says so"
    )
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        clocks = read_clocks()
        loose = unpinned(clocks)
        if loose and not arguments.any_clocks:
            raise BenchError(f"clocks may change: {', '.join(loose)}. Run first: sudo jetson_clocks (see README.md)")
        preset, labels = PRESETS[arguments.preset], read_bundle(arguments.bundle or DEFAULT_BUNDLE).labels
        engines, left_out = engine_systems(arguments.bundle, find_engines(arguments.engines), arguments.batches)
        systems = [
            reference_system(arguments.bundle),
            *bundle_systems([arguments.bundle], batches=arguments.batches),
            *engines,
            *cuda_systems(arguments.bundle, arguments.batches),
        ]
        with tempfile.TemporaryDirectory() as folder:
            images = read_images(
                read_manifest(arguments.manifest, arguments.images),
                arguments.split,
                labels,
                Path(folder),
                preset.size_px,
            )
            result = run_bench(systems, images, preset, say=lambda line: print(line, file=sys.stderr))
        result["clocks"] = {"before": clocks, "after": read_clocks()}
        result["not_measured"] |= left_out
        result["warnings"] += [f"clocks may have changed: {clock}" for clock in loose]
        write_result(result, arguments.out)
        print(markdown_of(result))
    except LogoEdgeError as error:
        sys.exit(f"measure.py: {error}")


def read_clocks() -> dict[str, dict[str, int]]:
    """{unit: {MinFreq, MaxFreq, CurrentFreq}} of `jetson_clocks --show`, in its units. Raises BenchError."""
    if shutil.which("jetson_clocks") is None:
        raise BenchError(
            "jetson_clocks is not here; expected a Jetson with JetPack 6 or 7. Elsewhere use: logo-edge bench"
        )
    done = subprocess.run(["sudo", "-n", "jetson_clocks", "--show"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(
            f"sudo jetson_clocks --show gave status {done.returncode}: {done.stderr.strip()}; run `sudo -v` first"
        )
    return parse_clocks(done.stdout)


def parse_clocks(text: str) -> dict[str, dict[str, int]]:
    """The frequencies in the output of `jetson_clocks --show`, such as `cpu0: Online=1 ... MinFreq=729600 ...`."""
    units = {}
    for line in text.splitlines():
        figures = {name: int(value) for name, value in re.findall(r"(MinFreq|MaxFreq|CurrentFreq)=(\d+)", line)}
        if len(figures) == 3:
            units[line.partition("MinFreq")[0].split(":")[0].split()[0]] = figures
    if not units:
        raise BenchError(f"jetson_clocks --show names no frequencies: {text[:300]!r}")
    return units


def unpinned(clocks: dict[str, dict[str, int]]) -> list[str]:
    """The units whose minimum and maximum frequencies differ, so that the clock follows the load."""
    return [
        f"{name} {clock['MinFreq']} to {clock['MaxFreq']}"
        for name, clock in clocks.items()
        if clock["MinFreq"] < clock["MaxFreq"]
    ]


def find_engines(folder: Path | None) -> list[Path]:
    """The engines of `logo-edge export --format tensorrt` in the folder and its subfolders."""
    if folder is None:
        return []
    engines = sorted(folder.rglob("*.engine"))
    if not engines:
        raise BenchError(f"{folder}: no .engine; make them here: logo-edge export BUNDLE --format tensorrt")
    return engines


def engine_systems(folder: Path | None, engines: list[Path], batches: list[int]) -> tuple[list[System], dict[str, str]]:
    """A system for each engine of the bundle and each of its batches; and {engine left out: reason}, also printed."""
    bundle, systems, left_out = read_bundle(folder or DEFAULT_BUNDLE), [], {}
    for engine in engines:
        record = record_of(str(engine)) or {}
        if reason := why_not(record, bundle, batches):
            left_out[str(engine)] = reason
            continue
        fixed = record["batch"] != "dynamic"
        if fixed and batches != [1]:
            left_out[f"{engine}, batches beyond 1"] = "it was exported with --batch 1"
        rows = bundle_systems([folder], batches=[1] if fixed else batches, artifacts=[engine])
        systems += [
            replace(row, options={**row.options, "batch_size": 1} if fixed else row.options)
            for row in rows
            if "artifact" in row.options
        ]
    for name, reason in left_out.items():
        print(f"not measured: {name}: {reason}", file=sys.stderr)
    return systems, left_out


def why_not(record: dict, bundle: Bundle, batches: list[int]) -> str:
    """The reason why an engine with this record of `logo-edge export` cannot be measured with the bundle, or empty."""
    if not record:
        return "no record names it; expected the .json that `logo-edge export` wrote in the folder above engines/"
    if reason := why_other(record, bundle):
        return reason
    if record["batch"] not in ("dynamic", 1) or (record["batch"] == 1 and 1 not in batches):
        return (
            f"it takes batches of {record['batch']} only, and --batches has {batches}; golden vectors are run one at a "
            "time, so export without --batch, or with --batch 1 and measure with --batches 1"
        )
    return ""


def cuda_systems(bundle: Path | None, batches: list[int]) -> list[System]:
    """ONNX Runtime on the GPU, where its build has CUDA (JetPack's; not the one of the base install)."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        print(
            "not measured: ONNX Runtime has no CUDA here; install the onnxruntime-gpu wheel for JetPack",
            file=sys.stderr,
        )
        return []
    folder = str(bundle or DEFAULT_BUNDLE)
    return [
        System(f"ONNX Runtime CUDA, batch {batch}", str(SUBJECTS / "cuda_subject.py"), {"bundle": folder}, batch=batch)
        for batch in batches
    ]


if __name__ == "__main__":
    main()
