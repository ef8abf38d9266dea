"""An ensemble of teachers -> one small student, fitted on labelled and unlabelled images, mixtures and outliers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from logo_edge.errors import RunError
from logo_edge.preprocess import InputContract
from logo_edge_compress.distill.losses import distillation_objective, matches
from logo_edge_compress.distill.prune import prune_channels
from logo_edge_compress.distill.soft_targets import (
    PictureDataset,
    RepeatedOrder,
    SoftTargets,
    StoredBatches,
    open_teacher,
)
from logo_edge_train.architecture import Architecture
from logo_edge_train.checkpoints import load_network, save_member
from logo_edge_train.data.images import telling_reads
from logo_edge_train.data.lookalikes import leave_out
from logo_edge_train.data.manifest import LogoRow, Manifest
from logo_edge_train.data.outliers import outliers_key
from logo_edge_train.data.pictograms import pictogram_rows
from logo_edge_train.data.pool import data_inputs, pool_rows
from logo_edge_train.data.sampling import EpochOrder
from logo_edge_train.data.synthesize import drawn_rows
from logo_edge_train.evaluate import accuracy_on, evaluation_sets
from logo_edge_train.fit import fit
from logo_edge_train.keys import (
    FITTED_WITH,
    Identity,
    data_hash,
    file_hash,
    identify,
    row_hashes,
    select_settings,
    versions,
)
from logo_edge_train.models import LogoNetwork, has_imagenet_weights, is_sized
from logo_edge_train.organize.kinds import spare_classes
from logo_edge_train.parallel import count_cores
from logo_edge_train.recipe import DistillConfig
from logo_edge_train.review.frozen_features import Features
from logo_edge_train.review.panel import panel_probabilities
from logo_edge_train.runs import Run, write_json
from logo_edge_train.tracker import stem_of
from logo_edge_train.train import outlier_rows

CHECKPOINT, RECORD = "student.safetensors", "student.json"  # in a student's folder
BATCHES = ".batches"  # suffix of the folder of `StoredBatches`
OF_ALL_STUDENTS = ("distill.students", "distill.max_size_mb")  # settings that no single student depends on


@dataclass(frozen=True)
class Student:
    """A distilled network and where it is stored."""

    architecture: Architecture
    network: LogoNetwork
    checkpoint: Path
    history: list[dict]


def distill(
    run: Run,
    manifest: Manifest,
    config: DistillConfig,
    architecture: Architecture,
    folder: Path,
    *,
    device: torch.device,
    report: Callable[[dict], None],
) -> Student:
    """The student: fitted, or read if `folder` holds it for the same teachers, data and settings.

    An interrupted call is resumed by one with the same teachers, data and settings; with others it starts again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    identity = student_identity(run, manifest, config, architecture)
    checkpoint, record_path = folder / CHECKPOINT, folder / RECORD
    if record_path.exists():
        record = json.loads(record_path.read_text(encoding="utf-8"))
        if not identity.changes(record["identity"], finished=True):
            with suppress(RunError):  # of a checkpoint that is missing or changed
                return load_student(folder, len(run.classes))
    teachers = [
        (run.load_member(index), run.architecture(index).contract) for index in range(len(run.record["members"]))
    ]
    check_teachers(run, config)
    network = start_student(run, architecture, config)
    if config.epistemic != "off":
        network.learn_epistemic(config.epistemic)

    def learn(network: LogoNetwork, config: DistillConfig, kind: str) -> tuple[LogoNetwork, list[dict]]:
        return fit_to_teachers(
            network,
            f"{kind} {architecture}",
            stem_of(kind, folder),
            teachers,
            run,
            manifest,
            config,
            architecture.contract,
            state=folder / f"{kind}-{identity.key[:12]}.state",
            device=device,
            key=identity.key,
            report=report,
        )

    network, history = learn(network, config, "student")
    if config.prune.share:
        network = prune_channels(network, config.prune, manifest, run.classes, architecture.contract)
        network, later = learn(network, replace(config, fit=config.prune.fit), "pruned")
        history = history + later
    sha256 = save_member(checkpoint, network)
    record = {"identity": asdict(identity), "student": str(architecture), "sha256": sha256, "history": history}
    write_json(record_path, record)
    for state in folder.glob("*.state"):
        state.unlink()
    for batches in folder.glob(f"*{BATCHES}"):  # also those of other settings that were interrupted
        shutil.rmtree(batches)
    return load_student(folder, len(run.classes))


