"""Writes the documents' tables from the committed results, or checks that they are those (`--check`).

A table stands between `<!-- table: NAME -->` and `<!-- end -->` in README.md and docs/*.md.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np

from logo_edge.bundle.record import VECTORS
from logo_edge.classifier import Classifier
from logo_edge.cli.classify import WITHHELD
from logo_edge_compress.figures import named_slices
from logo_edge_train.data.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LABELS = ROOT / "train" / "logo_edge_train" / "data" / "labels.csv"
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    check, stale = "--check" in sys.argv[1:], []
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = document.read_text(encoding="utf-8")
        fresh = TABLE.sub(lambda match: match[1] + TABLES[match[2]]() + "\n" + match[3], text)
        if fresh != text and check:
            stale.append(document.name)
        elif fresh != text:
            document.write_text(fresh, encoding="utf-8")
    if stale:
        sys.exit(f"{', '.join(stale)}: tables are not those of benchmarks/results; run python benchmarks/tables.py")


def default_bundle() -> str:
    """The default bundle's figures on the test split, whole and on round 1, against what it must reach."""
    bundle = read("evaluation")["subjects"][0]
    first, teachers = bundle["by_round"]["1"], read("default_report")["stages"][0]["test"]
    rows = [
        ["accuracy, all", share(bundle["accuracy"]), ""],
        ["accuracy, sure", share(bundle["accuracy_sure"]), ">= 98 %"],
        [
            "accuracy on round 1, all",
            share(first["accuracy"]),
            f"within 1 point of its teachers' {short(teachers['accuracy'])}",
        ],
        ["accuracy on round 1, sure", share(first["accuracy_sure"]), ">= 98 %"],
        *([f"recall of `{label}`", share(recall), ">= 85 %"] for label, recall in bundle["recall"].items()),
        ["calibration error (RMS, bias-corrected)", share(bundle["calibration_error_debiased"]), "<= 1.5 %"],
        ["calibration error (ECE less its bias)", share(bundle["ece_debiased"]), "<= 1.5 %"],
        ["size on disk", f"{bundle['size_bytes'] / 1e6:.2f} MB", "<= 1.2 MB"],
    ]
    return markdown([f"test split, {bundle['count']:,} logos", "measured (95 % interval)", "must reach"], rows)


def slices() -> str:
    """The committed bundles on the test split, by round of labelling and by icon set."""
    subjects = read("evaluation")["subjects"]
    by_subject = [{"all": subject, **named_slices(subject)} for subject in subjects]
    rows = [
        [
            name,
            str(entry["count"]),
            *(share(subject[name][key]) for subject in by_subject for key in ("accuracy", "accuracy_sure")),
        ]
        for name, entry in by_subject[0].items()
    ]
    header = ["test split", "logos"]
    for name in CALIBRATED:
        header += [f"`{name}`, all", "sure"]
    return markdown(header, rows)


def panel() -> str:
    """What each part of the panel is worth: means of two seeds over train and val, on val, and on icon sets left out."""
    if (result := read_if_there("panel")) is None:
        return missing("panel", "python benchmarks/compare_panel.py")
    labels, rows = result["classes"], []
    for name, variant in result["variants"].items():

        def mean(figure: str, part: str = "all", label: str | None = None, seeds: list = variant["seeds"]) -> float:
            return statistics.mean(seed[part][figure] if label is None else seed[part][figure][label] for seed in seeds)

        packages = [figures["accuracy"] for figures in variant.get("left_out", {}).values()]
        rows.append(
            [
                name,
                f"{mean('accuracy'):.1%}",
                f"{mean('accuracy_sure'):.1%}",
                *(f"{mean('recall', label=label):.0%}" for label in labels),
                f"{mean('nll'):.3f}",
                f"{mean('accuracy', 'val'):.1%}",
                f"{statistics.mean(packages):.1%}" if packages else "-",
            ]
        )
    header = [
        f"panel, {result['count']:,} logos of train and val",
        "accuracy",
        "sure",
        *(f"`{label}`" for label in labels),
    ]
    return markdown([*header, "NLL", "val", "icon sets left out"], rows)


@cache
def test_split(count: int) -> str:
    """`test split`, with the rounds of labelling that a result of `count` logos is of where these are not all.

    Raises ValueError where no first rounds together have as many logos.
    """
    rounds = [row.round for row in read_manifest(LABELS).split("test")]
    for last in sorted(set(rounds)):
        if sum(number <= last for number in rounds) == count:
            of_rounds = " of round 1" if last == 1 else f" of rounds 1 to {last}"
            return "test split" + ("" if last == max(rounds) else of_rounds)
    raise ValueError(f"a result of {count} logos of the test split; labels.csv has {len(rounds)} there")


def default_latency() -> str:
    """Latency, start-up and install size of the default bundle."""
    row = default_row()
    return measured_latency(row, read("bench")) if row else missing("bench", "make bench")


def measured_latency(row: dict, result: dict) -> str:
    """The default bundle's latency of a run of `logo-edge bench`."""
    latency, start, starts = row["latency"], row["process_start_s"], result["process_starts_s"]
    rows = [
        ["decode and preprocess", milliseconds(latency["preprocess"]["p50_ms"]), ""],
        ["forward pass", milliseconds(latency["inference"]["p50_ms"]), ""],
        ["end to end, median", milliseconds(latency["end_to_end"]["p50_ms"]), ""],
        ["end to end, p90 (SingleStream)", milliseconds(latency["end_to_end"].get("p90_ms")), ""],
        ["images a second (Offline)", f"{row['images_per_s']['value']:.0f}", ""],
        ["peak memory", f"{row['peak_rss_bytes'] / 1e6:.0f} MB", ""],
        [
            "`logo-edge classify one.png`, whole process",
            f"{start['value']:.2f} s" if start else "not measured",
            "<= 0.30 s",
        ],
        [
            "bare `import numpy, onnxruntime`, same run",
            f"{starts['import numpy, onnxruntime']['value']:.2f} s",
            "(0.10 to 0.15 s)",
        ],
    ]
    if "install" in result:
        rows.append(["base install, site-packages", f"{result['install']['megabytes']:.0f} MB", "<= 220 MB"])
    return markdown(
        [f"one thread, PNG of {result['method']['size_px']} px", "measured", "must reach"], rows
    ) + measured_on(result)


