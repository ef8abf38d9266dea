"""Pretrains a network on logos without labels: SimCLR with a head for each of four aspects of a logo.

Chen et al. 2020, "A simple framework for contrastive learning of visual representations", arXiv:2002.05709. `views`
defines what the two views of a pair share; `probe` measures the frozen features.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from logo_edge.errors import DatasetError, RunError
from logo_edge.preprocess import InputContract
from logo_edge_train import distributed
from logo_edge_train.architecture import Architecture
from logo_edge_train.checkpoints import load_weights, save_member
from logo_edge_train.data.images import stored_pixels, telling_reads
from logo_edge_train.data.manifest import LogoRow, Manifest, read_manifest
from logo_edge_train.fit import Objective, count_loaders, fit
from logo_edge_train.keys import file_hash
from logo_edge_train.models import LogoNetwork, has_imagenet_weights
from logo_edge_train.optim import is_perturbed
from logo_edge_train.pretrain.probe import features_of, neighbour_probe
from logo_edge_train.pretrain.views import NEIGHBOUR_PX, AspectViews, InkDataset, find_neighbours
from logo_edge_train.recipe import ASPECTS, PretrainConfig
from logo_edge_train.runs import write_json
from logo_edge_train.state import read_history

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 1.0  # limits of a learned one
INITIAL_LOG_VARIANCE = -3.0  # softplus(-3) = 0.05: at first every pair counts nearly in full


def pretrain(
    manifest_path: Path,
    config: PretrainConfig,
    text: str,
    imagenet: bool,
    rows: list[LogoRow],
    folder: Path,
    device_name: str,
    key: str,
    report: Callable[[dict], None],
) -> None:
    """Pretrains the network `text` (name@size_px) on the rows; writes FOLDER/pretrain/NAME-SIZE.safetensors.

    It begins at random or, with `imagenet`, at ImageNet weights. Labels of train and val only measure the features
    after each epoch. NAME-SIZE.json has the history and the `key` of `train.pretrain_identity`. An interrupted run
    continues to the same result. Raises DatasetError if there are too few rows.
    """
    if len(rows) < 2 * len(ASPECTS):
        raise DatasetError(f"{len(rows)} images to pretrain on; expected at least {2 * len(ASPECTS)}")
    manifest, device, architecture = read_manifest(manifest_path), torch.device(device_name), Architecture.parse(text)
    path = encoder_path(folder, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    name, state = f"pretraining {text}", path.with_suffix(".state")
    note = f"on {len(rows)} images, without labels"
    report({"kind": "start", "name": name, "stem": f"pretrain-{path.stem}", "note": note})
    difficulty = Difficulty(config, read_history(state))
    views = AspectViews(InputContract(architecture.size_px), difficulty.strengths)
    read = 2 * len(rows) + sum(bool(row.label) for row in rows) + len(manifest.split("val"))
    with telling_reads(report, name, read):
        neighbours = find_neighbours(stored_pixels(rows, manifest, InputContract(NEIGHBOUR_PX)), config.neighbours)
        dataset = InkDataset(manifest, rows, size_px=architecture.size_px, seed=config.seed, neighbours=neighbours)
        evaluate = _neighbours_on_val(manifest, rows, architecture.size_px, difficulty, device)
    torch.manual_seed(config.seed)
    encoder = LogoNetwork(
        architecture.model,
        len(manifest.classes),
        size_px=architecture.size_px,
        dropout=config.fit.dropout,
        pretrained=imagenet and has_imagenet_weights(architecture.model),
    )
    network, history = fit(
        AspectNetwork(encoder, architecture.size_px, config),
        dataset,
        contrastive_objective(difficulty),
        config.fit,
        state=state,
        seed=config.seed,
        device=device,
        evaluate=evaluate,
        report=lambda item: report({"name": name, **item}),
        collate=views.collate,
        loaders=count_loaders(device),
        key=key,
    )
    record = {"key": key, "architecture": text, "seed": config.seed, "logos": len(rows), "history": history}
    distributed.on_main(_write_encoder)(path, network.encoder, record)
    distributed.wait()


def encoder_path(folder: Path, text: str) -> Path:
    """Where a run keeps the pretrained weights of the network `text` (name@size_px)."""
    return folder / "pretrain" / f"{text.replace('@', '-')}.safetensors"


def start_from(path: Path, network: LogoNetwork) -> None:
    """Loads the weights at `path`; the classifier's become 0, so that it sends no random gradients back.

    Raises RunError if the file is missing or was changed.
    """
    record = path.with_suffix(".json")
    if not path.exists() or file_hash(path) != json.loads(record.read_text(encoding="utf-8"))["sha256"]:
        raise RunError(f"{path} is missing or not the file that {record.name} lists; remove both and train again")
    load_weights(path, network)
    for parameter in network.backbone.get_classifier().parameters():
        nn.init.zeros_(parameter)


class Pairs(NamedTuple):
    """The output of a head for the pairs of its aspect."""

    first: torch.Tensor  # (B, P) float32 of length 1
    second: torch.Tensor  # (B, P)
    log_variance: torch.Tensor  # (B,) at least 0: how unreliable the pair is
    temperature: torch.Tensor  # ()


class AspectNetwork(nn.Module):
    """(B, S, S, 3) uint8 first and second views, (B,) indices of their aspects -> {aspect: Pairs}.

    Layers after the features, such as the classifier, are not trained.
    """

    def __init__(self, encoder: LogoNetwork, size_px: int, config: PretrainConfig):
        super().__init__()
        self.encoder = encoder
        width = encoder.learn_features(size_px)
        self.heads = nn.ModuleDict(
            {aspect: AspectHead(width, getattr(config, aspect).temperature, config) for aspect in ASPECTS}
        )

    def freeze(self, blocks: int) -> None:
        """As LogoNetwork.freeze."""
        self.encoder.freeze(blocks)

    def checkpoint_gradients(self) -> None:
        """As LogoNetwork.checkpoint_gradients."""
        self.encoder.checkpoint_gradients()

    def forward(self, first: torch.Tensor, second: torch.Tensor, aspects: torch.Tensor) -> dict[str, Pairs]:
        features = self.encoder.features(torch.cat([first, second])).chunk(2)  # 2 of (B, F)
        pairs = {}
        for index, (aspect, head) in enumerate(self.heads.items()):
            (one, variance), (other, other_variance) = (head(half[aspects == index]) for half in features)
            pairs[aspect] = Pairs(one, other, (variance + other_variance) / 2, head.temperature())
        return pairs


class AspectHead(nn.Module):
    """(B, F) features -> (B, P) float32 projections of length 1 and (B,) log-variances; it has a temperature."""

    def __init__(self, width: int, temperature: float, config: PretrainConfig):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, config.hidden), nn.LayerNorm(config.hidden), nn.ReLU())
        self.project = nn.Linear(config.hidden, config.projection)
        self.doubt = nn.Linear(config.hidden, 1) if config.uncertainty else None
        if self.doubt is not None:
            nn.init.zeros_(self.doubt.weight)
            nn.init.constant_(self.doubt.bias, INITIAL_LOG_VARIANCE)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)), config.learn_temperature)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.body(features)
        projections = functional.normalize(self.project(hidden).float(), dim=1)
        if self.doubt is None:
            return projections, projections.new_zeros(len(projections))
        return projections, functional.softplus(self.doubt(hidden).float().squeeze(1))

    def temperature(self) -> torch.Tensor:
        return self.log_temperature.exp().clamp(MIN_TEMPERATURE, MAX_TEMPERATURE)


def nt_xent(
    first: torch.Tensor, second: torch.Tensor, temperature: float | torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,) losses of the pairs in nats, means of both directions; and the share of views whose partner is closest.

    first, second: (B, P) of length 1. The negatives of a view are all other views in all processes of the fit. Chen et
    al. 2020, equation 1. Raises RunError for a single pair.
    """
    everyone = torch.cat([distributed.gather(first), distributed.gather(second)])  # (2N, P)
    count, total = len(first), len(everyone) // 2
    if total < 2:
        raise RunError(f"{total} images of an aspect in a batch; expected at least 2. Raise pretrain.fit.batch_size")
    here = distributed.rank() * count + torch.arange(count, device=first.device)
    itself, partner = torch.cat([here, here + total]), torch.cat([here + total, here])
    with torch.autocast(first.device.type, enabled=False):  # bfloat16 is too coarse at a low temperature
        similarity = torch.cat([first, second]) @ everyone.T / temperature  # (2B, 2N)
    similarity = similarity.scatter(1, itself[:, None], float("-inf"))
    losses = functional.cross_entropy(similarity, partner, reduction="none")
    return losses.view(2, count).mean(0), (similarity.argmax(1) == partner).float().mean()


