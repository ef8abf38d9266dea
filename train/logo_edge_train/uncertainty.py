"""What an ensemble, or draws from one network, do not know: predictive entropy, parted into aleatoric and epistemic.

Members or draws come as (M, N, K) logits: M of them, N logos, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from logo_edge.probabilities import softmax
from logo_edge_train.losses import SupervisedObjective
from logo_edge_train.models import BayesianLinear, LogoNetwork, bayesian_layers, normalise
from logo_edge_train.recipe import BayesConfig

BATCH = 32


@dataclass(frozen=True)
class Uncertainty:
    """Of N predictions, (N,) each, in nats, 0 to log K: total = aleatoric + epistemic."""

    total: np.ndarray  # entropy of the mean probability
    aleatoric: np.ndarray  # mean entropy: what each member leaves open
    epistemic: np.ndarray  # mutual information of label and member: what they disagree on


def decompose(logits: np.ndarray, weights: np.ndarray | None = None) -> Uncertainty:
    """The uncertainty of the mean over (M, N, K) logits' probabilities, each member counting by its weight, (M, N).

    Weights sum to 1 over the members; None: all the same. Depeweg et al. 2018, arXiv:1710.07283; Smith and Gal 2018,
    arXiv:1803.08533.
    """
    probabilities = softmax(logits)
    if weights is None:
        weights = np.full(logits.shape[:2], 1 / len(logits))
    total = entropy((weights[..., None] * probabilities).sum(0))
    aleatoric = (weights * entropy(probabilities)).sum(0)
    return Uncertainty(total, aleatoric, np.maximum(total - aleatoric, 0.0))  # rounding may leave it at -1e-17


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Shannon entropy over the last axis, nats."""
    return -(probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(-1)


def weigh_members(logits: np.ndarray) -> np.ndarray:
    """(M, N): how much each member counts for each logo, summing to 1 over the members.

    In proportion to what it has learned of the logo: log K less its entropy, the fall from a uniform prior. Cao and
    Fleet 2014, arXiv:1410.7827 (generalised product of experts).
    """
    learned = np.log(logits.shape[-1]) - entropy(softmax(logits))
    learned = np.maximum(learned, 1e-12)  # where none has learned anything, all count the same
    return learned / learned.sum(0)


def weighted_logits(logits: np.ndarray) -> np.ndarray:
    """(N, K) log probabilities of the members' product, each to the power of its weight for the logo; from (M, N, K)."""
    pooled = (weigh_members(logits)[..., None] * np.log(np.maximum(softmax(logits), 1e-12))).sum(0)
    return (pooled - np.logaddexp.reduce(pooled, axis=1, keepdims=True)).astype(np.float32)


@contextmanager
def drawing(network: LogoNetwork) -> Iterator[None]:
    """A context in which the network draws: dropout and distributions of weights as in training, all else as in evaluation.

    Gal and Ghahramani 2016, arXiv:1506.02142.
    """
    network.eval()
    for module in network.modules():
        if module is network.backbone or isinstance(module, (nn.Dropout, BayesianLinear)):
            module.training = True  # not train(), which would reach the batch statistics below it
    try:
        yield
    finally:
        network.eval()


@torch.no_grad()
def sample_logits(
    network: LogoNetwork, pixels: np.ndarray, device: torch.device, *, samples: int, seed: int = 0
) -> np.ndarray:
    """(M, N, K) float32: so many draws from what the network says of (N, S, S, 3) uint8 pixels.

    Dropout and distributions of weights are the classifier's alone, so that the layers below it run once. One draw is one
    set of weights for all logos. A network that has neither (`Run.load_member(drawing=True)` keeps them) says M times
    the same.
    """
    network.to(device).eval()
    parts = []
    for start in range(0, len(pixels), BATCH):
        planes = normalise(torch.from_numpy(pixels[start : start + BATCH]).to(device))
        features = network.backbone.forward_features(planes)
        draws = []
        with drawing(network), torch.random.fork_rng([device] if device.type == "cuda" else []):
            for sample in range(samples):
                torch.manual_seed(seed * 1_000_003 + sample)  # of a CPU's seed only 32 bits count
                draws.append(network.backbone.forward_head(features).float())
        parts.append(torch.stack(draws).cpu().numpy())
    return np.concatenate(parts, 1)


class BayesianObjective(nn.Module):
    """The objective and, as `kl`, what its Bayesian layers have moved from their prior, in nats per logo.

    Together they are the negative evidence lower bound per logo of `logos`, where the KL counts in full (Blundell et al.
    2015, equation 2). The epoch that anneals it is a buffer, so that a resumed fit goes on alike.
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
        """As SupervisedObjective.end_step."""
        self.objective.end_step()

    def end_epoch(self, epoch: int) -> dict:
        """As SupervisedObjective.end_epoch."""
        self.epoch.fill_(epoch + 2)
        return self.objective.end_epoch(epoch)
