"""The tables at the end of a compression: every candidate on val, and every stage of what was packed."""

from __future__ import annotations

from rich.console import Console

from logo_edge_compress.figures import named_slices
from logo_edge_train.console import LiteralTable, literal


def print_candidates(record: dict, console: Console | None = None) -> None:
    """Prints the candidates that were made, those that nothing dominates marked, and what became of the others."""
    console = _console(console)
    dominated = {title for found in record["targets"].values() for title in found["dominated"]}
    chosen = {(found.get("chosen"), found.get("method")) for found in record["targets"].values()}
    table = LiteralTable(title=f"candidates on val: {record['val']} logos")
    table.add_column("candidate", no_wrap=True)
    for heading in ("all", "worst class", "ECE", "OOD", "p50 ms", "p95 ms", "size MB", "memory MB", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for entry in record["candidates"]:
        if "accuracy" not in entry:
            continue
        cost, ood = entry["cost"], list(entry["ood"].values())
        mark = (
            "chosen"
            if (entry["student"], entry["name"]) in chosen
            else "dominated"
            if entry["title"] in dominated
            else ""
        )
        table.add_row(
            entry["title"],
            f"{entry['accuracy']:.1%}",
            f"{entry['worst_recall']:.1%}",
            f"{entry['ece']:.1%}",
            f"{sum(ood) / len(ood):.3f}" if ood else "-",
            *(f"{cost[key]:.2f}" if cost else "-" for key in ("p50_ms", "p95_ms")),
            f"{entry['size_bytes'] / 1e6:.2f}",
            f"{cost['peak_memory_mb']:.0f}" if cost else "-",
            mark,
        )
    console.print(table)
    for entry in record["candidates"]:
        if entry["status"] != "made":
            console.print(literal(f"{entry['title']}: {entry['status']}, {entry['reason']}"))


def print_stages(record: dict, console: Console | None = None) -> None:
    """Prints the stages of what was packed for a target, one table per split: a column a stage, a row a class."""
    console = _console(console)
    for split in ("val", "test"):
        if split not in record["stages"][0]:
            continue
        count = record["stages"][0][split]["count"]
        table = LiteralTable(
            title=f"{record['bundle']}, {split}: {count} logos" + (" (for reports only)" if split == "test" else "")
        )
        stages = record["stages"]
        figures = [stage[split] for stage in stages]
        table.add_column("", no_wrap=True)
        for stage in stages:
            table.add_column(stage["stage"], justify="right")
        table.add_row("accuracy, all", *(_percent(found["accuracy"]) for found in figures))
        table.add_row("accuracy, sure", *(_percent(found["accuracy_sure"]) for found in figures))
        for label in figures[0]["recall"]:
            table.add_row(f"recall of {label}", *(_percent(found["recall"][label]) for found in figures))
        slices = [named_slices(found) for found in figures]
        for name in slices[0]:
            table.add_row(f"{name}, all", *(_percent(own[name]["accuracy"]) for own in slices))
            table.add_row(f"{name}, sure", *(_percent(own[name]["accuracy_sure"]) for own in slices))
        table.add_row("calibration error", *(_percent(found["calibration_error_debiased"]) for found in figures))
        table.add_row("size MB", *(f"{stage['size_bytes'] / 1e6:.2f}" for stage in stages))
        table.add_row("p50 ms", *(f"{stage['latency']['p50_ms']:.2f}" if stage["latency"] else "-" for stage in stages))
        console.print(table)


def _console(console: Console | None) -> Console:
    console = console or Console()
    return console if console.is_terminal else Console(width=140)


def _percent(figure: dict) -> str:
    return f"{figure['value']:.1%}"
