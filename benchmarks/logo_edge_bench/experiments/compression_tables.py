"""Tables of the experiments on compression: distillation, students, quantization, search, the whole pipeline."""

from __future__ import annotations

from collections.abc import Callable

from logo_edge_bench.experiments.shipped import test_split
from logo_edge_bench.experiments.training_tables import measured_splits, outliers_by
from logo_edge_bench.markdown import markdown, named, share, table_of


def distillation(result: dict) -> str:
    """The figures of one pass beside those of the ensemble that it was distilled from."""
    methods, rows = result["methods"], []
    ensemble = next(iter(methods.values()))
    for split in measured_splits(methods.values()):
        aurc_whole, *whole = _selection(ensemble, split, result["near"])
        for name, method in methods.items():
            aurc, *outliers = _selection(method, split, result["near"])
            row = [
                f"{name}, {split}",
                f"{method[split]['accuracy']['value']:.1%}",
                f"{method[split]['nll']['value']:.3f}",
            ]
            row += [f"{aurc:.4f} ({aurc / aurc_whole - 1:+.0%})", method["chosen"]]
            row += [
                "" if auroc is None else f"{auroc:.3f} ({auroc / auroc_whole - 1:+.0%})"
                for auroc, auroc_whole in zip(outliers, whole, strict=True)
            ]
            rows.append([*row, f"{method['forward_ms']:.2f}" if method["forward_ms"] else ""])
    header = ["(less the ensemble's)", "accuracy", "NLL", "AURC", "outliers by", "near", "far", "forward pass, ms"]
    return (
        f"{markdown(header, rows)}\n\n{result['student']} from {', '.join(result['members'])}, {result['epochs']} "
        f"epochs each; {result['pictures']} pictures of each family; medians on one thread, "
        f"{result['provenance']['machine']['cpu']}."
    )


def _selection(method: dict, split: str, near: list[str]) -> list[float | None]:
    """The area under the risk-coverage curve, and the AUROC of near and of far images."""
    return [method[split]["area_under_risk_coverage"]["value"], *outliers_by(method, split, near)]


def pipeline(cpu_pipeline: dict, default_report: dict) -> str:
    """The cost of the `cpu` recipe from a clean clone, and the accuracy of its bundle."""
    required = default_report["stages"][-1]["test"]["accuracy"]["value"] - 0.015
    split = test_split(cpu_pipeline["test"]["count"])
    train, compress = (cpu_pipeline["seconds"][half] / 60 for half in ("train", "compress"))
    rows = [
        ["`make train`, with set-up, fetch and rendering", f"{train:.0f} minutes", ""],
        ["`make compress`", f"{compress:.0f} minutes", "<= 20"],
        ["together", f"{cpu_pipeline['minutes']:.0f} minutes", "<= 60"],
        ["peak memory", f"{max(cpu_pipeline['peak_memory_gb'].values()):.1f} GB", "<= 8 GB"],
        [f"its bundle on the {split}, all", share(cpu_pipeline["test"]["accuracy"]), f"{required:.1%}"],
        [f"its bundle on the {split}, sure", share(cpu_pipeline["test"]["accuracy_sure"]), ""],
    ]
    text = markdown([f"recipe `cpu`, {cpu_pipeline['cores']} cores", "measured", "must reach"], rows)
    return f"{text}\n\n{cpu_pipeline['note']}" if cpu_pipeline.get("note") else text


def quantizers(result: dict) -> str:
    """Size, latency and accuracy of each way to quantize each subject."""
    header = ["", "MB", "of FP32", "p50 ms", "accuracy (points)", "top-1 agreement", "KL, nats"]
    lines = []
    for checkpoint, subject in result["subjects"].items():
        title = f"**{subject['network']}** ({checkpoint}), {subject['logos']} logos of val"
        rows = {title: {}, **subject["rows"]}
        lines += [_quantizer(name, row, subject["rows"]["FP32"]) for name, row in rows.items()]
    machine = result["provenance"]["machine"]
    return (
        f"{markdown(header, lines)}\n\nCalibrated on {result['images']} train logos; medians on one thread, "
        f"{machine['cpu']} ({', '.join(machine['isa'])}), onnxruntime {machine['onnxruntime']}."
    )


def depthwise(result: dict) -> str:
    """The same, for a whole EfficientNet-Lite0, whose depthwise layers suffer most from 8 bits."""
    return quantizers(result)


