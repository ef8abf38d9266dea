"""Tables of the experiments on the runtime: speed, service, interruptions, calibration, brands."""

from __future__ import annotations

from logo_edge_bench.experiments.record import BUNDLES
from logo_edge_bench.experiments.training_tables import measured_splits
from logo_edge_bench.markdown import markdown, named, share, short, table_of


def methods(default_calibration: dict, robust_calibration: dict) -> str:
    """Ways to calibrate each committed bundle, by cross-validation within calib."""
    header = ["held-out NLL within calib"]
    for name in BUNDLES:
        header += [f"`{name}`", "gain ± standard error"]
    rows = []
    for methods in zip(*(result["methods"] for result in (default_calibration, robust_calibration)), strict=True):
        penalty = methods[0]["penalty"]
        row = [methods[0]["method"] + (f", penalty {penalty:g}" if penalty else "")]
        for method in methods:
            gain = f"{method['gain']:+.4f} ± {method['gain_error']:.4f}" if penalty else ""
            row += [f"{method['nll']:.4f}", gain]
        rows.append(row)
    return markdown(header, rows)


def coverage(default_calibration: dict, robust_calibration: dict) -> str:
    """Coverage on test of the committed bundles' prediction sets."""
    rows = []
    for name, result in zip(BUNDLES, (default_calibration, robust_calibration), strict=True):
        for sets in (sets for sets in result["coverage"] if sets["of"] == "all"):
            classes = [
                f"{other['of']} {other['coverage']:.0%}"
                for other in result["coverage"]
                if other["level"] == sets["level"] and other["of"] != "all"
            ]
            rows.append(
                [
                    f"`{name}`, {sets['level']:.0%}",
                    f"{sets['threshold']:.3f}",
                    f"{sets['coverage']:.1%} ({sets['expected_low']:.1%} to {sets['expected_high']:.1%})",
                    f"{sets['mean_size']:.2f}",
                    ", ".join(classes) or "refused",
                ]
            )
    header = ["bundle, level", "threshold", "coverage on test (95 % of such)", "labels in a set", "sets by class"]
    return markdown(header, rows)


def modes(default_calibration: dict, robust_calibration: dict) -> str:
    """The answers of each mode of the committed bundles, and their accuracy."""
    rows = [
        [
            f"`{name}`, {mode}",
            f"{figures['threshold']:.3f}",
            short(figures["calib"]["answered"]),
            short(figures["calib"]["accuracy"]),
            short(figures["test"]["answered"]),
            share(figures["test"]["accuracy"]),
        ]
        for name, result in zip(BUNDLES, (default_calibration, robust_calibration), strict=True)
        for mode, figures in result["modes"].items()
    ]
    header = ["bundle, mode", "label from", "calib, answered", "calib, right", "test, answered", "test, right"]
    return markdown(header, rows)


def familiarity(default_calibration: dict, robust_calibration: dict) -> str:
    """The rejected shares of test logos and of other images; `-` where a bundle did not see a family."""
    records = [result["familiarity"] for result in (default_calibration, robust_calibration)]
    header = ["rejected as no logo", ""]
    for name in BUNDLES:
        header += [f"`{name}`, AUROC", "share"]
    rows = []
    for family in records[0]["families"]:
        row = [family, "near" if family in records[0]["near"] else "far"]
        for record in records:
            figures = record["families"].get(family)
            row += [f"{figures['auroc']:.3f}", short(figures["unfamiliar"])] if figures else ["-", "-"]
        rows.append(row)
    rows.append(["logos of test", "", *(cell for record in records for cell in ("", short(record["logos"])))])
    return markdown(header, rows)


def enroll(result: dict) -> str:
    """Accuracy on brands across packages, by the comparison of embeddings and the head."""
    columns = {f"`{name}`, {split}": figures["heads"] for name, split, figures in _splits(result)}
    heads = next(iter(columns.values()))
    rows = [[key, *(share(column[key]["accuracy"]) for column in columns.values())] for key in heads]
    return markdown(["5-way", *columns], rows)


def enroll_open(enroll: dict) -> str:
    """Of five enrolled brands: their drawings found and mistaken, and the other logos accepted as one of them."""
    header = ["", "promised at most", "other logos taken for one", "found", "taken for another of the five"]
    rows = [
        [
            f"`{name}`, {split}",
            f"{float(limit):.0%}",
            *(share(shares[key]) for key in ("others_taken", "found", "wrong")),
        ]
        for name, split, figures in _splits(enroll)
        for limit, shares in figures["open_set"]["by_false_accepts"].items()
    ]
    return markdown(header, rows)


def enroll_use(enroll: dict) -> str:
    """Confidence, ranking and grouping at the constants chosen on val."""
    sharpness, same = (str(enroll["chosen"][key]) for key in ("sharpness", "same"))
    rows = []
    for name, split, figures in _splits(enroll):
        nearest, groups = figures["nearest"], figures["groups"][same]
        shares = [figures["open_set"]["calibration_error"][sharpness], *(nearest[k] for k in ("1", "5", "10"))]
        row = [f"`{name}`, {split}", *(f"{value:.1%}" for value in shares), str(nearest["among"])]
        rows.append([*row, *(f"{groups[key]:.1%}" for key in ("precision", "recall")), f"{groups['b_cubed_f1']:.3f}"])
    header = ["", "calibration error", "first", "in 5", "in 10", "of", "precision", "recall", "B-cubed F1"]
    return markdown(header, rows)


