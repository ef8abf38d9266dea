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
    """Parameter name -> a random step of its shape, each filter with the norm of the network's filter.

    Vectors (biases, normalisation) and buffers (batch-norm statistics) do not move.
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


class Plane:
    """Weights on a plane through a network's own, along two random directions; the network itself is not changed."""

    def __init__(self, network: nn.Module, seed: int):
        self.directions = [random_direction(network, seed + offset) for offset in range(2)]
        self.moved = copy.deepcopy(network).eval().requires_grad_(False)
        self.parameters = {
            name: parameter for name, parameter in self.moved.named_parameters() if name in self.directions[0]
        }
        self.origin = {name: parameter.clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def loss(self, across: float, up: float, pixels: np.ndarray, targets: np.ndarray) -> float:
        """Mean cross-entropy in nats at these steps on (N, S, S, 3) uint8; non-finite values count as 1e9."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.origin[name])
            for step, direction in zip((across, up), self.directions, strict=True):
                parameter.add_(direction[name], alpha=step)
        images, labels, total = torch.from_numpy(pixels), torch.from_numpy(targets), 0.0
        for start in range(0, len(images), BATCH):
            logits = self.moved(images[start : start + BATCH])
            total += float(cross_entropy(logits, labels[start : start + BATCH], reduction="sum"))
        return float(np.nan_to_num(total / len(images), nan=1e9, posinf=1e9))


def loss_plane(
    network: nn.Module,
    pixels: np.ndarray,
    targets: np.ndarray,
    *,
    points: int,
    reach: float,
    seed: int,
    say: Callable[[str], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Steps (S,) and mean losses (S, S) in nats, [j, i] at step i along the first and j along the second direction.

    `points` is odd, so that the middle is the network itself.
    """
    plane, steps, losses = Plane(network, seed), np.linspace(-reach, reach, points), np.empty((points, points))
    for row, up in enumerate(steps):
        say(f"row {row + 1} of {points}")
        losses[row] = [plane.loss(across, up, pixels, targets) for across in steps]
    return steps, losses


def find_reach(network: nn.Module, pixels: np.ndarray, targets: np.ndarray, *, rise: float, seed: int) -> float:
    """The largest of 1, 1/2, 1/4, ... 1/1024 at which the four ends of the plane's axes are less than `rise` nats
    above the middle on the mean: how far one can look before the loss leaves the bowl."""
    plane, reach = Plane(network, seed), 1.0
    centre = plane.loss(0, 0, pixels, targets)
    while reach > 1 / 1024:
        ends = [plane.loss(x * reach, y * reach, pixels, targets) for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1))]
        if np.mean(ends) < centre + rise:
            break
        reach /= 2
    return reach
