"""Shows a fit's reports: live bars in a terminal, one line per epoch in a log."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

FIGURES = ("accuracy", "accuracy_sure", "worst_recall", "nll", "seconds")
OTHER_KEYS = ("kind", "name", "epoch", "epochs")


class FitProgress:
    """A context manager whose call takes the reports of `train_ensemble` and `distill`."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console()
        self.tasks: dict[str, int] = {}
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), console=self.console, transient=True, disable=not self.console.is_terminal,
        )  # fmt: skip

    def __enter__(self) -> FitProgress:
        self.bar.start()
        return self

    def __exit__(self, *error) -> None:
        self.bar.stop()

    def __call__(self, report: dict) -> None:
        name, kind = report["name"], report["kind"]
        if name not in self.tasks:
            self.tasks[name] = self.bar.add_task(name, total=None)
        if kind == "start":
            self.console.print(f"[bold]{name}[/bold] {report.get('note', '')}", highlight=False)
        elif kind == "step":
            done = (report["epoch"] - 1) * report["steps"] + report["step"]
            self.bar.update(self.tasks[name], completed=done, total=report["epochs"] * report["steps"])
        elif kind == "epoch":
            self.console.print(f"  {describe_epoch(report)}", highlight=False, soft_wrap=True)


def describe_epoch(report: dict) -> str:
    """One line: the network, the epoch, every loss by name, accuracy, worst recall, seconds."""
    losses = " ".join(f"{key} {value:.3f}" for key, value in report.items() if key not in FIGURES + OTHER_KEYS)
    return (
        f"{report['name']}: epoch {report['epoch']}/{report['epochs']}  {losses}  val accuracy {report['accuracy']:.1%} "
        f"(sure {report['accuracy_sure']:.1%}, worst class {report['worst_recall']:.1%})  {report['seconds']:.0f} s"
    )
