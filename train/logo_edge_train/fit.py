"""Fits one network on one or several devices. An interrupted fit resumes to the same result."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler, default_collate

from logo_edge.errors import RunError
from logo_edge_train import distributed
from logo_edge_train.checkpoints import save_member
from logo_edge_train.data.dataset import LogoDataset
from logo_edge_train.data.sampling import EpochOrder
from logo_edge_train.fit_config import LoopConfig
from logo_edge_train.keys import artifact_key
from logo_edge_train.optim import SharpnessAware, optimizer_scalars
from logo_edge_train.parallel import count_cores
from logo_edge_train.resources import gpu_utilisation, keeping_memory, peak_memory
from logo_edge_train.schedule import Schedule
from logo_edge_train.state import load_state, read_history, save_state

Objective = Callable[..., dict[str, torch.Tensor]]
"""(network, *batch) -> named losses; `fit` minimises their sum. The batch comes from the collate function.

Each loss is a mean over the batch's first dimension, since `fit` may pass the batch in parts and average these. `fit`
may pass a batch twice, the second time with perturbed weights (`optim.is_perturbed`). An objective that is an nn.Module
also has `end_step` and `end_epoch`, and its buffers are part of the state: see losses.py.
"""

Report = Callable[[dict], None]


@keeping_memory()
def fit(
    network: nn.Module,
    dataset: LogoDataset,
    objective: Objective,
    config: LoopConfig,
    *,
    state: Path,
    seed: int,
    device: torch.device,
    evaluate: Callable[[nn.Module], dict],
    report: Report,
    collate: Callable = default_collate,
    loaders: int = 0,
    snapshots: Path | None = None,
    order: EpochOrder | None = None,
    key: str = "",
) -> tuple[nn.Module, list[dict]]:
    """The network's exponential moving average (EMA) after the last epoch, and one record per epoch.

    After every epoch the whole state is written to `state` (safetensors). If that file exists, has the same
    configuration, seed and `key` (the artifact_key of all other inputs), the fit resumes from it. `report` gets a dict
    per step and per epoch, and one with the epochs so far if the fit resumes. `loaders` is the number of processes that
    make batches ahead, for the whole fit; 0: this process makes them. With `snapshots`, the averaged weights after
    epoch 3 are kept as SNAPSHOTS/epoch-003.safetensors (float16, see `save_member`). `order` is the order of the items
    in each epoch; None: shuffled.

    Under torchrun every rank calls this, takes its share of each batch and returns the same result; only the main rank
    reports and writes. Raises RunError if the state belongs to another fit, if the ranks cannot share a batch equally,
    or if the loss or its gradient is not finite (with epoch and step).
    """
    torch.manual_seed(seed)
    report = distributed.on_main(report)
    network = distributed.share_statistics(network.to(device, memory_format=torch.channels_last))
    if config.frozen_blocks >= 0:
        network.freeze(config.frozen_blocks)
    replica = distributed.replicate(network)
    learner = torch.compile(replica) if config.compile else replica  # shares the weights of network
    ema = copy.deepcopy(network).eval().requires_grad_(False)
    if config.grad_checkpointing:
        network.checkpoint_gradients()
    batch_size = _shareable_batch(config, len(dataset))  # over all ranks
    steps = len(dataset) // batch_size
    config = replace(config, epochs=config.fitted_epochs(steps))
    schedule = Schedule(network, config, steps, len(read_history(state)))
    adaptive = objective if isinstance(objective, nn.Module) else None
    key = artifact_key({}, {"work": key, "fit": config, "seed": seed}, {})
    history = load_state(state, network, ema, schedule.optimizer, key, adaptive)
    sharpness = SharpnessAware(network, config.sam, history)
    add_gradients = partial(_add_gradients, learner, replica, objective, batch_size, config)
    if history:
        report({"kind": "resume", "epochs": config.epochs, "steps": steps, "history": history})
    if snapshots:
        distributed.on_main(_remove_snapshots)(snapshots, after=len(history))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    order = order or EpochOrder(len(dataset), seed)
    batches = _BatchSampler(len(dataset), batch_size, range(len(history), config.epochs), order)
    loader = iter(_training_loader(dataset, batches, collate, min(loaders, steps), steps, device))
    for epoch in range(len(history), config.epochs):
        torch.manual_seed(seed * 1_000_003 + epoch + distributed.rank() * 500_009)  # dropout: the same after a resume
        start, waited_s, sums, busy = time.perf_counter(), 0.0, {}, []
        network.train()
        for step in range(steps):
            asked_s = time.perf_counter()
            batch = [tensor.to(device, non_blocking=True) for tensor in next(loader)]
            waited_s += time.perf_counter() - asked_s
            optimizer = schedule.move_to(epoch + step / steps)
            optimizer.zero_grad(set_to_none=True)
            add = partial(add_gradients, batch)
            losses = sharpness.add_gradients(optimizer, add) if schedule.phase.sharp else add()
            norm = nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
            optimizer.step()
            if adaptive:
                adaptive.end_step()
            _update_ema(ema, network, config.ema_decay, epoch * steps + step)
            losses = distributed.reduce_mean({name: value.item() for name, value in losses.items()})
            _check_finite(losses, norm.item(), epoch, step)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
            busy += gpu_utilisation(device)
            fitting_s = time.perf_counter() - start
            pace = {"images_per_s": round((step + 1) * batch_size / fitting_s, 1), "phase": schedule.phase.name}
            pace |= optimizer_scalars(optimizer)
            position = {"epoch": epoch + 1, "epochs": config.epochs, "step": step + 1, "steps": steps}
            report({"kind": "step", **position, "losses": list(losses), **losses, **pace})
        distributed.agree_on_buffers(ema)
        record = {name: total / steps for name, total in sums.items()}
        record |= {"epoch": epoch + 1, **evaluate(ema), "seconds": round(time.perf_counter() - start, 2)}
        record |= {**pace, "data_wait": round(waited_s / fitting_s, 4), **peak_memory(device)}
        record |= {"gpu_utilisation": round(sum(busy) / len(busy), 3)} if busy else {}
        record |= adaptive.end_epoch(epoch) if adaptive else {}
        history.append(record)
        if snapshots:
            distributed.on_main(_save_snapshot)(snapshots, epoch + 1, ema)
        distributed.on_main(save_state)(state, network, ema, schedule.optimizer, history, key, adaptive)
        report({"kind": "epoch", "epochs": config.epochs, "losses": list(sums), **record})
    return ema, history


def _add_gradients(
    learner: nn.Module,
    replica: nn.Module,
    objective: Objective,
    batch_size: int,
    config: LoopConfig,
    batch: list[torch.Tensor],
    hold: bool = False,
) -> dict[str, torch.Tensor]:
    """This rank's losses; adds their gradients to the network, in `accumulate` parts.

    Each part is weighted by its share of the rank's batch. So the mean gradient and the mean loss over the ranks are
    those of the whole batch. With `hold`, the gradients are not averaged over the ranks.
    """
    totals: dict[str, torch.Tensor] = {}
    parts = list(zip(*(tensor.tensor_split(config.accumulate) for tensor in batch), strict=True))
    for index, part in enumerate(parts):
        share = len(part[0]) * distributed.world_size() / batch_size
        last = index == len(parts) - 1 and not hold
        with nullcontext() if last else distributed.hold_gradients(replica):
            with _mixed_precision(batch[0].device, config.amp):
                losses = objective(learner, *part)
            (share * sum(losses.values())).backward()
        for name, value in losses.items():
            totals[name] = totals.get(name, 0.0) + share * value.detach()
    return totals


def _mixed_precision(device: torch.device, amp: str) -> torch.autocast:
    """Autocast to bfloat16; `auto` enables it on GPUs that compute in bfloat16."""
    supported = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, torch.bfloat16, enabled=amp == "bf16" or (amp == "auto" and supported))


def _check_finite(losses: dict[str, float], gradient_norm: float, epoch: int, step: int) -> None:
    """Raises RunError with the epoch and the step, before a broken network is saved."""
    position = f"at epoch {epoch + 1}, step {step + 1}"
    if not all(map(math.isfinite, losses.values())):
        named = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
        raise RunError(f"loss is not finite {position} ({named}); lower learning_rate")
    if not math.isfinite(gradient_norm):
        raise RunError(f"gradient is not finite {position} (norm {gradient_norm}); lower learning_rate")


def _shareable_batch(config: LoopConfig, count: int) -> int:
    """The images of a step over all ranks, at most `count`. Raises RunError if the ranks cannot share them equally."""
    batch_size, ranks = min(config.batch_size, count), distributed.world_size()
    if batch_size % ranks or batch_size < ranks * config.accumulate:
        raise RunError(
            f"{batch_size} images per step cannot be split over processes x accumulate = {ranks} x "
            f"{config.accumulate}; expected a multiple of {ranks}, at least {ranks * config.accumulate}. Change "
            "batch_size or accumulate"
        )
    return batch_size


class _BatchSampler(Sampler):
    """This rank's share of every batch, as positions epoch * N + index; each epoch has its own order."""

    def __init__(self, count: int, batch_size: int, epochs: range, order: EpochOrder):
        self.count, self.batch_size, self.epochs, self.order = count, batch_size, epochs, order

    def __iter__(self) -> Iterator[list[int]]:
        for epoch in self.epochs:
            positions = self.order(epoch)
            for start in range(0, self.count - self.batch_size + 1, self.batch_size):
                yield distributed.share(positions[start : start + self.batch_size].tolist())

    def __len__(self) -> int:
        return self.count // self.batch_size * len(self.epochs)


