"""White-box attacks on a checkpoint, in units of pixels of 0 to 255: FGSM and PGD under the maximum norm.

What is attacked is RGB as the network sees it; detail planes stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def fgsm(network: nn.Module, pixels: torch.Tensor, targets: torch.Tensor, radius: float) -> torch.Tensor:
    """One step of length `radius` up the loss, (B, S, S, C) float of 0 to 255. Goodfellow et al. 2015, arXiv:1412.6572."""
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

    `start` (B, S, S, C), of -1 to 1, says where in the ball each image starts; left out: in its middle.
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
    """Batches of attacked pixels (B, S, S, C) uint8, of (N, S, S, C) uint8 ones; the network is left in evaluation mode.

    PGD starts at random. Rounding to whole values keeps within a whole `radius`.
    """
    network.eval()
    random = torch.Generator().manual_seed(seed)
    for first in range(0, len(pixels), batch_size):
        batch = torch.from_numpy(pixels[first : first + batch_size]).float()
        labels = torch.from_numpy(targets[first : first + batch_size]).long()
        options = (
            {"start": _of_rgb(torch.rand(batch.shape, generator=random) * 2 - 1)} if name.startswith("PGD") else {}
        )
        yield ATTACKS[name](network, batch, labels, radius, **options).round().to(torch.uint8).numpy()


def _gradient(network: nn.Module, pixels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    leaf = pixels.detach().requires_grad_(True)
    loss = functional.cross_entropy(network(leaf).float(), targets, reduction="sum")
    return _of_rgb(torch.autograd.grad(loss, leaf)[0])


def _of_rgb(values: torch.Tensor) -> torch.Tensor:
    """The (B, S, S, C) values, with 0 for the channels after RGB."""
    values[..., 3:] = 0
    return values


def _project(attacked: torch.Tensor, pixels: torch.Tensor, radius: float) -> torch.Tensor:
    return torch.clamp(torch.clamp(attacked, pixels - radius, pixels + radius), 0, 255).detach()
