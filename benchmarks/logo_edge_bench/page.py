"""A page on one or several results, as HTML with drawings and as Markdown; nothing is fetched, nothing but NumPy needed.

Results of machines that differ stand side by side in sections of their own; no figure is put into relation across them.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from pathlib import Path

from logo_edge.files import write_file

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 380, 64, 220, 16, 44
COLOURS = (  # Okabe and Ito's, then Tol's
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
    "#882255",
    "#44aa99",
    "#999933",
    "#332288",
    "#7f7f7f",
)
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#111;background:#fff}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}td,th{padding:.2rem .6rem;text-align:right;"
    "border-bottom:1px solid #ccc;white-space:nowrap}td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}"
)


def write_report(results: list[dict], folder: Path) -> Path:
    """Writes report.html and report.md into the folder, and gives the former's path."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"report.html": html_of(results), "report.md": "\n\n".join(map(markdown_of, results)) + "\n"}
    for name, text in texts.items():
        write_file(folder / name, text)
    return folder / "report.html"


def markdown_of(result: dict) -> str:
    """The tables of one result, its machine, and what makes it doubtful."""
    parts = [f"## {title_of(result)}", *doubts_of(result)]
    if result["method"]["settle_within"] is None:
        parts.append("Only ratios to the yardstick were measured; milliseconds of such a run mean nothing.")
    else:
        parts.append(_as_markdown(*rows_table(result)))
    parts.append(_as_markdown(*ratios_table(result)))
    for heading, table in scaling_tables(result.get("scaling")):
        parts += [f"### {heading}", _as_markdown(*table)]
    return "\n\n".join([*parts, note_of(result)])


def html_of(results: list[dict]) -> str:
    """One page without scripts or outside files."""
    body = []
    for result in results:
        body.append(f"<h2>{html.escape(title_of(result))}</h2>")
        body += [f"<p><strong>{html.escape(line)}</strong></p>" for line in doubts_of(result)]
        if result["method"]["settle_within"] is not None:
            body += [
                "<h3>Accuracy and latency</h3><p>End to end, median; the area of a disc is its size on disk.</p>",
                draw_pareto(result),
                _as_html(*rows_table(result)),
                "<h3>Latencies, end to end</h3><p>The share of queries answered within so many milliseconds.</p>",
                draw_distributions(result),
            ]
        body += ["<h3>Ratios to the yardstick</h3>", _as_html(*ratios_table(result))]
        if scaling := result.get("scaling"):
            for (heading, table), drawing in zip(scaling_tables(scaling), scaling_drawings(scaling), strict=True):
                body += [f"<h3>{html.escape(heading)}</h3>", drawing, _as_html(*table)]
        body.append(f"<p>{html.escape(note_of(result))}</p>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>logo-edge bench</title><style>{STYLE}</style></head><body><h1>logo-edge bench</h1>{''.join(body)}</body></html>\n"
    )


def doubts_of(result: dict) -> list[str]:
    """What made the run doubtful, and what failed in it, a sentence each."""
    doubts = [f"Doubtful: {line}." for line in result["warnings"]]
    return doubts + [f"Not measured: {name}: {why}." for name, why in result.get("not_measured", {}).items()]


def title_of(result: dict) -> str:
    return (
        f"{result['machine']['cpu'] or result['machine']['architecture']}, {result['made']}, {result['method']['name']}"
    )


def note_of(result: dict) -> str:
    machine, method = result["machine"], result["method"]
    versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items())
    settings = [
        f"governor {', '.join(machine['governor']) or 'not told'}",
        f"power mode {machine['power_mode'] or 'not told'}",
        f"energy {result['energy_by'] or 'not told'}",
        f"load average {result['conditions']['before']['load_average']}",
    ]
    return (
        f"{machine['cpus']} CPUs ({', '.join(machine['isa'])}), {machine['system']}, {'; '.join(settings)}. Python "
        f"{machine['python']}, {versions}. {method['rounds']} rounds of {method['window_s']:g} s by turns; files of "
        f"{method['size_px']} px; accuracy on {result['split']}."
    )


def rows_table(result: dict) -> tuple[list[str], list[list[str]]]:
    """Header and cells of all rows: accuracy, size, latency, throughput, memory, energy."""
    header = [
        "",
        "all",
        "sure",
        "worst class",
        "ECE",
        "MB",
        "load s",
        "process s",
        "preprocess ms",
        "inference ms",
        "end to end p50",
        "p90",
        "p95",
        "p99",
        "bound",
        "images/s",
        "peak MB",
        "mJ/image",
    ]
    rows = []
    for row in result["rows"]:
        accuracy, latency = row["accuracy"], row["latency"]
        whole = latency["end_to_end"]
        bound = whole["early_stopping"]
        rows.append(
            [
                row["name"] + (f" ({row['note']})" if row["note"] else ""),
                f"{accuracy['accuracy']['value']:.1%}",
                f"{accuracy['accuracy_sure']['value']:.1%}",
                f"{row['worst_class']['value']:.1%} {row['worst_class']['label']}",
                f"{accuracy['ece']:.1%}",
                f"{row['size_bytes'] / 1e6:.2f}",
                f"{row['load_s']:.2f}",
                _spread(row["process_start_s"], 1, 2),
                _spread(latency.get("preprocess", {}).get("p50_ms")),
                _spread(latency.get("inference", {}).get("p50_ms")),
                *(_spread(whole.get(f"p{percentile}_ms")) for percentile in (50, 90, 95, 99)),
                "" if bound["bound_ms"] is None else f"p{bound['percentile']} {bound['bound_ms']:.2f}",
                _spread(row["images_per_s"], 1, 0),
                f"{row['peak_rss_bytes'] / 1e6:.0f}",
                _spread(row["joules_per_image"], 1e3, 1),
            ]
        )
    return header, rows