def contrastive_objective(difficulty: Difficulty) -> Objective:
    """The four aspects' losses by name, with less weight on unreliable pairs; adapts the difficulty.

    A pair of loss l and log-variance s counts as exp(-s) l + s / 2, the classification likelihood of Kendall, Gal and
    Cipolla 2018, arXiv:1705.07115. As s is at least 0, no pair gets more than its plain weight.
    """

    def objective(network, first, second, aspects):
        losses, matched = {}, []
        for aspect, pairs in network(first, second, aspects).items():
            plain, share = nt_xent(pairs.first, pairs.second, pairs.temperature)
            losses[aspect] = (plain * (-pairs.log_variance).exp() + pairs.log_variance / 2).mean()
            matched.append(share)
        shares = distributed.gather(torch.stack(matched)[None])  # (R, 4)
        if not is_perturbed():
            difficulty.adapt(shares.mean(0))
        return losses

    return objective


class Difficulty:
    """The strength of each aspect's views, 0 to 1: it rises while most views find their partner, and falls otherwise.

    One step per batch, as in Karras et al. 2020, arXiv:2006.06676. Loader processes, which prepare batches ahead, see a
    change that much later.
    """

    def __init__(self, config: PretrainConfig, history: list[dict]):
        self.config = config
        before = history[-1]["strength"] if history else {name: getattr(config, name).strength for name in ASPECTS}
        self.strengths = torch.tensor([before[name] for name in ASPECTS], dtype=torch.float64).share_memory_()
        self.shares: list[torch.Tensor] = []  # of this epoch

    def adapt(self, shares: torch.Tensor) -> None:
        """Adapts the strengths to the (4,) shares of views that found their partner in a batch."""
        self.shares.append(shares.detach().double().cpu())
        steps = self.config.strength_step * (self.shares[-1] - self.config.target_accuracy).sign()
        self.strengths.copy_((self.strengths + steps).clamp(0, 1))

    def summary(self) -> dict[str, dict[str, float]]:
        """Each aspect's mean share since the last summary, and its strength now."""
        means, self.shares = torch.stack(self.shares).mean(0), []
        return {
            "contrastive_accuracy": dict(zip(ASPECTS, means.tolist(), strict=True)),
            "strength": dict(zip(ASPECTS, self.strengths.tolist(), strict=True)),
        }


