"""Several processes of torchrun that fit one network together; with one process, every function is the identity.

Each process is a rank. All ranks must call every function except `rank`, `world_size`, `is_main` and `share`.
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
    """The number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """The number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_main() -> bool:
    """Whether this rank writes and reports."""
    return rank() == 0


def start(device: torch.device) -> torch.device:
    """Joins the processes of torchrun, by gloo on CPUs or NCCL on GPUs; returns this rank's device.

    Without torchrun it returns `device`. Raises RunError if there are more processes than GPUs.
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
    """Leaves the process group at the end of the work."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def wait() -> None:
    """Returns when every rank has called it."""
    if world_size() > 1:
        distributed.barrier()


@contextmanager
def main_first() -> Iterator[None]:
    """A context whose body the main rank runs before the others, which can then use its files."""
    if not is_main():
        wait()
    yield
    if is_main():
        wait()


def on_main(function: Callable) -> Callable:
    """The function itself on the main rank; a function that does nothing on the others."""
    return function if is_main() else lambda *_, **__: None


def share(items: Sequence) -> Sequence:
    """This rank's part of the items: contiguous shards in rank order, whose sizes differ by at most one."""
    count, ranks = len(items), world_size()
    return items[count * rank() // ranks : count * (rank() + 1) // ranks]


def gather(part: torch.Tensor) -> torch.Tensor:
    """(R * N, ...): the (N, ...) tensors of all R ranks, in order; all must have the same shape.

    Gradients flow back to the rank of the rows, summed over the ranks. `replicate` then averages over the ranks. A loss
    that each rank averages over its own rows, compared with all rows, thus has the gradient of the mean over all rows.
    """
    return _Gather.apply(part.contiguous()) if world_size() > 1 else part


def gather_list(items: list) -> list:
    """The items of all ranks in rank order, on every rank."""
    if world_size() == 1:
        return items
    lists: list = [None] * world_size()
    distributed.all_gather_object(lists, items)
    return [item for part in lists for item in part]


def reduce_mean(values: dict[str, float]) -> dict[str, float]:
    """The mean of each value over the ranks."""
    if world_size() == 1:
        return values
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    sums = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    distributed.all_reduce(sums)
    return dict(zip(values, (sums / world_size()).tolist(), strict=True))


def share_statistics(network: nn.Module) -> nn.Module:
    """The network with batch statistics over all ranks; under gloo, which does not support that, unchanged."""
    if world_size() == 1 or distributed.get_backend() != "nccl":
        return network
    return convert_sync_batchnorm(network)


def replicate(network: nn.Module) -> nn.Module:
    """The network with the main rank's weights and gradients averaged over the ranks in the backward pass."""
    return DistributedDataParallel(network) if world_size() > 1 else network


def hold_gradients(network: nn.Module) -> AbstractContextManager:
    """A context in which gradients are not averaged over the ranks: for all but the last of accumulated passes."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def agree_on_buffers(network: nn.Module) -> None:
    """Copies the main rank's buffers to every rank: without shared statistics they differ."""
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
