"""Learns to tell classes apart from few examples, three ways: MAML, prototypical networks, ridge on frozen features.

MAML: Finn et al. 2017, arXiv:1703.03400, its inner rates learned as in Meta-SGD (Li et al. 2017, arXiv:1707.09835) or
MAML++ (Antoniou et al. 2019, arXiv:1810.09502), its last layer zero at first (Kao et al. 2022, arXiv:2106.15367), so that
the order and number of classes do not matter. Prototypes: Snell et al. 2017, arXiv:1703.05175. Ridge:
Bertinetto et al. 2019, arXiv:1805.08136, without learning through it. The tasks are told in `episodes`.
"""

from __future__ import annotations

import json
import math
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.func import functional_call, grad
from torch.nn import functional

from logo_edge.errors import DatasetError, ImageError, RecipeError, RunError
from logo_edge.images.load import load_image
from logo_edge.names import shown
from logo_edge.tables.journal import walk_images
from logo_edge_train import distributed
from logo_edge_train.data.images import ImageFiles
from logo_edge_train.data.manifest import LogoRow, Manifest, read_manifest
from logo_edge_train.data.pool import data_inputs
from logo_edge_train.few_shot.episodes import TASKS, VIEWS, Drawings, EpisodeDataset, check_disjoint, task_rows
from logo_edge_train.fit import Objective, count_loaders, fit
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
from logo_edge_train.models.normalise import normalise
from logo_edge_train.recipe import Architecture, FewShotConfig, Recipe
from logo_edge_train.recipe_io import recipe_from_dict
from logo_edge_train.runs import load_weights, save_member, write_json

RECORD, CHECKPOINT = "few_shot.json", "few_shot.safetensors"
SCALE = 10.0  # of logits of features of length 1, where it begins
RATE_PACE = (
    50.0  # a learned rate moves by so much more of itself per step than weights do: rates are found late otherwise
)
BATCH = 64  # images at a time, where nothing is learned


class FewShotNetwork(nn.Module):
    """Support (T, N, K, S, S, 3) and queries (T, M, V, S, S, 3) of T tasks, uint8 -> (T, M, N) logits.

    `trunk` is what no method changes: the stem and `frozen_blocks` stages. A query is of the class that the best of its
    V views is of. Raises RecipeError where stages are to be frozen in a network that has none.
    """

    def __init__(self, network: LogoNetwork, config: FewShotConfig, *, keep_statistics: bool):
        super().__init__()
        self.config, self.keep_statistics = config, keep_statistics
        self.width = network.learn_features(Architecture.parse(config.network).size_px)
        self.trunk, self.rest = split_network(network, config.fit.frozen_blocks)
        self.learned = [name for name, weight in self.rest.named_parameters() if weight.requires_grad]

    def train(self, mode: bool = True) -> FewShotNetwork:
        """Batch statistics stay as they are in the trunk and, where the network began at weights, everywhere."""
        super().train(mode)
        for module in self.modules() if self.keep_statistics else self.trunk.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, support: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        tasks, ways, shots = support.shape[:3]
        pixels = torch.cat([support.flatten(0, 2), queries.flatten(0, 2)])
        embedded = self.embed(pixels)
        first, second = embedded.split([tasks * ways * shots, queries.shape[:3].numel()])
        first, second = first.unflatten(0, (tasks, ways * shots)), second.unflatten(0, queries.shape[:3])
        labels = torch.arange(ways, device=support.device).repeat_interleave(shots)
        return torch.stack([self.classify(one, labels, other, ways) for one, other in zip(first, second, strict=True)])

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, ...): what (B, S, S, 3) uint8 pixels are to the method whatever the task; here features (B, F) of length 1."""
        return functional.normalize(self.rest(self._trunk_maps(pixels)), dim=1)

    def classify(self, support: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, ways: int) -> torch.Tensor:
        """(M, N) logits of (M, V, ...) embedded queries, by (n, ...) embedded support with labels (n,) of 0 to N - 1."""
        return self.solve(support, labels, queries.flatten(0, 1), ways).unflatten(0, queries.shape[:2]).amax(1)

    def solve(self, support: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, ways: int) -> torch.Tensor:
        """(B, N) logits of single embedded views."""
        raise NotImplementedError

    def _trunk_maps(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.trunk(normalise(pixels))


class Prototypes(FewShotNetwork):
    """The nearest mean of the support's features of length 1, by squared distance; its scale is learned."""

    def __init__(self, network: LogoNetwork, config: FewShotConfig, *, keep_statistics: bool):
        super().__init__(network, config, keep_statistics=keep_statistics)
        self.log_scale = nn.Parameter(torch.tensor(math.log(SCALE)))

    def solve(self, support: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, ways: int) -> torch.Tensor:
        return prototype_logits(support, labels, queries, ways) * self.log_scale.exp()


