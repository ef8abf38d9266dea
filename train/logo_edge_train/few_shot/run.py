"""Few-shot runs: trained, read again and evaluated.

The tasks are defined in `episodes`, the ways to learn in `methods`.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from logo_edge.errors import RecipeError, RunError
from logo_edge_train import distributed
from logo_edge_train.architecture import Architecture
from logo_edge_train.checkpoints import load_weights, save_member
from logo_edge_train.data.manifest import LogoRow, Manifest, read_one_label
from logo_edge_train.data.pool import data_inputs
from logo_edge_train.few_shot.episodes import TASKS, Drawings, EpisodeDataset, check_disjoint, task_rows
from logo_edge_train.few_shot.methods import METHODS, FewShotNetwork, Ridge, embed_pixels, few_shot_objective
from logo_edge_train.fit import count_loaders, fit
from logo_edge_train.keys import (
    FITTED_WITH,
    ROWS,
    Identity,
    check_rows,
    file_hash,
    identify,
    refuse_other,
    row_hashes,
    versions,
)
from logo_edge_train.metrics import bootstrap
from logo_edge_train.models import LogoNetwork, has_imagenet_weights
from logo_edge_train.recipe import FewShotConfig
from logo_edge_train.recipe_io import recipe_from_dict
from logo_edge_train.runs import write_json

RECORD, CHECKPOINT = "few_shot.json", "few_shot.safetensors"


def build_network(config: FewShotConfig, start: Path | None) -> tuple[FewShotNetwork, FewShotConfig]:
    """The method's network, and its effective configuration.

    Its weights are those of the few-shot run in `start`, of ImageNet, or random. Raises RecipeError if the method needs
    weights and there are none, RunError if `start` has another network or was trained on rows that the task holds out.
    """
    architecture = Architecture.parse(config.network)
    imagenet = has_imagenet_weights(architecture.model) and start is None
    begins = imagenet or start is not None
    if not begins and config.method != "prototypes":
        raise RecipeError(
            f"few_shot.method is {config.method!r} and {config.network} has no ImageNet weights; expected a start, "
            "such as `--start RUN` of the method prototypes"
        )
    if not begins:
        config = replace(config, fit=replace(config.fit, frozen_blocks=-1))  # random weights are not worth freezing
    torch.manual_seed(config.seed)
    network = LogoNetwork(
        architecture.model, 2, size_px=architecture.size_px, dropout=config.fit.dropout, pretrained=imagenet
    )
    if start is not None:
        _start_from(start, config, network)
    return METHODS[config.method](network, config, keep_statistics=begins), config


def _start_from(folder: Path, config: FewShotConfig, network: LogoNetwork) -> None:
    before, record = read_few_shot(folder)
    if before.config.network != config.network:
        raise RunError(f"{folder} is of {before.config.network}; expected {config.network}, as few_shot.network is")
    known = (before.config.task, before.config.held_out_package)
    if config.task == "types" and (known != ("types", config.held_out_package) or record["start"]):
        raise RunError(
            f"{folder} has learned {known[0]}, from {config.held_out_package} too; expected a run of types that holds "
            "it out"
        )
    tensors = {**before.trunk.state_dict(), **before.rest.backbone.state_dict()}
    network.backbone.load_state_dict(tensors)


class EpisodeEvaluation:
    """Evaluates episodes of some rows, preprocessed as in the runtime; each view is embedded once for all episodes."""

    def __init__(self, manifest: Manifest, rows: list[LogoRow], config: FewShotConfig):
        self.tasks = TASKS[config.task](rows, config)
        contract = Architecture.parse(config.network).contract
        self.drawings = Drawings.load(manifest, [rows[index] for index in self.tasks.rows], contract)
        self.position_of = np.zeros(len(rows), int)
        self.position_of[self.tasks.rows] = np.arange(len(self.tasks.rows))

    @torch.no_grad()
    def embed(self, network: FewShotNetwork, device: torch.device) -> torch.Tensor:
        """(R, V, ...): all views of all drawings, in evaluation mode."""
        views = range(self.tasks.views)
        pixels = [self.drawings.draw(index, view) for index in range(len(self.drawings.images)) for view in views]
        return embed_pixels(network, np.stack(pixels), device).unflatten(0, (-1, len(views)))

    @torch.no_grad()
    def measure(
        self,
        network: FewShotNetwork,
        embedded: torch.Tensor,
        *,
        episodes: int,
        seed: int,
        tick: Callable[[], None] = lambda: None,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(E,) accuracy of each episode; {class: (X,) its accuracy in each of the X episodes that contain it}."""
        accuracy, by_class = [], defaultdict(list)
        for index in range(episodes):
            episode = self.tasks.draw(np.random.default_rng((seed, index)))
            ways, shots = episode.support.shape
            shown = np.arange(shots) % self.tasks.views
            support = embedded[self.position_of[episode.support], shown].flatten(0, 1)  # (N * K, ...)
            queries = embedded[self.position_of[episode.queries]].flatten(0, 1)  # (N * Q, V, ...)
            labels = torch.arange(ways, device=embedded.device).repeat_interleave(shots)
            guesses = network.classify(support, labels, queries, ways).argmax(1).cpu().numpy()
            right = guesses.reshape(episode.queries.shape) == np.arange(ways)[:, None]
            accuracy.append(right.mean())
            for name, share in zip(episode.classes, right.mean(1), strict=True):
                by_class[name].append(share)
            tick()
        return np.array(accuracy), {name: np.array(shares) for name, shares in by_class.items()}


