"""The picture of a search."""

from __future__ import annotations

import math
from pathlib import Path

from logo_edge.files import replacing
from logo_edge_compress.search.latency_table import CHOICES


def plot_search(record: dict, target_ms: float, path: Path) -> None:
    """Writes a PNG: the shares of each choice's options, the expected latency and the losses, by epoch."""
    from matplotlib.figure import Figure

    history = record["epochs"]
    epochs = [epoch["epoch"] for epoch in history]
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    panels = figure.subplots(2, 3).flat
    for choice in CHOICES:
        axes = next(panels)
        for name in history[0]["shares"][choice]:
            axes.plot(epochs, [100 * epoch["shares"][choice][name] for epoch in history], label=name)
        axes.set_title(f"{choice}, share in %", loc="left", fontsize=10)
        axes.set_ylim(0, 100)
    for title, names in (
        ("expected latency, ms", ("expected_ms",)),
        ("entropy of the shares, of 1", ("choice_entropy",)),
        ("cross-entropy, nats", ("cross_entropy", "held_cross_entropy")),
    ):
        axes = next(panels)
        for name in names:
            axes.plot(epochs, [epoch.get(name, math.nan) for epoch in history], label=name)
        axes.set_title(title, loc="left", fontsize=10)
        if names == ("expected_ms",):
            axes.axhline(record["table_ms"], color="0.3", linewidth=0.8, label="chosen")
            if target_ms:
                axes.axhline(target_ms, color="0.3", linewidth=0.8, linestyle="--", label="target")
    for axes in figure.axes:
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False)
    figure.suptitle(record["chosen"], fontsize=11)
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=144)
