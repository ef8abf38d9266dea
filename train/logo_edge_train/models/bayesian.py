"""A linear layer with a distribution over each of its weights: Bayes by backprop (Blundell et al. 2015, arXiv:1505.05424)."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

RHO_SCALE = 20.0  # Adam moves every parameter alike by the step: a rho has farther to go than a mean
DEVIATIONS = ("weight_rho", "bias_rho")  # what a state of it has beside the names of a plain linear layer


class BayesianLinear(nn.Linear):
    """(B, F) -> (B, K), with weights drawn anew by each pass in training mode, and with their means in evaluation mode.

    Each weight has a Gaussian of its own, of mean `weight` and deviation softplus(RHO_SCALE `weight_rho`), and so have
    biases. The means are those of `linear`, the deviations begin at `first_deviation`; a priori all are Gaussian of mean 0 and
    `prior_deviation`. The logits are linear in the weights: those of the means are the mean logits of all draws.
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
            Normal(mean, functional.softplus(RHO_SCALE * rho), validate_args=False)  # a check waits for the GPU
            for mean, rho in ((self.weight, self.weight_rho), (self.bias, self.bias_rho))
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(features)
        return functional.linear(features, *(part.rsample() for part in self.posterior()))

    def kl_divergence(self) -> torch.Tensor:
        """Scalar, nats: of the posterior from the prior, in closed form, which Blundell et al. estimate by the draw."""
        prior = Normal(0.0, self.prior_deviation)
        return sum(kl_divergence(part, prior).sum() for part in self.posterior())


def bayesian_layers(network: nn.Module) -> list[BayesianLinear]:
    """The network's layers whose weights are distributions."""
    return [module for module in network.modules() if isinstance(module, BayesianLinear)]


def mean_weights(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state of the mean network: that of a plain one, without the deviations."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(DEVIATIONS)}
