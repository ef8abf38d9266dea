"""Fits one network: AdamW, cosine, EMA, mixed precision on a GPU; interrupted, it resumes to the same result."""

from __future__ import annotations

import copy
import ctypes
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Sampler, default_collate

from logo_edge.errors import RunError
from logo_edge_train.dataset import LogoDataset
from logo_edge_train.recipe import FitConfig
from logo_edge_train.runs import save_member

try:
    import resource
except ImportError:  # on Windows
    resource = None

Objective = Callable[..., dict[str, torch.Tensor]]
"""(network, *batch) -> named losses, whose sum is minimised; the batch is what the collate function makes."""

Report = Callable[[dict], None]
OPTIMIZER_SCALARS = {"lr": "learning_rate", "rho": "rho"}  # what a parameter group may hold, and its name in a report


def fit(
    network: nn.Module, dataset: LogoDataset, objective: Objective, config: FitConfig, *, state: Path, seed: int,
    device: torch.device, evaluate: Callable[[nn.Module], dict], report: Report, collate: Callable = default_collate,
    loaders: int = 0, snapshots: Path | None = None,
) -> tuple[nn.Module, list[dict]]:  # fmt: skip
    """The network's exponential moving average after the last epoch, and one record per epoch.

    After every epoch all that is needed to go on is written to `state` (safetensors); where that file exists and
    belongs to the same configuration, fitting goes on from there. `report` gets a dict per step and per epoch, and one
    with the epochs so far where fitting goes on. `loaders` is the number of processes that make batches beside this
    one; 0 makes them in this one. With `snapshots`, the averaged weights after epoch 3 are kept as
    SNAPSHOTS/epoch-003.safetensors (float16, as `save_member` writes them).
    Raises RunError where the loss is not finite, naming the epoch and step.
    """
    torch.manual_seed(seed)
    keep_memory()
    network.to(device, memory_format=torch.channels_last)
    if config.frozen_blocks >= 0:
        network.freeze(config.frozen_blocks)
    ema = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(_parameter_groups(network, config.weight_decay), lr=config.learning_rate)
    steps = max(1, len(dataset) // config.batch_size)
    history = _load_state(state, network, ema, optimizer, config)
    if history:
        report({"kind": "resume", "epochs": config.epochs, "steps": steps, "history": history})
    if snapshots:
        _remove_snapshots(snapshots, after=len(history))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    loader = iter(_training_loader(dataset, config, steps, len(history), seed, collate, loaders))
    for epoch in range(len(history), config.epochs):
        torch.manual_seed(seed * 1_000_003 + epoch)  # dropout and mixing, the same after a resume
        start, sums, images = time.perf_counter(), {}, 0
        network.train()
        for step in range(steps):
            batch = [tensor.to(device, non_blocking=True) for tensor in next(loader)]
            _set_learning_rate(optimizer, config, epoch + step / steps)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                losses = objective(network, *batch)
            loss = sum(losses.values())
            if not torch.isfinite(loss):
                named = ", ".join(f"{name} {value.item():.3g}" for name, value in losses.items())
                raise RunError(
                    f"loss is not finite at epoch {epoch + 1}, step {step + 1} ({named}); lower learning_rate"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
            optimizer.step()
            _update_ema(ema, network, config.ema_decay, epoch * steps + step)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach()
            images += len(batch[0])
            pace = {"images_per_s": round(images / (time.perf_counter() - start), 1), **optimizer_scalars(optimizer)}
            report({"kind": "step", "epoch": epoch + 1, "epochs": config.epochs, "step": step + 1, "steps": steps,
                    "losses": list(losses), **{name: value.item() for name, value in losses.items()}, **pace})  # fmt: skip
        record = {name: float(total) / steps for name, total in sums.items()}
        record |= {"epoch": epoch + 1, **evaluate(ema), "seconds": round(time.perf_counter() - start, 2)}
        record |= {**pace, **_peak_memory(device)}
        history.append(record)
        if snapshots:
            snapshots.mkdir(parents=True, exist_ok=True)
            save_member(snapshots / f"epoch-{epoch + 1:03}.safetensors", ema)
        _save_state(state, network, ema, optimizer, history, config)
        report({"kind": "epoch", "epochs": config.epochs, "losses": list(sums), **record})
    return ema, history


@torch.no_grad()
def predict_logits(network: nn.Module, dataset: LogoDataset, device: torch.device, batch_size: int = 32) -> np.ndarray:
    """(N, K) float32 logits of the dataset's items in order, in evaluation mode, without mixed precision."""
    network.eval()
    batches = []
    for start in range(0, len(dataset), batch_size):
        pixels = torch.stack([dataset[i][0] for i in range(start, min(start + batch_size, len(dataset)))])
        batches.append(network(pixels.to(device)).float().cpu().numpy())
    return np.concatenate(batches)


def supervised_objective(label_smoothing: float) -> Objective:
    """Cross-entropy on smoothed soft labels, weighted per logo."""

    def objective(network, pixels, targets, weights, _positions):
        smoothed = targets * (1 - label_smoothing) + label_smoothing / targets.shape[1]  # (B, K)
        losses = -(smoothed * network(pixels).float().log_softmax(1)).sum(1)  # (B,)
        return {"cross_entropy": (losses * weights).mean()}

    return objective


def optimizer_scalars(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The learning rate and, where the optimiser has them, its other scalars that change or matter, by name."""
    group = optimizer.param_groups[0]
    return {name: float(group[key]) for key, name in OPTIMIZER_SCALARS.items() if key in group}


class _EpochSampler(Sampler):
    """Positions epoch * N + index for every epoch from `first` on, each epoch in its own seeded order."""

    def __init__(self, count: int, kept: int, epochs: range, seed: int):
        self.count, self.kept, self.epochs, self.seed = count, kept, epochs, seed

    def __iter__(self) -> Iterator[int]:
        for epoch in self.epochs:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.count)[: self.kept]
            yield from (epoch * self.count + order).tolist()

    def __len__(self) -> int:
        return self.kept * len(self.epochs)


def _training_loader(
    dataset, config: FitConfig, steps: int, first: int, seed: int, collate, loaders: int
) -> DataLoader:
    kept = steps * config.batch_size if len(dataset) >= config.batch_size else len(dataset)
    sampler = _EpochSampler(len(dataset), kept, range(first, config.epochs), seed)
    return DataLoader(
        dataset, batch_size=config.batch_size, sampler=sampler, num_workers=loaders, collate_fn=collate,
        pin_memory=torch.cuda.is_available(), prefetch_factor=4 if loaders else None,
    )  # fmt: skip


def keep_memory() -> None:
    """Tells glibc to keep freed memory: giving it back after each layer costs a quarter of a CPU step's time."""
    if not (library := _glibc()):
        return
    for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 64 * 2**20)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
        library.mallopt(option, value)


def return_memory() -> None:
    """Gives all freed memory back: the stages after a fit would come on top of it."""
    if library := _glibc():
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libc.so.6")
    except OSError:
        return None


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay on matrices and kernels only, not on biases and normalisation; what is frozen is left out."""
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in learned if parameter.ndim > 1]
    plain = [parameter for parameter in learned if parameter.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _set_learning_rate(optimizer: torch.optim.Optimizer, config: FitConfig, epoch: float) -> None:
    warm = min(config.warmup_epochs, config.epochs / 2)
    if epoch < warm:
        share = (epoch + 1e-3) / warm
    else:
        share = 0.5 * (1 + math.cos(math.pi * (epoch - warm) / max(1e-9, config.epochs - warm)))
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * share


def _peak_memory(device: torch.device) -> dict[str, float]:
    """Peak resident memory of this process in MB, without the processes that make batches, and that of the GPU."""
    found = {}
    if resource:
        unit_bytes = 1 if sys.platform == "darwin" else 1024
        found["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes / 1e6, 1)
    if device.type == "cuda":
        found["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return found


def _remove_snapshots(folder: Path, *, after: int) -> None:
    """Those of later epochs than `after`: they are of an earlier fit, which this one replaces."""
    for path in folder.glob("epoch-*.safetensors"):
        if int(path.stem.removeprefix("epoch-")) > after:
            path.unlink()


@torch.no_grad()
def _update_ema(ema: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """The decay grows with the steps, so that the first weights are soon forgotten (as in timm's ModelEmaV3)."""
    decay = min(decay, (1 + step) / (10 + step))
    averaged = [tensor for tensor in ema.state_dict().values() if tensor.is_floating_point()]
    current = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    torch._foreach_lerp_(averaged, current, 1 - decay)


def _save_state(path: Path, network, ema, optimizer, history: list[dict], config: FitConfig) -> None:
    tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
    tensors |= {f"ema.{key}": value for key, value in ema.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": value for slot, value in slots.items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    metadata = {"history": json.dumps(history), "config": repr(config)}
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata)
    os.replace(part, path)


def _load_state(path: Path, network, ema, optimizer, config: FitConfig) -> list[dict]:
    if not path.exists():
        return []
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        if metadata["config"] != repr(config):
            raise RunError(f"{path} was written by another configuration; remove it, or give this run another folder")
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no dict)
    for prefix, module in (("network.", network), ("ema.", ema)):
        module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    slots: dict[int, dict] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, slot = key.split(".")
            slots.setdefault(int(index), {})[slot] = value
    if slots:
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return json.loads(metadata["history"])