def train_few_shot(
    manifest_path: Path,
    config: FewShotConfig,
    folder: Path,
    *,
    device: torch.device,
    report: Callable[[dict], None],
    start: Path | None = None,
) -> dict:
    """Trains into FOLDER (few_shot.json, few_shot.safetensors) and returns the record. An interrupted run continues.

    The first weights are those of the few-shot run in `start`, or ImageNet's if there are any. A finished run is only
    read. Raises RunError if the folder holds a run of other settings, other data or, unfinished, other versions.
    """
    manifest, report = read_one_label(manifest_path), distributed.on_main(report)
    network, config = build_network(config, start)
    identity = few_shot_identity(config, manifest, start)
    if before := _read_record(folder):
        finished = before["status"] == "finished"
        refuse_other(folder, "a few-shot run", before["identity"], identity, finished=finished)
        if finished:
            return before
    folder.mkdir(parents=True, exist_ok=True)
    distributed.on_main(write_json)(folder / ROWS, row_hashes(manifest, manifest.rows))
    record = {
        "status": "training",
        "identity": asdict(identity),
        "few_shot": asdict(config),
        "start": str(start or ""),
        "device": str(device),
        "versions": versions(),
    }
    distributed.on_main(write_json)(folder / RECORD, record)
    rows = {split: task_rows(manifest, config, split) for split in ("train", "val", "test")}
    check_disjoint(rows)
    evaluation = EpisodeEvaluation(manifest, rows["val"], config)

    def accuracy_on_val(network: FewShotNetwork) -> float:
        accuracy, _ = evaluation.measure(
            network, evaluation.embed(network, device), episodes=config.val_episodes, seed=config.seed
        )
        return float(accuracy.mean())

    if config.method == "ridge":
        history, network = [], network.to(device)
        record["penalties"] = choose_penalty(network, evaluation, config, device)
    else:
        name = f"few-shot {config.method}, {config.task}"
        dataset = EpisodeDataset(manifest, rows["train"], config)
        note = f"{len(dataset)} episodes an epoch, of {len(dataset.drawings.images)} drawings"
        report({"kind": "start", "name": name, "stem": "few-shot", "note": note})
        network, history = fit(
            network,
            dataset,
            few_shot_objective(config.queries),
            replace(config.fit, frozen_blocks=-1),
            state=folder / "few_shot.state",
            seed=config.seed,
            device=device,
            evaluate=lambda network: {"accuracy": accuracy_on_val(network)},
            report=lambda item: report({"name": name, **item}),
            loaders=count_loaders(device),
            key=identity.key,
        )
    record |= {"history": history, "seconds": sum(epoch["seconds"] for epoch in history)}
    distributed.on_main(_finish)(folder, network, record)
    distributed.wait()
    return _read_record(folder)