def _splits(result: dict) -> list[tuple[str, str, dict]]:
    """(bundle, split, figures) of each measured split."""
    bundles = result["bundles"].items()
    return [(name, split, bundle[split]) for name, bundle in bundles for split in measured_splits([bundle])]


def kills(result: dict) -> str:
    """The kills and trials of each verb."""
    return table_of(named(result), ("", "{name}"), ("kills", "{kills}"), ("trials", "{trials}"))


def runtime(result: dict) -> str:
    """Speed as ratios measured by turns in one run, and memory over many images."""
    start, rows = result["start"], []
    for kind, part in result["steady_state_512px"].items():
        row = [f"512 px {kind.upper()}: classify / (decode + bare session run), one thread"]
        row += [f"{part[name]:.1f} ms" for name in ("bare_cpu_ms", "classify_cpu_ms")]
        rows.append([*row, *(f"{part[ratio]:.2f}" for ratio in ("ratio_cpu", "ratio_wall")), "1.25"])
    if small := result.get("small_files"):
        row = [f"{small['files']:,} small files in a folder: classify / (read + decode + bare session run), a file"]
        row += [f"{small[name]:.2f} ms" for name in ("bare_cpu_ms", "classify_cpu_ms")]
        rows.append([*row, *(f"{small[ratio]:.2f}" for ratio in ("ratio_cpu", "ratio_wall")), "1.15"])
    row = ["`logo-edge classify one.png` / `import numpy, onnxruntime`"]
    row += [f"{start[name] * 1e3:.0f} ms" for name in ("bare_cpu_s", "classify_cpu_s")]
    rows.append([*row, *(f"{start[ratio]:.2f}" for ratio in ("ratio_cpu", "ratio_wall")), "1.3"])
    header = ["medians, extra `fast`", "bare, CPU time", "ours, CPU time", "ratio, CPU", "ratio, wall", "at most"]
    load = result["load_average"]
    notes = [
        f"By turns in one run; {result['provenance']['machine']['cpu']} with "
        f"{'nothing else' if load < 2 else 'other work'} on it (load average {load:.1f} on two cores)"
        f"{'; to be measured again on an idle machine' if result.get('preset', 'full') != 'full' else ''}."
    ]
    notes += [
        f"{name}: {part['images']} logos of val as JPEGs of 1300 to 3000 px, decoded at a lower scale, move no logit "
        f"by more than {part['largest_shift']:.2f}; {part['decoded_again']:.0%} are decoded again."
        for name, part in result.get("reduced_jpeg", {}).items()
    ]
    if memory := result.get("memory"):
        notes.append(
            f"Resident set over {memory['images']:,} images with {memory['workers']} workers, from the thousandth to "
            f"the last: {memory['growth']:+.2%} of {memory['warm_bytes'] / 1e6:.0f} MB."
        )
    return f"{markdown(header, rows)}\n\n{' '.join(notes)}"


def runtime_threads(runtime: dict) -> str:
    """The pace of two threads relative to one, by stage."""
    return table_of(
        named(runtime.get("threads", {})), ("512 px images", "{name}"), ("wall", "{wall:.2f}"), ("alone", "{alone:.2f}")
    )


def server(result: dict) -> str:
    """The pace, latency, refusals and memory of the service in each case."""
    text = table_of(
        result["entries"],
        ("clients", "{clients}"),
        ("images a request", "{images_per_request}"),
        ("options", lambda row: " ".join(row["options"])),
        ("images/s", "{images_per_s:.0f}"),
        ("median", "{p50_ms:.0f} ms"),
        ("99 %", "{p99_ms:.0f} ms"),
        ("CPU an image", lambda row: f"{1e3 * row['cpu_s_per_image']:.1f} ms"),
        ("batch", "{mean_batch:.1f}"),
        ("503", lambda row: str(row["statuses"].get("503", 0))),
        ("memory", "{resident_mb:.0f} MB"),
    )
    direct, before, after = result["direct"], result["load_before"], result["load_after"]
    in_process = [result["in_process"]] if "in_process" in result else []
    pace = "".join(f", {part['images_per_s']:.0f} images/s in {part['threads']} threads" for part in in_process)
    other_work = f"on which other work ran all the time: a load of {before:.0f} before and {after:.0f} after"
    return (
        f"{text}\n\nIn Python, without the service: {direct['p50_ms']:.0f} ms at the median, "
        f"{1e3 * direct['cpu_s_per_image']:.1f} ms of CPU{pace}. {result['provenance']['machine']['cpu']}, "
        f"{result['cores']} cores, {other_work if before > 1 else 'otherwise idle'}. "
        "The latencies grow with that load."
    )
