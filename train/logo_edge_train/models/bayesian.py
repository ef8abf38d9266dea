"""A linear layer with a distribution over each weight: Bayes by backprop (Blundell et al. 2015, arXiv:1505.05424)."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

RHO_SCALE = 20.0  # Adam moves all parameters by similar steps, but a rho has a longer way than a mean
DEVIATIONS = ("weight_rho", "bias_rho")  # state keys that a plain linear layer does not have


class BayesianLinear(nn.Linear):
    """(B, F) -> (B, K); each pass draws weights in training mode and uses their means in evaluation mode.

    Each weight and bias is Gaussian, with mean `weight` and deviation softplus(RHO_SCALE x `weight_rho`). The means
    start as those of `linear`, the deviations as `first_deviation`. The prior is Gaussian with mean 0 and
    `prior_deviation`. Logits are linear in the weights, so the mean weights give the mean logits.
    """

    def __init__(self, linear: nn.Linear, prior_deviation: float, first_deviation: float):
        super().__init__(linear.in_features, linear.out_features, device=linear.weight.device)
        self.weight, self.bias, self.prior_deviation = linear.weight, linear.bias, prior_deviation
        rho = math.log(math.expm1(first_deviation)) / RHO_SCALE
        self.weight_rho, self.bias_rho = (nn.Parameter(torch.full_like(mean, rho)) for mean in (self.weight, self.bias))
        for parameter in self.parameters():
            parameter.has_prior = True

    def posterior(self) -> tuple[Normal, Normal]:
        """The distributions of the weights, (K, F), and of the biases, (K,)."""
        return tuple(
            Normal(mean, functional.softplus(RHO_SCALE * rho), validate_args=False)  # a check would wait for the GPU
            for mean, rho in ((self.weight, self.weight_rho), (self.bias, self.bias_rho))
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(features)
        return functional.linear(features, *(part.rsample() for part in self.posterior()))

    def kl_divergence(self) -> torch.Tensor:
        """Scalar, nats: of the posterior from the prior, in closed form (Blundell et al. use draws)."""
        prior = Normal(0.0, self.prior_deviation)
        return sum(kl_divergence(part, prior).sum() for part in self.posterior())


def bayesian_layers(network: nn.Module) -> list[BayesianLinear]:
    """The network's layers with distributions of weights."""
    return [module for module in network.modules() if isinstance(module, BayesianLinear)]


def mean_weights(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state of a plain network with the mean weights: without the deviations."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(DEVIATIONS)}