def peers() -> str:
    """What people would use instead, in one run with the default bundle."""
    if not (result := read_if_there("peers")):
        return missing("peers", "make peers")
    rows, bundle = [], single_row(result)
    for row in result["rows"]:
        latency, accuracy = row["latency"], row["accuracy"]
        rows.append(
            [
                row["name"] + (f" ({row['note']})" if row["note"] else ""),
                share(accuracy["accuracy"]),
                f"{accuracy['ece']:.1%}",
                f"{row['size_bytes'] / 1e6:.2f}",
                milliseconds(latency["inference"]["p50_ms"]) if "inference" in latency else "",
                milliseconds(latency["end_to_end"]["p50_ms"]),
                f"{median_ms(row) / median_ms(bundle):.2f}",
                f"{row['images_per_s']['value']:.0f}",
                f"{row['peak_rss_bytes'] / 1e6:.0f}",
            ]
        )
    header = [
        "",
        f"{test_split(result['rows'][0]['accuracy']['count'])}, all",
        "ECE",
        "MB",
        "inference",
        "end to end, median",
        "times the bundle's",
        "images/s",
        "peak MB",
    ]
    starts = [
        [name, f"{figure['value']:.2f} s ({figure['low']:.2f} to {figure['high']:.2f})"]
        for name, figure in result["process_starts_s"].items()
    ]
    starts += [
        [row["name"], f"{row['process_start_s']['value']:.2f} s"] for row in result["rows"] if row["process_start_s"]
    ]
    app = [
        [name, f"{entry['median_ms']:.2f} ms", f"{entry['per_s']:.0f}"]
        for name, entry in result.get("openvino_benchmark_app", {}).items()
    ]
    parts = [markdown(header, rows) + measured_on(result)]
    parts += [markdown(["whole process", "median"], starts)] if starts else []
    parts += [markdown(["OpenVINO benchmark_app, graph alone", "median", "a second"], app)] if app else []
    parts += [f"Not measured: {name}: {' '.join(why.split())}." for name, why in result["not_measured"].items()]
    return "\n\n".join(parts)


def goals() -> str:
    """What the default bundle must reach against its peers, and what it does."""
    result, bench = read_if_there("peers"), read_if_there("bench")
    found = against_peers({row["name"]: row for row in result["rows"]}, single_row(result)) if result else {}
    for entry in (bench or {}).get("scaling", {}).get("cores", []):
        if entry["cores"] == 2:
            ratios = {how: entry[how]["of_one"]["value"] for how in ("processes", "threads")}
            found[TWO_CORES] = ", ".join(f"{ratio:.2f} by {how}" for how, ratio in ratios.items())
    rows = [[goal, found.get(goal, "not measured yet"), limit] for goal, limit in GOALS.items()]
    return markdown(["goal", "measured", "must reach"], rows)


YOLO_PT, YOLO_ONNX = "YOLO11n-cls, predict, PyTorch", "YOLO11n-cls, predict, ONNX"
EAGER, FP32 = "timm tf_efficientnet_lite0, eager PyTorch", "timm tf_efficientnet_lite0, ONNX Runtime FP32"
OPENCV = "by hand: OpenCV and ONNX Runtime"
TWO_CORES = "throughput on 2 cores by that on one"
SPEED = {  # goal: the peer, the stage, how many times the bundle's latency its own must be
    "latency of Ultralytics' predict on PyTorch, end to end": (YOLO_PT, "end_to_end", 4),
    "latency of Ultralytics' predict on ONNX, end to end": (YOLO_ONNX, "end_to_end", 2),
    "latency of a hand-written eager loop over timm's Lite0, end to end": (EAGER, "end_to_end", 5),
    "latency of a hand-written loop of OpenCV and ONNX Runtime over the same model, end to end": (
        OPENCV,
        "end_to_end",
        1,
    ),
    "latency of Lite0 in ONNX Runtime FP32, end to end": (FP32, "end_to_end", 5),
    "latency of Lite0 in ONNX Runtime FP32, the forward pass": (FP32, "inference", 5),
}
SIZE = {  # goal: the peer, the share of its size that the bundle's may be
    "size by Lite0's FP32 ONNX": (FP32, 0.1),
    "size by YOLO11n-cls's ONNX (FP32)": (YOLO_ONNX, 0.2),
    "size by YOLO11n-cls's .pt (stored as FP16)": (YOLO_PT, 0.2),
}
ACCURACY = {  # goal: the peer, the points that the bundle must be ahead
    "accuracy on test, points over Lite0": (FP32, 1),
    "accuracy on test, points over YOLO11n-cls": (YOLO_PT, 0),
}
CALIBRATION = "ECE by Lite0's"
GOALS = {
    **{goal: f">= {times}" if times > 1 else "> 1" for goal, (_, _, times) in SPEED.items()},
    **{goal: f">= {points}" if points else "> 0" for goal, (_, points) in ACCURACY.items()},
    CALIBRATION: "<= 0.50",
    **{goal: f"<= {part:.2f}" for goal, (_, part) in SIZE.items()},
    TWO_CORES: ">= 1.90",
}


def against_peers(rows: dict[str, dict], bundle: dict) -> dict[str, str]:
    """{goal: what was measured}, without goals whose peer is not among the rows."""
    found = {}
    for goal, (name, stage, _) in SPEED.items():
        if name in rows:
            theirs, ours = median_ms(rows[name], stage), median_ms(bundle, stage)
            found[goal] = f"{theirs / ours:.2f} ({theirs:.2f} / {ours:.2f} ms)"
    for goal, (name, _) in SIZE.items():
        if name in rows:
            theirs, ours = (row["size_bytes"] for row in (rows[name], bundle))
            found[goal] = f"{ours / theirs:.2f} ({ours / 1e6:.2f} / {theirs / 1e6:.2f} MB)"
    for goal, (name, _) in ACCURACY.items():
        if name in rows:
            theirs, ours = (row["accuracy"]["accuracy"]["value"] for row in (rows[name], bundle))
            found[goal] = (
                f"{100 * (ours - theirs):+.1f} ({ours:.1%} / {theirs:.1%}, {test_split(rows[name]['accuracy']['count'])})"
            )
    if FP32 in rows:
        theirs, ours = (row["accuracy"]["ece"] for row in (rows[FP32], bundle))
        found[CALIBRATION] = f"{ours / theirs:.2f} ({ours:.1%} / {theirs:.1%})"
    return found