def ratios_table(result: dict) -> tuple[list[str], list[list[str]]]:
    """How long each row takes for an image, end to end, in units of the yardstick."""
    ratios = result["ratios"]
    rows = [
        [name, f"{entry['value']:.3f}", f"{entry['low']:.3f} to {entry['high']:.3f}"]
        for name, entry in ratios["of"].items()
    ]
    return [f"end to end, an image, in units of `{ratios['to']}`", "ratio", "95 % interval"], rows


def scaling_tables(scaling: dict | None) -> list[tuple[str, tuple[list[str], list[list[str]]]]]:
    if not scaling:
        return []
    cores = [
        [
            str(entry["cores"]),
            *(
                cell
                for way in ("processes", "threads")
                for cell in (_spread(entry[way]["images_per_s"], 1, 0), _spread(entry[way]["of_one"], 1, 2))
            ),
        ]
        for entry in scaling["cores"]
    ]
    batches = [
        [str(entry["batch"]), _spread(entry["inference"], 1, 0), _spread(entry["end_to_end"], 1, 0)]
        for entry in scaling["batches"]
    ]
    kinds = list(dict.fromkeys(entry["format"] for entry in scaling["sizes"]))
    sides = list(dict.fromkeys(entry["size_px"] for entry in scaling["sizes"]))
    cost = {(entry["format"], entry["size_px"]): f"{entry['ms']['value']:.2f}" for entry in scaling["sizes"]}
    sizes = [[str(side), *(cost[kind, side] for kind in kinds)] for side in sides]
    folders = [
        [f"{entry['files']:,}", f"{entry['peak_rss_bytes'] / 1e6:.0f}", f"{entry['images_per_s']:.0f}"]
        for entry in scaling["folders"]
    ]
    return [
        (
            f"Cores ({scaling['of']})",
            (["cores", "processes, images/s", "of one core", "threads, images/s", "of one core"], cores),
        ),
        ("Batches", (["batch", "inference, images/s", "end to end, images/s"], batches)),
        ("Sizes and formats, ms end to end", (["longer side, px", *kinds], sizes)),
        ("Folders", (["files", "peak MB", "images/s"], folders)),
    ]


def scaling_drawings(scaling: dict) -> list[str]:
    """One drawing for each of `scaling_tables`."""
    cores, batches, sizes, folders = (scaling[key] for key in ("cores", "batches", "sizes", "folders"))
    kinds = dict.fromkeys(entry["format"] for entry in sizes)
    return [
        draw_lines(
            {
                way: [(entry["cores"], entry[way]["images_per_s"]["value"]) for entry in cores]
                for way in ("processes", "threads")
            },
            "cores",
            "images/s",
        ),
        draw_lines(
            {
                stage: [(entry["batch"], entry[stage]["value"]) for entry in batches]
                for stage in ("inference", "end_to_end")
            },
            "batch",
            "images/s",
            log_x=True,
        ),
        draw_lines(
            {
                kind: [(entry["size_px"], entry["ms"]["value"]) for entry in sizes if entry["format"] == kind]
                for kind in kinds
            },
            "longer side, px",
            "ms",
            log_x=True,
            log_y=True,
        ),
        draw_lines(
            {"peak": [(entry["files"], entry["peak_rss_bytes"] / 1e6) for entry in folders]}, "files", "MB", log_x=True
        ),
    ]


def draw_pareto(result: dict) -> str:
    """Accuracy over the median end-to-end latency of an image; what no other row beats in both is ringed."""
    points = [
        (median / row["batch"], row["accuracy"]["accuracy"]["value"] * 100, row)
        for row in result["rows"]
        if (median := _median_ms(row)) is not None
    ]
    best = pareto_front([(x, y) for x, y, _ in points])
    x, y, axes = _axes([x for x, _, _ in points], [y for _, y, _ in points], "ms an image", "accuracy, %", log_x=True)
    largest = max(row["size_bytes"] for _, _, row in points)
    marks = []
    for index, (across, up, row) in enumerate(points):
        radius = max(3, 26 * math.sqrt(row["size_bytes"] / largest))
        colour, name = COLOURS[index % len(COLOURS)], html.escape(row["name"])
        ring = ' stroke="#111" stroke-width="2.5"' if index in best else ""
        marks.append(
            f'<circle cx="{x(across):.1f}" cy="{y(up):.1f}" r="{radius:.1f}" fill="{colour}" fill-opacity=".55"{ring}>'
            f"<title>{name}: {across:.2f} ms, {up:.1f} %, {row['size_bytes'] / 1e6:.2f} MB</title></circle>"
        )
    return _svg(axes + "".join(marks) + _legend([row["name"] for _, _, row in points]), "Accuracy over latency")


