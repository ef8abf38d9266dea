"""The HTML page on results of `logo-edge bench`; it needs the extra `report`, so a device writes JSON instead.

Results of different machines stand in sections of their own; no figure is compared across them.
"""

from __future__ import annotations

from pathlib import Path

from logo_edge.files import write_file
from logo_edge_bench.result_tables import (
    Rows,
    markdown_of,
    note_of,
    ratios_table,
    rows_table,
    runtimes_table,
    scaling_tables,
    title_of,
    warnings_of,
)
from logo_edge_report.charts import cost_plane, lines
from logo_edge_report.page import Exhibit, Panel, Section, Table, render_page


def write_report(results: list[dict], folder: Path) -> Path:
    """Writes report.html and report.md into the folder, and gives the former's path."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"report.html": html_of(results), "report.md": "\n\n".join(map(markdown_of, results)) + "\n"}
    for name, text in texts.items():
        write_file(folder / name, text)
    return folder / "report.html"


def html_of(results: list[dict]) -> str:
    """One page without scripts or outside files, with a section for each result."""
    sections = [
        Section(f"result-{index + 1}", title_of(result), tuple(exhibits_of(result)))
        for index, result in enumerate(results)
    ]
    return render_page(
        sections,
        title="logo-edge bench",
        about="accuracy and latency",
        lead="Accuracy and latency of the same artifacts, measured by turns.",
        description="",
        recipe="",
        command="logo-edge bench",
        making={title_of(result): note_of(result) for result in results},
        files="report.md",
    )


def exhibits_of(result: dict) -> list[Exhibit]:
    """The figures of one result, in the order in which the page shows them."""
    exhibits = [Exhibit("Warnings", line) for line in [" ".join(warnings_of(result))] if line]
    if result["method"]["settle_within"] is not None:
        latencies = "The share of queries answered within a number of milliseconds, up to the 97.5th percentile."
        if result["split"]:
            caption = "End to end, median; the area of a disk is the size."
            exhibits.append(_chart("Accuracy over latency", caption, draw_pareto(result)))
        exhibits += [
            _chart("Latencies, end to end", latencies, draw_distributions(result)),
            _table("Accuracy and latency", "95 % intervals in brackets.", rows_table(result)),
        ]
        if (runtimes := runtimes_table(result))[0]:
            exhibits.append(_table("Which runtime for this CPU", "One image a call, the fastest first.", runtimes))
    exhibits.append(_table("Ratios to the yardstick", "The end-to-end time of an image.", ratios_table(result)))
    if scaling := result.get("scaling"):
        for (heading, rows), chart in zip(scaling_tables(scaling), draw_scaling(scaling), strict=True):
            exhibits += [_chart(heading, scaling["of"], chart), _table(heading, scaling["of"], rows)]
    return exhibits


def draw_pareto(result: dict) -> str:
    """Accuracy over the median end-to-end milliseconds of an image."""
    points = {
        row["name"]: (median_ms / row["batch"], row["accuracy"]["accuracy"]["value"], row["size_bytes"])
        for row in result["rows"]
        if (median_ms := row["latency"]["end_to_end"].get("p50_ms", {}).get("value")) is not None
    }
    return cost_plane(points, "ms an image", "accuracy")


def draw_distributions(result: dict) -> str:
    """The empirical distribution of every row's end-to-end latencies; the upper end is in the table."""
    curves = {}
    for row in result["rows"]:
        values_ms = row["latency"]["end_to_end"]["quantiles_ms"]
        curves[row["name"]] = {value: index / (len(values_ms) - 1) for index, value in enumerate(values_ms[:-1])}
    return lines(curves, "ms", "queries", log_x=True, markers=False)


def draw_scaling(scaling: dict) -> list[str]:
    """One chart for each of `scaling_tables`."""
    cores, batches, sizes, folders = (scaling[key] for key in ("cores", "batches", "sizes", "folders"))
    by_way = {
        way: {row["cores"]: row[way]["images_per_s"]["value"] for row in cores} for way in ("processes", "threads")
    }
    by_stage = {stage: {row["batch"]: row[stage]["value"] for row in batches} for stage in ("inference", "end_to_end")}
    by_format: dict[str, dict[float, float]] = {}
    for row in sizes:
        by_format.setdefault(row["format"], {})[row["size_px"]] = row["ms"]["value"]
    memory = {"peak": {row["files"]: row["peak_rss_bytes"] / 1e6 for row in folders}}
    return [
        lines(by_way, "cores", "images/s", percent=False),
        lines(by_stage, "batch", "images/s", percent=False, log_x=True),
        lines(by_format, "longer side, px", "ms", percent=False, log_x=True, log_y=True),
        lines(memory, "files", "MB", percent=False, log_x=True),
    ]


def _chart(title: str, caption: str, svg: str) -> Exhibit:
    return Exhibit(title, caption, (Panel(title, svg),))


def _table(title: str, caption: str, rows: Rows) -> Exhibit:
    header, cells = rows
    return Exhibit(title, caption, table=Table(tuple(header), tuple(map(tuple, cells))))