def median_ms(row: dict, stage: str = "end_to_end") -> float:
    return row["latency"][stage]["p50_ms"]["value"]


def scaling(part: str) -> str:
    """One of the curves of `logo-edge bench --scaling`."""
    result = read_if_there("bench")
    if not result or "scaling" not in result:
        return missing("bench", "make bench")
    from logo_edge_bench.page import scaling_tables

    return markdown(*dict(zip(SCALING, (table for _, table in scaling_tables(result["scaling"])), strict=True))[part])


SCALING = ("cores", "batches", "sizes", "folders")


def default_row() -> dict | None:
    """The default bundle on one thread, image by image, of the committed run."""
    return single_row(result) if (result := read_if_there("bench")) else None


def single_row(result: dict) -> dict | None:
    """The default bundle on one thread, image by image, of one run."""
    return next(
        (row for row in result["rows"] if (row["kind"], row["threads"], row["batch"]) == ("bundle", 1, 1)), None
    )


def measured_on(result: dict) -> str:
    machine = result["machine"]
    doubts = "".join(f" Doubtful: {line}." for line in result["warnings"])
    return (
        f"\n\n95 % intervals in brackets; one run, by turns, preset `{result['method']['name']}`; {machine['cpu']} ({', '.join(machine['isa'])}), onnxruntime "
        f"{machine['versions']['onnxruntime']}, {result['made'][:10]}.{doubts}"
    )


def milliseconds(figure: dict | None) -> str:
    return f"{figure['value']:.2f} ms ({figure['low']:.2f} to {figure['high']:.2f})" if figure else "too few calls"


def stages() -> str:
    """Every stage of the run that made the default bundle."""
    rows = []
    for stage in read("default_report")["stages"]:
        figures = stage["test"]
        rows.append(
            [
                stage["stage"],
                short(figures["accuracy"]),
                short(figures["accuracy_sure"]),
                *(short(recall) for recall in figures["recall"].values()),
                short(figures["calibration_error_debiased"]),
                f"{stage['size_bytes'] / 1e6:.2f}",
                f"{stage['latency']['p50_ms']:.2f}" if stage["latency"] else "-",
            ]
        )
    teachers = read("default_report")["stages"][0]["test"]
    labels = list(teachers["recall"])
    return markdown(
        [f"stage ({test_split(teachers['count'])})", "all", "sure", *labels, "calib. error", "MB", "p50 ms"], rows
    )


def pipeline() -> str:
    """What the `cpu` recipe costs from nothing, and how good its bundle is."""
    figures, default = read("cpu_pipeline"), read("default_report")["stages"][-1]["test"]
    minutes = {half: seconds / 60 for half, seconds in figures["seconds"].items()}
    split = test_split(figures["test"]["count"])
    rows = [
        ["`make train`, with set-up, fetch and rendering", f"{minutes['train']:.0f} minutes", ""],
        ["`make compress`", f"{minutes['compress']:.0f} minutes", "<= 20"],
        ["together", f"{figures['minutes']:.0f} minutes", "<= 60"],
        ["peak memory", f"{max(figures['peak_memory_gb'].values()):.1f} GB", "<= 8 GB"],
        [
            f"its bundle on the {split}, all",
            share(figures["test"]["accuracy"]),
            f"{default['accuracy']['value'] - 0.015:.1%}",
        ],
        [f"its bundle on the {split}, sure", share(figures["test"]["accuracy_sure"]), ""],
    ]
    table = markdown([f"recipe `cpu`, {figures['cores']} cores", "measured", "must reach"], rows)
    return f"{table}\n\n{figures['note']}" if figures.get("note") else table


def teachers() -> str:
    """Single teachers on val."""
    rows = [
        [
            entry["network"],
            str(entry["epochs"]),
            "stem and 2 stages" if entry["frozen_blocks"] == 2 else "nothing",
            f"{entry['p_mixup']:g}",
            f"{entry['class_weight_power']:g}",
            f"{entry['unsure_smoothing']:g}",
            f"{entry['augment_scale_min']:g}",
            f"{entry['accuracy']:.1%}",
            f"{entry['accuracy_sure']:.1%}",
            f"{entry['worst_recall']:.1%}",
            f"{entry['nll']:.3f}",
        ]
        for entry in read("teachers")["teachers"]
    ]
    return markdown(
        [
            "network",
            "epochs",
            "frozen",
            "mixup",
            "class weights",
            "unsure smoothing",
            "least scale",
            "all",
            "sure",
            "worst class",
            "NLL",
        ],
        rows,
    )


def rounding() -> str:
    """INT8 variants of the default student against its FP32 parent, on val."""
    figures = read("rounding")
    rows = [
        [entry["name"], f"{entry['top1_agreement']:.1%}", f"{entry['kl_nats']:.4f}", f"{entry['accuracy']:.1%}"]
        for entry in figures["variants"]
    ]
    rows.append(["FP32 parent", "", "", f"{figures['accuracy_fp32']:.1%}"])
    return markdown([f"{figures['student']}, val", "top-1 agreement", "KL, nats", "accuracy"], rows)


ROBUST = {"default": "default_robustness", "robust": "robust_robustness"}  # each: a bundle and its checkpoint, on test


def robustness() -> str:
    """Attacks and corruptions of the committed bundles on test; a bundle first, then the checkpoint it was made of."""
    header, rows = [test_split(read(ROBUST["default"])["subjects"][0]["count"])], {}

    def put(name: str, value: str) -> None:
        rows.setdefault(name, [name]).append(value)

    for recipe, result in ROBUST.items():
        if not (RESULTS / f"{result}.json").exists():
            continue
        for subject in read(result)["subjects"]:
            header.append(f"`{recipe}`, {'INT8 bundle' if subject['kind'] == 'bundle' else 'FP32 checkpoint'}")
            clean = subject["accuracy"]["value"]
            put("accuracy, all", share(subject["accuracy"]))
            put("accuracy, sure", share(subject["accuracy_sure"]))
            for attack in ("FGSM", "PGD-10"):
                for radius, figure in subject["attacks"][attack].items():
                    put(f"{attack} {radius}, sure", share(figure))
            for severity in ("1", "3", "5"):
                mean = subject["corruptions"]["mean"][severity]
                put(f"corruptions, severity {severity}, of clean", f"{mean / clean:.1%}")
    return markdown(header, list(rows.values()))


