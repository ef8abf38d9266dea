"""Tables of the default bundle's speed, alone and beside its peers, from `make bench` and `make peers`."""

from __future__ import annotations

from functools import partial

from logo_edge_bench.experiments.shipped import test_split
from logo_edge_bench.markdown import interval, markdown, share, short, table_of
from logo_edge_bench.result_tables import scaling_tables

YOLO_PT, YOLO_ONNX = "n-cls, predict, PyTorch", "n-cls, predict, ONNX"  # rows are found by the end of their names
EAGER, FP32 = "timm tf_efficientnet_lite0, eager PyTorch", "timm tf_efficientnet_lite0, ONNX Runtime FP32"
OPENCV = "by hand: OpenCV and ONNX Runtime"
TWO_CORES = "throughput on 2 cores by that on one"
GOALS = {  # goal: the peer, the figure to compare with the bundle's, the required ratio or lead in points
    "latency of Ultralytics' predict on PyTorch, end to end": (YOLO_PT, "end_to_end", ">= 4"),
    "latency of Ultralytics' predict on ONNX, end to end": (YOLO_ONNX, "end_to_end", ">= 2"),
    "latency of a hand-written eager loop over timm's Lite0, end to end": (EAGER, "end_to_end", ">= 5"),
    "latency of a hand-written loop of OpenCV and ONNX Runtime over the same model, end to end": (
        OPENCV,
        "end_to_end",
        "> 1",
    ),
    "latency of Lite0 in ONNX Runtime FP32, end to end": (FP32, "end_to_end", ">= 5"),
    "latency of Lite0 in ONNX Runtime FP32, the forward pass": (FP32, "inference", ">= 5"),
    "accuracy on test, points over Lite0": (FP32, "accuracy", ">= 1"),
    "accuracy on test, points over Ultralytics": (YOLO_PT, "accuracy", "> 0"),
    "ECE by Lite0's": (FP32, "ece", "<= 0.50"),
    "size by Lite0's FP32 ONNX": (FP32, "size", "<= 0.10"),
    "size by Ultralytics' ONNX (FP32)": (YOLO_ONNX, "size", "<= 0.20"),
    "size by Ultralytics' .pt (stored as FP16)": (YOLO_PT, "size", "<= 0.20"),
    TWO_CORES: ("", "", ">= 1.90"),
}


def at_a_glance(evaluation: dict, default_calibration: dict, default_robustness: dict, bench: dict) -> str:
    """The few figures of the default bundle that decide whether it is worth a try."""
    bundle, row = evaluation["subjects"][0], default_row(bench)
    balanced = default_calibration["modes"]["balanced"]["test"]
    start = row["process_start_s"]
    rows = [
        ["accuracy", share(bundle["accuracy"])],
        ["accuracy where the annotator was sure", share(bundle["accuracy_sure"])],
        [
            "logos that get a label by default; of them right",
            f"{short(balanced['answered'])}; {short(balanced['accuracy'])}",
        ],
        ["calibration error (ECE less its bias)", share(bundle["ece_debiased"])],
        [
            "pictures that are no logo (photographs, text, charts ...) and get a label",
            share(default_robustness["subjects"][0]["outliers"]["answered_together"]["far"]),
        ],
        ["size on disk", f"{bundle['size_bytes'] / 1e6:.2f} MB"],
        [
            f"PNG of {bench['method']['size_px']} px, one thread, end to end (bench.json)",
            milliseconds(row["latency"]["end_to_end"]["p50_ms"]),
        ],
        ["peak memory (bench.json)", f"{row['peak_rss_bytes'] / 1e6:.0f} MB"],
        [
            "`logo-edge classify one.png`, whole process (bench.json)",
            f"{start['value']:.2f} s" if start else "not measured",
        ],
    ]
    split = f"{bundle['count']:,} logos of test; {bench['machine']['cpu']}"
    return markdown([f"default bundle, {split}", "(95 % interval)"], rows)


def default_latency(bench: dict) -> str:
    """Latency, start-up and install size of the default bundle, on one thread and image by image."""
    row, starts = default_row(bench), bench["process_starts_s"]
    start, bare = row["process_start_s"], starts["import numpy, onnxruntime"]
    rows = [
        ["decode and preprocess", milliseconds(row["latency"]["preprocess"]["p50_ms"]), ""],
        ["forward pass", milliseconds(row["latency"]["inference"]["p50_ms"]), ""],
        ["end to end, median", milliseconds(row["latency"]["end_to_end"]["p50_ms"]), ""],
        ["end to end, p90 (SingleStream)", milliseconds(row["latency"]["end_to_end"].get("p90_ms")), ""],
        ["images a second (Offline)", f"{row['images_per_s']['value']:.0f}", ""],
        ["peak memory", f"{row['peak_rss_bytes'] / 1e6:.0f} MB", ""],
        [
            "`logo-edge classify one.png`, whole process",
            f"{start['value']:.2f} s" if start else "not measured",
            "<= 0.30 s",
        ],
        ["bare `import numpy, onnxruntime`, same run", f"{bare['value']:.2f} s", "(0.10 to 0.15 s)"],
    ]
    if "install" in bench:
        rows.append(["base install, site-packages", f"{bench['install']['megabytes']:.0f} MB", "<= 220 MB"])
    header = [f"one thread, PNG of {bench['method']['size_px']} px", "measured", "must reach"]
    return markdown(header, rows) + origin(bench)