def _quantizer(name: str, row: dict, fp32: dict) -> list[str]:
    if "accuracy" not in row:
        return [name, f"refused: {row['refused']}" if row else "", *[""] * 5]
    restored = f" ({len(row['restored'])} layers)" if "restored" in row else ""
    missed = f" (not held in {row['minutes']:g} min)" if row.get("held") is False else ""
    accuracy, whole = row["accuracy"]["value"], fp32["accuracy"]["value"]
    return [
        name + restored + missed,
        f"{row['size_bytes'] / 1e6:.2f}",
        f"{row['size_bytes'] / fp32['size_bytes']:.0%}",
        f"{row['p50_ms']:.2f} ({row['p50_ms'] / fp32['p50_ms']:.2f}x)" if "p50_ms" in row else "not measured",
        f"{accuracy:.1%} ({100 * (accuracy - whole):+.1f})",
        f"{row['top1_agreement']:.1%}",
        f"{row['kl_nats']:.4f}",
    ]


def rounding(result: dict) -> str:
    """INT8 variants of a student, compared with FP32."""
    parent = {"name": "FP32 parent", "accuracy": result["accuracy_fp32"]}
    return table_of(
        [*result["variants"], parent],
        (f"{result['student']}, val", "{name}"),
        ("top-1 agreement", lambda row: f"{row['top1_agreement']:.1%}" if "top1_agreement" in row else ""),
        ("KL, nats", lambda row: f"{row['kl_nats']:.4f}" if "kl_nats" in row else ""),
        ("accuracy", "{accuracy:.1%}"),
    )


def search(result: dict) -> str:
    """The networks that both searches chose, trained alike."""

    def accuracy(split: str):
        """The mean and the standard deviation of the seeds."""
        return lambda network: (
            f"{network[split]['mean']:.1%}" + ("" if network[split]["sd"] is None else f" ± {network[split]['sd']:.1%}")
        )

    def chosen_by(network: dict) -> str:
        """The methods and targets that chose it, with the number of times if it is not one."""
        names = [
            f"{method}, {pick['target_ms']:g} ms"
            for one in result["rounds"]
            for method in ("differentiable", "random")
            for pick in one[method]["picks"]
            if pick["network"] == network["name"]
        ]
        return "; ".join(
            name + f" ({names.count(name)} times)" * (names.count(name) > 1) for name in dict.fromkeys(names)
        )

    settings, machine = result["settings"], result["machine"]
    text = table_of(
        sorted(named(result["networks"]), key=lambda network: network["measured_ms"]),
        ("network", "`{name}`"),
        ("found by, for at most", chosen_by),
        ("p50 ms", "{measured_ms:.2f}"),
        ("val", accuracy("val")),
        ("test", accuracy("test")),
    )
    return (
        f"{text}\n\nMean and standard deviation of {settings['final_seeds']} seeds, {settings['final_epochs']} epochs "
        f"from random weights; median on one thread, FP32; {machine['cpu']}, onnxruntime {machine['onnxruntime']}."
    )


def search_fronts(search: dict) -> str:
    """Both searches' fronts of latency and accuracy on val, round by round."""
    rows = [
        {**one[method], "name": f"{one['seed'] + 1}, {method}"}
        for one in search["rounds"]
        for method in ("differentiable", "random")
    ]
    return table_of(
        rows,
        ("round", "{name}"),
        ("tried", lambda row: f"{len(row['tried'])} networks" if "tried" in row else f"{len(row['picks'])} searches"),
        ("minutes", lambda row: f"{row['seconds'] / 60:.0f}"),
        ("hypervolume", "{hypervolume:.3f}"),
        (
            "dominated by the other's",
            lambda row: f"{row['dominated']} of {len({pick['network'] for pick in row['picks']})}",
        ),
    )


def students(result: dict) -> str:
    """Size and latency of each student, FP32 and INT8."""
    rows, machine = named(result["students"]), result["provenance"]["machine"]
    first_ms = rows[0]["INT8"]["p50_ms"]
    text = table_of(
        rows,
        ("network @ px / pruned / multiple", "`{name}`"),
        ("million MACs", "{million_macs:.0f}"),
        ("FP32 MB", "{FP32[size_mb]:.2f}"),
        ("ms", "{FP32[p50_ms]:.2f}"),
        ("INT8 MB", "{INT8[size_mb]:.2f}"),
        ("ms", "{INT8[p50_ms]:.2f}"),
        ("INT8 of the first's", lambda student: f"{student['INT8']['p50_ms'] / first_ms:.2f}"),
    )
    return (
        f"{text}\n\nGraphs before training; medians on one thread, by turns; {machine['cpu']} "
        f"({', '.join(machine['isa'])}), onnxruntime {machine['onnxruntime']}."
    )