def corruptions() -> str:
    """The default bundle's accuracy under each corruption on test."""
    subject = read(ROBUST["default"])["subjects"][0]
    severities = list(subject["corruptions"]["mean"])
    rows = [
        [name, *(short(entry[severity]) for severity in severities)]
        for name, entry in subject["corruptions"]["by_corruption"].items()
    ]
    rows.append(["mean", *(f"{subject['corruptions']['mean'][severity]:.1%}" for severity in severities)])
    return markdown(["accuracy at severity", *severities], rows)


def outliers() -> str:
    """How the default bundle's logo score distinguishes logos from pictures that are none, and which of them it answers."""
    figures = read(ROBUST["default"])["subjects"][0]["outliers"]
    rows = [
        [
            family,
            "near" if family in figures["near"] else "far",
            f"{auroc:.3f}",
            *(share(figures[key][family]) for key in ("answered", "rejected")),
        ]
        for family, auroc in figures["auroc"].items()
    ]
    rows += [
        [f"all {kind}", kind, f"{auroc:.3f}", share(figures["answered_together"][kind]), ""]
        for kind, auroc in figures["auroc_together"].items()
    ]
    rows.append([f"{figures['logos']:,} logos of test", "", "", "", share(figures["logos_rejected"])])
    return markdown(["", "", "AUROC", "answered in balanced mode", "called no logo"], rows)


def pretraining() -> str:
    """Frozen features and fits by where a network starts, on val: mean over the seeds and, of several, their spread."""
    if not (RESULTS / "pretraining.json").exists():
        return "Not measured yet."
    rows, starts = [], {}
    for entry in read("pretraining")["entries"]:
        starts.setdefault((entry["network"], entry["start"], entry["pretraining_epochs"]), []).append(entry)
    for (network, start, epochs), entries in starts.items():
        fits = [entry for entry in entries if "fit" in entry]
        random = {
            entry["seed"]: entry["accuracy"] for entry in starts.get((network, "random", 0), []) if "fit" in entry
        }
        overtaken = [
            next(
                (index + 1 for index, accuracy in enumerate(entry["curve"]) if accuracy >= random[entry["seed"]]), None
            )
            for entry in fits
            if entry["seed"] in random
        ]
        rows.append(
            [
                network,
                f"{start}, {epochs} epochs" if epochs else start,
                str(len(entries)),
                spread([entry["linear_probe"] for entry in entries], "{:.1%}"),
                spread([entry["neighbours"] for entry in entries], "{:.1%}"),
                *(first_epochs([entry["reached"][level] for entry in fits]) for level in ("80%", "85%")),
                first_epochs(overtaken),
                spread([entry["accuracy"] for entry in fits], "{:.1%}"),
                spread([entry["pretraining_seconds"] / 60 for entry in entries], "{:.0f}") if epochs else "",
                spread([entry["fit_seconds"] / 60 for entry in fits], "{:.0f}"),
            ]
        )
    return markdown(
        [
            "network",
            "starts from",
            "seeds",
            "linear probe",
            "nearest neighbours",
            "epochs to 80 %",
            "to 85 %",
            "to where random ends",
            "after the fit",
            "pretraining, min",
            "fit, min",
        ],
        rows,
    )


def ablation() -> str:
    """Each technique of a fit alone on the plain recipe and missing from the full one, by cross-validation."""
    if not (figures := read_if_there("ablation")):
        return missing("ablation", "python benchmarks/ablate.py")
    rows = []
    for entry in figures["summary"]:
        found = entry["difference"]
        rows.append(
            [
                entry["variant"],
                str(entry["folds"]),
                *(f"{entry[key]:.1%}" for key in ("accuracy", "accuracy_sure", "worst_recall")),
                f"{entry['nll']:.3f}",
                entry["baseline"] if found else "",
                *(
                    change(found[key], form) if found else ""
                    for key, form in (("accuracy", "{:+.1%}"), ("nll", "{:+.3f}"))
                ),
                f"{entry['seconds'] / 60:.1f}",
            ]
        )
    return markdown(
        [
            "recipe",
            "folds",
            "all",
            "sure",
            "worst class",
            "NLL",
            "less that of",
            "all (95 %)",
            "NLL (95 %)",
            "minutes a fit",
        ],
        rows,
    )


def change(figure: dict, form: str) -> str:
    """A mean difference and, of several folds, its interval."""
    text = form.format(figure["mean"])
    return text if figure["low"] is None else f"{text} ({form.format(figure['low'])} to {form.format(figure['high'])})"


def first_epochs(epochs: list[int | None]) -> str:
    """The mean and spread of those that reached it, and how many did where not all."""
    reached = [epoch for epoch in epochs if epoch is not None]
    if len(reached) == len(epochs):
        return spread(reached, "{:.1f}")
    return f"{spread(reached, '{:.1f}')} ({len(reached)} of {len(epochs)})".strip()


def spread(values: list[float], form: str) -> str:
    """The mean and, of several values, the sample standard deviation."""
    if len(values) < 2:
        return "".join(map(form.format, values))
    return f"{form.format(statistics.mean(values))} ± {form.format(statistics.stdev(values))}"


def logo_vit() -> str:
    """LogoViT against a plain ViT of its size, by split."""
    if not (RESULTS / "logo_vit.json").exists():
        return "Not measured yet: `python benchmarks/compare_vits.py` writes the figures."
    figures = read("logo_vit")
    splits, seeds, rows = list(figures["area"]), len(figures["seeds"]), []
    header = [f"{figures['size_px']} px, {figures['epochs']} epochs, {seeds} seeds", "parameters", "minutes a seed"]
    for split in splits:
        header += [f"accuracy, {split}", f"focus, {split}", f"strictly on ink, {split}"]
    for entry in figures["subjects"]:
        minutes = sum(entry["seconds"]) / seeds / 60
        row = [f"{entry['subject']}: `{entry['network']}`", f"{entry['parameters'] / 1e6:.2f} M", f"{minutes:.0f}"]
        for split in splits:
            found = entry[split]
            row += [f"{found['mean']:.1%} ± {found['spread']:.1%}"]
            row += [f"{sum(found[key]) / seeds:.1%}" for key in ("near_ink", "on_ink")]
        rows.append(row)
    even = ["attention without a focus", "", ""]
    for split in splits:
        even += ["", *(f"{figures['area'][split][key]:.1%}" for key in ("near_ink", "on_ink"))]
    return markdown(header, [*rows, even])


