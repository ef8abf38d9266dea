"""Chooses backbone, attention and head by gradient, within a latency (`logo-edge search`).

Bilevel differentiable search: Liu et al. 2019, arXiv:1806.09055 (DARTS); sampled backbones and the latency in
the loss: Cai et al. 2019, arXiv:1812.00332 (ProxylessNAS), Wu et al. 2019, arXiv:1812.03443 (FBNet).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from logo_edge.errors import DatasetError, RunError
from logo_edge.preprocess import InputContract
from logo_edge_compress.search.gradient import architecture_gradient, derive, expected_ms, mean_entropy, penalties
from logo_edge_compress.search.latency_table import CHOICES, LatencyTable
from logo_edge_compress.search.plot import plot_search
from logo_edge_compress.search.supernet import Supernet
from logo_edge_train.architecture import Architecture
from logo_edge_train.data.dataset import LogoDataset, check_classes
from logo_edge_train.data.images import telling_reads
from logo_edge_train.data.lookalikes import leave_out
from logo_edge_train.data.manifest import SPLITS, LogoRow, Manifest, read_one_label
from logo_edge_train.data.pool import stratified_sample
from logo_edge_train.evaluate import confidence_metrics, predict_logits, short_metrics
from logo_edge_train.keys import (
    FITTED_WITH,
    Identity,
    data_hash,
    identify,
    refuse_other,
    row_hashes,
    select_settings,
    versions,
)
from logo_edge_train.losses import supervised_objective
from logo_edge_train.models import has_imagenet_weights
from logo_edge_train.optim import parameter_groups
from logo_edge_train.organize.kinds import settle_kind
from logo_edge_train.organize.splits import split_by_group
from logo_edge_train.parallel import count_cores
from logo_edge_train.recipe import Recipe, SearchConfig
from logo_edge_train.recipe_io import recipe_to_toml
from logo_edge_train.resources import keeping_memory
from logo_edge_train.runs import write_json, write_text
from logo_edge_train.state import load_modules, read_metadata, save_modules

HISTORY, DERIVED = "history.json", "derived.toml"
FIT_SETTINGS = "max_images use_votes class_weight_power weight_decay gradient_clip label_smoothing".split()
# the recipe's settings that a search depends on
SEARCHED_BY = ("search", "train.seed", "train.augment", *(f"train.fit.{name}" for name in FIT_SETTINGS))
WEIGHTS_PATHS, ALPHAS_PATHS = 1, 2  # backbones drawn for a step of each; a single one could not be compared
ALPHAS_BETAS = (0.5, 0.999)  # of Adam, as in DARTS


def search(
    manifest_path: Path,
    recipe: Recipe,
    table: LatencyTable,
    folder: Path,
    *,
    device: torch.device,
    report: Callable[[dict], None],
) -> Recipe:
    """The `derived_recipe` of the chosen network, also written to FOLDER/search/derived.toml.

    FOLDER/search/history.json holds every epoch: losses, shares of each option, their entropy, the expected latency,
    and the figures on val of the architecture that would be chosen; search.png plots them. The search learns from
    neither val nor test. An interrupted search resumes to the same result, with the latencies that it started with; a
    finished one is read (`read_search`). Raises RunError where the folder holds another search, no architecture is
    within `target_ms` or a loss is not finite.
    """
    if (finished := read_search(manifest_path, recipe, folder)) is not None:
        return finished
    config, out = recipe.search, folder / "search"
    manifest = read_one_label(manifest_path)
    for split in ("train", "val"):
        check_classes(manifest.split(split), manifest.classes, split)
    identity, state = search_identity(recipe, manifest), out / "search.state"
    if state.exists():
        table = LatencyTable(**json.loads(read_metadata(state)["table"]))
    costs = table.costs(config)
    fastest = sum(cost.min() for cost in costs)
    if config.target_ms and fastest > config.target_ms:
        raise RunError(
            f"search.target_ms is {config.target_ms}, the fastest architecture takes {fastest:.2f} ms; "
            "raise it, or add a faster backbone"
        )
    out.mkdir(parents=True, exist_ok=True)
    history = _run_epochs(manifest, recipe, table, state, identity, device=device, report=report)
    chosen = derive([list(share.values()) for share in history[-1]["shares"].values()], costs, config.target_ms)
    name, ms = architecture_name(config, chosen), table_ms(costs, chosen)
    derived = _describe_derived(recipe, name, ms)
    record = {
        "identity": asdict(identity),
        "chosen": derived.train.teachers[-1],
        "table_ms": ms,
        "table": asdict(table),
        "seconds": sum(epoch["seconds"] for epoch in history),
        "epochs": history,
    }
    write_text(out / DERIVED, recipe_to_toml(derived))
    plot_search(record, config.target_ms, out / "search.png")
    write_json(out / HISTORY, record)
    state.unlink()
    return derived


def read_search(manifest_path: Path, recipe: Recipe, folder: Path) -> Recipe | None:
    """The `derived_recipe` of the finished search in FOLDER/search; None where none is finished there.

    derived.toml is written again only where the recipe's other stages have changed. Raises RunError where the search
    has other settings or data.
    """
    path, derived_path = folder / "search" / HISTORY, folder / "search" / DERIVED
    if not path.exists():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    identity = search_identity(recipe, read_one_label(manifest_path))
    refuse_other(path.parent, "a search", record["identity"], identity, finished=True)
    derived = _describe_derived(recipe, Architecture.parse(record["chosen"]).model, record["table_ms"])
    text = recipe_to_toml(derived)
    if not derived_path.exists() or derived_path.read_text(encoding="utf-8") != text:
        write_text(derived_path, text)
    return derived


def _describe_derived(recipe: Recipe, name: str, ms: float) -> Recipe:
    description = f"Found by `logo-edge search`, {ms:.2f} ms by its table."
    return replace(derived_recipe(recipe, name), description=description)


def search_identity(recipe: Recipe, manifest: Manifest) -> Identity:
    """What a search depends on; the latencies are a result."""
    settings = select_settings(recipe, *SEARCHED_BY, without=("search.joins",))
    return identify({"data": data_hash(row_hashes(manifest, manifest.rows))}, settings, versions(FITTED_WITH))


def architecture_name(config: SearchConfig, chosen: tuple[int, int, int]) -> str:
    """`backbone+attention+head`."""
    return "+".join(getattr(config, choice)[index] for choice, index in zip(CHOICES, chosen, strict=True))


def table_ms(costs: Sequence[np.ndarray], chosen: tuple[int, int, int]) -> float:
    """The latency of the architecture by the table."""
    return float(sum(cost[index] for cost, index in zip(costs, chosen, strict=True)))


def derived_recipe(recipe: Recipe, name: str) -> Recipe:
    """The recipe with this network, at the size of the search, as its only teacher and only student.

    It keeps ImageNet weights only if the search used them. As there is one teacher, the student learns no epistemic
    output. With `search.joins` the network is added to the recipe's own teachers and students, and nothing else
    changes.
    """
    network, train, distill = str(Architecture(name, recipe.search.size_px)), recipe.train, recipe.distill
    if recipe.search.joins:
        train = replace(train, teachers=(*train.teachers, network))
        distill = replace(distill, students=(*distill.students, network))
    else:
        pretrained = recipe.search.pretrained and has_imagenet_weights(name)
        train = replace(train, teachers=(network,), pretrained=pretrained)
        distill = replace(distill, students=(network,), pretrained=pretrained, epistemic="off")  # there is one teacher
    return replace(
        recipe,
        name=f"{recipe.name}-derived",
        description=f"As {recipe.name}, with {network}.",
        train=train,
        distill=distill,
    )


def halve(rows: list[LogoRow], seed: int) -> tuple[list[LogoRow], list[LogoRow]]:
    """Two halves of the rows with the same share of each class and no common group."""
    sides = split_by_group(
        [row.label for row in rows], [row.group for row in rows], seed=seed, shares={"first": 0.5, "second": 0.5}
    )
    return tuple([row for row, side in zip(rows, sides, strict=True) if side == name] for name in ("first", "second"))


def _run_epochs(
    manifest: Manifest,
    recipe: Recipe,
    table: LatencyTable,
    state: Path,
    identity: Identity,
    *,
    device: torch.device,
    report: Callable[[dict], None],
) -> list[dict]:
    """One record per epoch, until the last or until the choice has not changed for `patience` epochs."""
    costs = table.costs(recipe.search)
    config, train, seed = recipe.search, recipe.train, recipe.train.seed
    name = f"search {config.size_px} px"
    report({"kind": "start", "name": name, "stem": "search"})
    learned = manifest.split("train")
    with telling_reads(report, "look-alikes of held-out images", len(learned) + len(manifest.split(*SPLITS[1:]))):
        left_out, _ = leave_out(manifest, learned)
    rows = stratified_sample([row for row in learned if row not in left_out], train.fit.max_images)
    options = {"use_votes": train.fit.use_votes, "class_weight_power": train.fit.class_weight_power, "seed": seed}
    halves = halve(rows, seed)
    if not all(halves):
        raise DatasetError(
            f"{len(rows)} images to search with; expected enough for two halves without a common group: one is empty"
        )
    options |= {"contract": InputContract(config.size_px)}
    val_rows = manifest.split("val")
    with telling_reads(report, name, len(rows) + len(val_rows)):
        fitting, held_out = (
            LogoDataset(manifest, half, manifest.classes, augment=augment, **options)
            for half, augment in zip(halves, (settle_kind(train.augment, manifest), None), strict=True)
        )
        val = LogoDataset(manifest, val_rows, manifest.classes, contract=options["contract"])
    torch.manual_seed(seed)
    supernet = Supernet(config, len(manifest.classes)).to(device, memory_format=torch.channels_last)
    optimizers = {
        "weights": torch.optim.AdamW(
            parameter_groups(supernet.weights(), train.fit.weight_decay), config.learning_rate
        ),
        "alphas": torch.optim.Adam(supernet.alphas, config.alpha_rate, betas=ALPHAS_BETAS),
    }
    history = _load_state(state, supernet, optimizers, identity)
    batch_size = min(config.batch_size, len(fitting), len(held_out))
    steps = min(len(fitting), len(held_out)) // batch_size
    if history:
        report({"kind": "resume", "name": name, "epochs": config.epochs, "steps": steps, "history": history})
    learner = _Learner(supernet, optimizers, costs, recipe, device)
    with keeping_memory():
        for epoch in range(len(history), config.epochs):
            if history and history[-1]["stable_epochs"] >= config.patience:
                break
            torch.manual_seed(seed * 1_000_003 + epoch)  # which backbones are drawn, the same after a resume
            start, sums = time.perf_counter(), {}
            batches = (_batches(half, batch_size, steps, epoch, seed, device) for half in (fitting, held_out))
            supernet.train()
            for step, (batch, held_out_batch) in enumerate(zip(*batches, strict=True)):
                losses = learner.take_step(batch, held_out_batch, epoch, epoch + step / steps)
                for key, value in losses.items():
                    sums[key] = sums.get(key, 0.0) + value / steps
                pace = {
                    "images_per_s": round((step + 1) * batch_size / (time.perf_counter() - start), 1),
                    "learning_rate": optimizers["weights"].param_groups[0]["lr"],
                }
                position = {"epoch": epoch + 1, "epochs": config.epochs, "step": step + 1, "steps": steps}
                report({"kind": "step", "name": name, **position, "losses": list(losses), **losses, **pace})
            record = {**sums, "epoch": epoch + 1, **_describe_shares(supernet, costs, config, history), **pace}
            logits = predict_logits(supernet, val, device)
            record |= short_metrics(logits, val.hard_targets, val.sure)
            record |= confidence_metrics(logits, val.hard_targets, val.classes)
            record["seconds"] = round(time.perf_counter() - start, 2)
            history.append(record)
            parts = {"history": history, "identity": asdict(identity), "table": asdict(table)}
            metadata = {name: json.dumps(part) for name, part in parts.items()}
            save_modules(state, {"network": supernet}, optimizers, metadata)
            last = epoch + 1 if record["stable_epochs"] >= config.patience else config.epochs
            report({"kind": "epoch", "name": name, "epochs": last, "losses": list(sums), **record})
    return history


class _Learner:
    """Both levels of the search: the architecture is fitted on one half of the images, the weights on the other."""

    def __init__(
        self,
        supernet: Supernet,
        optimizers: dict[str, torch.optim.Optimizer],
        costs: list[np.ndarray],
        recipe: Recipe,
        device: torch.device,
    ):
        self.supernet, self.optimizers, self.config, self.device = supernet, optimizers, recipe.search, device
        self.costs = [torch.tensor(cost, dtype=torch.float32, device=device) for cost in costs]
        self.gradient_clip = recipe.train.fit.gradient_clip
        self.objective = supervised_objective(recipe.train.fit.label_smoothing)

    def take_step(self, batch: list, held_out_batch: list, epoch: int, position: float) -> dict[str, float]:
        """The losses of one step, by name; `position`, in epochs, sets the learning rate and the entropy's weight.

        Raises RunError where one is not finite.
        """
        losses = {}
        if epoch >= self.config.warmup_epochs:
            losses |= self._learn_alphas(batch, held_out_batch, position)
        rate = 0.5 * self.config.learning_rate * (1 + math.cos(math.pi * position / self.config.epochs))
        for group in self.optimizers["weights"].param_groups:
            group["lr"] = rate
        loss = self._loss(batch, self.supernet.draw_paths(WEIGHTS_PATHS if self.config.sample_paths else 0))
        losses = {"cross_entropy": loss.item(), **losses}
        if not all(math.isfinite(value) for value in losses.values()):
            named = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
            raise RunError(
                f"loss is not finite in the search's epoch {epoch + 1} ({named}); lower search.learning_rate"
            )
        self.optimizers["weights"].zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.supernet.weights(), self.gradient_clip)
        self.optimizers["weights"].step()
        return losses

    def _learn_alphas(self, batch: list, held_out_batch: list, position: float) -> dict[str, float]:
        config, alphas = self.config, list(self.supernet.alphas)
        progress = (position - config.warmup_epochs) / max(1, config.epochs - config.warmup_epochs)
        paths = self.supernet.draw_paths(ALPHAS_PATHS if config.sample_paths else 0)
        parts = {}

        def held_out_loss() -> torch.Tensor:
            parts["held_cross_entropy"] = self._loss(held_out_batch, paths)
            parts.update(penalties(self.supernet.shares(), self.costs, config, progress))
            return sum(parts.values())

        _, gradients = architecture_gradient(
            alphas, self.supernet.weights(), lambda: self._loss(batch, paths), held_out_loss, config.inner_rate
        )
        for alpha, gradient in zip(alphas, gradients, strict=True):
            alpha.grad = gradient
        self.optimizers["alphas"].step()
        return {name: value.item() for name, value in parts.items()}

    def _loss(self, batch: list, paths: list[int]) -> torch.Tensor:
        # a finite difference of bfloat16 losses would be noise
        low = self.device.type == "cuda" and not self.config.inner_rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            return self.objective(partial(self.supernet.mix, paths=paths), *batch)["cross_entropy"]


def _describe_shares(supernet: Supernet, costs: list[np.ndarray], config: SearchConfig, history: list[dict]) -> dict:
    """The state of the choice after an epoch; sets the supernet to the architecture that would be chosen."""
    shares = [share.detach().cpu() for share in supernet.shares()]
    named = {
        choice: dict(zip(getattr(config, choice), share.tolist(), strict=True))
        for choice, share in zip(CHOICES, shares, strict=True)
    }
    supernet.chosen = derive([share.tolist() for share in shares], costs, config.target_ms)
    stable = 0
    if len(history) > config.warmup_epochs:  # the alphas have been fitted before as well
        before = derive([list(share.values()) for share in history[-1]["shares"].values()], costs, config.target_ms)
        stable = history[-1]["stable_epochs"] + 1 if before == supernet.chosen else 0
    expected = expected_ms(shares, [torch.from_numpy(cost) for cost in costs])
    return {
        "shares": named,
        "choice_entropy": float(mean_entropy(shares)),
        "expected_ms": float(expected),
        "chosen_ms": table_ms(costs, supernet.chosen),
        "stable_epochs": stable,
    }


def _batches(dataset: LogoDataset, batch_size: int, steps: int, epoch: int, seed: int, device: torch.device):
    """`steps` batches on the device, in the epoch's own order."""
    order = np.random.default_rng((seed, epoch)).permutation(len(dataset))[: steps * batch_size]
    first = epoch * len(dataset) if dataset.augmentation else 0
    loader = DataLoader(
        dataset,
        batch_size,
        sampler=(first + order).tolist(),
        pin_memory=device.type == "cuda",
        num_workers=count_cores() // 2 if device.type == "cuda" else 0,
    )
    for batch in loader:
        yield [tensor.to(device, non_blocking=True) for tensor in batch]


def _load_state(path: Path, supernet: Supernet, optimizers: dict, identity: Identity) -> list[dict]:
    """The epochs so far, with networks and optimizers restored; empty where there is no state."""
    if not path.exists():
        return []
    metadata = read_metadata(path)
    refuse_other(path.parent, "a search", json.loads(metadata["identity"]), identity, finished=False)
    load_modules(path, {"network": supernet}, optimizers)
    return json.loads(metadata["history"])
