"""Parameter groups, the Ranger optimizer, and sharpness-aware gradients (SAM, ASAM).

Foret et al. 2021, arXiv:2010.01412; Kwon et al. 2021, arXiv:2102.11600. docs/make/techniques.md has the decisions
and their reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from timm.optim import Lookahead
from torch import nn

from logo_edge_train import distributed
from logo_edge_train.fit_config import SamConfig

SCALARS = {"lr": "learning_rate", "rho": "rho", "gradient_norm": "gradient_norm"}
"""Keys of a parameter group, and their names in a report."""

TINY = 1e-12
NORM_DECAY = 0.98  # per step, of the running mean of the gradient norm
RHO_RANGE = 2.0  # an adapted rho is within this factor of the recipe's
_perturbed = ContextVar("perturbed", default=False)


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict]:
    """Groups with weight decay (matrices and kernels) and without (biases, normalisation, weights with a prior).

    Frozen parameters are left out.
    """
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    decayed = [parameter for parameter in learned if parameter.ndim > 1 and not hasattr(parameter, "has_prior")]
    plain = [parameter for parameter in learned if parameter.ndim <= 1 or hasattr(parameter, "has_prior")]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def ranger(groups: list[dict]) -> torch.optim.Optimizer:
    """RAdam (Liu et al. 2020, arXiv:1908.03265) with Lookahead (Zhang et al. 2019, arXiv:1907.08610).

    As in timm, the slow weights start from the fast ones at the first synchronisation; there is one every sixth step.
    """
    return Lookahead(torch.optim.RAdam(groups, decoupled_weight_decay=True))


def optimizer_scalars(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The learning rate and, with SAM, rho and the gradient norm, by name."""
    group = optimizer.param_groups[0]
    return {name: float(group[key]) for key, name in SCALARS.items() if key in group}


def is_perturbed() -> bool:
    """Whether the loss is computed at perturbed weights: the batch comes a second time, and nothing may adapt to it."""
    return _perturbed.get()


class SharpnessAware:
    """The gradient at w + e instead of w, where e maximises g . e in a neighbourhood of the weights w.

    With a batch's gradient g and T = 1 (SAM) or |w| (ASAM), e = rho_i T^2 g / ||T g||. The norm is over all trained
    parameters. rho_i = scale x rho, with one scale for biases and normalisation (parameters of one dimension), one for
    the stem (the first convolution) and 1 for the rest.

    With `adapt` = a, rho is the recipe's times (||T g|| / m)^a, within a factor of RHO_RANGE; m is the running mean of
    ||T g|| before this step. A gradient that is large for its time indicates a sharp loss (Jiang et al. 2023,
    arXiv:2304.14647, perturb only at such steps). With a = 1, e is g in units of m: the unnormalised step of
    Andriushchenko and Flammarion 2022, arXiv:2206.06232. A resumed fit takes m from `history`.
    """

    def __init__(self, network: nn.Module, config: SamConfig, history: list[dict]):
        self.network, self.config = network, config
        stem = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
        in_stem = set(stem.parameters()) if stem else set()
        self.scales = {
            parameter: config.plain_scale if parameter.ndim <= 1 else config.stem_scale if parameter in in_stem else 1.0
            for parameter in network.parameters()
        }
        self.mean_norm = history[-1].get("gradient_norm") if history else None

    def add_gradients(
        self, optimizer: torch.optim.Optimizer, add: Callable[..., dict[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """The losses of `add(hold=...)` at the weights w; leaves the gradient at the perturbed weights.

        `add` adds the gradients of a whole batch to the network, whose gradients must be None; with `hold` they are not
        averaged over the ranks. Both passes draw the same noise from PyTorch's generators. Buffers, such as the
        statistics of BatchNorm, keep their values of the first pass. The weights are restored bit for bit. The
        optimizer's groups get this step's `rho` and `gradient_norm`.
        """
        devices = {parameter.device for parameter in self.scales if parameter.is_cuda}
        with torch.random.fork_rng(devices):
            losses = add(hold=self.config.scope == "process")
        weights = [parameter for parameter in self.scales if parameter.grad is not None]
        kept = [tensor.detach().clone() for tensor in (*weights, *self.network.buffers())]
        rho = self._perturb(weights)
        for group in optimizer.param_groups:
            group |= {"rho": rho, "gradient_norm": self.mean_norm}
        optimizer.zero_grad(set_to_none=True)
        with perturbing():
            add()
        with torch.no_grad():
            for tensor, before in zip((*weights, *self.network.buffers()), kept, strict=True):
                tensor.copy_(before)
        return losses

    @torch.no_grad()
    def _perturb(self, weights: list[nn.Parameter]) -> float:
        """Perturbs the weights along their gradients; returns this step's rho."""
        gradients = [weight.grad for weight in weights]
        sizes = torch._foreach_abs(weights) if self.config.kind == "asam" else None
        scaled = torch._foreach_mul(gradients, sizes) if sizes else gradients  # T g
        norm = nn.utils.get_total_norm(scaled)
        rho = self._adapt(distributed.reduce_mean({"norm": norm.item()})["norm"])
        directions = torch._foreach_mul(scaled, sizes) if sizes else scaled  # T^2 g
        steps = torch._foreach_mul(directions, [rho * self.scales[weight] for weight in weights])
        torch._foreach_div_(steps, norm + TINY)
        torch._foreach_add_(weights, steps)
        return rho

    def _adapt(self, norm: float) -> float:
        before = norm if self.mean_norm is None else self.mean_norm
        self.mean_norm = NORM_DECAY * before + (1 - NORM_DECAY) * norm
        ratio = ((norm + TINY) / (before + TINY)) ** self.config.adapt
        return self.config.rho * min(max(ratio, 1 / RHO_RANGE), RHO_RANGE)


@contextmanager
def perturbing() -> Iterator[None]:
    """A context in which `is_perturbed` is true."""
    token = _perturbed.set(True)
    try:
        yield
    finally:
        _perturbed.reset(token)
