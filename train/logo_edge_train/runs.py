"""A run folder: run.json, the members' checkpoints and their logits on every labelled image."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save as save_arrays

from logo_edge.errors import RecipeError, RunError
from logo_edge.files import json_text, write_file
from logo_edge_train.architecture import Architecture
from logo_edge_train.data.manifest import Manifest, read_manifest
from logo_edge_train.keys import ROWS, check_rows, file_hash
from logo_edge_train.recipe import Recipe
from logo_edge_train.recipe_io import recipe_from_dict

if TYPE_CHECKING:
    from logo_edge_train.models import LogoNetwork

FORMAT_VERSION = 2


@dataclass(frozen=True)
class Run:
    """The result of `train`; `record` is run.json."""

    folder: Path
    record: dict

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.record["classes"])

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels or none."""
        return self.record.get("multi_label", False)

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run. Raises RunError if it is not a recipe of this version."""
        try:
            return recipe_from_dict(self.record["recipe"])
        except RecipeError as error:
            raise RunError(
                f"{self.folder / 'run.json'} has a recipe of another version: {error}\n"
                "Train again with `logo-edge train`"
            ) from error

    @property
    def manifest_path(self) -> Path:
        return Path(self.record["manifest"])

    @property
    def data_hash(self) -> str:
        """The hash of the manifest's rows at training."""
        return self.record["identity"]["inputs"]["data"]

    def read_manifest(self) -> Manifest:
        """The run's manifest. Raises RunError, with the changed rows, if it has changed since the training."""
        manifest = read_manifest(self.manifest_path)
        check_rows(manifest, self.folder / ROWS, self.manifest_path)
        return manifest

    @property
    def temperature(self) -> float:
        """The temperature of the ensemble's mean probability, fitted on calib; 1 in older runs."""
        return self.record.get("temperature", 1.0)

    def load_member(self, index: int, *, drawing: bool = False, dropout: float = 0.0) -> LogoNetwork:
        """One teacher in evaluation mode with that dropout; a Bayesian one with its mean weights.

        With `drawing`, the teacher keeps its own dropout and its weights' distributions, for
        `uncertainty.sample_logits`. Raises RunError if its checkpoint is missing or changed.
        """
        from logo_edge_train.checkpoints import load_network  # loads PyTorch: seconds, which `runs list` does not need

        member = self.record["members"][index]
        path = self.folder / member["file"]
        if not path.exists() or file_hash(path) != member["sha256"]:
            raise RunError(
                f"{path} is missing or not the file that run.json lists; put it back, or train again in another folder "
                "(--out)"
            )
        if not drawing:
            return load_network(path, self.architecture(index), len(self.classes), dropout=dropout)
        return load_network(path, self.architecture(index), len(self.classes), drawing=self.recipe.train)

    def architecture(self, index: int) -> Architecture:
        """The network and input size of teacher `index`."""
        return Architecture.parse(self.record["members"][index]["architecture"])

    def member_logits(self, split: str) -> np.ndarray:
        """(M, N, K) float32: each member's logits on the split's rows, in manifest order."""
        return np.stack([load_arrays(self.folder / member["logits"])[split] for member in self.record["members"]])


def read_run(folder: Path) -> Run:
    """The finished run in `folder`. Raises RunError if it is missing, unfinished or of another format."""
    record = read_run_record(folder)
    if record.get("status") != "finished":
        raise RunError(
            f"{folder / 'run.json'}: the run is {record.get('status')}; finish it with `logo-edge train --out {folder}`"
        )
    return Run(folder, record)


def read_run_json(folder: Path) -> dict:
    """run.json in `folder`, in any state and format. Raises RunError if it is missing or not JSON."""
    path = folder / "run.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{path}: {reason}; expected the folder of a run, made by `logo-edge train`") from error


def read_run_record(folder: Path) -> dict:
    """run.json in `folder`, of a run in any state. Raises RunError if it is missing or of another format."""
    path, record = folder / "run.json", read_run_json(folder)
    if record.get("format_version") != FORMAT_VERSION:
        raise RunError(
            f"{path}: format_version {record.get('format_version')}; expected {FORMAT_VERSION}. Remove the folder, or "
            "give another one (--out), and train again"
        )
    return record


def write_run_record(folder: Path, record: dict) -> None:
    """Writes run.json atomically."""
    write_json(folder / "run.json", {"format_version": FORMAT_VERSION, **record})


def write_json(path: Path, value: dict) -> None:
    """Writes indented JSON atomically."""
    write_text(path, json_text(value))


def write_text(path: Path, text: str) -> None:
    """Writes the file atomically, in a new folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, text)


def save_logits(path: Path, logits: dict[str, np.ndarray]) -> None:
    """Writes {split: (N, K) float32} as safetensors, atomically."""
    write_file(path, save_arrays({split: np.ascontiguousarray(array) for split, array in logits.items()}))
