"""The loss around trained weights, on a plane through them along two random, filter-normalised directions."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.linalg import vector_norm
from torch.nn.functional import cross_entropy

BATCH = 32
Direction = dict[str, torch.Tensor]


def random_direction(network: nn.Module, seed: int) -> Direction:
    """Parameter name -> a random step of its shape, each filter of the norm that the network's own filter has.

    Vectors (biases, normalisation) stay still, as do all buffers, batch-norm statistics among them.
    Li et al. 2018, arXiv:1712.09913, section 4.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = {}
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2:
            continue
        step = torch.randn(parameter.shape, generator=generator)
        axes = tuple(range(1, parameter.ndim))
        norms = vector_norm(parameter.detach(), dim=axes, keepdim=True)
        steps[name] = step * (norms / vector_norm(step, dim=axes, keepdim=True).clamp_min(1e-12))
    return steps


@torch.inference_mode()
def loss_plane(
    network: nn.Module, pixels: np.ndarray, targets: np.ndarray, *, points: int, reach: float, seed: int,
    say: Callable[[str], None],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Steps (S,) and mean losses (S, S) in nats, [j, i] at step i along the first and j along the second direction.

    pixels: (N, S, S, 3) uint8; `points` is odd, so that the middle is the network itself, which stays as it is.
    """
    first, second = (random_direction(network, seed + offset) for offset in range(2))
    moved = copy.deepcopy(network).eval()
    origin = {name: parameter.detach().clone() for name, parameter in moved.named_parameters() if name in first}
    places = {name: parameter for name, parameter in moved.named_parameters() if name in first}
    steps, images, labels = np.linspace(-reach, reach, points), torch.from_numpy(pixels), torch.from_numpy(targets)
    losses = np.empty((points, points))
    for row, up in enumerate(steps):
        say(f"row {row + 1} of {points}")
        for column, across in enumerate(steps):
            for name, parameter in places.items():
                parameter.copy_(origin[name]).add_(first[name], alpha=across).add_(second[name], alpha=up)
            losses[row, column] = mean_loss(moved, images, labels)
    return steps, losses


@torch.inference_mode()
def mean_loss(network: nn.Module, pixels: torch.Tensor, targets: torch.Tensor) -> float:
    """Mean cross-entropy in nats; not finite counts as the largest float32."""
    total = 0.0
    for start in range(0, len(pixels), BATCH):
        logits = network(pixels[start : start + BATCH])
        total += float(cross_entropy(logits, targets[start : start + BATCH], reduction="sum"))
    return float(np.nan_to_num(total / len(pixels), nan=3.4e38, posinf=3.4e38))