def draw_distributions(result: dict) -> str:
    """The empirical distribution of every row's end-to-end latencies, up to p97.5: the rest is in the table."""
    curves = {}
    for row in result["rows"]:
        values = row["latency"]["end_to_end"]["quantiles_ms"]
        curves[row["name"]] = [(value, 100 * index / (len(values) - 1)) for index, value in enumerate(values[:-1])]
    return draw_lines(curves, "ms", "% of queries", log_x=True, dots=False)


def draw_lines(
    curves: dict[str, list[tuple[float, float]]],
    across: str,
    up: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    dots: bool = True,
) -> str:
    """Curves by name, as an SVG."""
    values = [point for curve in curves.values() for point in curve]
    x, y, axes = _axes(
        [value for value, _ in values], [value for _, value in values], across, up, log_x=log_x, log_y=log_y
    )
    marks = []
    for index, (name, curve) in enumerate(curves.items()):
        colour, points = COLOURS[index % len(COLOURS)], [(x(value), y(height)) for value, height in curve]
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        marks.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"><title>{html.escape(name)}</title></polyline>'
        )
        marks += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in points if dots]
    return _svg(axes + "".join(marks) + _legend(list(curves)), f"{up} over {across}")


def pareto_front(points: list[tuple[float, float]]) -> set[int]:
    """The indices of the points (cost, gain) that no other beats: none is as cheap and better, or as good and cheaper."""
    return {
        index
        for index, (cost, gain) in enumerate(points)
        if not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points)
    }


def _median_ms(row: dict) -> float | None:
    return row["latency"]["end_to_end"].get("p50_ms", {}).get("value")


def _spread(figure: dict | None, unit: float = 1, digits: int = 2) -> str:
    """value (low to high), or nothing where it was not measured or the sample was too small."""
    if not figure:
        return ""
    value, low, high = (f"{figure[key] * unit:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _as_markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def _as_html(header: list[str], rows: list[list[str]]) -> str:
    def cells(tag: str, texts: list[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts) + "</tr>"

    return f"<table>{cells('th', header)}{''.join(cells('td', row) for row in rows)}</table>"


def _axes(xs: list[float], ys: list[float], across: str, up: str, *, log_x: bool = False, log_y: bool = False):
    """Functions from values to pixels, and the drawn axes."""
    x, x_ticks = _scale(xs, LEFT, WIDTH - RIGHT, log_x)
    y, y_ticks = _scale(ys, HEIGHT - BOTTOM, TOP, log_y)
    parts = []
    for tick in x_ticks:
        parts.append(
            f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#ddd"/>'
            f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>'
        )
    for tick in y_ticks:
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>'
            f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(across)}</text>')
    parts.append(
        f'<text x="14" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 14 {HEIGHT / 2})">{html.escape(up)}</text>'
    )
    return x, y, "".join(parts)


def _scale(values: list[float], start: float, end: float, log: bool) -> tuple[Callable[[float], float], list[float]]:
    low, high = min(values), max(values)
    if log:
        low, high = math.log10(low) - 0.05, math.log10(high) + 0.05
        ticks = [step * 10.0**power for power in range(math.floor(low), math.ceil(high)) for step in (1, 2, 5)]
        ticks = [tick for tick in ticks if low <= math.log10(tick) <= high] or [10**low]
    else:
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1
        low, high = low - margin, high + margin
        step = 10.0 ** math.floor(math.log10((high - low) / 2))
        step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 8)
        ticks = [round(index * step, 10) for index in range(math.ceil(low / step), math.floor(high / step) + 1)]

    def position(value: float) -> float:
        return start + ((math.log10(value) if log else value) - low) / (high - low) * (end - start)

    return position, ticks


def _legend(names: list[str]) -> str:
    lines = []
    for index, name in enumerate(names):
        y = TOP + 12 + 18 * index
        short = name if len(name) <= 30 else name[:29] + "…"
        lines.append(
            f'<rect x="{WIDTH - RIGHT + 12}" y="{y - 9}" width="10" height="10" fill="{COLOURS[index % len(COLOURS)]}"/>'
            f'<text x="{WIDTH - RIGHT + 28}" y="{y}">{html.escape(short)}<title>{html.escape(name)}</title></text>'
        )
    return "".join(lines)


def _svg(content: str, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="12" font-family="system-ui,sans-serif">'
        f"<title>{html.escape(title)}</title>{content}</svg>"
    )
