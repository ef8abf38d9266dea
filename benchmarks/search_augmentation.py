"""Learns how often a policy should use each operation: density matching by cross-validation inside the train split.

    python benchmarks/search_augmentation.py                                  # about an hour on two cores
    python benchmarks/search_augmentation.py --max-images 96 --epochs 1       # whether it runs

Each of three folds of whole groups is held out once from a network that is fitted on the others without any of the
operations; what an operation at a magnitude then costs the network on the held-out logos, in cross-entropy above that of
the logos as they are, says how far it takes them from what logos of their class look like (the density matching of Lim et
al. 2019, arXiv:1905.00397, which spares fitting a network for each policy). That cost is linear in the probability, so
nothing need be searched for it: an operation gets its greatest magnitude whose cost is below MOST_COST, over all logos
and, twice that, in every class, and a probability that falls from MOST_PROBABILITY at no cost to 0 at MOST_COST.

Writes benchmarks/results/augmentation.json; interrupted, it goes on from the networks in runs/augmentation/ and from what
is in the results of the same settings. Val, calib and test are not looked at.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

from logo_edge.probabilities import softmax
from logo_edge_train.checkpoints import load_network, save_member
from logo_edge_train.data.augment import LogoAugmentation, weaken
from logo_edge_train.data.dataset import LogoDataset
from logo_edge_train.data.icons import LABELS, fetch_logos, renders_folder
from logo_edge_train.data.lookalikes import find_lookalikes
from logo_edge_train.data.manifest import LogoRow, Manifest, read_manifest
from logo_edge_train.data.pool import stratified_sample
from logo_edge_train.device import pick_device
from logo_edge_train.evaluate import accuracy_on, predict_logits
from logo_edge_train.fit import count_loaders, fit
from logo_edge_train.keys import versions
from logo_edge_train.losses import supervised_objective
from logo_edge_train.models import LogoNetwork, has_imagenet_weights
from logo_edge_train.progress import FitProgress
from logo_edge_train.recipe import OPERATIONS, Architecture, AugmentConfig, TeacherAugment, TeacherFit
from logo_edge_train.runs import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULT, RUNS = ROOT / "benchmarks" / "results" / "augmentation.json", ROOT / "runs" / "augmentation"
FOLDS = 3
MAGNITUDES = (1.0, 2 / 3, 1 / 3)  # the greatest first
MOST_COST = 0.05  # nats
MOST_PROBABILITY = 0.25  # of nine operations: about two a view, as AutoAugment has
PLAIN = "as they are"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="tf_efficientnet_lite0@96", metavar="NAME@SIZE")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--views", type=int, default=2, help="of each held-out logo, per operation and magnitude")
    parser.add_argument("--max-images", type=int, default=0, help="0: all of train")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--work", type=Path, default=RUNS, help="where the folds' networks are kept")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    fetch_logos()
    manifest, device = read_manifest(LABELS), pick_device(arguments.device)
    settings = {
        "network": arguments.network,
        "epochs": arguments.epochs,
        "views": arguments.views,
        "folds": FOLDS,
        "max_images": arguments.max_images,
        "base": json.loads(json.dumps(asdict(TeacherAugment()))),
    }
    record = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    if record.get("settings") != settings:
        record = {"split": "train", "settings": settings, "folds": {}}
    train = manifest.split("train")
    left_out = find_lookalikes(manifest, train, renders_folder())
    rows = stratified_sample([row for row in train if row not in left_out], arguments.max_images)
    parts = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(
        rows, [row.label for row in rows], [row.group for row in rows]
    )
    with FitProgress() as progress:
        for fold, (taught, held) in enumerate(parts):
            found = record["folds"].setdefault(str(fold), {})
            waiting = [name for name in variants() if name not in found]
            if not waiting:
                continue
            learned, examined = ([rows[i] for i in part] for part in (taught, held))
            network = fit_fold(manifest, learned, examined, settings, fold, arguments.work, device, progress)
            found["labels"] = [row.label for row in examined]
            exam = draw_dataset(manifest, examined, settings["network"])
            for name in waiting:
                found[name] = cross_entropies(network, exam, variants()[name], settings["views"], device)
                progress.say(f"  fold {fold + 1}: {name}: {np.mean(found[name]):.3f}")
                write_json(arguments.out, record)
    policy, costs = learn_policy(record["folds"], manifest.classes)
    write_json(arguments.out, {**record, "costs": costs, "policy": policy, "versions": versions()})
    print("policy = " + json.dumps(policy))


def variants() -> dict[str, AugmentConfig]:
    """The augmentations that held-out logos are seen under: none, and each operation at each magnitude."""
    still = weaken(AugmentConfig(), 0.0)
    operations = {
        f"{name} {magnitude:.2f}": replace(still, policy=(f"{name} 1 {magnitude}",))
        for name in OPERATIONS
        for magnitude in MAGNITUDES
    }
    return {PLAIN: still} | operations


def fit_fold(
    manifest: Manifest,
    learned: list[LogoRow],
    examined: list[LogoRow],
    settings: dict,
    fold: int,
    folder: Path,
    device: torch.device,
    progress: Callable[[dict], None],
) -> LogoNetwork:
    """The network of a fold, fitted on `learned` or, where the folder holds it of the same settings, read back."""
    architecture = Architecture.parse(settings["network"])
    key = f"{settings['network']}-{settings['epochs']}-{settings['max_images']}-{fold}"
    checkpoint, classes = folder / f"{key}.safetensors", manifest.classes
    if not checkpoint.exists():
        folder.mkdir(parents=True, exist_ok=True)
        imagenet = has_imagenet_weights(architecture.model)
        config = TeacherFit(epochs=settings["epochs"], frozen_blocks=2 if imagenet else -1, class_weight_power=0.7)
        dataset = draw_dataset(manifest, learned, settings["network"], power=config.class_weight_power, seed=fold)
        held = LogoDataset(manifest, examined, classes, renders_folder(), contract=architecture.contract)
        torch.manual_seed(fold)
        network = LogoNetwork(
            architecture.model, len(classes), size_px=architecture.size_px, dropout=config.dropout, pretrained=imagenet
        )
        name = f"fold {fold + 1}/{FOLDS}"
        progress({"kind": "start", "name": name, "note": f"on {len(learned)} logos"})
        network, _ = fit(
            network,
            dataset,
            supervised_objective(config.label_smoothing),
            config,
            state=folder / f"{key}.state",
            seed=fold,
            device=device,
            evaluate=accuracy_on(held, device),
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
        renders_folder(),
        contract=Architecture.parse(text).contract,
        augment=AugmentConfig(),
        use_votes=True,
        class_weight_power=power,
        seed=seed,
    )


def cross_entropies(
    network: LogoNetwork, exam: LogoDataset, augment: AugmentConfig, views: int, device: torch.device
) -> list[float]:
    """Each logo's cross-entropy with its votes, nats, under the augmentation, the mean over its views."""
    exam.augmentation, totals = LogoAugmentation(augment, exam.contract), np.zeros(len(exam))
    for exam.seed in range(views):
        probabilities = softmax(predict_logits(network, exam, device))
        totals -= (exam.targets * np.log(np.maximum(probabilities, 1e-12))).sum(1)
    return (totals / views).round(5).tolist()


def learn_policy(folds: dict[str, dict], classes: tuple[str, ...]) -> tuple[list[str], dict[str, dict]]:
    """The policy as a recipe has it; and for each operation and magnitude its cost, the cost's standard error and by class."""
    labels = np.concatenate([found["labels"] for found in folds.values()])
    seen = {name: np.concatenate([found[name] for found in folds.values()]) for name in variants()}
    policy, costs = [], {}
    for operation in OPERATIONS:
        chosen = False
        for magnitude in MAGNITUDES:
            rises = seen[name := f"{operation} {magnitude:.2f}"] - seen[PLAIN]  # (N,)
            by_class = {label: float(rises[labels == label].mean()) for label in classes}
            cost = max(0.0, float(rises.mean()))
            error = float(rises.std(ddof=1) / np.sqrt(len(rises)))
            costs[name] = {"cost": float(rises.mean()), "standard_error": error, "by_class": by_class}
            if not chosen and cost < MOST_COST and max(by_class.values()) < 2 * MOST_COST:
                policy.append(f"{operation} {MOST_PROBABILITY * (1 - cost / MOST_COST):.2f} {magnitude:.2f}")
                chosen = True
    return policy, costs


if __name__ == "__main__":
    main()