def _neighbours_on_val(
    manifest: Manifest, rows: list[LogoRow], size_px: int, difficulty: Difficulty, device: torch.device
) -> Callable[[AspectNetwork], dict]:
    """A function network -> the accuracy on val of the nearest labelled rows' vote, and the heads' figures."""
    labelled, val_rows = [row for row in rows if row.label], manifest.split("val")
    pixels = [stored_pixels(part, manifest, InputContract(size_px)) for part in (labelled, val_rows)]
    names = sorted({row.label for row in (*labelled, *val_rows)})  # multi-label: combinations of labels
    targets = [np.array([names.index(row.label) for row in part]) for part in (labelled, val_rows)]

    def evaluate(network: AspectNetwork) -> dict:
        features = [features_of(network.encoder, part, device) for part in pixels]
        probe = neighbour_probe(features[0], targets[0], [row.group for row in labelled])
        temperatures = {aspect: float(head.temperature()) for aspect, head in network.heads.items()}
        return {"accuracy": probe.score(features[1], targets[1]), "temperature": temperatures, **difficulty.summary()}

    return evaluate


def _write_encoder(path: Path, encoder: LogoNetwork, record: dict) -> None:
    sha256 = save_member(path, encoder)
    write_json(path.with_suffix(".json"), {**record, "file": path.name, "sha256": sha256})
    path.with_suffix(".state").unlink()
