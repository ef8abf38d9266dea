"""What a compression reports: the record of every candidate and stage, as JSON and as printed tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from rich.console import Console

from logo_edge.bundle.calibration import Calibration, Mode, Scaling
from logo_edge.decision import calibrated_logits, given_labels, logo_score
from logo_edge.timing import Latency
from logo_edge_compress.candidates.measure import Measured
from logo_edge_compress.candidates.store import Candidate
from logo_edge_compress.figures import named_slices, summarize_rows
from logo_edge_compress.timing import Cost
from logo_edge_compress.verify import Parity
from logo_edge_compress.work import Split
from logo_edge_train.console import LiteralTable, literal
from logo_edge_train.evaluate import ensemble_logits
from logo_edge_train.metrics import probabilities_of
from logo_edge_train.runs import Run

REPORT = "compress_report.json"
RECORDED = (
    "title",
    "student",
    "name",
    "precision",
    "backend",
    "status",
    "reason",
    "seconds",
    "files",
)  # of a Candidate
RECORDED_OF_ITS_RECORD = ("parity", "epistemic_rank_correlation", "verified_by", "audit", "not_done", "sensitivity")


@dataclass(frozen=True)
class Stage:
    """One step of the compression: its logits on every split, its size and single-image latency on one thread.

    `latency` is measured by `measure_side_by_side`; None for a stage in PyTorch, which is not timed.
    """

    name: str
    logits: dict[str, np.ndarray]
    size_bytes: int
    latency: Latency | None
    temperature: float = 1.0
    parity: Parity | None = None
    scaling: Scaling | None = None
    multi_label: bool = False

    def calibrated(self, split: str) -> np.ndarray:
        """The (N, K) logits whose softmax, multi-label sigmoid, is the stage's probabilities."""
        return calibrated_logits(self.logits[split], self.temperature, self.scaling, multi_label=self.multi_label)


def teachers_stage(run: Run, splits: dict[str, Split]) -> Stage:
    """The first stage: the ensemble of the teachers."""
    logits = {name: ensemble_logits(run.member_logits(name), multi_label=run.multi_label) for name in splits}
    count = len(run.record["members"])
    size_bytes = sum(run.load_member(index).float32_bytes for index in range(count))
    return Stage(f"{count} teachers, PyTorch", logits, size_bytes, None, run.temperature)


def candidate_stage(name: str, measured: Measured) -> Stage:
    """A candidate before calibration."""
    candidate, cost = measured.candidate, measured.cost
    latency = Latency(cost.p50_ms, cost.p90_ms, cost.p99_ms, cost.runs) if isinstance(cost, Cost) else None
    parity = Parity(**candidate.record["parity"])
    return Stage(name, candidate.logits(), candidate.size_bytes, latency, parity=parity)


def describe_stage(stage: Stage, splits: dict[str, Split], labels: tuple[str, ...]) -> dict:
    """The stage for JSON, with its figures on val and test."""
    reported = {name: split for name, split in splits.items() if name != "calib"}
    return {
        "stage": stage.name,
        "size_bytes": stage.size_bytes,
        "temperature": stage.temperature,
        "scaling": asdict(stage.scaling) if stage.scaling else None,
        "latency": asdict(stage.latency) if stage.latency else None,
        "parity": asdict(stage.parity) if stage.parity else None,
        **{name: summarize_rows(stage.calibrated(name), split.rows, labels) for name, split in reported.items()},
    }


def describe_abstention(stage: Stage, splits: dict[str, Split], calibration: Calibration) -> dict:
    """Coverage and error of the answers on each split, at the packed thresholds; those of strict under its name.

    Multi-label, coverage is the share of images that get a label, and the error that of the labels that are given.
    """

    def selection(mode: Mode) -> dict:
        figures = {}
        for name, split in splits.items():
            probabilities, targets = probabilities_of(stage.calibrated(name), split.targets), split.targets
            given = given_labels(calibration, mode, probabilities, logo_score(stage.logits[name]))  # (N, K)
            true = targets.astype(bool) if targets.ndim == 2 else np.eye(given.shape[1], dtype=bool)[targets]
            risk = float((given & ~true).sum() / max(1, given.sum()))
            figures[name] = {"coverage": float(given.any(1).mean()), "risk": risk}
        return {"threshold": calibration.abstain_below[mode], **figures}

    familiarity = calibration.familiarity and asdict(calibration.familiarity)
    record = {**selection(Mode.BALANCED), "familiarity": familiarity, Mode.STRICT.value: selection(Mode.STRICT)}
    if calibration.label_thresholds:
        record["label_thresholds"] = calibration.label_thresholds[Mode.BALANCED]
    return record


