"""The one table at the end of a compression: every stage's accuracy, recall, calibration, size and latency."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def print_stages(record: dict, console: Console | None = None) -> None:
    """Prints `compress`'s report, one table per split."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(width=140)
    for split in ("val", "test"):
        if split not in record["stages"][0]:
            continue
        count = record["stages"][0][split]["count"]
        table = Table(title=f"{split}: {count} logos" + (" (for reports only)" if split == "test" else ""))
        labels = list(record["stages"][0][split]["recall"])
        table.add_column("stage", no_wrap=True)
        for heading in ("all", "sure", *labels, "calib. error", "size MB", "p50 ms"):
            table.add_column(heading, justify="right")
        for stage in record["stages"]:
            figures, latency = stage[split], stage["latency"]
            table.add_row(
                stage["stage"], _percent(figures["accuracy"]), _percent(figures["accuracy_sure"]),
                *(_percent(figures["recall"][label]) for label in labels),
                _percent(figures["calibration_error_debiased"]), f"{stage['size_bytes'] / 1e6:.2f}",
                f"{latency['p50_ms']:.2f}" if latency else "-",
            )  # fmt: skip
        console.print(table)


def _percent(figure: dict) -> str:
    return f"{figure['value']:.1%}"
