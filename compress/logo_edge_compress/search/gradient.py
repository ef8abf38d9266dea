"""The mathematics of the search: its bilevel gradient, the penalties, and the derived architecture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import torch
from torch import nn

from logo_edge_train.recipe import SearchConfig

PROBE_RADIUS = 0.01  # by which the finite difference moves the weights, over the norm of the direction (DARTS, eq. 8)

Loss = Callable[[], torch.Tensor]


def architecture_gradient(
    alphas: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    fitting_loss: Loss,
    held_out_loss: Loss,
    inner_rate: float,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The held-out loss and its gradient for the alphas, after a step of the weights at `inner_rate` on `fitting_loss`.

    The weights after the step depend on the alphas too. That part of the gradient is a Hessian-vector product, computed
    as a finite difference of first gradients (DARTS, eq. 7 and 8). A rate of 0 gives the first-order gradient at the
    present weights. The weights are restored.
    """
    if not inner_rate:
        loss = held_out_loss()
        return loss.detach(), list(torch.autograd.grad(loss, alphas))
    before = [weight.detach().clone() for weight in weights]
    step = torch.autograd.grad(fitting_loss(), weights, materialize_grads=True)
    _set_weights(weights, before, step, -inner_rate)
    loss = held_out_loss()
    gradients = torch.autograd.grad(loss, [*alphas, *weights], materialize_grads=True)
    direct, ahead = gradients[: len(alphas)], gradients[len(alphas) :]
    radius = PROBE_RADIUS / float(nn.utils.get_total_norm(ahead).clamp(min=1e-12))
    sides = []
    for sign in (1, -1):
        _set_weights(weights, before, ahead, sign * radius)
        sides.append(torch.autograd.grad(fitting_loss(), alphas))
    _set_weights(weights, before, ahead, 0.0)
    through = [(above - below) / (2 * radius) for above, below in zip(*sides, strict=True)]
    return loss.detach(), [here - inner_rate * there for here, there in zip(direct, through, strict=True)]


def penalties(
    shares: Sequence[torch.Tensor], costs: Sequence[torch.Tensor], config: SearchConfig, progress: float
) -> dict[str, torch.Tensor]:
    """The penalties that are added to the held-out loss: for the entropy of the shares and for their expected latency.

    The entropy (mean of the choices, 1 where all options have equal shares) is weighted by `progress`, 0 to 1, of its
    weight. The latency counts by its logarithm (FBNet), and only above the target.
    """
    added = {"entropy_penalty": config.entropy_weight * progress * mean_entropy(shares)}
    if config.target_ms:
        over = (expected_ms(shares, costs) / config.target_ms).log().clamp(min=0)
        added["latency_penalty"] = config.latency_weight * over
    return added


def expected_ms(shares: Sequence[torch.Tensor], costs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The expected latency of an architecture drawn by the shares."""
    return sum((share * cost).sum() for share, cost in zip(shares, costs, strict=True))


def mean_entropy(shares: Sequence[torch.Tensor]) -> torch.Tensor:
    """Entropy of the shares, relative to its maximum, mean over the choices: 0 (decided) to 1 (all equal)."""
    return sum(torch.special.entr(share).sum() / math.log(max(2, len(share))) for share in shares) / len(shares)


def derive(shares: Sequence[Sequence[float]], costs: Sequence[np.ndarray], target_ms: float) -> tuple[int, int, int]:
    """The most likely (backbone, attention, head) that costs at most `target_ms`; 0: no limit."""
    likelihood = reduce(np.multiply.outer, [np.array(share) for share in shares])  # (backbones, attentions, heads)
    if target_ms:
        likelihood = np.where(reduce(np.add.outer, costs) <= target_ms, likelihood, -1.0)
    return tuple(int(index) for index in np.unravel_index(likelihood.argmax(), likelihood.shape))


def _set_weights(
    weights: Sequence[torch.Tensor], origin: Sequence[torch.Tensor], direction: Sequence[torch.Tensor], distance: float
) -> None:
    """Puts the weights at `origin + distance * direction`."""
    with torch.no_grad():
        torch._foreach_copy_(list(weights), torch._foreach_add(list(origin), list(direction), alpha=distance))