def peers(result: dict) -> str:
    """The default bundle and its peers, in one run."""
    bundle = default_row(result)
    split = test_split(result["rows"][0]["accuracy"]["count"])
    parts = [
        table_of(
            result["rows"],
            ("", lambda row: row["name"] + (f" ({row['note']})" if row["note"] else "")),
            (f"{split}, all", lambda row: share(row["accuracy"]["accuracy"])),
            ("ECE as it is", "{accuracy[ece]:.1%}"),
            ("at a temperature", lambda row: f"{calibrated_ece(row):.1%}" if has_temperature(row) else "not fitted"),
            ("px", "{input_px}"),
            ("MB", lambda row: f"{row['size_bytes'] / 1e6:.2f}"),
            (
                "inference",
                lambda row: (
                    milliseconds(row["latency"]["inference"]["p50_ms"]) if "inference" in row["latency"] else ""
                ),
            ),
            ("end to end, median", lambda row: milliseconds(row["latency"]["end_to_end"]["p50_ms"])),
            ("times the bundle's", lambda row: f"{median_ms(row) / median_ms(bundle):.2f}"),
            ("images/s", "{images_per_s[value]:.0f}"),
            ("peak MB", lambda row: f"{row['peak_rss_bytes'] / 1e6:.0f}"),
        )
        + origin(result)
    ]
    if any("about" in row for row in result["rows"]):
        parts.append(
            table_of(
                [row for row in result["rows"] if "about" in row],
                ("", "{name}"),
                ("licence", "{about[licence]}"),
                ("minutes of training", "{about[minutes]}"),
                ("learned from", "{about[learned_from]}"),
            )
        )
    starts = [[name, interval(figure, suffix=" s")] for name, figure in result["process_starts_s"].items()]
    starts += [
        [row["name"], f"{row['process_start_s']['value']:.2f} s"] for row in result["rows"] if row["process_start_s"]
    ]
    app = [
        [name, f"{figures['median_ms']:.2f} ms", f"{figures['per_s']:.0f}"]
        for name, figures in result.get("openvino_benchmark_app", {}).items()
    ]
    parts += [markdown(["whole process", "median"], starts)] if starts else []
    parts += [markdown(["OpenVINO benchmark_app, graph alone", "median", "a second"], app)] if app else []
    parts += [f"Not measured: {name}: {' '.join(why.split())}." for name, why in result["not_measured"].items()]
    return "\n\n".join(parts)


def goals(peers: dict | None = None, bench: dict | None = None) -> str:
    """The required ratios to peers, and the measured ones."""
    measured = {
        goal: compare(figure, row, default_row(peers))
        for goal, (name, figure, _) in GOALS.items()
        for row in (peers["rows"] if peers else [])
        if name and row["name"].endswith(name)
    }
    for row in (bench or {}).get("scaling", {}).get("cores", []):
        if row["cores"] == 2:
            ratios = {way: row[way]["of_one"]["value"] for way in ("processes", "threads")}
            measured[TWO_CORES] = ", ".join(f"{ratio:.2f} by {way}" for way, ratio in ratios.items())
    cells = [[goal, measured.get(goal, "not measured yet"), limit] for goal, (_, _, limit) in GOALS.items()]
    return markdown(["goal", "measured", "must reach"], cells)


def compare(figure: str, peer: dict, bundle: dict) -> str:
    """The ratio of a figure, or the bundle's lead in accuracy, with both figures in brackets."""
    if figure == "accuracy":
        theirs, ours = (row["accuracy"]["accuracy"]["value"] for row in (peer, bundle))
        split = test_split(peer["accuracy"]["count"])
        return f"{100 * (ours - theirs):+.1f} ({ours:.1%} / {theirs:.1%}, {split})"
    if figure == "ece":
        theirs, ours = (calibrated_ece(row) for row in (peer, bundle))
        lacking = "" if has_temperature(peer) else ", which has no temperature"
        return f"{ours / theirs:.2f} ({ours:.1%} / {theirs:.1%}{lacking})"
    if figure == "size":
        theirs, ours = (row["size_bytes"] / 1e6 for row in (peer, bundle))
        return f"{ours / theirs:.2f} ({ours:.2f} / {theirs:.2f} MB)"
    theirs, ours = (median_ms(row, figure) for row in (peer, bundle))
    return f"{theirs / ours:.2f} ({theirs:.2f} / {ours:.2f} ms)"


def _scaling(index: int, bench: dict) -> str:
    """One of the curves of `logo-edge bench --scaling`."""
    _, (header, rows) = scaling_tables(bench["scaling"])[index]
    return markdown(header, rows)


scaling_cores, scaling_batches, scaling_sizes, scaling_folders = (partial(_scaling, index) for index in range(4))


def default_row(result: dict) -> dict:
    """The default bundle on one thread, image by image."""
    return next(row for row in result["rows"] if (row["kind"], row["threads"], row["batch"]) == ("bundle", 1, 1))


def has_temperature(row: dict) -> bool:
    """Whether a temperature was fitted on calib: a bundle has one, a peer where `calib` was given to `run_bench`."""
    return row["kind"] == "bundle" or "calibrated" in row


def calibrated_ece(row: dict) -> float:
    """The ECE on test at the fitted temperature, if there is one."""
    return row.get("calibrated", row["accuracy"])["ece"]


def median_ms(row: dict, stage: str = "end_to_end") -> float:
    return row["latency"][stage]["p50_ms"]["value"]


def milliseconds(figure: dict | None) -> str:
    return interval(figure, suffix=" ms") or "too few calls"


def origin(result: dict) -> str:
    """The machine, the libraries and the date of a run, and its warnings."""
    machine = result["machine"]
    warnings = "".join(f" Doubtful: {line}." for line in result["warnings"])
    return (
        f"\n\n95 % intervals in brackets; one run, by turns, preset `{result['method']['name']}`; {machine['cpu']} "
        f"({', '.join(machine['isa'])}), onnxruntime {machine['versions']['onnxruntime']}, "
        f"{result['made'][:10]}.{warnings}"
    )
