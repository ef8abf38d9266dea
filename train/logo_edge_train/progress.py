"""Shows the reports of fits: a live view in a terminal, one line per epoch elsewhere."""

from __future__ import annotations

import math

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from logo_edge_train.console import LiteralTable, TimeLeftColumn, figure, figures_table, percent

SPARKS = "▁▂▃▄▅▆▇█"
SPARK_EPOCHS = 40  # the latest epochs that a sparkline shows


class FitProgress:
    """A context manager; call it with the reports of `train_ensemble` and `distill` to show them.

    In a terminal: a bar per network and per stage before it and, below, a row per network with the figures of its
    latest epoch. Elsewhere: a line when a stage starts, and when a fit starts, resumes or ends an epoch.
    """

    def __init__(self, console: Console | None = None):
        self.console = console or Console()
        self.tasks: dict[str, int] = {}
        self.epochs: dict[str, list[dict]] = {}
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            TextColumn("{task.fields[position]}"),
            TimeElapsedColumn(),
            TimeLeftColumn(),
            TextColumn("{task.fields[pace]}"),
            console=self.console,
        )
        self.live = Live(get_renderable=self.render, console=self.console, refresh_per_second=4)

    def __enter__(self) -> FitProgress:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *error) -> None:
        self.live.stop()

    def __call__(self, report: dict) -> None:
        name, kind = report["name"], report["kind"]
        if is_new := name not in self.tasks:
            self.tasks[name], self.epochs[name] = self.bar.add_task(name, total=None, position="", pace=""), []
        if kind == "stage":
            done, total = report["done"], report["total"]
            self.bar.update(
                self.tasks[name], completed=done, total=total, position=f"{done:,}/{total:,}", visible=done < total
            )
            if is_new and not self.console.is_terminal:
                self.say(f"  {name}: {total:,}")
        elif kind == "start":
            self.say(f"{name} {report.get('note', '')}", style="bold")
        elif kind == "resume":
            done = len(report["history"])
            self.epochs[name] = list(report["history"])
            total = report["epochs"] * report["steps"]
            self.bar.reset(self.tasks[name], total=total, completed=done * report["steps"], position="", pace="")
            self.say(f"  {name}: resumes after epoch {done}/{report['epochs']}")
        elif kind == "step":
            done = (report["epoch"] - 1) * report["steps"] + report["step"]
            done -= report["step"] == report["steps"]  # the last one ends with the evaluation of the epoch
            position = f"epoch {report['epoch']}/{report['epochs']}, step {report['step']}/{report['steps']}"
            self.bar.update(
                self.tasks[name],
                completed=done,
                total=report["epochs"] * report["steps"],
                position=position,
                pace=describe_pace(report),
            )
        elif kind == "epoch":
            self.epochs[name].append(report)
            total = self.bar.tasks[self.tasks[name]].total
            self.bar.update(self.tasks[name], completed=total and total * report["epoch"] / report["epochs"])
            if not self.console.is_terminal:
                self.say(f"  {describe_epoch(report)}")

    def say(self, text: str, style: str | None = None) -> None:
        """Prints a line, above the live view if there is one."""
        self.console.print(Text(text), style=style, soft_wrap=True)

    def render(self) -> Group:
        """The bars and, after the first epoch, the table of the latest figures."""
        shown = {
            name: list(epochs) for name, epochs in list(self.epochs.items()) if epochs
        }  # a copy: reports arrive meanwhile
        return Group(self.bar, describe_latest(shown)) if shown else Group(self.bar)


def describe_latest(epochs: dict[str, list[dict]]) -> LiteralTable:
    """One row per network: the figures of its latest epoch on val, and its accuracy by epoch."""
    headings = ("latest epoch, val", "all", "sure", "worst", "calib. error", "entropy")
    table = figures_table(*headings, no_wrap=True)
    table.add_column("accuracy by epoch", no_wrap=True)
    for name, records in epochs.items():
        last = records[-1]
        table.add_row(
            f"{name} ({last['epoch']})",
            *(percent(last.get(key)) for key in ("accuracy", "accuracy_sure", "worst_recall", "calibration_error")),
            figure(last.get("entropy")),
            sparkline([record["accuracy"] for record in records if "accuracy" in record]),
        )
    return table


def sparkline(values: list[float]) -> str:
    """One block character per value, scaled from the least to the greatest; the latest SPARK_EPOCHS values."""
    values = [value for value in values[-SPARK_EPOCHS:] if math.isfinite(value)]
    if not values:
        return ""
    low, high = min(values), max(values)
    top = len(SPARKS) - 1
    return "".join(SPARKS[round((value - low) / (high - low) * top) if high > low else top // 2] for value in values)


def describe_pace(report: dict) -> str:
    """Total loss, phase, learning rate and images per second of a step."""
    loss = sum(report[name] for name in report["losses"])
    return f"loss {loss:.3f}, {describe_phase(report)}, {report['images_per_s']:.0f} images/s"


def describe_phase(report: dict) -> str:
    """The phase, the learning rate and rho, as far as the report has them."""
    forms = {"phase": "{}", "learning_rate": "rate {:.1e}", "rho": "rho {:.2g}"}
    return ", ".join(form.format(report[key]) for key, form in forms.items() if key in report)


def describe_epoch(report: dict) -> str:
    """One line: the network, the epoch, every loss by name, the figures on val, the phase, the pace."""
    losses = " ".join(f"{name} {report[name]:.3f}" for name in report["losses"])
    named = {"accuracy_sure": "sure", "worst_recall": "worst class", "calibration_error": "calibration error"}
    further = ", ".join(f"{name} {report[key]:.1%}" for key, name in named.items() if key in report)
    return (
        f"{report['name']}: epoch {report['epoch']}/{report['epochs']}  {losses}  val accuracy "
        f"{report['accuracy']:.1%}{f' ({further})' if further else ''}  {describe_phase(report)}, "
        f"{report['images_per_s']:.0f} images/s, {report['seconds']:.0f} s"
    )
