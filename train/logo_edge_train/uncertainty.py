"""Predictive entropy of an ensemble, or of draws from one network, split into aleatoric and epistemic parts.

Logits are (M, N, K): M members or draws, N images, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from logo_edge.probabilities import entropy, softmax
from logo_edge_train.losses import SupervisedObjective
from logo_edge_train.models import BayesianLinear, LogoNetwork, bayesian_layers, normalise
from logo_edge_train.recipe import BayesConfig

BATCH = 32


@dataclass(frozen=True)
class Uncertainty:
    """The uncertainty of N predictions, (N,) each, in nats, 0 to log K; total = aleatoric + epistemic."""

    total: np.ndarray  # entropy of the mean probability
    aleatoric: np.ndarray  # mean entropy of the members
    epistemic: np.ndarray  # mutual information of label and member: their disagreement


def decompose(logits: np.ndarray, weights: np.ndarray | None = None) -> Uncertainty:
    """The uncertainty of the weighted mean probability of (M, N, K) logits.

    `weights` (M, N) sum to 1 over the members; None: equal. Depeweg et al. 2018, arXiv:1710.07283; Smith and Gal 2018,
    arXiv:1803.08533.
    """
    probabilities = softmax(logits)
    if weights is None:
        weights = np.full(logits.shape[:2], 1 / len(logits))
    total = entropy((weights[..., None] * probabilities).sum(0))
    aleatoric = (weights * entropy(probabilities)).sum(0)
    return Uncertainty(total, aleatoric, np.maximum(total - aleatoric, 0.0))  # rounding may leave it at -1e-17


def weigh_members(logits: np.ndarray) -> np.ndarray:
    """(M, N): the weight of each member for each image; weights sum to 1 over the members.

    Proportional to log K - entropy, the reduction of entropy from a uniform prior. Cao and Fleet 2014, arXiv:1410.7827
    (generalised product of experts).
    """
    reduction = np.log(logits.shape[-1]) - entropy(softmax(logits))
    reduction = np.maximum(reduction, 1e-12)  # equal weights if every member is uniform
    return reduction / reduction.sum(0)


def weighted_logits(logits: np.ndarray) -> np.ndarray:
    """(N, K) log probabilities: the product of the members, each to the power of its weight, from (M, N, K) logits."""
    pooled = (weigh_members(logits)[..., None] * np.log(np.maximum(softmax(logits), 1e-12))).sum(0)
    return (pooled - np.logaddexp.reduce(pooled, axis=1, keepdims=True)).astype(np.float32)


@contextmanager
def drawing(network: LogoNetwork) -> Iterator[None]:
    """A context with dropout and weight distributions in training mode, all else in evaluation mode.

    Gal and Ghahramani 2016, arXiv:1506.02142.
    """
    network.eval()
    for module in network.modules():
        if module is network.backbone or isinstance(module, (nn.Dropout, BayesianLinear)):
            module.training = True  # not train(), which would also reach BatchNorm layers
    try:
        yield
    finally:
        network.eval()


@torch.no_grad()
def sample_logits(
    network: LogoNetwork, pixels: np.ndarray, device: torch.device, *, samples: int, seed: int = 0
) -> np.ndarray:
    """(M, N, K) float32: `samples` draws of the network's logits for (N, S, S, 3) uint8 pixels.

    Only the classifier has dropout and weight distributions, so the layers below it run once. One draw is one set of
    weights for all images. A network without both gives M equal draws; `Run.load_member(drawing=True)` keeps them.
    """
    network.to(device).eval()
    parts = []
    for start in range(0, len(pixels), BATCH):
        planes = normalise(torch.from_numpy(pixels[start : start + BATCH]).to(device))
        features = network.backbone.forward_features(planes)
        draws = []
        with drawing(network), torch.random.fork_rng([device] if device.type == "cuda" else []):
            for sample in range(samples):
                torch.manual_seed(seed * 1_000_003 + sample)  # a CPU generator uses 32 bits of the seed
                draws.append(network.backbone.forward_head(features).float())
        parts.append(torch.stack(draws).cpu().numpy())
    return np.concatenate(parts, 1)


class BayesianObjective(nn.Module):
    """The objective and, as `kl`, the KL divergence of the Bayesian layers from their prior, in nats per image.

    After annealing, with a KL weight of 1, their sum is the negative evidence lower bound per image (Blundell et al.
    2015, equation 2). The epoch of the annealing is a buffer, for a resumed fit.
    """

    def __init__(self, objective: SupervisedObjective, config: BayesConfig, logos: int):
        super().__init__()
        self.objective, self.config, self.logos = objective, config, logos
        self.register_buffer("epoch", torch.tensor(1))

    def forward(self, network: nn.Module, *batch: torch.Tensor) -> dict[str, torch.Tensor]:
        annealed = self.config.kl_weight * min(1.0, int(self.epoch) / max(1, self.config.kl_warmup_epochs))
        divergence = sum(layer.kl_divergence() for layer in bayesian_layers(network))
        return {**self.objective(network, *batch), "kl": annealed * divergence / self.logos}

    def end_step(self) -> None:
        """See SupervisedObjective.end_step."""
        self.objective.end_step()

    def end_epoch(self, epoch: int) -> dict:
        """See SupervisedObjective.end_epoch."""
        self.epoch.fill_(epoch + 2)
        return self.objective.end_epoch(epoch)