def promises(result: dict) -> str:
    """Prediction sets by the source of their thresholds, and how often a mode's error is above its promise."""
    sets = [
        [
            name,
            *(f"{one['coverage']:.1%} ± {one['standard_error']:.1%}" for one in levels.values()),
            ", ".join(f"{one['labels']:.2f}" for one in levels.values()),
        ]
        for name, levels in result["coverage"].items()
    ]
    levels = [f"coverage at {float(level):.0%}" for level in next(iter(result["coverage"].values()))]
    rows = [
        [f"{float(risk):.0%}", size, str(count["promised"]), str(count["broken"])]
        for risk, sizes in result["modes"]["at_risk"].items()
        for size, count in sizes.items()
    ]
    header = ["promised error", "logos of calib", f"of {result['modes']['sets']} sets, promised", "error above it"]
    return f"{markdown(['thresholds from', *levels, 'labels in a set'], sets)}\n\n{markdown(header, rows)}"


def formats(result: dict) -> str:
    """Every format and precision: agreement, accuracy, size and latency, and where its golden vectors were given."""
    header = [
        "",
        "top-1 agreement",
        "logits differ by, mean",
        "at most",
        "all equal",
        "accuracy",
        "ECE",
        "MB",
        "p50 ms",
    ]
    header += ["golden vectors here", "on emulated ARM"]
    reasons: list[str] = []

    def number(reason: str) -> str:
        """The reason's number in the notes below the table, which give no command to install what was missing."""
        reason = " ".join(reason.partition(" Install it with")[0].split())
        if reason not in reasons:
            reasons.append(reason)
        return f"({reasons.index(reason) + 1})"

    table = markdown(header, [_format(name, row, number) for name, row in result["rows"].items()])
    images, machine = result["images"], result["provenance"]["machine"]
    notes = [
        f"Bundle `{result['bundle']}`. The parent is its graph or, in FP32 and FP16, the same with its dequantized "
        f"weights; that of TorchScript is a run's student. Agreement: {images['val']} logos of val. Accuracy and "
        f"debiased ECE: {images['test']} of test, with the bundle's calibration where it is named, else with one "
        "fitted on calib."
    ]
    if any("p50_ms" in row.get("cost", {}) for row in result["rows"].values()):
        notes.append(f"Medians on one thread, by turns; {machine['cpu']} ({', '.join(machine['isa'])}).")
    notes += [f"({index}) {reason}" for index, reason in enumerate(reasons, start=1)]
    return "\n\n".join([table, *notes])


def _format(name: str, row: dict, number: Callable[[str], str]) -> list[str]:
    if "parity" not in row:
        return [name, f"not made {number(row['refused'])}", *[""] * 9]
    parity, test, cost, arm = row["parity"], row["test"], row.get("cost"), row.get("arm")
    passes = row["vectors"].get("passes")
    return [
        name,
        f"{parity['top1_agreement']:.1%}",
        f"{parity['mean_difference']:.5f}",
        f"{parity['max_difference']:.2g}",
        f"{row['steps']['equal_share']:.1%}" if "steps" in row else "",
        f"{test['accuracy']['value']:.1%}",
        f"{test['ece_debiased']['value']:.1%}" + (" by the bundle's" if row["shares_calibration"] else ""),
        f"{row['size_bytes'] / 1e6:.2f}",
        "not timed" if not cost else f"{cost['p50_ms']:.2f}" if "p50_ms" in cost else number(cost["refused"]),
        f"all {passes}" if passes else f"no {number(row['vectors']['refused'])}",
        "not run"
        if not arm
        else f"no {number(arm['refused'])}"
        if "refused" in arm
        else f"all {arm['passes']}; differs by {arm['max_difference']:.2g} at most",
    ]


def format_goals(formats: dict) -> str:
    """The goals of exact transfer and of NCNN, beside the figures on val."""
    rows = {name: row for name, row in formats["rows"].items() if "parity" in row}
    lines = []
    for name in ("litert int8", "executorch int8"):
        measured = ["not measured"] * 3
        if row := rows.get(name):
            steps = row["steps"]
            measured = [f"{steps['equal_share']:.1%}", f"{steps['largest']}", f"{steps['top1_agreement']:.1%}"]
        goals = {
            "images with all logits equal to ONNX Runtime's": ">= 97 %",
            "largest difference, steps of quantization": "<= 1",
            "top-1 equal": "100 %",
        }
        lines += [[f"{name}, {goal}", cell, goals[goal]] for goal, cell in zip(goals, measured, strict=True)]
    measured, names = "not measured", ("ncnn int8", "onnx fp32")
    if rows.keys() >= set(names):
        int8, fp32 = (100 * rows[name]["val_accuracy"]["value"] for name in names)
        measured = f"{int8 - fp32:+.1f} ({int8:.1f} / {fp32:.1f} %)"
    lines.append(["ncnn int8, points of accuracy over the FP32 parent", measured, ">= -0.7"])
    return markdown(["goal", f"{formats['images']['val']} logos of val", "must reach"], lines)
