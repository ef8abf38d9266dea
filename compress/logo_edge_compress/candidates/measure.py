"""What each candidate costs on this machine, and how accurate it is on val."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from logo_edge.bundle.calibration import Calibration
from logo_edge.decision import calibrated_logits, logo_score
from logo_edge.machine import describe_machine
from logo_edge_compress.calibrate import Fitted, fit_calibration
from logo_edge_compress.candidates.pixels import OUTLIERS
from logo_edge_compress.candidates.store import Candidate
from logo_edge_compress.select import Row
from logo_edge_compress.timing import Cost, Opened, measure_side_by_side
from logo_edge_compress.work import Say, Work
from logo_edge_train.architecture import Architecture
from logo_edge_train.evaluate import ensemble_logits, short_metrics
from logo_edge_train.keys import artifact_key
from logo_edge_train.metrics import debiased_calibration_error, debiased_ece, is_correct, outcomes_of, probabilities_of
from logo_edge_train.runs import write_json


@dataclass(frozen=True)
class Measured:
    """A candidate with its calibration, its cost (or why there is none) and its figures on val."""

    candidate: Candidate
    fitted: Fitted
    cost: Cost | str
    row: Row

    @property
    def title(self) -> str:
        return self.candidate.title


def measure_candidates(work: Work, candidates: list[Candidate]) -> tuple[list[Measured], bool]:
    """Each candidate, timed here and calibrated on calib; and whether every one that opens here was timed."""
    costs, complete = measure_costs(candidates, work.folder, work.say)
    work.say(f"calibrating {len(candidates)} candidates")
    measured = []
    for candidate in candidates:
        calib, targets = candidate.logits()["calib"], work.splits["calib"].targets
        fitted = fit_calibration(calib, targets, work.run.classes, work.run.recipe.calibrate)
        cost = costs[candidate.title]
        measured.append(Measured(candidate, fitted, cost, measure_row(work, candidate, fitted.calibration, cost)))
    return measured, complete


def measure_costs(candidates: list[Candidate], folder: Path, say: Say) -> tuple[dict[str, Cost | str], bool]:
    """Title -> its cost on this machine, or why there is none; and whether every candidate that opens here was timed.

    Costs are stored, and read where they are of the same files and machine. If one timing fails, none is stored: all
    are timed by turns, so the next call measures all of them again.
    """
    opened = {candidate.title: _open(candidate) for candidate in candidates}
    measurable = {title: artifact for title, artifact in opened.items() if isinstance(artifact, Opened)}
    machine = describe_machine()
    files = {
        f"{candidate.title}/{name}": sha256 for candidate in candidates for name, sha256 in candidate.files.items()
    }
    key = artifact_key(files, {"machine": machine}, {})
    path = folder / "latency.json"
    if path.exists() and (stored := json.loads(path.read_text(encoding="utf-8")))["key"] == key:
        costs = {
            title: Cost(**{**cost, "rounds_ms": tuple(cost["rounds_ms"])}) for title, cost in stored["costs"].items()
        }
        return {**opened, **costs}, True
    say(f"measuring {len(measurable)} candidates by turns")
    costs = measure_side_by_side(measurable, folder)
    for title, cost in {**opened, **costs}.items():
        if isinstance(cost, str):
            say(f"  {title} was not measured: {cost}")
    complete = all(isinstance(cost, Cost) for cost in costs.values())
    if complete:
        stored = {title: asdict(cost) for title, cost in costs.items()}
        write_json(path, {"key": key, "machine": machine, "costs": stored})
    return {**opened, **costs}, complete


def _open(candidate: Candidate) -> Opened | str:
    """How to open the candidate here, or why it cannot be opened."""
    if reason := candidate.record.get("not_done"):
        return reason
    contract = Architecture.parse(candidate.record["network"]).contract
    engine = candidate.record.get("engine")
    paths = (candidate.folder / engine,) if engine else tuple(candidate.paths)
    return Opened(candidate.backend, paths, contract, tuple(candidate.record.get("members", ())))


def measure_row(work: Work, candidate: Candidate, calibration: Calibration, cost: Cost | str) -> Row:
    """The figures on val that the choice is made by."""
    val, logits = work.splits["val"], candidate.logits()
    multi_label = work.run.multi_label
    calibrated = calibrated_logits(logits["val"], calibration.temperature, calibration.scaling, multi_label=multi_label)
    correct, outcomes = (
        is_correct(calibrated, val.targets),
        outcomes_of(probabilities_of(calibrated, val.targets), val.targets),
    )
    teachers = ensemble_logits(work.run.member_logits("val"), multi_label=multi_label)
    teachers_correct = is_correct(teachers, val.targets)
    logo_scores = logo_score(logits["val"])
    ood = {}
    for name in sorted(name for name in logits if name.startswith(OUTLIERS)):
        scores = logo_score(logits[name])
        is_logo = np.repeat([1, 0], [len(logo_scores), len(scores)])
        ood[name.removeprefix(OUTLIERS)] = float(roc_auc_score(is_logo, np.concatenate([logo_scores, scores])))
    return Row(
        candidate.student,
        candidate.name,
        candidate.precision,
        candidate.backend,
        candidate.size_bytes,
        **short_metrics(calibrated, val.targets, val.sure),
        accuracy_drop=float(teachers_correct.mean() - correct.mean()),
        ece=debiased_ece(*outcomes),
        calibration_error=debiased_calibration_error(*outcomes),
        ood=ood,
        correct=correct,
        cost=cost if isinstance(cost, Cost) else None,
    )