def uncertainty() -> str:
    """One network, draws and ensembles: what they predict and how well they know what they do not."""
    if not (figures := read_if_there("uncertainty")):
        return missing("uncertainty", "python benchmarks/compare_uncertainty.py runs/default --report-test")
    rows, near = [], figures["near"]
    for split in splits_of(figures["methods"]):
        for name, entry in figures["methods"].items():
            found, measure = entry[split], entry["chosen"]
            apart = found["uncertainty"][measure]["auroc"]
            rows.append(
                [
                    f"{name}, {split}",
                    short(found["accuracy"]),
                    f"{found['nll']['value']:.3f}",
                    f"{found['brier']['value']:.3f}",
                    short(found["ece_debiased"]),
                    f"{found['area_under_risk_coverage']['value']:.4f}",
                    short(found["selective_error"]),
                    measure,
                    f"{mean_of(apart, near):.3f}",
                    f"{mean_of(apart, [family for family in apart if family not in near]):.3f}",
                    f"{found['uncertainty']['total']['spearman']['value']:.2f}",
                    f"{found['uncertainty']['epistemic']['spearman']['value']:.2f}",
                ]
            )
    header = [
        "",
        "accuracy",
        "NLL",
        "Brier",
        "ECE less its bias",
        "AURC",
        f"error at {figures['coverage']:.0%} coverage",
        "outliers by",
        "near",
        "far",
        "votes, total",
        "votes, epistemic",
    ]
    return markdown(header, rows)


def detectors() -> str:
    """How well each detector tells other pictures from logos: AUROC by family."""
    if not (figures := read_if_there("uncertainty")):
        return missing("uncertainty", "python benchmarks/compare_uncertainty.py runs/default --report-test")
    found, rows = figures["detectors"], []
    near, families = figures["near"], list(figures["detectors"]["val"]["ViM"])
    far = [family for family in families if family not in near]
    for split in splits_of({"": found}):
        for name, apart in found[split].items():
            label = f"**{name}**, {split}" if name == found["chosen"] else f"{name}, {split}"
            rows.append(
                [
                    label,
                    *(f"{apart[family]:.3f}" for family in families),
                    f"{mean_of(apart, near):.3f}",
                    f"{mean_of(apart, far):.3f}",
                ]
            )
    named = [f"{family}{' *' if family in figures['chosen_on'] else ''}" for family in families]
    return markdown(["", *named, "near", "far"], rows) + "\n\nBold: the chosen one. * chosen on it."


def splits_of(entries: dict[str, dict]) -> list[str]:
    """Those of val and test that were measured."""
    return [split for split in ("val", "test") if all(split in entry for entry in entries.values())]


def mean_of(by_family: dict[str, float], families: list[str]) -> float:
    return statistics.mean(by_family[family] for family in families)


def proposals() -> str:
    """How often `data organize` proposes the label that the annotators gave."""
    figures = read("proposal_accuracy")
    rows = []
    for split in ("val", "test"):
        if split in figures:
            entry = figures[split]
            rows.append([split, share(entry["accuracy"]), *(share(recall) for recall in entry["recall"].values())])
    labels = list(figures["test"]["recall"])
    return markdown(["split", "accuracy", *(f"recall of `{label}`" for label in labels)], rows)


def memory() -> str:
    """Peak memory of a few steps, with each switch of a fit. Their pace is that of a first step, compiling included."""
    if not (RESULTS / "memory.json").exists():
        return "Not measured yet: `python benchmarks/measure_memory.py`."
    figures = read("memory")
    on_gpu = "peak_gpu_memory_mb" in figures["measured"][0]
    rows, plain = [], 1.0
    for entry in figures["measured"]:
        peak = entry["peak_gpu_memory_mb"] if on_gpu else entry["peak_memory_mb"] - entry["before_mb"]
        plain = peak if entry["variant"] == "plain" else plain
        rows.append([entry["network"], entry["variant"], f"{peak:,.0f} MB", f"{peak / plain:.0%}"])
    what = "GPU memory, peak" if on_gpu else "memory of the steps, peak"
    note = f"\n\nBatches of {figures['batch_size']} on {figures['device']}, PyTorch {figures['versions']['torch']}."
    return markdown(["network", "switch", what, "of plain"], rows) + note


def demo() -> str:
    """What `make demo` prints, from the vectors of the default bundle."""
    classifier = Classifier.load()
    vectors = json.loads(classifier.bundle.read(VECTORS))["vectors"]
    rows = [
        [
            Path(vector["image"]).stem,
            result.label or f"{WITHHELD[result.reason]}, best guess {result.best_guess}",
            f"{result.confidence:.1%}",
        ]
        for vector, result in zip(
            vectors, classifier.decide(np.array([vector["logits"] for vector in vectors], np.float32)), strict=True
        )
    ]
    return markdown(["drawing", "label", "confidence"], rows)


def search() -> str:
    """What both searches found, trained alike."""
    if not (figures := read_if_there("search")):
        return missing("search", "python benchmarks/compare_search.py --work runs/compare-search")
    found_by: dict[str, list[str]] = {}
    for entry in figures["rounds"]:
        for method in ("differentiable", "random"):
            for pick in entry[method]["picks"]:
                found_by.setdefault(pick["network"], []).append(f"{method}, {pick['target_ms']:g} ms")
    rows = [
        [
            f"`{name}`",
            "; ".join(counted(found_by[name])),
            f"{network['measured_ms']:.2f}",
            mean_and_deviation(network["val"]),
            mean_and_deviation(network["test"]),
        ]
        for name, network in sorted(figures["networks"].items(), key=lambda item: item[1]["measured_ms"])
    ]
    settings, machine = figures["settings"], figures["machine"]
    note = (
        f"\n\nMean and standard deviation of {settings['final_seeds']} seeds, {settings['final_epochs']} epochs from random "
        f"weights; median on one thread, FP32; {machine['cpu']}, onnxruntime {machine['onnxruntime']}."
    )
    return markdown(["network", "found by, for at most", "p50 ms", "val", "test"], rows) + note


