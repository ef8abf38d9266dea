"""What moves the weights: AdamW's parameter groups, Ranger, and the sharpness-aware gradient (SAM, ASAM).

Foret et al. 2021, arXiv:2010.01412; Kwon et al. 2021, arXiv:2102.11600. docs/optimisation.md says what was decided, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from timm.optim import Lookahead
from torch import nn

from logo_edge_train import distributed
from logo_edge_train.recipe import SamConfig

SCALARS = {"lr": "learning_rate", "rho": "rho", "gradient_norm": "gradient_norm"}
"""What a parameter group may hold, and its name in a report."""

TINY = 1e-12
NORM_DECAY = 0.98  # of the running mean of the gradient's norm, per step
RHO_RANGE = 2.0  # an adapted rho is at most so many times the recipe's, and at least that part of it
_perturbed = ContextVar("perturbed", default=False)


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict]:
    """Weight decay on matrices and kernels only, not on biases, normalisation and what has a prior of its own.

    What is frozen is left out.
    """
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    decayed = [parameter for parameter in learned if parameter.ndim > 1 and not hasattr(parameter, "has_prior")]
    plain = [parameter for parameter in learned if parameter.ndim <= 1 or hasattr(parameter, "has_prior")]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def ranger(groups: list[dict]) -> torch.optim.Optimizer:
    """RAdam (Liu et al. 2020, arXiv:1908.03265) with Lookahead (Zhang et al. 2019, arXiv:1907.08610).

    As in timm, the slow weights begin where the fast ones are at the first of their meetings, every sixth step.
    """
    return Lookahead(torch.optim.RAdam(groups, decoupled_weight_decay=True))


def optimizer_scalars(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The learning rate and, where the optimiser has them, its other scalars that change or matter, by name."""
    group = optimizer.param_groups[0]
    return {name: float(group[key]) for key, name in SCALARS.items() if key in group}


def is_perturbed() -> bool:
    """Whether a loss is being asked for at perturbed weights: it then sees a batch for the second time, and must not adapt."""
    return _perturbed.get()


class SharpnessAware:
    """The gradient of the weights w + e instead of w, where e raises the loss g . e most within a neighbourhood of w.

    With a batch's gradient g and T = 1 (SAM) or |w| (ASAM), e = rho_i T^2 g / ||T g||: the norm is over all that learns,
    and rho_i = `scale` x rho differs for biases and normalisation (parameters of one dimension), the stem (the network's
    first convolution) and the rest.

    With `adapt` = a, rho is the recipe's times (||T g|| / m)^a, within a factor of RHO_RANGE, where m is the running mean
    of ||T g|| before this step. Where the gradient is large for its time the loss is sharp, as Jiang et al. 2023,
    arXiv:2304.14647, find, who perturb at such steps only; with a = 1, e is g in units of m, the step that is not
    normalised of Andriushchenko and Flammarion 2022, arXiv:2206.06232. `history` tells m where a fit goes on.
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
        """What `add(hold=...)` gives at the weights themselves, after the gradient at the perturbed ones was left behind.

        `add` adds the gradients of a whole batch, of all its parts, to the network's, which must be none; with `hold`
        they stay with this rank. Both passes draw the same noise from PyTorch's generators, and buffers, such as the
        running statistics of batch normalisation, keep what the first has made of them. The weights come back to the bit.
        The optimizer's groups get `rho` and `gradient_norm` as they are at this step.
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
        """This step's rho, after the weights were moved by their gradients."""
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
    """A context in which `is_perturbed`."""
    token = _perturbed.set(True)
    try:
        yield
    finally:
        _perturbed.reset(token)