def load_student(folder: Path, classes: int) -> Student:
    """The distilled student in `folder`, with that number of classes.

    Raises RunError where there is none, or its checkpoint is not the one in its record.
    """
    checkpoint, record_path = folder / CHECKPOINT, folder / RECORD
    if not record_path.exists():
        raise RunError(f"{folder} has no {RECORD}; expected a student, made by `logo-edge compress`")
    record = json.loads(record_path.read_text(encoding="utf-8"))
    if not checkpoint.exists() or file_hash(checkpoint) != record["sha256"]:
        raise RunError(
            f"{checkpoint} is missing or not the file that {RECORD} lists; put it back, or run "
            "`logo-edge compress` again"
        )
    architecture = Architecture.parse(record["student"])
    return Student(architecture, load_network(checkpoint, architecture, classes), checkpoint, record["history"])


def student_identity(run: Run, manifest: Manifest, config: DistillConfig, architecture: Architecture) -> Identity:
    """What a student depends on: the teachers, the data, and the settings of the distillation."""
    inputs = data_inputs(manifest, use_unlabelled=config.use_unlabelled)
    if config.pictograms or config.drawn:
        inputs["added"] = data_hash(row_hashes(manifest, added_rows(manifest, config)))
    inputs |= {f"teacher {index + 1}": member["sha256"] for index, member in enumerate(run.record["members"])}
    if run.recipe.train.outlier_share:
        inputs["outliers"] = outliers_key()
    sections = ("distill", *(["review"] if config.panel_share else []))
    settings = select_settings(replace(run.recipe, distill=config), *sections, without=OF_ALL_STUDENTS)
    return identify(inputs, settings | {"student": str(architecture)}, versions((*FITTED_WITH, "onnxruntime")))


def check_teachers(run: Run, config: DistillConfig) -> None:
    """Raises RunError where the student is to learn the disagreement of the run's teachers, and there is only one."""
    if config.epistemic != "off" and len(run.record["members"]) < 2:
        raise RunError(
            f"distill.epistemic is {config.epistemic!r}, and {run.folder} has one teacher, which disagrees with "
            "nobody; expected two or more, or epistemic = 'off'"
        )


