"""One process that fits alone, at the interface of several. (The distributed fit brings the functions of several.)"""

from __future__ import annotations

from collections.abc import Callable

import torch


def rank() -> int:
    """The number of this process among those that fit together, from 0 on."""
    return 0


def gather(part: torch.Tensor) -> torch.Tensor:
    """(R * N, ...): the (N, ...) tensors of all R ranks, in order, with gradients."""
    return part


def on_main(function: Callable) -> Callable:
    """The function itself on the main rank, one that does nothing on all others."""
    return function


def wait() -> None:
    """Returns once every rank has come here."""
