"""The inputs of one compression: run, images of each split, time budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from logo_edge.preprocess import CROP, InputContract
from logo_edge_compress.candidates.pixels import save_pixels
from logo_edge_compress.quantize.fitting import fitting_rows
from logo_edge_compress.subprocess_call import OutOfTimeError
from logo_edge_train.data.images import telling_reads
from logo_edge_train.data.manifest import LogoRow, Manifest, targets_of
from logo_edge_train.data.outliers import Family
from logo_edge_train.recipe import Recipe
from logo_edge_train.runs import Run

Say = Callable[[str], None]


class Budget:
    """The time that a compression may take; None: no limit."""

    def __init__(self, minutes: float | None):
        self.minutes = minutes
        self.deadline = float("inf") if minutes is None else time.monotonic() + 60 * minutes

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.deadline

    def watch(self, report: Callable[[dict], None]) -> Callable[[dict], None]:
        """`report`, which then raises OutOfTimeError once the budget is over: a fit stops where it can be resumed."""

        def watched(item: dict) -> None:
            report(item)
            if self.is_over:
                raise OutOfTimeError(f"the budget of {self.minutes:g} minutes is over")

        return watched


@dataclass(frozen=True)
class Split:
    """The labelled images of one split: targets (N,)."""

    rows: list[LogoRow]
    targets: np.ndarray

    @property
    def sure(self) -> np.ndarray:
        return np.array([row.sure for row in self.rows], bool)


@dataclass(frozen=True)
class Work:
    """What every step of one compression reads. `report` takes the reports of fits, `say` lines of progress."""

    run: Run
    manifest: Manifest
    folder: Path
    splits: dict[str, Split]
    outliers: dict[str, Family]
    budget: Budget
    report: Callable[[dict], None]
    say: Say

    def pixels(self, contract: InputContract) -> Path:
        """The folder of `save_pixels` for one input contract."""
        name = f"{contract.size_px}px" + "-details" * contract.details + "-crop" * (contract.fit == CROP)
        read = sum(len(split.rows) for split in self.splits.values())
        read += len(fitting_rows(self.manifest, self.run.recipe.quantize.calibration_images))
        with telling_reads(self.report, f"candidates at {name}", read):
            return save_pixels(self.run, self.manifest, contract, self.outliers, self.folder / "pixels" / name)


def read_split(run: Run, manifest: Manifest, name: str) -> Split:
    rows = manifest.split(name)
    return Split(rows, targets_of(rows, run.classes))


def with_recipe(run: Run, recipe: Recipe | None) -> Run:
    """The run, with the recipe's stages after training instead of its own."""
    if recipe is None:
        return run
    later = {stage: settings for stage, settings in asdict(recipe).items() if stage != "train"}
    return replace(run, record={**run.record, "recipe": {**run.record["recipe"], **later}})


def work_folder(run_folder: Path, recipe: Recipe | None) -> Path:
    """The folder in which a compression keeps its work and its report."""
    return run_folder / (f"compress-{recipe.name}" if recipe else "compress")