def fit_to_teachers(
    network: nn.Module,
    name: str,
    stem: str,
    teachers: list[tuple[LogoNetwork, InputContract]],
    run: Run,
    manifest: Manifest,
    config: DistillConfig,
    contract: InputContract,
    *,
    state: Path,
    device: torch.device,
    key: str,
    report: Callable[[dict], None],
) -> tuple[nn.Module, list[dict]]:
    """Fits the network, whose input contract is `contract`, to the outputs of the (network, contract) teachers.

    Returns the network and its history. An interrupted fit is resumed from `state` if that has the same `key`. Reports
    and snapshots carry the `stem`. On CPUs half of the cores run the teachers.
    """
    rows = pool_rows(manifest, use_unlabelled=config.use_unlabelled, max_images=config.fit.max_images)
    rows += added_rows(manifest, config)
    outliers = outlier_rows(run.recipe.train, len(rows))
    gpu, cores = device.type == "cuda", count_cores()
    networks, contracts = [teacher.to(device) for teacher, _ in teachers], [own for _, own in teachers]
    notes = [f"from {len(teachers)} teacher{'s'[: len(teachers) > 1]} on {len(rows)} images"]
    notes += [f"{len(outliers)} outliers"] if outliers else []
    if not gpu and not matches(config):
        networks = [open_teacher(teacher, own.size_px, notes) for teacher, own in teachers]
    report({"kind": "start", "name": name, "stem": stem, "note": "; ".join(notes)})
    panel = ask_panel(run, manifest, rows, outliers, device, report) if config.panel_share else None
    augment, theirs = config.augment, run.recipe.train.augment
    if augment.kind == "auto":
        augment = replace(augment, kind=theirs.kind, photo=theirs.photo, document=theirs.document)
        augment = spare_classes(augment, run.classes)
    soft_targets = SoftTargets(networks, contracts, contract, config, ask=not gpu, multi_label=run.multi_label)
    with telling_reads(report, name, len(rows) + len(outliers) + len(manifest.split("val"))):
        dataset = PictureDataset(
            manifest,
            rows + outliers,
            run.classes,
            augment=augment,
            contract=InputContract(max(own.least_px for own in (*contracts, contract)), fit=contract.fit),
            use_votes=config.fit.use_votes,
            seed=config.seed,
            panel=panel,
            panel_share=config.panel_share,
        )
        val = evaluation_sets(manifest, run.classes, contract, ("val",))["val"]
    if config.adversarial_radius and isinstance(network, LogoNetwork):
        network.keep_statistics()  # a batch's own statistics would hide an attack that moves all its views alike
    if config.feature_weight:
        torch.manual_seed(config.seed)
        network.match = nn.Linear(network.count_features(), sum(teacher.count_features() for teacher, _ in teachers))
    loaders = cores if gpu else max(1, cores // 2)
    order = stored = None
    if 0 < config.views < config.fit.epochs:
        order = RepeatedOrder(EpochOrder(len(dataset), config.seed), config.views, config.fit.batch_size)
        stored = None if gpu else StoredBatches(dataset, soft_targets, state.with_suffix(BATCHES))
    threads = torch.get_num_threads()
    torch.set_num_threads(cores if stored else max(1, cores - loaders))  # once batches repeat, the teachers are idle
    try:
        learned = fit(
            network,
            stored or dataset,
            distillation_objective(config, soft_targets.answer if gpu else None, multi_label=run.multi_label),
            config.fit,
            state=state,
            seed=config.seed,
            device=device,
            evaluate=accuracy_on(val, device),
            report=lambda item: report({"name": name, **item}),
            collate=(stored or soft_targets).collate,
            loaders=loaders,
            snapshots=run.folder / "snapshots" / stem if isinstance(network, LogoNetwork) else None,
            order=order,
            key=key,
        )
    finally:
        torch.set_num_threads(threads)
    if config.feature_weight:
        del learned[0].match  # only the loss uses it
    return learned


@lru_cache(maxsize=1)  # the key, the fit and the fine-tuning ask for the same
def added_rows(manifest: Manifest, config: DistillConfig) -> tuple[LogoRow, ...]:
    """The pictograms and drawn logos of the transfer set, without labels and without look-alikes of held-out images."""
    rows = pictogram_rows(manifest, config.pictograms) if config.pictograms else []
    drawn = [row.without_labels() for row in drawn_rows(config.drawn, config.seed)]
    alike = leave_out(manifest, drawn)[0] if drawn else set()
    return (*rows, *(row for row in drawn if row not in alike))


def ask_panel(
    run: Run,
    manifest: Manifest,
    rows: list[LogoRow],
    outliers: list[LogoRow],
    device: torch.device,
    report: Callable[[dict], None],
) -> np.ndarray:
    """(N + M, K): the panel's probabilities for N images, from fits that have not seen their groups; 0 for M outliers.

    The panel is that of `review`. Its features and fits are stored in the run's folder, and read from there.
    """

    def tick(stage: str, done: int, total: int) -> None:
        report({"kind": "stage", "name": f"panel, {stage}", "done": done, "total": total})

    features = Features(manifest, run.recipe.review, run.folder / "panel", device, tick)
    probabilities = panel_probabilities(features, rows)
    return np.concatenate([probabilities, np.zeros((len(outliers), probabilities.shape[1]))])


def start_student(run: Run, architecture: Architecture, config: DistillConfig) -> LogoNetwork:
    torch.manual_seed(config.seed)
    same_model = [
        i
        for i in range(len(run.record["members"]))
        if run.architecture(i).model == architecture.model
        and (run.architecture(i) == architecture or not is_sized(architecture.model))
    ]
    if config.start_from_teacher and same_model:
        closest = min(same_model, key=lambda i: abs(run.architecture(i).size_px - architecture.size_px))
        return run.load_member(closest, dropout=config.fit.dropout)
    pretrained = config.pretrained and has_imagenet_weights(architecture.model)
    return LogoNetwork(
        architecture.model,
        len(run.classes),
        size_px=architecture.size_px,
        dropout=config.fit.dropout,
        pretrained=pretrained,
    )