def few_shot_identity(config: FewShotConfig, manifest: Manifest, start: Path | None) -> Identity:
    """Everything that a few-shot run depends on; brands are learned from the unlabelled pool too."""
    inputs = data_inputs(manifest, use_unlabelled=config.task == "brands")
    inputs |= {"start": file_hash(start / CHECKPOINT)} if start else {}
    return identify(inputs, {"few_shot": config}, versions(FITTED_WITH))


def choose_penalty(
    network: Ridge, evaluation: EpisodeEvaluation, config: FewShotConfig, device: torch.device
) -> dict[str, float]:
    """{penalty: accuracy on val}; sets the network's penalty to the best."""
    embedded, accuracies = evaluation.embed(network, device), {}
    for penalty in config.penalties:
        network.penalty.fill_(penalty)
        accuracy, _ = evaluation.measure(network, embedded, episodes=config.val_episodes, seed=config.seed)
        accuracies[str(penalty)] = float(accuracy.mean())
    network.penalty.fill_(float(max(accuracies, key=accuracies.get)))
    return accuracies


def _finish(folder: Path, network: FewShotNetwork, record: dict) -> None:
    sha256 = save_member(folder / CHECKPOINT, network)
    write_json(folder / RECORD, {**record, "status": "finished", "file": CHECKPOINT, "sha256": sha256})
    (folder / "few_shot.state").unlink(missing_ok=True)


def _read_record(folder: Path) -> dict | None:
    path = folder / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def read_few_shot(folder: Path) -> tuple[FewShotNetwork, dict]:
    """The network of a finished few-shot run, in evaluation mode, and its record. Raises RunError if there is none."""
    record, path = _read_record(folder), folder / CHECKPOINT
    if not record or record["status"] != "finished":
        raise RunError(f"{folder} holds no finished few-shot run; expected one that `logo-edge few-shot train` made")
    if not path.exists() or file_hash(path) != record["sha256"]:
        raise RunError(f"{path} is missing or not the file that {RECORD} lists; remove the folder and train again")
    config = recipe_from_dict({"few_shot": record["few_shot"]}).few_shot
    architecture = Architecture.parse(config.network)
    plain = LogoNetwork(architecture.model, 2, size_px=architecture.size_px)
    network = METHODS[config.method](plain, config, keep_statistics=True)
    load_weights(path, network)
    return network.eval(), record


def evaluate_few_shot(
    manifest_path: Path,
    folder: Path,
    *,
    split: str,
    episodes: int,
    device: torch.device,
    tick: Callable[[], None] = lambda: None,
) -> dict:
    """The run's accuracy on val or test: {accuracy, accuracy_by_class: {value, low, high}, episodes, classes, ...}.

    `accuracy` is the mean over the episodes, its interval for other episodes of the same classes. `accuracy_by_class`
    is the mean over the classes, its wider interval for other classes. Both intervals are bootstrap, 95 %. Raises
    RunError if the run was made with another manifest.
    """
    manifest, (network, _) = read_one_label(manifest_path), read_few_shot(folder)
    check_rows(manifest, folder / ROWS, manifest_path)
    config, network = network.config, network.to(device)
    evaluation = EpisodeEvaluation(manifest, task_rows(manifest, config, split), config)
    embedded, began = evaluation.embed(network, device), time.perf_counter()
    accuracy, by_class = evaluation.measure(network, embedded, episodes=episodes, seed=config.seed, tick=tick)
    means = np.array([shares.mean() for shares in by_class.values()])
    return {
        "split": split,
        "episodes": episodes,
        "ways": evaluation.tasks.ways,
        "shots": config.shots,
        "accuracy": vars(bootstrap(lambda drawn: float(drawn.mean()), accuracy)),
        "accuracy_by_class": vars(bootstrap(lambda drawn: float(drawn.mean()), means)),
        "classes": len(means),
        "drawings": len(evaluation.drawings.images),
        "ms_per_episode": round(1000 * (time.perf_counter() - began) / episodes, 2),
    }