def count_loaders(device: torch.device) -> int:
    """The number of processes that make batches for a rank: on a GPU its share of the cores, on CPUs none."""
    return max(1, count_cores() // distributed.world_size()) if device.type == "cuda" else 0


def _training_loader(
    dataset: LogoDataset, batches: Sampler, collate: Callable, loaders: int, steps: int, device: torch.device
) -> DataLoader:
    """One loader for the batches of all epochs: its processes keep running between epochs.

    They are at most one epoch ahead, since augment.Intensity is updated at the end of each epoch. On Linux they are
    forked, and share PyTorch with this process: in a process of a fork server, they would each load it again.
    """
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=loaders,
        multiprocessing_context="fork" if loaders and sys.platform == "linux" else None,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        prefetch_factor=min(4, steps // loaders) if loaders else None,
    )


def _save_snapshot(folder: Path, epoch: int, network: nn.Module) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_member(folder / f"epoch-{epoch:03}.safetensors", network)


def _remove_snapshots(folder: Path, *, after: int) -> None:
    """Deletes the snapshots after epoch `after`, which belong to an earlier fit."""
    for path in folder.glob("epoch-*.safetensors"):
        if int(path.stem.removeprefix("epoch-")) > after:
            path.unlink()


@torch.no_grad()
def _update_ema(ema: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """The decay grows with the steps, so that the first weights are soon forgotten (as in TensorFlow's EMA)."""
    decay = min(decay, (1 + step) / (10 + step))
    averaged = [tensor for tensor in ema.state_dict().values() if tensor.is_floating_point()]
    current = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    torch._foreach_lerp_(averaged, current, 1 - decay)