def describe_candidate(candidate: Candidate, measured: Measured | None) -> dict:
    """The candidate for JSON: what it is, its outcome and, where it was made, its figures on val."""
    record = {name: getattr(candidate, name) for name in RECORDED}
    record |= {name: candidate.record.get(name) for name in RECORDED_OF_ITS_RECORD}
    if measured is None:
        return record
    cost = measured.cost
    figures = {name: value for name, value in vars(measured.row).items() if name not in ("correct", "cost", *record)}
    return {
        **record,
        **figures,
        "cost": asdict(cost) if isinstance(cost, Cost) else None,
        "not_measured": cost if isinstance(cost, str) else "",
    }


def print_candidates(record: dict, console: Console | None = None) -> None:
    """Prints a table of the candidates that were made, and why each of the others was not."""
    console = console or _terminal()
    targets = record["targets"].values()
    dominated = {title for target in targets for title in target["dominated"]}
    chosen = {(target.get("chosen"), target.get("method")) for target in targets}
    table = LiteralTable(title=f"candidates on val: {record['val']} images")
    table.add_column("candidate", no_wrap=True)
    for heading in ("all", "worst class", "ECE", "OOD", "p50 ms", "p95 ms", "size MB", "memory MB", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for candidate in record["candidates"]:
        if "accuracy" not in candidate:
            continue
        cost, ood = candidate["cost"], list(candidate["ood"].values())
        mark = "dominated" if candidate["title"] in dominated else ""
        mark = "chosen" if (candidate["student"], candidate["name"]) in chosen else mark
        table.add_row(
            candidate["title"],
            f"{candidate['accuracy']:.1%}",
            f"{candidate['worst_recall']:.1%}",
            f"{candidate['ece']:.1%}",
            f"{sum(ood) / len(ood):.3f}" if ood else "-",
            *(f"{cost[key]:.2f}" if cost else "-" for key in ("p50_ms", "p95_ms")),
            f"{candidate['size_bytes'] / 1e6:.2f}",
            f"{cost['peak_memory_mb']:.0f}" if cost else "-",
            mark,
        )
    console.print(table)
    for candidate in record["candidates"]:
        if candidate["status"] != "made":
            console.print(literal(f"{candidate['title']}: {candidate['status']}, {candidate['reason']}"))


def print_stages(record: dict, console: Console | None = None) -> None:
    """Prints the stages of a target's bundle, one table per split: a column per stage, a row per class."""
    console = console or _terminal()
    for split in ("val", "test"):
        if split not in record["stages"][0]:
            continue
        count = record["stages"][0][split]["count"]
        table = LiteralTable(
            title=f"{record['bundle']}, {split}: {count} images" + (" (for reports only)" if split == "test" else "")
        )
        stages = record["stages"]
        figures = [stage[split] for stage in stages]
        table.add_column("", no_wrap=True)
        for stage in stages:
            table.add_column(stage["stage"], justify="right")
        table.add_row("accuracy, all", *(_percent(part["accuracy"]) for part in figures))
        table.add_row("accuracy, sure", *(_percent(part["accuracy_sure"]) for part in figures))
        for label in figures[0]["recall"]:
            table.add_row(f"recall of {label}", *(_percent(part["recall"][label]) for part in figures))
        slices = [named_slices(part) for part in figures]
        for name in slices[0]:
            table.add_row(f"{name}, all", *(_percent(part[name]["accuracy"]) for part in slices))
            table.add_row(f"{name}, sure", *(_percent(part[name]["accuracy_sure"]) for part in slices))
        table.add_row("calibration error (RMS)", *(_percent(part["calibration_error_debiased"]) for part in figures))
        table.add_row("size MB", *(f"{stage['size_bytes'] / 1e6:.2f}" for stage in stages))
        table.add_row("p50 ms", *(f"{stage['latency']['p50_ms']:.2f}" if stage["latency"] else "-" for stage in stages))
        console.print(table)


def _terminal() -> Console:
    """The terminal; 140 columns where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def _percent(figure: dict) -> str:
    return f"{figure['value']:.1%}"