def search_fronts() -> str:
    """Both searches' fronts of latency and accuracy on val, round by round."""
    if not (figures := read_if_there("search")):
        return missing("search", "python benchmarks/compare_search.py --work runs/compare-search")
    rows = []
    for entry in figures["rounds"]:
        for method in ("differentiable", "random"):
            found = entry[method]
            tried = f"{len(found['tried'])} networks" if "tried" in found else f"{len(found['picks'])} searches"
            distinct = len({pick["network"] for pick in found["picks"]})
            rows.append(
                [
                    f"{entry['seed'] + 1}, {method}",
                    tried,
                    f"{found['seconds'] / 60:.0f}",
                    f"{found['hypervolume']:.3f}",
                    f"{found['dominated']} of {distinct}",
                ]
            )
    return markdown(["round", "tried", "minutes", "hypervolume", "dominated by the other's"], rows)


def few_shot() -> str:
    """Accuracy on unseen brands, and on types of an unseen package, by method."""
    if not (figures := read_if_there("few_shot")):
        return missing("few_shot", "python benchmarks/compare_few_shot.py")
    rows = [
        [
            f"{entry['task'].split('-')[0]}, {entry['ways']}-way {entry['shots']}-shot",
            entry["method"],
            f"`{entry['network']}`" + (f", after {entry['start']}" if entry["start"] else ""),
            str(entry["episodes"]),
            share(entry["accuracy"]),
            f"{entry['accuracy_by_class']['low']:.1%} to {entry['accuracy_by_class']['high']:.1%}"
            if entry["task"].startswith("brands")
            else "",
            f"{entry['seconds'] / 60:.0f}" if entry["seconds"] else "",
        ]
        for entry in figures["entries"]
    ]
    header = ["task", "method", "network", "episodes", "accuracy", "of other brands", "meta-training, min"]
    return markdown(header, rows)


def enroll() -> str:
    """Accuracy on brands across packages, by how embeddings are compared and what tells classes apart."""
    if not (figures := read_if_there("enroll")):
        return missing("enroll", "python benchmarks/compare_enroll.py --report-test")
    header, columns = ["5-way"], []
    for name, entry in figures["bundles"].items():
        for split in splits_of({"": entry}):
            header.append(f"`{name}`, {split}")
            columns.append(entry[split]["heads"])
    rows = [[key, *(share(column[key]["accuracy"]) for column in columns)] for key in columns[0]]
    return markdown(header, rows)


def enroll_open() -> str:
    """Of five enrolled brands: what is found, mistaken, and taken for one of them of all other logos."""
    if not (figures := read_if_there("enroll")):
        return missing("enroll", "python benchmarks/compare_enroll.py --report-test")
    rows = [
        [
            f"`{name}`, {split}",
            f"{float(promised):.0%}",
            *(share(found[key]) for key in ("others_taken", "found", "wrong")),
        ]
        for name, entry in figures["bundles"].items()
        for split in splits_of({"": entry})
        for promised, found in entry[split]["open_set"]["by_false_accepts"].items()
    ]
    return markdown(
        ["", "promised at most", "other logos taken for one", "found", "taken for another of the five"], rows
    )


def enroll_use() -> str:
    """Confidence, ranking and grouping at what val chose."""
    if not (figures := read_if_there("enroll")):
        return missing("enroll", "python benchmarks/compare_enroll.py --report-test")
    sharpness, same = (str(figures["chosen"][key]) for key in ("sharpness", "same"))
    rows = []
    for name, entry in figures["bundles"].items():
        for split in splits_of({"": entry}):
            found = entry[split]
            group = found["groups"][same]
            rows.append(
                [
                    f"`{name}`, {split}",
                    f"{found['open_set']['calibration_error'][sharpness]:.1%}",
                    *(f"{found['nearest'][k]:.1%}" for k in ("1", "5", "10")),
                    str(found["nearest"]["among"]),
                    f"{group['precision']:.1%}",
                    f"{group['recall']:.1%}",
                    f"{group['b_cubed_f1']:.3f}",
                ]
            )
    header = ["", "calibration error", "first", "in 5", "in 10", "of", "precision", "recall", "B-cubed F1"]
    return markdown(header, rows)


def augmentation() -> str:
    """What each operation costs on held-out logos of train, and how often the policy has it."""
    if not (figures := read_if_there("augmentation")):
        return missing("augmentation", "python benchmarks/search_augmentation.py")
    policy = {text.split()[0]: text.split()[1:] for text in figures["policy"]}
    rows = []
    for name, cost in figures["costs"].items():
        operation, magnitude = name.split()
        probability, chosen = policy.get(operation, ("0", ""))
        worst = max(cost["by_class"], key=cost["by_class"].get)
        rows.append(
            [
                operation,
                magnitude,
                f"{cost['cost']:+.3f} ± {1.96 * cost['standard_error']:.3f}",
                f"{cost['by_class'][worst]:+.3f} (`{worst}`)",
                probability if magnitude == chosen else "",
            ]
        )
    settings = figures["settings"]
    note = (
        f"\n\n{settings['network']}, {settings['epochs']} epochs, {settings['folds']} folds of train; 95 % intervals."
    )
    return markdown(["operation", "magnitude", "cost, nats", "in the worst class", "probability"], rows) + note


CALIBRATED = {"default": "default_calibration", "robust": "robust_calibration"}


def methods() -> str:
    """Ways to calibrate each committed bundle, by cross-validation within calib."""
    found = {name: read(result) for name, result in CALIBRATED.items()}
    rows = []
    for entries in zip(*(record["methods"] for record in found.values()), strict=True):
        first = entries[0]
        rows.append([first["method"] + (f", penalty {first['penalty']:g}" if first["penalty"] else "")])
        for entry in entries:
            rows[-1] += [
                f"{entry['nll']:.4f}",
                f"{entry['gain']:+.4f} ± {entry['gain_error']:.4f}" if entry["penalty"] else "",
            ]
    header = ["held-out NLL within calib"]
    for name in found:
        header += [f"`{name}`", "gain ± standard error"]
    return markdown(header, rows)


def coverage() -> str:
    """Coverage on test of the committed bundles' prediction sets."""
    rows = []
    for name, result in CALIBRATED.items():
        entries = read(result)["coverage"]
        for entry in (entry for entry in entries if entry["of"] == "all"):
            classes = [other for other in entries if other["level"] == entry["level"] and other["of"] != "all"]
            rows.append(
                [
                    f"`{name}`, {entry['level']:.0%}",
                    f"{entry['threshold']:.3f}",
                    f"{entry['coverage']:.1%} ({entry['expected_low']:.1%} to {entry['expected_high']:.1%})",
                    f"{entry['mean_size']:.2f}",
                    ", ".join(f"{other['of']} {other['coverage']:.0%}" for other in classes) or "refused",
                ]
            )
    return markdown(
        ["bundle, level", "threshold", "coverage on test (95 % of such)", "labels in a set", "sets by class"], rows
    )


