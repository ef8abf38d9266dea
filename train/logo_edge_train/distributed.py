"""Several processes that fit one network together, as torchrun starts them; with one process everything is the identity.

Each process is a rank. Every function but `rank`, `world_size`, `is_main` and `share` must be called by all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from timm.layers import convert_sync_batchnorm
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from logo_edge.errors import RunError
from logo_edge_train.parallel import under_torchrun


def rank() -> int:
    """The number of this process among those that fit together, from 0 on."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """How many processes fit together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the rank that writes and reports."""
    return rank() == 0


def start(device: torch.device) -> torch.device:
    """The device of this rank, which has joined the processes that torchrun started; without torchrun `device` itself.

    gloo joins them on CPUs, NCCL on GPUs. Raises RunError where there are more processes than GPUs.
    """
    if not under_torchrun():
        return device
    if device.type != "cuda":
        distributed.init_process_group("gloo")
        return device
    local = int(os.environ.get("LOCAL_RANK", 0))
    if local >= torch.cuda.device_count():
        raise RunError(
            f"process {local + 1} of this machine has no GPU of its own, {torch.cuda.device_count()} found; start as "
            "many processes as there are GPUs (torchrun --nproc-per-node), or take --device cpu"
        )
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    distributed.init_process_group("nccl", device_id=device)
    return device


def stop() -> None:
    """Leaves the other processes, at the end of the work."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def wait() -> None:
    """Returns once every rank has come here."""
    if world_size() > 1:
        distributed.barrier()


@contextmanager
def main_first() -> Iterator[None]:
    """A context whose body the main rank runs before all others: what it makes, the others find made."""
    if not is_main():
        wait()
    yield
    if is_main():
        wait()


def on_main(function: Callable) -> Callable:
    """The function itself on the main rank, one that does nothing on all others."""
    return function if is_main() else lambda *_, **__: None


def share(items: Sequence) -> Sequence:
    """This rank's run of the items; those of all ranks, in order, are the whole, and as long as each other but for 1."""
    count, among = len(items), world_size()
    return items[count * rank() // among : count * (rank() + 1) // among]


def gather(part: torch.Tensor) -> torch.Tensor:
    """(R * N, ...): the (N, ...) tensors of all R ranks, in order; every rank's must have the same shape.

    Gradients flow back to the rank whose rows they are, summed over the ranks. `replicate` then takes the mean over the
    ranks, so that a loss which each rank takes as the mean over its own rows, against all, has the gradient of the mean
    over all rows.
    """
    return _Gather.apply(part.contiguous()) if world_size() > 1 else part


def gather_list(items: list) -> list:
    """The items of all ranks, in their order, on every rank."""
    if world_size() == 1:
        return items
    lists: list = [None] * world_size()
    distributed.all_gather_object(lists, items)
    return [item for part in lists for item in part]


def reduce_mean(values: dict[str, float]) -> dict[str, float]:
    """Each value's mean over the ranks."""
    if world_size() == 1:
        return values
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    sums = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    distributed.all_reduce(sums)
    return dict(zip(values, (sums / world_size()).tolist(), strict=True))


def share_statistics(network: nn.Module) -> nn.Module:
    """The network, its batch normalisation over the views of all ranks; gloo knows none of that, and leaves it as it is."""
    if world_size() == 1 or distributed.get_backend() != "nccl":
        return network
    return convert_sync_batchnorm(network)


def replicate(network: nn.Module) -> nn.Module:
    """The network as all ranks train it: it starts as the main rank's, and a backward pass leaves the mean gradient."""
    return DistributedDataParallel(network) if world_size() > 1 else network


def hold_gradients(network: nn.Module) -> AbstractContextManager:
    """A context for all but the last of the passes whose gradients add up: those stay with their rank until the last."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def agree_on_buffers(network: nn.Module) -> None:
    """Gives every rank the main one's buffers: without shared statistics each has measured its own."""
    for buffer in network.buffers() if world_size() > 1 else ():
        distributed.broadcast(buffer, 0)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context, part: torch.Tensor) -> torch.Tensor:
        context.rows = len(part)
        parts = [torch.empty_like(part) for _ in range(world_size())]
        distributed.all_gather(parts, part)
        return torch.cat(parts)

    @staticmethod
    def backward(context, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total[rank() * context.rows :][: context.rows]
