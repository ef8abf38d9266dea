"""Labelled images -> an ensemble of teachers in a run folder (`logo-edge train`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from logo_edge.errors import DatasetError, RecipeError
from logo_edge_train import distributed
from logo_edge_train.architecture import Architecture
from logo_edge_train.checkpoints import save_member
from logo_edge_train.data.augment import Intensity
from logo_edge_train.data.dataset import LogoDataset, check_classes
from logo_edge_train.data.images import telling_reads
from logo_edge_train.data.lookalikes import leave_out
from logo_edge_train.data.manifest import FILES, NOT_A_LOGO, LogoRow, Manifest, read_manifest
from logo_edge_train.data.outliers import outlier_paths, outliers_key
from logo_edge_train.data.pool import data_inputs, pool_rows, stratified_sample
from logo_edge_train.data.sampling import EpochOrder, rank_difficulty
from logo_edge_train.data.synthesize import drawing_identity, drawn_rows
from logo_edge_train.device import describe_device
from logo_edge_train.evaluate import (
    accuracy_on,
    ensemble_metrics,
    ensemble_temperature,
    evaluation_sets,
    predict_logits,
)
from logo_edge_train.fit import count_loaders, fit
from logo_edge_train.fit_config import TeacherFit
from logo_edge_train.keys import (
    FITTED_WITH,
    ROWS,
    Identity,
    file_hash,
    flatten,
    identify,
    refuse_other,
    row_hashes,
    select_settings,
    versions,
)
from logo_edge_train.losses import SupervisedObjective
from logo_edge_train.models import LogoNetwork, has_imagenet_weights
from logo_edge_train.organize.features import measure_rows
from logo_edge_train.organize.kinds import settle_kind
from logo_edge_train.parallel import count_cores, run_side_by_side
from logo_edge_train.pretrain.simclr import encoder_path, pretrain, start_from
from logo_edge_train.recipe import Recipe, TrainConfig
from logo_edge_train.runs import Run, read_run, read_run_record, save_logits, write_json, write_run_record
from logo_edge_train.uncertainty import BayesianObjective

ONE_LABEL = {  # settings that need one label an image, and the value that a multi-label manifest needs
    "train.synthetic": 0,
    "train.fit.aleatoric": False,
    "train.fit.focal_gamma": 0.0,
    "train.fit.confident_errors": 0.0,
    "train.fit.prior_consistency": 0.0,
    "train.fit.balanced_batches": False,
    "train.fit.curriculum_epochs": 0.0,
    "train.augment.p_mixup": 0.0,
    "train.augment.p_cutmix": 0.0,
    "train.augment.adapt_intensity": 0.0,
    "distill.panel_share": 0.0,
    "distill.epistemic": "off",
    "calibrate.class_balance": 0.0,
}
MEASUREMENTS = "measurements.json"  # features of the images, by which a curriculum orders them


def train_ensemble(
    manifest_path: Path, recipe: Recipe, folder: Path, *, device: torch.device, report: Callable[[dict], None]
) -> Run:
    """Fits the members of the recipe that are not finished yet, and writes the run.

    The run's recipe names the kind of picture that was proposed. If the recipe pretrains, each network of these members
    is pretrained first, once for all of its seeds. On CPUs the members are fitted side by side, each in its own
    process; under torchrun one after another, each on all ranks. A finished run is read and not changed. Raises
    RunError if `folder` holds a run of another recipe, other data or, unfinished, other versions; DatasetError if a
    split is empty or lacks a class; RecipeError as `check_multi_label`.
    """
    manifest, report = read_manifest(manifest_path), distributed.on_main(report)
    check_splits(manifest)
    check_multi_label(manifest, recipe)
    identity = run_identity(recipe, manifest)
    if (folder / "run.json").exists():
        before = read_run_record(folder)
        finished = before.get("status") == "finished"
        refuse_other(folder, "a run", before["identity"], identity, finished=finished)
        if finished:
            return Run(folder, before)
    recipe = settle_recipe(recipe, manifest)
    folder.mkdir(parents=True, exist_ok=True)
    distributed.on_main(write_json)(folder / ROWS, row_hashes(manifest, manifest.rows))
    record = {
        "status": "training",
        "identity": asdict(identity),
        "classes": list(manifest.classes),
        "manifest": str(manifest_path.resolve()),
        "recipe": asdict(recipe),
        "versions": versions(),
        "device": describe_device(device),
        **({"multi_label": True} if manifest.multi_label else {}),
    }
    distributed.on_main(write_run_record)(folder, record)
    with distributed.main_first():
        rows = learned_rows(manifest, recipe.train)
    held_out = manifest.split("val", "calib", "test")
    with telling_reads(report, "look-alikes of held-out images", len({*rows}) + len(held_out)):
        left_out, kept = leave_out(manifest, rows)
    note = f", without its {len(left_out)} look-alikes of held-out images,"
    learned = [row for row in rows if row not in left_out]
    check_classes(learned, manifest.classes, "train", note)
    for name, rows in (("left_out", left_out), ("kept_lookalikes", kept)):
        record[name] = sorted(f"{row.package}/{row.icon}" for row in rows)
    teachers = recipe.train.teachers
    members = range(len(teachers))
    waiting = [index for index in members if not has_record(folder / f"member-{index}.json", identity.key)]
    if recipe.train.fit.curriculum_epochs:  # once, before the processes of the members need it
        distributed.on_main(measure_rows)(manifest, learned, folder / MEASUREMENTS)
    starts = pretrain_networks(manifest_path, recipe, folder, waiting, device=device, report=report)
    shared = (folder, str(device), left_out)
    jobs = [(manifest_path, recipe.train, i, *shared, starts.get(teachers[i]), identity.key) for i in waiting]
    run_side_by_side(fit_member, jobs, report, workers=count_workers(len(jobs), device))
    record["members"] = [json.loads((folder / f"member-{i}.json").read_text(encoding="utf-8")) for i in members]
    run = Run(folder, {**record, "status": "finished"})
    metrics = {"val": ensemble_metrics(run, manifest, "val")}
    temperature = ensemble_temperature(run, manifest)
    distributed.on_main(write_run_record)(folder, {**run.record, "metrics": metrics, "temperature": temperature})
    distributed.wait()
    return read_run(folder)


def settle_recipe(recipe: Recipe, manifest: Manifest) -> Recipe:
    """The recipe with the kind of picture of its augmentation, proposed from the images unless it has one."""
    return replace(recipe, train=replace(recipe.train, augment=settle_kind(recipe.train.augment, manifest)))


def learned_rows(manifest: Manifest, config: TrainConfig) -> list[LogoRow]:
    """The train split, with the drawn logos and the pictures that are not logos that the recipe adds.

    Raises DatasetError if drawn logos have a class that the manifest does not have.
    """
    drawn = drawn_rows(config.synthetic, config.seed)
    if other := sorted({row.label for row in drawn} - set(manifest.classes)):
        raise DatasetError(
            f"train.synthetic is {config.synthetic}, and drawn logos are of class {', '.join(other)}; the "
            f"manifest's classes are {', '.join(manifest.classes)}. Set train.synthetic to 0"
        )
    rows = manifest.split("train") + drawn
    return rows + outlier_rows(config, len(rows))


def outlier_rows(config: TrainConfig, count: int) -> list[LogoRow]:
    """The pictures that are not logos for `count` images, evenly by family; draws them into the cache if needed."""
    if not config.outlier_share:
        return []
    families = outlier_paths("fitted")
    wanted = round(count * config.outlier_share / (1 - config.outlier_share))
    random, chosen = np.random.default_rng(config.seed), []
    for left, paths in zip(range(len(families), 0, -1), sorted(families.values(), key=len), strict=True):
        share = min(len(paths), (wanted - len(chosen)) // left)
        chosen += [paths[index] for index in sorted(random.choice(len(paths), share, replace=False))]
    return [LogoRow(FILES, "", str(path), label=NOT_A_LOGO) for path in chosen]


def run_identity(recipe: Recipe, manifest: Manifest) -> Identity:
    """The identity of a run: the training part of the recipe, the data and, if used, the pool and the drawn logos."""
    pretrains = recipe.pretrain.fit.epochs > 0
    inputs = data_inputs(manifest, use_unlabelled=pretrains and recipe.pretrain.use_unlabelled)
    if recipe.train.outlier_share:
        inputs["outliers"] = outliers_key()
    if recipe.train.synthetic:
        inputs["drawn"] = drawing_identity(recipe.train.synthetic, recipe.train.seed).key
    settings = select_settings(recipe, "train", *(("pretrain",) if pretrains else ()))
    return identify(inputs, settings, versions(FITTED_WITH))


def pretrain_identity(recipe: Recipe, manifest: Manifest, text: str) -> Identity:
    """The identity of the pretraining of the network `text` (name@size_px)."""
    inputs = data_inputs(manifest, use_unlabelled=recipe.pretrain.use_unlabelled)
    settings = select_settings(recipe, "pretrain", "train.pretrained") | {"network": text}
    return identify(inputs, settings, versions(FITTED_WITH))


def has_record(path: Path, key: str) -> bool:
    """Whether the record of a finished network with that key is at `path`."""
    return path.exists() and json.loads(path.read_text(encoding="utf-8")).get("key") == key


def check_splits(manifest: Manifest) -> None:
    """Raises DatasetError unless there are two classes, and train, val and calib have each class."""
    if len(manifest.classes) < 2:
        labelled = f"one class, {manifest.classes[0]}" if manifest.classes else "no labelled image"
        raise DatasetError(f"the manifest has {labelled}; expected at least two classes")
    for split in ("train", "val", "calib"):
        check_classes(manifest.split(split), manifest.classes, split)


def check_multi_label(manifest: Manifest, recipe: Recipe) -> None:
    """Raises RecipeError if images have several labels or none, and a setting of the recipe needs one label each."""
    settings = flatten(recipe)
    wrong = {name: value for name, value in ONE_LABEL.items() if settings[name] != value}
    if manifest.multi_label and wrong:
        advice = " ".join(f"--set {name}={json.dumps(value)}" for name, value in wrong.items())
        raise RecipeError(
            f"images of the manifest have several labels or none, and recipe {recipe.name!r} has settings for one "
            f"label an image: {', '.join(f'{name} = {settings[name]}' for name in wrong)}. Give {advice}"
        )


def count_workers(members: int, device: torch.device) -> int:
    """How many members to fit side by side: on CPUs as many as cores, unless torchrun started several processes."""
    return min(members, count_cores()) if device.type == "cpu" and distributed.world_size() == 1 else 1


def pretrain_networks(
    manifest_path: Path,
    recipe: Recipe,
    folder: Path,
    members: list[int],
    *,
    device: torch.device,
    report: Callable[[dict], None],
) -> dict[str, Path]:
    """{name@size_px: checkpoint to start from} of the networks of these members that the recipe pretrains.

    Pretrains the networks that are not finished yet, on CPUs side by side.
    """
    config, waiting = recipe.pretrain, {recipe.train.teachers[index] for index in members}
    starts = {text: encoder_path(folder, text) for text in networks_to_pretrain(recipe) if text in waiting}
    if not starts:
        return starts
    manifest = read_manifest(manifest_path)
    keys = {text: pretrain_identity(recipe, manifest, text).key for text in starts}
    missing = [text for text, path in starts.items() if not has_record(path.with_suffix(".json"), keys[text])]
    if missing:
        rows = pool_rows(manifest, use_unlabelled=config.use_unlabelled, max_images=config.fit.max_images)
        jobs = [
            (manifest_path, config, text, recipe.train.pretrained, rows, folder, str(device), keys[text])
            for text in missing
        ]
        run_side_by_side(pretrain, jobs, report, workers=count_workers(len(jobs), device))
    return starts


def networks_to_pretrain(recipe: Recipe) -> list[str]:
    """The teachers' networks (name@size_px) to pretrain; those with ImageNet weights only with `from_imagenet`.

    None for photographs and documents: the views of pretraining are of logos.
    """
    if not recipe.pretrain.fit.epochs or recipe.train.augment.kind in ("photo", "document"):
        return []
    every_network = recipe.pretrain.from_imagenet or not recipe.train.pretrained
    return [text for text in dict.fromkeys(recipe.train.teachers) if every_network or not has_imagenet_weights(text)]


def fit_member(
    manifest_path: Path,
    config: TrainConfig,
    index: int,
    folder: Path,
    device_name: str,
    left_out: set[LogoRow],
    start: Path | None,
    key: str,
    report: Callable[[dict], None],
) -> None:
    """Fits teacher `index`; writes its checkpoint, its logits on the labelled splits and its record with the run's key.

    Rows in `left_out` are not trained on. The fit starts from the weights in `start`, if any. Under torchrun every rank
    calls this.
    """
    manifest, device = read_manifest(manifest_path), torch.device(device_name)
    classes, text = manifest.classes, config.teachers[index]
    architecture, seed = Architecture.parse(text), config.seed + index  # each member sees another order and other views
    name = f"teacher {index + 1}/{len(config.teachers)} {architecture}"
    imagenet = config.pretrained and has_imagenet_weights(architecture.model)
    begin = "pretrained weights" if start else "ImageNet weights" if imagenet else "random weights"
    report(
        {
            "kind": "start",
            "name": name,
            "stem": f"member-{index}",
            "note": f"from {begin}; views of {config.augment.kind}s",
        }
    )
    rows = [row for row in learned_rows(manifest, config) if row not in left_out]
    rows = stratified_sample(rows, config.fit.max_images)
    depth = config.augment.adapt_intensity
    intensity = Intensity(len(rows), depth) if depth else None
    held_out = manifest.split("val", "calib", "test")
    with telling_reads(report, name, len(rows) + len(held_out)):
        dataset = LogoDataset(
            manifest,
            rows,
            classes,
            contract=architecture.contract,
            augment=config.augment,
            use_votes=config.fit.use_votes,
            class_weight_power=config.fit.class_weight_power,
            seed=seed,
            intensity=intensity,
        )
        evaluation = evaluation_sets(manifest, classes, architecture.contract)
    torch.manual_seed(seed)
    network = LogoNetwork(
        architecture.model, len(classes), size_px=architecture.size_px, dropout=config.fit.dropout, pretrained=imagenet
    )
    if start:
        start_from(start, network)
    if config.fit.aleatoric:
        network.learn_variance()
    if config.bayes.enabled:
        network.learn_deviations(config.bayes.prior_deviation, config.bayes.first_deviation)
    fit_config = config.fit if imagenet else replace(config.fit, frozen_blocks=-1)  # random weights must learn
    state = folder / f"member-{index}.state"
    objective = SupervisedObjective(fit_config, dataset.classes, intensity, multi_label=manifest.multi_label)
    if config.bayes.enabled:
        objective = BayesianObjective(objective, config.bayes, len(dataset))
    network, history = fit(
        network,
        dataset,
        objective,
        fit_config,
        state=state,
        seed=seed,
        order=draw_order(manifest, dataset, fit_config, folder, seed),
        device=device,
        evaluate=accuracy_on(evaluation["val"], device),
        report=lambda item: report({"name": name, **item}),
        loaders=count_loaders(device),
        snapshots=folder / "snapshots" / f"member-{index}",
        key=key,
    )
    logits = {split: predict_logits(network, data, device) for split, data in evaluation.items()}
    member = {"key": key, "architecture": text, "seed": seed, "history": history}
    distributed.on_main(_write_member)(folder, index, network, logits, member)
    distributed.wait()


def draw_order(manifest: Manifest, dataset: LogoDataset, config: TeacherFit, folder: Path, seed: int) -> EpochOrder:
    """The order of the images in each epoch; a curriculum's features are computed once and kept in the run's folder."""
    targets, difficulty = dataset.hard_targets, None  # multi-label, neither is used
    if config.curriculum_epochs:
        with distributed.main_first():
            measurements = measure_rows(manifest, dataset.rows, folder / MEASUREMENTS)
        difficulty = rank_difficulty(measurements, targets)
    return EpochOrder(
        len(dataset),
        seed,
        classes=targets if config.balanced_batches else None,
        difficulty=difficulty,
        curriculum_epochs=config.curriculum_epochs,
    )


def _write_member(folder: Path, index: int, network: LogoNetwork, logits: dict[str, np.ndarray], member: dict) -> None:
    """Writes a fitted member's checkpoint, its logits and last its record; deletes its state."""
    checkpoint, kept, state = (folder / f"member-{index}.{kind}" for kind in ("safetensors", "logits", "state"))
    sha256 = save_member(checkpoint, network)
    save_logits(kept, logits)
    files = {"file": checkpoint.name, "sha256": sha256, "logits": kept.name, "logits_sha256": file_hash(kept)}
    write_json(folder / f"member-{index}.json", {**member, **files})
    state.unlink()