def modes() -> str:
    """What each mode of the committed bundles answers on test, and how much of it is right."""
    rows = [
        [
            f"`{name}`, {mode}",
            f"{entry['threshold']:.3f}",
            short(entry["calib"]["answered"]),
            short(entry["calib"]["accuracy"]),
            short(entry["test"]["answered"]),
            share(entry["test"]["accuracy"]),
        ]
        for name, result in CALIBRATED.items()
        for mode, entry in read(result)["modes"].items()
    ]
    return markdown(
        ["bundle, mode", "label from", "calib, answered", "calib, right", "test, answered", "test, right"], rows
    )


def familiarity() -> str:
    """What is taken for no logo: logos of test, and pictures that are none."""
    found = [read(result)["familiarity"] for result in CALIBRATED.values()]
    rows = [
        [family, "near" if family in found[0]["near"] else "far"]
        + [
            cell
            for entry in found
            for cell in (f"{entry['families'][family]['auroc']:.3f}", short(entry["families"][family]["unfamiliar"]))
        ]
        for family in found[0]["families"]
    ]
    rows.append(["logos of test", "", *(cell for entry in found for cell in ("", short(entry["logos"])))])
    header = ["rejected as no logo", ""]
    for name in CALIBRATED:
        header += [f"`{name}`, AUROC", "share"]
    return markdown(header, rows)


def server() -> str:
    """The service under load on loopback, its clients on the same machine."""
    if not (figures := read_if_there("server")):
        return missing("server", "python benchmarks/measure_server.py")
    rows = []
    for entry in figures["entries"]:
        rows.append(
            [
                str(entry["clients"]),
                str(entry["images_per_request"]),
                " ".join(entry["options"]),
                f"{entry['images_per_s']:.0f}",
                f"{entry['p50_ms']:.0f} ms",
                f"{entry['p99_ms']:.0f} ms",
                f"{1e3 * entry['cpu_s_per_image']:.1f} ms",
                f"{entry['mean_batch']:.1f}",
                str(entry["statuses"].get("503", 0)),
                f"{entry['resident_mb']:.0f} MB",
            ]
        )
    direct, load = figures["direct"], (figures["load_before"], figures["load_after"])
    busy = (
        f"on which other work ran all the time: a load of {load[0]:.0f} before and {load[1]:.0f} after"
        if load[0] > 1
        else "otherwise idle"
    )
    note = (
        f"\n\nIn Python, without the service: {direct['p50_ms']:.0f} ms at the median, {1e3 * direct['cpu_s_per_image']:.1f} ms "
        f"of CPU. {figures['machine']['cpu']}, {figures['cores']} cores, {busy}. "
        "The latencies grow with that load, the CPU times hardly do."
    )
    header = [
        "clients",
        "images a request",
        "options",
        "images/s",
        "median",
        "99 %",
        "CPU an image",
        "batch",
        "503",
        "memory",
    ]
    return markdown(header, rows) + note


def runtime() -> str:
    """Speed of the runtime as ratios measured by turns in one run, and memory over many images."""
    figures = read("runtime")
    rows = [
        [
            f"512 px {kind.upper()}: classify / (decode + bare session run), one thread",
            f"{part['bare_cpu_ms']:.1f} ms",
            f"{part['classify_cpu_ms']:.1f} ms",
            f"{part['ratio_cpu']:.2f}",
            f"{part['ratio_wall']:.2f}",
            "1.25",
        ]
        for kind, part in figures["steady_state_512px"].items()
    ]
    start = figures["start"]
    rows.append(
        [
            "`logo-edge classify one.png` / `import numpy, onnxruntime`",
            f"{start['bare_cpu_s'] * 1e3:.0f} ms",
            f"{start['classify_cpu_s'] * 1e3:.0f} ms",
            f"{start['ratio_cpu']:.2f}",
            f"{start['ratio_wall']:.2f}",
            "1.5",
        ]
    )
    header = ["medians, extra `fast`", "bare, CPU time", "ours, CPU time", "ratio, CPU", "ratio, wall", "at most"]
    text = markdown(header, rows)
    load = figures["load_average"]
    beside = "nothing else" if load < 2 else "other work"
    text += f"\n\nBy turns in one run; {figures['machine']['cpu']} with {beside} on it (load average {load:.1f} on two cores)."
    for name, part in figures.get("reduced_jpeg", {}).items():
        text += (
            f" {name}: {part['images']} logos of val as JPEGs of 1300 to 3000 px, decoded at a lower scale, move no logit by more "
            f"than {part['largest_shift']:.2f}; {part['decoded_again']:.0%} are decoded again."
        )
    if memory := figures.get("memory"):
        text += (
            f" Resident set over {memory['images']:,} images with {memory['workers']} workers, from the thousandth to the "
            f"last: {memory['growth']:+.2%} of {memory['warm_bytes'] / 1e6:.0f} MB."
        )
    return text


def distillation() -> str:
    """One pass of a student beside the ensemble that it was distilled from, by how its doubts were."""
    if not (figures := read_if_there("distillation")):
        return missing("distillation", "python benchmarks/compare_distillation.py runs/default --report-test")
    rows, near = [], figures["near"]
    ensemble = next(iter(figures["methods"].values()))
    for split in splits_of(figures["methods"]):
        for name, entry in figures["methods"].items():
            found, measure = entry[split], entry["chosen"]
            apart, whole = (one[split]["uncertainty"][one["chosen"]]["auroc"] for one in (entry, ensemble))
            far = [family for family in apart if family not in near]
            risks = [one[split]["area_under_risk_coverage"]["value"] for one in (entry, ensemble)]
            rows.append(
                [
                    f"{name}, {split}",
                    short(found["accuracy"]),
                    f"{found['nll']['value']:.3f}",
                    f"{risks[0]:.4f} ({risks[0] / risks[1] - 1:+.0%})",
                    measure,
                    *(
                        f"{mean_of(apart, part):.3f} ({mean_of(apart, part) / mean_of(whole, part) - 1:+.0%})"
                        if part
                        else ""
                        for part in ([family for family in near if family in apart], far)
                    ),
                    f"{entry['forward_ms']:.2f}" if entry["forward_ms"] else "",
                ]
            )
    header = ["(less the ensemble's)", "accuracy", "NLL", "AURC", "outliers by", "near", "far", "forward pass, ms"]
    machine = figures["machine"]
    note = (
        f"\n\n{figures['student']} from {', '.join(figures['members'])}, {figures['epochs']} epochs each; {figures['pictures']} "
        f"pictures of each family; medians on one thread, {machine['cpu']}."
    )
    return markdown(header, rows) + note


