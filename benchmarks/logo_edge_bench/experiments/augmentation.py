"""The probability of each operation of an augmentation policy: density matching by cross-validation in the train split.

    python -m logo_edge_bench.experiments augmentation                             # about an hour on two cores
    python -m logo_edge_bench.experiments augmentation --max-images 96 --epochs 1  # a quick trial

Each of three folds of whole groups is held out once from a network fitted on the others without any of the operations.
The cost of an operation at a magnitude is the rise of this network's cross-entropy on the held-out logos: it measures
how far the operation takes them from the logos of their class (density matching, Lim et al. 2019, arXiv:1905.00397,
which needs no fit per policy). That cost is linear in the probability, so nothing is searched: an operation gets the
greatest magnitude that costs less than MOST_COST over all logos and less than twice that in every class, and a
probability that falls from MOST_PROBABILITY at no cost to 0 at MOST_COST.

Interrupted, it resumes from the networks and losses in runs/augmentation/. Val, calib and test are not used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

from logo_edge.probabilities import softmax
from logo_edge_bench.experiments.record import RUNS, Device, Out, file_name, keep_arrays, read_logos, write_record
from logo_edge_train.architecture import Architecture
from logo_edge_train.checkpoints import load_network, save_member
from logo_edge_train.data.augment import make_augmentation, weaken
from logo_edge_train.data.dataset import LogoDataset
from logo_edge_train.data.lookalikes import find_lookalikes
from logo_edge_train.data.manifest import LogoRow, Manifest
from logo_edge_train.data.pool import stratified_sample
from logo_edge_train.device import pick_device
from logo_edge_train.evaluate import accuracy_on, predict_logits
from logo_edge_train.fit import count_loaders, fit
from logo_edge_train.fit_config import TeacherFit
from logo_edge_train.losses import supervised_objective
from logo_edge_train.models import LogoNetwork, has_imagenet_weights
from logo_edge_train.progress import FitProgress
from logo_edge_train.recipe import OPERATIONS, AugmentConfig, TeacherAugment

FOLDS = 3
MAGNITUDES = (1.0, 2 / 3, 1 / 3)  # the greatest first
MOST_COST = 0.05  # nats
MOST_PROBABILITY = 0.25  # of nine operations: about two a view, like AutoAugment
PLAIN = "as they are"


def measure(
    *,
    network: Annotated[str, {"metavar": "NAME@SIZE"}] = "tf_efficientnet_lite0@96",
    epochs: int = 6,
    views: Annotated[int, "of each held-out logo, per operation and magnitude"] = 2,
    max_images: Annotated[int, "0: all of train"] = 0,
    out: Out,
    work: Annotated[Path, "where the networks of the folds are kept"] = RUNS / "augmentation",
    device: Device = "auto",
) -> None:
    manifest, chosen_device = read_logos(), pick_device(device)
    settings = {
        "network": network,
        "epochs": epochs,
        "views": views,
        "folds": FOLDS,
        "max_images": max_images,
        "base": json.loads(json.dumps(asdict(TeacherAugment()))),
    }
    train = manifest.split("train")
    left_out = find_lookalikes(manifest, train)
    rows = stratified_sample([row for row in train if row not in left_out], max_images)
    labels, groups = [row.label for row in rows], [row.group for row in rows]
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(rows, labels, groups)
    labels_of_folds, losses = [], {name: [] for name in variants()}
    with FitProgress() as progress:
        for fold, parts in enumerate(folds):
            fitted_on, held_out = ([rows[index] for index in part] for part in parts)
            fitted = cache(
                partial(fit_fold, manifest, fitted_on, held_out, settings, fold, work, chosen_device, progress)
            )
            dataset = draw_dataset(manifest, held_out, network)
            labels_of_folds += [row.label for row in held_out]
            for name, augment in variants().items():
                path = work / f"{network}-{epochs}-{max_images}-{fold}-{views}-{file_name(name)}.safetensors"
                compute = partial(cross_entropies, fitted, dataset, augment, views, chosen_device)
                losses[name].append(keep_arrays(path, compute)["nats"])
                progress.say(f"  fold {fold + 1}: {name}: {losses[name][-1].mean():.3f}")
    joined = {name: np.concatenate(parts) for name, parts in losses.items()}
    policy, costs = learn_policy(joined, np.array(labels_of_folds), manifest.classes)
    write_record(out, {"split": "train", "settings": settings, "costs": costs, "policy": policy})
    print("policy = " + json.dumps(policy))


def variants() -> dict[str, AugmentConfig]:
    """The augmentations of held-out logos: none, and each operation at each magnitude."""
    still = weaken(AugmentConfig(), 0.0)
    operations = {
        f"{name} {magnitude:.2f}": replace(still, policy=(f"{name} 1 {magnitude}",))
        for name in OPERATIONS
        for magnitude in MAGNITUDES
    }
    return {PLAIN: still} | operations


def fit_fold(
    manifest: Manifest,
    train: list[LogoRow],
    held_out: list[LogoRow],
    settings: dict,
    fold: int,
    folder: Path,
    device: torch.device,
    progress: Callable[[dict], None],
) -> LogoNetwork:
    """The network of a fold, fitted on `train`, or read back if the folder holds one with the same settings."""
    architecture = Architecture.parse(settings["network"])
    key = f"{settings['network']}-{settings['epochs']}-{settings['max_images']}-{fold}"
    checkpoint, classes = folder / f"{key}.safetensors", manifest.classes
    if not checkpoint.exists():
        folder.mkdir(parents=True, exist_ok=True)
        imagenet = has_imagenet_weights(architecture.model)
        config = TeacherFit(epochs=settings["epochs"], frozen_blocks=2 if imagenet else -1, class_weight_power=0.7)
        dataset = draw_dataset(manifest, train, settings["network"], power=config.class_weight_power, seed=fold)
        unseen = LogoDataset(manifest, held_out, classes, contract=architecture.contract)
        torch.manual_seed(fold)
        network = LogoNetwork(
            architecture.model, len(classes), size_px=architecture.size_px, dropout=config.dropout, pretrained=imagenet
        )
        name = f"fold {fold + 1}/{FOLDS}"
        progress({"kind": "start", "name": name, "note": f"on {len(train)} logos"})
        network, _ = fit(
            network,
            dataset,
            supervised_objective(config.label_smoothing),
            config,
            state=folder / f"{key}.state",
            seed=fold,
            device=device,
            evaluate=accuracy_on(unseen, device),
            report=lambda item: progress({"name": name, **item}),
            loaders=count_loaders(device),
        )
        save_member(checkpoint, network)
        (folder / f"{key}.state").unlink()
    return load_network(checkpoint, architecture, len(classes)).to(device)


def draw_dataset(
    manifest: Manifest, rows: list[LogoRow], text: str, *, power: float = 0.0, seed: int = 0
) -> LogoDataset:
    """Random views of the rows, with their votes, for the network `text`."""
    return LogoDataset(
        manifest,
        rows,
        manifest.classes,
        contract=Architecture.parse(text).contract,
        augment=AugmentConfig(),
        use_votes=True,
        class_weight_power=power,
        seed=seed,
    )


def cross_entropies(
    fitted: Callable[[], LogoNetwork], dataset: LogoDataset, augment: AugmentConfig, views: int, device: torch.device
) -> dict[str, np.ndarray]:
    """{"nats": (N,)}: each logo's cross-entropy with its votes under the augmentation, the mean over its views."""
    dataset.augmentation, totals = make_augmentation(augment, dataset.contract), np.zeros(len(dataset))
    for dataset.seed in range(views):
        probabilities = softmax(predict_logits(fitted(), dataset, device))
        totals -= (dataset.targets * np.log(np.maximum(probabilities, 1e-12))).sum(1)
    return {"nats": totals / views}


def learn_policy(
    losses: dict[str, np.ndarray], labels: np.ndarray, classes: tuple[str, ...]
) -> tuple[list[str], dict[str, dict]]:
    """The policy in a recipe's form; and each operation and magnitude's cost, with its standard error and by class.

    losses: (N,) nats for each of `variants()`; labels: (N,).
    """
    policy, costs = [], {}
    for operation in OPERATIONS:
        chosen = False
        for magnitude in MAGNITUDES:
            rises = losses[name := f"{operation} {magnitude:.2f}"] - losses[PLAIN]  # (N,)
            by_class = {label: float(rises[labels == label].mean()) for label in classes}
            cost = max(0.0, float(rises.mean()))
            error = float(rises.std(ddof=1) / np.sqrt(len(rises)))
            costs[name] = {"cost": float(rises.mean()), "standard_error": error, "by_class": by_class}
            if not chosen and cost < MOST_COST and max(by_class.values()) < 2 * MOST_COST:
                policy.append(f"{operation} {MOST_PROBABILITY * (1 - cost / MOST_COST):.2f} {magnitude:.2f}")
                chosen = True
    return policy, costs
