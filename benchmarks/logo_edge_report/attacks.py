"""White-box attacks on a checkpoint, in units of pixels of 0 to 255: FGSM and PGD under the maximum norm.

Attacks change the RGB input of the network; detail planes stay unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from logo_edge_train.losses import binary_cross_entropy


def fgsm(network: nn.Module, pixels: torch.Tensor, targets: torch.Tensor, radius: float) -> torch.Tensor:
    """One step of `radius` up the loss, (B, S, S, C) float, 0 to 255. Goodfellow et al. 2015, arXiv:1412.6572."""
    return _project(pixels + radius * _gradient(network, pixels, targets).sign(), pixels, radius)


def pgd(
    network: nn.Module,
    pixels: torch.Tensor,
    targets: torch.Tensor,
    radius: float,
    *,
    steps: int = 10,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """`steps` steps of radius / 4 up the loss, (B, S, S, C) float. Madry et al. 2018, arXiv:1706.06083.

    `start` (B, S, S, C), -1 to 1, is the starting point of each image in the ball; default: its centre.
    """
    attacked = pixels if start is None else _project(pixels + radius * start, pixels, radius)
    for _ in range(steps):
        attacked = _project(attacked + radius / 4 * _gradient(network, attacked, targets).sign(), pixels, radius)
    return attacked


ATTACKS: dict[str, Callable[..., torch.Tensor]] = {"FGSM": fgsm, "PGD-10": pgd}


def attack(
    name: str,
    network: nn.Module,
    pixels: np.ndarray,
    targets: np.ndarray,
    radius: int,
    *,
    batch_size: int = 32,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """Batches of attacked pixels (B, S, S, C) uint8, from (N, S, S, C) uint8; leaves the network in evaluation mode.

    PGD starts at random. Rounding to integers stays within an integer `radius`.
    """
    network.eval()
    random = torch.Generator().manual_seed(seed)
    for first in range(0, len(pixels), batch_size):
        batch = torch.from_numpy(pixels[first : first + batch_size]).float()
        labels = torch.from_numpy(targets[first : first + batch_size]).long()
        options = (
            {"start": _rgb_only(torch.rand(batch.shape, generator=random) * 2 - 1)} if name.startswith("PGD") else {}
        )
        yield ATTACKS[name](network, batch, labels, radius, **options).round().to(torch.uint8).numpy()


def _gradient(network: nn.Module, pixels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    leaf = pixels.detach().requires_grad_(True)
    logits = network(leaf).float()
    if targets.ndim == 2:  # multi-label
        loss = binary_cross_entropy(logits, targets.float()).sum()
    else:
        loss = functional.cross_entropy(logits, targets, reduction="sum")
    return _rgb_only(torch.autograd.grad(loss, leaf)[0])


def _rgb_only(values: torch.Tensor) -> torch.Tensor:
    """Sets the channels after RGB of (B, S, S, C) values to 0."""
    values[..., 3:] = 0
    return values


def _project(attacked: torch.Tensor, pixels: torch.Tensor, radius: float) -> torch.Tensor:
    return torch.clamp(torch.clamp(attacked, pixels - radius, pixels + radius), 0, 255).detach()