def students() -> str:
    """What students cost by their network, input size and share of channels, in milliseconds and megabytes."""
    if not (figures := read_if_there("students")):
        return missing("students", "python benchmarks/compare_students.py")
    first = next(iter(figures["students"].values()))["INT8"]["p50_ms"]
    rows = [
        [
            f"`{name}`",
            f"{row['million_macs']:.0f}",
            *(f"{row[precision][figure]:.2f}" for precision in ("FP32", "INT8") for figure in ("size_mb", "p50_ms")),
            f"{row['INT8']['p50_ms'] / first:.2f}",
        ]
        for name, row in figures["students"].items()
    ]
    header = [
        "network @ px / pruned / multiple",
        "million MACs",
        "FP32 MB",
        "ms",
        "INT8 MB",
        "ms",
        "INT8 of the first's",
    ]
    machine = figures["machine"]
    note = (
        f"\n\nMedians on one thread, by turns; {machine['cpu']} ({', '.join(machine['isa'])}), "
        f"onnxruntime {machine['onnxruntime']}."
    )
    return markdown(header, rows) + note


def quantizers() -> str:
    """Every way to quantize each subject: size, latency and what it costs on val."""
    if not (figures := read_if_there("quantizers")):
        return missing("quantizers", "python benchmarks/compare_quantizers.py runs/default --sensitivity")
    rows = []
    for checkpoint, subject in figures["subjects"].items():
        whole = subject["rows"]["FP32"]
        rows.append([f"**{subject['network']}** ({checkpoint}), {subject['logos']} logos of val", *[""] * 6])
        for name, row in subject["rows"].items():
            if "refused" in row:
                rows.append([name, f"refused: {row['refused']}", *[""] * 5])
                continue
            restored = f" ({len(row['restored'])} layers)" if "restored" in row else ""
            missed = f" (not held in {row['minutes']:g} min)" if row.get("held") is False else ""
            rows.append(
                [
                    name + restored + missed,
                    f"{row['size_bytes'] / 1e6:.2f}",
                    f"{row['size_bytes'] / whole['size_bytes']:.0%}",
                    f"{row['p50_ms']:.2f} ({row['p50_ms'] / whole['p50_ms']:.2f}x)"
                    if "p50_ms" in row
                    else "not measured",
                    f"{row['accuracy']['value']:.1%} ({100 * (row['accuracy']['value'] - whole['accuracy']['value']):+.1f})",
                    f"{row['top1_agreement']:.1%}",
                    f"{row['kl_nats']:.4f}",
                ]
            )
    machine = figures["machine"]
    note = (
        f"\n\nCalibrated on {figures['images']} train logos; medians on one thread, {machine['cpu']} "
        f"({', '.join(machine['isa'])}), onnxruntime {machine['onnxruntime']}."
    )
    header = ["", "MB", "of FP32", "p50 ms", "accuracy (points)", "top-1 agreement", "KL, nats"]
    return markdown(header, rows) + note


def mutants() -> str:
    """What became of the mutated files in each language, and the most that one of them took."""
    names = {"python": "Python, `classify`", "server": "`logo-edge serve`", "native": "C++ example", "web": "Chromium"}
    rows = [
        [
            names[language],
            f"{run['files']:,}",
            f"{sum(run['classified'].values()):,}",
            f"{sum(run['errors'].values()):,}",
            str(len(run["broken"])),
            f"{run['slowest_cpu_s']:.2f} s",
            f"{run['peak_memory_mb']:.0f} MB",
            f"{run['slowest_healthy_s']:.2f} s" if run["slowest_healthy_s"] else "",
        ]
        for language, run in read("mutants").items()
    ]
    return markdown(
        ["", "files", "classified", "refused", "broken", "most CPU", "memory", "slowest healthy answer"], rows
    )


def kills() -> str:
    """How often each verb was killed, in how many trials."""
    return markdown(
        ["", "kills", "trials"], [[name, str(run["kills"]), str(run["trials"])] for name, run in read("kills").items()]
    )


TABLES = {
    "panel": panel,
    "mutants": mutants,
    "kills": kills,
    "runtime": runtime,
    "distillation": distillation,
    "students": students,
    "quantizers": quantizers,
    "demo": demo,
    "default_bundle": default_bundle,
    "slices": slices,
    "default_latency": default_latency,
    "peers": peers,
    "goals": goals,
    **{f"scaling_{part}": partial(scaling, part) for part in SCALING},
    "stages": stages,
    "proposals": proposals,
    "pipeline": pipeline,
    "rounding": rounding,
    "robustness": robustness,
    "corruptions": corruptions,
    "outliers": outliers,
    "methods": methods,
    "coverage": coverage,
    "modes": modes,
    "familiarity": familiarity,
    "memory": memory,
    "search": search,
    "search_fronts": search_fronts,
    "teachers": teachers,
    "pretraining": pretraining,
    "few_shot": few_shot,
    "enroll": enroll,
    "enroll_open": enroll_open,
    "enroll_use": enroll_use,
    "ablation": ablation,
    "logo_vit": logo_vit,
    "uncertainty": uncertainty,
    "detectors": detectors,
    "augmentation": augmentation,
    "server": server,
}


def read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def read_if_there(name: str) -> dict | None:
    return read(name) if (RESULTS / f"{name}.json").exists() else None


def missing(name: str, command: str) -> str:
    return f"Not measured yet: `{command}` writes benchmarks/results/{name}.json."


def counted(names: list[str]) -> list[str]:
    """Each name once, with how often it is there if more than once."""
    return [name if (count := names.count(name)) == 1 else f"{name} ({count} times)" for name in dict.fromkeys(names)]


def mean_and_deviation(figure: dict) -> str:
    return f"{figure['mean']:.1%}" + (f" ± {figure['sd']:.1%}" if figure["sd"] is not None else "")


def share(figure: dict) -> str:
    return f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})"


def short(figure: dict) -> str:
    return f"{figure['value']:.1%}"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