def prototype_logits(support: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, ways: int) -> torch.Tensor:
    """(B, N): minus the squared distance of (B, F) queries to each class's mean of the (n, F) support. Snell et al., eq. 1, 2."""
    members = functional.one_hot(labels, ways).to(support.dtype)  # (n, N)
    means = members.T @ support / members.sum(0)[:, None]  # (N, F)
    return -(queries[:, None] - means).square().sum(2)


class Ridge(FewShotNetwork):
    """Ridge regression on the features of length 1; nothing is learned beforehand but its penalty, of a few."""

    def __init__(self, network: LogoNetwork, config: FewShotConfig, *, keep_statistics: bool):
        super().__init__(network, config, keep_statistics=keep_statistics)
        self.register_buffer("penalty", torch.tensor(config.penalties[0]))

    def solve(self, support: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, ways: int) -> torch.Tensor:
        return ridge_logits(support, labels, queries, ways, self.penalty)


def ridge_logits(
    support: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, ways: int, penalty: float | torch.Tensor
) -> torch.Tensor:
    """(B, N): ridge regression with an intercept from (n, F) support to 1 for its class and -1 for others, at (B, F) queries.

    An n x n system is solved, not one of F x F (Woodbury; Bertinetto et al. 2019, equation 4).
    """
    targets = 2.0 * functional.one_hot(labels, ways).to(support.dtype) - 1  # (n, N)
    centre, intercept = support.mean(0), targets.mean(0)
    centred = support - centre
    kernel = centred @ centred.T + penalty * torch.eye(len(support), dtype=support.dtype, device=support.device)
    weights = centred.T @ torch.linalg.solve(kernel, targets - intercept)  # (F, N)
    return (queries - centre) @ weights + intercept


class Maml(FewShotNetwork):
    """A few gradient steps on the support, from weights and at rates that make them count. What is embedded are the trunk's maps.

    The last layer begins at zero: what its rows have in common, the softmax does not see. `rates` are stored as what they
    differ by, in parts of the rate that they begin at and of RATE_PACE.
    """

    def __init__(self, network: LogoNetwork, config: FewShotConfig, *, keep_statistics: bool):
        super().__init__(network, config, keep_statistics=keep_statistics)
        learned = list(self._learned().values())
        if config.rates == "layer":
            self.rates = nn.Parameter(torch.zeros(config.inner_steps, len(learned) + 1))
        elif config.rates == "element":
            self.rates = nn.ParameterList(torch.zeros_like(weight) for weight in [*learned, torch.zeros(self.width)])

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._trunk_maps(pixels)

    def solve(self, support: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, ways: int) -> torch.Tensor:
        return self._logits(self.adapt(support, labels, ways), queries)

    def adapt(self, support: torch.Tensor, labels: torch.Tensor, ways: int) -> dict[str, torch.Tensor]:
        """The weights after the inner steps on (n, ...) maps, by name; gradients of gradients flow where it is so set.

        Finn et al. 2017, equation 1; where first-order, inner gradients are taken as constants (section 5.2).
        """

        def loss(weights: dict[str, torch.Tensor]) -> torch.Tensor:
            return functional.cross_entropy(self._logits(weights, support), labels)

        weights = {**self._learned(), "head": support.new_zeros(ways, self.width)}
        for step in range(self.config.inner_steps):
            gradients = grad(loss)(weights)
            if not (self.config.second_order and torch.is_grad_enabled()):
                gradients = {name: gradient.detach() for name, gradient in gradients.items()}
            weights = {
                name: weight - self._rate(index, step, name) * gradients[name]
                for index, (name, weight) in enumerate(weights.items())
            }
        return weights

    def _logits(self, weights: dict[str, torch.Tensor], maps: torch.Tensor) -> torch.Tensor:
        body = {name: weight for name, weight in weights.items() if name != "head"}
        features = functional.normalize(functional_call(self.rest, body, (maps,)), dim=1)
        return SCALE * features @ weights["head"].T

    def _learned(self) -> dict[str, torch.Tensor]:
        weights = dict(self.rest.named_parameters())
        return {name: weights[name] for name in self.learned}

    def _rate(self, index: int, step: int, name: str) -> torch.Tensor | float:
        first = self.config.head_rate if name == "head" else self.config.inner_rate
        if self.config.rates == "fixed":
            return first
        change = self.rates[step, index] if self.config.rates == "layer" else self.rates[index]
        return first * (1 + RATE_PACE * change)


