"""Labelled logos -> an ensemble of teachers in a run folder (`logo-edge train`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from logo_edge.errors import RunError
from logo_edge.manifest import LogoRow, Manifest, read_manifest, targets_of
from logo_edge.metrics import debiased_calibration_error, negative_log_likelihood, softmax
from logo_edge_train.dataset import LogoDataset, check_classes, find_lookalikes, stratified_sample
from logo_edge_train.fetch import renders_folder
from logo_edge_train.fit import fit, predict_logits, supervised_objective
from logo_edge_train.models import LogoNetwork, attention_entropy, attention_layers
from logo_edge_train.parallel import count_cores, run_side_by_side
from logo_edge_train.recipe import Architecture, Recipe, TrainConfig
from logo_edge_train.runs import (
    Run,
    file_hash,
    read_run,
    run_identity,
    save_logits,
    save_member,
    versions,
    write_json,
    write_run_record,
)

ATTENTION_LOGOS = 16  # of val, on which the entropy of attention is measured after each epoch


def train_ensemble(
    manifest_path: Path, recipe: Recipe, folder: Path, *, device: torch.device, report: Callable[[dict], None]
) -> Run:
    """Fits every member of the recipe that is not there yet and writes the run.

    On CPUs the members are fitted side by side, each in a process of its own. Raises RunError where `folder` holds a
    run of another recipe or other data, DatasetError where a split is empty or lacks a class.
    """
    manifest = read_manifest(manifest_path)
    classes = manifest.classes
    for split in ("train", "val", "calib"):
        check_classes(manifest.split(split), classes, split)
    folder.mkdir(parents=True, exist_ok=True)
    identity = run_identity(recipe, manifest)
    _refuse_other_run(folder, identity)
    record = {
        "status": "training", "identity": identity, "classes": list(classes), "manifest": str(manifest_path.resolve()),
        "recipe": asdict(recipe), "versions": versions(), "device": _device_name(device),
    }  # fmt: skip
    write_run_record(folder, record)
    left_out = find_lookalikes(manifest, manifest.split("train"), renders_folder())
    record["left_out"] = sorted(f"{row.package}/{row.icon}" for row in left_out)
    jobs = [
        (manifest_path, recipe.train, index, folder, str(device), left_out)
        for index in range(len(recipe.train.teachers))
        if not (folder / f"member-{index}.json").exists()
    ]
    run_side_by_side(fit_member, jobs, report, workers=len(jobs) if device.type == "cpu" else 1)
    record["members"] = [
        json.loads((folder / f"member-{index}.json").read_text()) for index in range(len(recipe.train.teachers))
    ]
    run = Run(folder, {**record, "status": "finished"})
    write_run_record(folder, {**run.record, "metrics": {"val": ensemble_metrics(run, manifest, "val")}})
    return read_run(folder)


def fit_member(
    manifest_path: Path,
    config: TrainConfig,
    index: int,
    folder: Path,
    device_name: str,
    left_out: set[LogoRow],
    report: Callable[[dict], None],
) -> None:
    """Fits teacher `index` and writes its checkpoint, its logits on every labelled split and its record.

    Rows of the train split that are in `left_out` are not learned from.
    """
    manifest, device = read_manifest(manifest_path), torch.device(device_name)
    classes, text = manifest.classes, config.teachers[index]
    architecture, seed = Architecture.parse(text), config.seed + config.teachers[:index].count(text)
    name = f"teacher {index + 1}/{len(config.teachers)} {architecture}"
    report({"kind": "start", "name": name, "stem": f"member-{index}"})
    rows = [row for row in manifest.split("train") if row not in left_out]
    rows = stratified_sample(rows, config.fit.max_images)
    dataset = LogoDataset(
        manifest, rows, classes, renders_folder(),
        size_px=architecture.size_px, augment=config.augment, use_votes=config.fit.use_votes,
        class_weight_power=config.fit.class_weight_power, seed=seed,
    )  # fmt: skip
    evaluation = evaluation_sets(manifest, classes, architecture.size_px)
    torch.manual_seed(seed)
    network = LogoNetwork(
        architecture.model, len(classes), size_px=architecture.size_px, dropout=config.fit.dropout,
        pretrained=config.pretrained,
    )  # fmt: skip
    checkpoint, logits, state = (folder / f"member-{index}.{kind}" for kind in ("safetensors", "logits", "state"))
    network, history = fit(
        network, dataset, supervised_objective(config.fit.label_smoothing, aleatoric=config.fit.aleatoric), config.fit,
        state=state, seed=seed,
        device=device, evaluate=accuracy_on(evaluation["val"], device), report=lambda item: report({"name": name, **item}),
        loaders=count_cores() if device.type == "cuda" else 0, snapshots=folder / "snapshots" / f"member-{index}",
    )  # fmt: skip
    sha256 = save_member(checkpoint, network)
    save_logits(logits, {split: predict_logits(network, data, device) for split, data in evaluation.items()})
    record = {"architecture": text, "seed": seed, "file": checkpoint.name, "sha256": sha256, "logits": logits.name,
              "logits_sha256": file_hash(logits), "history": history}  # fmt: skip
    write_json(folder / f"member-{index}.json", record)
    state.unlink()


def evaluation_sets(
    manifest: Manifest, classes: tuple[str, ...], size_px: int, splits: tuple[str, ...] = ("val", "calib", "test")
) -> dict[str, LogoDataset]:
    """The splits as the runtime would see them; one without rows is left out."""
    sets = {}
    for split in splits:
        if rows := manifest.split(split):
            sets[split] = LogoDataset(manifest, rows, classes, renders_folder(), size_px=size_px)
    return sets


def accuracy_on(dataset: LogoDataset, device: torch.device) -> Callable[[torch.nn.Module], dict]:
    """A function network -> the short metrics and the uncertainty on the dataset; with attention, its entropy too."""
    targets, sure = dataset.hard_targets, dataset.sure
    probed = np.unique(np.linspace(0, len(dataset) - 1, ATTENTION_LOGOS).round().astype(int))  # of all classes

    def evaluate(network: torch.nn.Module) -> dict:
        logits = predict_logits(network, dataset, device)
        figures = {**short_metrics(logits, targets, sure), **uncertainty(logits, targets, dataset.classes)}
        if attention_layers(network):
            pixels = torch.stack([dataset[index][0] for index in probed])
            figures["attention_entropy"] = attention_entropy(network, pixels.to(device))
        return figures

    return evaluate


def short_metrics(logits: np.ndarray, targets: np.ndarray, sure: np.ndarray) -> dict[str, float]:
    """accuracy, accuracy_sure, worst_recall (fractions of 1) and nll (nats) of (N, K) logits."""
    correct = logits.argmax(1) == targets
    return {
        "accuracy": float(correct.mean()),
        "accuracy_sure": float(correct[sure].mean()) if sure.any() else float("nan"),
        "worst_recall": float(min(correct[targets == k].mean() for k in np.unique(targets))),
        "nll": negative_log_likelihood(softmax(logits), targets),
    }


def uncertainty(logits: np.ndarray, targets: np.ndarray, classes: tuple[str, ...]) -> dict:
    """How sure the (N, K) logits are, at temperature 1, and how they share the logos out among the classes.

    entropy: mean predictive entropy, nats, 0 to log K; mean_confidence: mean top probability; calibration_error: root
    mean square of the top label, bias-corrected (Kumar et al. 2019); predicted_share and true_share: {class: share}.
    """
    probabilities = softmax(logits)
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    logarithms = np.log(np.maximum(probabilities, 1e-12))
    return {
        "entropy": float(-(probabilities * logarithms).sum(1).mean()),
        "mean_confidence": float(confidence.mean()),
        "calibration_error": debiased_calibration_error(confidence, predicted == targets),
        "predicted_share": {name: float((predicted == k).mean()) for k, name in enumerate(classes)},
        "true_share": {name: float((targets == k).mean()) for k, name in enumerate(classes)},
    }


def ensemble_logits(member_logits: np.ndarray) -> np.ndarray:
    """(N, K): log of the members' mean probability. member_logits: (M, N, K). Lakshminarayanan 2017."""
    return np.log(np.maximum(softmax(member_logits).mean(0), 1e-12)).astype(np.float32)


def ensemble_metrics(run: Run, manifest: Manifest, split: str) -> dict[str, float]:
    """The short metrics of the whole ensemble on one split."""
    rows = manifest.split(split)
    targets = targets_of(rows, run.classes)
    return short_metrics(ensemble_logits(run.member_logits(split)), targets, np.array([row.sure for row in rows]))


def pick_device(name: str = "auto") -> torch.device:
    """The named torch device, or the GPU where there is one. Raises RunError where it cannot be had."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise RunError(f"device {name!r} cannot be used: {error}; expected auto, cpu or cuda") from error
    return torch.device(name)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _refuse_other_run(folder: Path, identity: dict) -> None:
    path = folder / "run.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8")).get("identity") != identity:
        raise RunError(
            f"{folder} holds a run of another recipe or other data; give this one another folder (--out), "
            "or remove that one"
        )
