"""The tables and notes on a result of `logo-edge bench`, and all of them as Markdown."""

from __future__ import annotations

from logo_edge_bench.markdown import interval, markdown, short

Rows = tuple[list[str], list[list[str]]]  # header, lines of cells


def markdown_of(result: dict) -> str:
    """The tables of one result, its machine and its warnings."""
    parts = [f"## {title_of(result)}", *warnings_of(result)]
    if result["method"]["settle_within"] is None:
        parts.append("Only ratios to the yardstick were measured; milliseconds of such a run mean nothing.")
    else:
        parts.append(markdown(*rows_table(result)))
        if (runtimes := runtimes_table(result))[0]:
            parts += ["### Which runtime for this CPU", markdown(*runtimes)]
    parts.append(markdown(*ratios_table(result)))
    for heading, rows in scaling_tables(result.get("scaling")):
        parts += [f"### {heading}", markdown(*rows)]
    return "\n\n".join([*parts, note_of(result)])


def warnings_of(result: dict) -> list[str]:
    """The warnings and failures of a run, a sentence each."""
    doubtful = [f"Doubtful: {line}." for line in result["warnings"]]
    return doubtful + [f"Not measured: {name}: {why}." for name, why in result.get("not_measured", {}).items()]


def title_of(result: dict) -> str:
    machine = result["machine"]
    return f"{machine['cpu'] or machine['architecture']}, {result['made']}, {result['method']['name']}"


def note_of(result: dict) -> str:
    machine, method = result["machine"], result["method"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    settings = [
        f"governor {', '.join(machine['governor']) or 'unknown'}",
        f"power mode {machine['power_mode'] or 'unknown'}",
        f"energy {result['energy_by'] or 'unknown'}",
        f"load average {result['conditions']['before']['load_average']}",
    ]
    accuracy = f"accuracy on {result['split']}" if result["split"] else "no labels, so no accuracy"
    return (
        f"{machine['cpus']} CPUs ({', '.join(machine['isa'])}), {machine['system']}, {'; '.join(settings)}. Python "
        f"{machine['python']}, {versions}. {method['rounds']} rounds of {method['window_s']:g} s by turns; files of "
        f"{method['size_px']} px; {accuracy}."
    )


def rows_table(result: dict) -> Rows:
    """Accuracy, size, latency, throughput, memory and energy of all rows."""
    header = ["", *(["all", "sure", "worst class", "ECE"] if result["split"] else []), "MB", "load s", "process s"]
    header += ["preprocess ms", "inference ms", "end to end p50", "p90", "p95", "p99", "bound", "images/s", "peak MB"]
    header += ["mJ/image"]
    rows = []
    for row in result["rows"]:
        latency = row["latency"]
        end_to_end = latency["end_to_end"]
        bound = end_to_end["early_stopping"]
        rows.append(
            [
                row["name"] + (f" ({row['note']})" if row["note"] else ""),
                *_accuracy_cells(row),
                f"{row['size_bytes'] / 1e6:.2f}",
                f"{row['load_s']:.2f}",
                interval(row["process_start_s"]),
                *(interval(latency.get(stage, {}).get("p50_ms")) for stage in ("preprocess", "inference")),
                *(interval(end_to_end.get(f"p{percentile}_ms")) for percentile in (50, 90, 95, 99)),
                "" if bound["bound_ms"] is None else f"p{bound['percentile']} {bound['bound_ms']:.2f}",
                interval(row["images_per_s"], digits=0),
                f"{row['peak_rss_bytes'] / 1e6:.0f}",
                interval(row["joules_per_image"], 1e3, 1),
            ]
        )
    return header, rows


def _accuracy_cells(row: dict) -> list[str]:
    """Accuracy on all and on sure images, the worst class and the ECE; nothing of images without labels."""
    if "accuracy" not in row:
        return []
    accuracy, worst = row["accuracy"], row["worst_class"]
    shares = short(accuracy["accuracy"]), short(accuracy["accuracy_sure"]), f"{short(worst)} {worst['label']}"
    return [*shares, f"{accuracy['ece']:.1%}"]


def runtimes_table(result: dict) -> Rows:
    """The bundle's rows of one image a call, the fastest forward pass first; empty where they are of one runtime.

    "as fast": the interval of its median reaches that of the first.
    """
    medians = [
        (p50, row)
        for row in result["rows"]
        if row["kind"] == "bundle" and row["batch"] == 1 and (p50 := row["latency"]["inference"].get("p50_ms"))
    ]
    if len({(row["backend"], row["precision"]) for _, row in medians}) < 2:
        return [], []
    medians.sort(key=lambda pair: pair[0]["value"])
    first, _ = medians[0]
    header = ["runtime", "precision", "threads", "inference ms", "of the first"]
    return [*header, *(["all"] if result["split"] else []), "MB", "peak MB"], [
        [
            row["backend"],
            row["precision"],
            str(row["threads"]),
            interval(p50),
            f"{p50['value'] / first['value']:.2f}" + (" (as fast)" if p50["low"] <= first["high"] else ""),
            *_accuracy_cells(row)[:1],
            f"{row['size_bytes'] / 1e6:.2f}",
            f"{row['peak_rss_bytes'] / 1e6:.0f}",
        ]
        for p50, row in medians
    ]


def ratios_table(result: dict) -> Rows:
    """Each row's end-to-end time for an image, in units of the yardstick's."""
    ratios = result["ratios"]
    rows = [
        [name, f"{ratio['value']:.3f}", f"{ratio['low']:.3f} to {ratio['high']:.3f}"]
        for name, ratio in ratios["of"].items()
    ]
    return [f"end to end, an image, in units of `{ratios['to']}`", "ratio", "95 % interval"], rows


def scaling_tables(scaling: dict | None) -> list[tuple[str, Rows]]:
    """(heading, table) for each curve of `logo-edge bench --scaling`."""
    if not scaling:
        return []
    cores = [
        [
            str(row["cores"]),
            *(
                cell
                for way in ("processes", "threads")
                for cell in (interval(row[way]["images_per_s"], digits=0), interval(row[way]["of_one"]))
            ),
        ]
        for row in scaling["cores"]
    ]
    batches = [
        [str(row["batch"]), *(interval(row[stage], digits=0) for stage in ("inference", "end_to_end"))]
        for row in scaling["batches"]
    ]
    formats = list(dict.fromkeys(row["format"] for row in scaling["sizes"]))
    sides_px = list(dict.fromkeys(row["size_px"] for row in scaling["sizes"]))
    cost = {(row["format"], row["size_px"]): f"{row['ms']['value']:.2f}" for row in scaling["sizes"]}
    sizes = [[str(side_px), *(cost[kind, side_px] for kind in formats)] for side_px in sides_px]
    folders = [
        [f"{row['files']:,}", f"{row['peak_rss_bytes'] / 1e6:.0f}", f"{row['images_per_s']:.0f}"]
        for row in scaling["folders"]
    ]
    cores_header = ["cores", "processes, images/s", "of one core", "threads, images/s", "of one core"]
    return [
        (f"Cores ({scaling['of']})", (cores_header, cores)),
        ("Batches", (["batch", "inference, images/s", "end to end, images/s"], batches)),
        ("Sizes and formats, ms end to end", (["longer side, px", *formats], sizes)),
        ("Folders", (["files", "peak MB", "images/s"], folders)),
    ]