METHODS: dict[str, type[FewShotNetwork]] = {"maml": Maml, "prototypes": Prototypes, "ridge": Ridge}


class Rest(nn.Module):
    """(B, C, h, w) maps -> (B, F): the features that a backbone without its trunk makes of them."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.backbone.forward_head(self.backbone.forward_features(maps), pre_logits=True)


def split_network(network: LogoNetwork, blocks: int) -> tuple[nn.Module, Rest]:
    """The stem and first `blocks` stages, which do not learn, and the rest; under the names that they had. -1: all is rest.

    Raises RecipeError where the network is not built of stages.
    """
    body = network.backbone
    if blocks < 0:
        return nn.Sequential(), Rest(body)
    if not all(hasattr(body, part) for part in ("conv_stem", "bn1", "blocks")) or blocks > len(body.blocks):
        raise RecipeError(
            f"{network.name} has no stem and {blocks} stages; lower few_shot.fit.frozen_blocks, to -1 at last"
        )
    stages = OrderedDict((str(index), body.blocks[index]) for index in range(blocks))
    trunk = nn.Sequential(
        OrderedDict(conv_stem=body.conv_stem, bn1=body.bn1, blocks=nn.Sequential(stages))
    ).requires_grad_(False)
    body.conv_stem = body.bn1 = nn.Identity()
    for index in range(blocks):
        body.blocks[index] = nn.Identity()
    return trunk, Rest(body)


def build_network(config: FewShotConfig, start: Path | None) -> tuple[FewShotNetwork, FewShotConfig]:
    """The method's network at the weights of the few-shot run in `start`, or ImageNet's, or random ones; its true configuration.

    Raises RecipeError where weights are needed and there are none, RunError where `start` is of another network, or has
    learned from what the task holds out.
    """
    architecture = Architecture.parse(config.network)
    imagenet = has_imagenet_weights(architecture.model) and start is None
    begins = imagenet or start is not None
    if not begins and config.method != "prototypes":
        raise RecipeError(
            f"few_shot.method is {config.method!r} and {config.network} has no ImageNet weights; expected a start, such as "
            "`--start RUN` of the method prototypes"
        )
    if not begins:
        config = replace(config, fit=replace(config.fit, frozen_blocks=-1))  # nothing there is worth keeping
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
            f"{folder} has learned {known[0]}, from {config.held_out_package} too; expected a run of types that holds it out"
        )
    tensors = {**before.trunk.state_dict(), **before.rest.backbone.state_dict()}
    network.backbone.load_state_dict(tensors)


def few_shot_objective(queries: int) -> Objective:
    """The cross-entropy of the queries, of which each class has so many, in order."""

    def objective(network, support, asked):
        logits = network(support, asked).float()  # (T, N * Q, N)
        ways = logits.shape[2]
        targets = torch.arange(ways, device=logits.device).repeat_interleave(queries).repeat(len(logits))
        return {"cross_entropy": functional.cross_entropy(logits.flatten(0, 1), targets)}

    return objective


class Examination:
    """Episodes of some rows as the runtime would see them, each view of each drawing embedded once for all of them."""

    def __init__(self, manifest: Manifest, rows: list[LogoRow], config: FewShotConfig):
        self.tasks = TASKS[config.task](rows, config)
        size_px = Architecture.parse(config.network).size_px
        self.drawings = Drawings.load(manifest, [rows[index] for index in self.tasks.rows], size_px)
        self.place = np.zeros(len(rows), int)
        self.place[self.tasks.rows] = np.arange(len(self.tasks.rows))

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
        """(E,) the share of right queries of each episode, and of each class by name, (X,) of every time that it came."""
        accuracy, by_class = [], defaultdict(list)
        for index in range(episodes):
            episode = self.tasks.draw(np.random.default_rng((seed, index)))
            ways, shots = episode.support.shape
            shown = np.arange(shots) % self.tasks.views
            support = embedded[self.place[episode.support], shown].flatten(0, 1)  # (N * K, ...)
            queries = embedded[self.place[episode.queries]].flatten(0, 1)  # (N * Q, V, ...)
            labels = torch.arange(ways, device=embedded.device).repeat_interleave(shots)
            guesses = network.classify(support, labels, queries, ways).argmax(1).cpu().numpy()
            right = guesses.reshape(episode.queries.shape) == np.arange(ways)[:, None]
            accuracy.append(right.mean())
            for name, share in zip(episode.classes, right.mean(1), strict=True):
                by_class[name].append(share)
            tick()
        return np.array(accuracy), {name: np.array(shares) for name, shares in by_class.items()}


@torch.no_grad()
def embed_pixels(network: FewShotNetwork, pixels: np.ndarray, device: torch.device) -> torch.Tensor:
    """(B, ...): the embedded (B, S, S, 3) uint8 pixels, in evaluation mode."""
    network.eval()
    batches = torch.from_numpy(pixels).split(BATCH)
    return torch.cat([network.embed(batch.to(device)) for batch in batches])


def train_few_shot(
    manifest_path: Path,
    config: FewShotConfig,
    folder: Path,
    *,
    device: torch.device,
    report: Callable[[dict], None],
    start: Path | None = None,
) -> dict:
    """The record of the run that is now in FOLDER: few_shot.json beside few_shot.safetensors. Interrupted, it goes on.

    It begins at the weights of the few-shot run in `start`, or at ImageNet's where there are any. A finished run is read
    and left as it is. Raises RunError where the folder holds a run of other settings, other data or, unfinished, of other
    versions.
    """
    manifest, report = read_manifest(manifest_path), distributed.on_main(report)
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
    examination = Examination(manifest, rows["val"], config)

    def accuracy_on_val(network: FewShotNetwork) -> float:
        found, _ = examination.measure(
            network, examination.embed(network, device), episodes=config.val_episodes, seed=config.seed
        )
        return float(found.mean())

    if config.method == "ridge":
        history, network = [], network.to(device)
        record["penalties"] = choose_penalty(network, examination, config, device)
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
    """What a few-shot run depends on; brands are learned from the unlabelled pool too."""
    inputs = data_inputs(manifest, use_unlabelled=config.task == "brands")
    inputs |= {"start": file_hash(start / CHECKPOINT)} if start else {}
    return identify(inputs, {"few_shot": config}, versions(FITTED_WITH))


def choose_penalty(
    network: Ridge, examination: Examination, config: FewShotConfig, device: torch.device
) -> dict[str, float]:
    """{penalty: accuracy on val}; the best is given to the network."""
    embedded, found = examination.embed(network, device), {}
    for penalty in config.penalties:
        network.penalty.fill_(penalty)
        accuracy, _ = examination.measure(network, embedded, episodes=config.val_episodes, seed=config.seed)
        found[str(penalty)] = float(accuracy.mean())
    network.penalty.fill_(float(max(found, key=found.get)))
    return found


def _finish(folder: Path, network: FewShotNetwork, record: dict) -> None:
    sha256 = save_member(folder / CHECKPOINT, network)
    write_json(folder / RECORD, {**record, "status": "finished", "file": CHECKPOINT, "sha256": sha256})
    (folder / "few_shot.state").unlink(missing_ok=True)


def _read_record(folder: Path) -> dict | None:
    path = folder / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def read_few_shot(folder: Path) -> tuple[FewShotNetwork, dict]:
    """The network of a finished few-shot run, in evaluation mode, and the run's record. Raises RunError where there is none."""
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

    `accuracy` is the mean over the episodes with the interval of other episodes of the same classes; `accuracy_by_class`
    that over the classes, with the wider interval of other classes. Both by bootstrap, 95 %. Raises RunError where the
    manifest is not the one that the run was made of.
    """
    manifest, (network, _) = read_manifest(manifest_path), read_few_shot(folder)
    check_rows(manifest, folder / ROWS, manifest_path)
    config, network = network.config, network.to(device)
    examination = Examination(manifest, task_rows(manifest, config, split), config)
    embedded, began = examination.embed(network, device), time.perf_counter()
    accuracy, by_class = examination.measure(network, embedded, episodes=episodes, seed=config.seed, tick=tick)
    means = np.array([shares.mean() for shares in by_class.values()])
    return {
        "split": split,
        "episodes": episodes,
        "ways": examination.tasks.ways,
        "shots": config.shots,
        "accuracy": vars(bootstrap(lambda drawn: float(drawn.mean()), accuracy)),
        "accuracy_by_class": vars(bootstrap(lambda drawn: float(drawn.mean()), means)),
        "classes": len(means),
        "drawings": len(examination.drawings.images),
        "ms_per_episode": round(1000 * (time.perf_counter() - began) / episodes, 2),
    }


def frozen_network() -> FewShotNetwork:
    """Ridge on ImageNet features, for whoever has trained nothing."""
    network, _ = build_network(replace(Recipe().few_shot, method="ridge"), None)
    return network.eval()


def classify_images(
    network: FewShotNetwork,
    support: dict[str, Sequence[Image.Image]],
    images: Iterable[Image.Image],
    device: torch.device,
) -> list[dict[str, float]]:
    """Each image's {class: logit}, the likeliest first; logits are no probabilities. `support` are images of each class.

    Of brands, a support image is shown in as many views as the network has learned shots. Raises DatasetError where
    there are not two classes, or one has no image.
    """
    if len(support) < 2 or not all(support.values()):
        counts = ", ".join(f"{name} ({len(found)})" for name, found in support.items())
        raise DatasetError(f"classes to tell apart: {counts or 'none'}; expected two or more, each with an image")
    config, size_px = network.config, Architecture.parse(network.config.network).size_px
    shown = range(min(config.shots, len(VIEWS)) if config.task == "brands" else 1)
    asked = range(len(VIEWS) if config.task == "brands" else 1)
    queried = Drawings(images, size_px)
    if not queried.images:
        return []
    known = Drawings((image for found in support.values() for image in found), size_px)
    labels = torch.tensor([label for label, found in enumerate(support.values()) for _ in found]).to(device)
    embedded = [
        embed_pixels(
            network,
            np.stack([drawings.draw(index, view) for index in range(len(drawings.images)) for view in views]),
            device,
        )
        for drawings, views in ((known, shown), (queried, asked))
    ]
    with torch.no_grad():
        queries = embedded[1].unflatten(0, (-1, len(asked)))
        logits = network.classify(embedded[0], labels.repeat_interleave(len(shown)), queries, len(support))
    return [dict(sorted(zip(support, row, strict=True), key=lambda item: -item[1])) for row in logits.double().tolist()]


def classify_files(network: FewShotNetwork, support: Path, paths: Sequence[Path], device: torch.device) -> list[dict]:
    """One record per path, {path, label, runner_up, margin, logits} or {path, error}; `support` has a subfolder for each class.

    The margin is the lead of the best logit over the next. Raises ImageError where an image of the support cannot be
    read, DatasetError where there are not two classes with images.
    """
    folders = [folder for folder in sorted(support.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    known = {shown(folder.name): ImageFiles(tuple(walk_images(folder))) for folder in folders}
    errors: dict[Path, str] = {}

    def readable() -> Iterator[Image.Image]:
        for path in paths:
            try:
                yield load_image(path)
            except ImageError as error:
                errors[path] = str(error)

    answers, records = iter(classify_images(network, known, readable(), device)), []
    for path in paths:
        if path in errors:
            records.append({"path": shown(str(path)), "error": shown(errors[path])})
            continue
        logits = next(answers)
        (label, first), (runner_up, second), *_ = logits.items()
        answer = {"label": label, "runner_up": runner_up, "margin": first - second, "logits": logits}
        records.append({"path": shown(str(path)), **answer})
    return records
