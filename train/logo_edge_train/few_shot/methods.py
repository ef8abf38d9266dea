"""Three ways to classify by few examples: MAML, prototypical networks, ridge regression on frozen features.

MAML: Finn et al. 2017, arXiv:1703.03400, its inner rates learned as in Meta-SGD (Li et al. 2017, arXiv:1707.09835) or
MAML++ (Antoniou et al. 2019, arXiv:1810.09502), its last layer zero at first (Kao et al. 2022, arXiv:2106.15367), so
that the order and number of classes do not matter. Prototypes: Snell et al. 2017, arXiv:1703.05175. Ridge: Bertinetto
et al. 2019, arXiv:1805.08136, without learning through it.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad
from torch.nn import functional

from logo_edge.errors import RecipeError
from logo_edge_train.architecture import Architecture
from logo_edge_train.fit import Objective
from logo_edge_train.models import LogoNetwork
from logo_edge_train.models.normalise import normalise
from logo_edge_train.recipe import FewShotConfig

SCALE = 10.0  # of logits of features of length 1, where it begins
RATE_PACE = 50.0  # learned rates change faster than weights by this factor: otherwise they are learned too late
BATCH = 64  # images at a time, where nothing is learned


class FewShotNetwork(nn.Module):
    """Support (T, N, K, S, S, 3) and queries (T, M, V, S, S, 3) of T tasks, uint8 -> (T, M, N) logits.

    No method changes `trunk`: the stem and `frozen_blocks` stages. A query's logits are the maxima over its V views.
    Raises RecipeError if stages are to be frozen in a network without stages.
    """

    def __init__(self, network: LogoNetwork, config: FewShotConfig, *, keep_statistics: bool):
        super().__init__()
        self.config, self.keep_statistics = config, keep_statistics
        self.width = network.learn_features(Architecture.parse(config.network).size_px)
        self.trunk, self.rest = split_network(network, config.fit.frozen_blocks)
        self.learned = [name for name, weight in self.rest.named_parameters() if weight.requires_grad]

    def train(self, mode: bool = True) -> FewShotNetwork:
        """Freezes BatchNorm statistics in the trunk and, if the network began at weights, everywhere."""
        super().train(mode)
        for module in self.modules() if self.keep_statistics else self.trunk.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, support: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        tasks, ways, shots = support.shape[:3]
        pixels = torch.cat([support.flatten(0, 2), queries.flatten(0, 2)])
        embedded = self.embed(pixels)
        first, second = embedded.split([tasks * ways * shots, queries.shape[:3].numel()])
        first, second = first.unflatten(0, (tasks, ways * shots)), second.unflatten(0, queries.shape[:3])
        labels = torch.arange(ways, device=support.device).repeat_interleave(shots)
        return torch.stack([self.classify(one, labels, other, ways) for one, other in zip(first, second, strict=True)])

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, ...): the task-independent embedding of (B, S, S, 3) uint8 pixels; here features (B, F) of length 1."""
        return functional.normalize(self.rest(self._trunk_maps(pixels)), dim=1)

    def classify(self, support: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, ways: int) -> torch.Tensor:
        """(M, N) logits of (M, V, ...) embedded queries, given (n, ...) support with labels (n,) of 0 to N - 1."""
        return self.solve(support, labels, queries.flatten(0, 1), ways).unflatten(0, queries.shape[:2]).amax(1)

    def solve(self, support: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, ways: int) -> torch.Tensor:
        """(B, N) logits of single embedded views."""
        raise NotImplementedError

    def _trunk_maps(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.trunk(normalise(pixels))


class Prototypes(FewShotNetwork):
    """Nearest mean of the support's features of length 1, by squared distance; the scale is learned."""

    def __init__(self, network: LogoNetwork, config: FewShotConfig, *, keep_statistics: bool):
        super().__init__(network, config, keep_statistics=keep_statistics)
        self.log_scale = nn.Parameter(torch.tensor(math.log(SCALE)))

    def solve(self, support: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, ways: int) -> torch.Tensor:
        return prototype_logits(support, labels, queries, ways) * self.log_scale.exp()


def prototype_logits(support: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, ways: int) -> torch.Tensor:
    """(B, N): minus the squared distance of (B, F) queries to each class's mean of the (n, F) support.

    Snell et al., eq. 1, 2.
    """
    members = functional.one_hot(labels, ways).to(support.dtype)  # (n, N)
    means = members.T @ support / members.sum(0)[:, None]  # (N, F)
    return -(queries[:, None] - means).square().sum(2)


class Ridge(FewShotNetwork):
    """Ridge regression on the features of length 1; only its penalty is chosen beforehand."""

    def __init__(self, network: LogoNetwork, config: FewShotConfig, *, keep_statistics: bool):
        super().__init__(network, config, keep_statistics=keep_statistics)
        self.register_buffer("penalty", torch.tensor(config.penalties[0]))

    def solve(self, support: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, ways: int) -> torch.Tensor:
        return ridge_logits(support, labels, queries, ways, self.penalty)


def ridge_logits(
    support: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, ways: int, penalty: float | torch.Tensor
) -> torch.Tensor:
    """(B, N) outputs of a ridge regression from (n, F) support to 1 for its class and -1 for others, at (B, F) queries.

    An n x n system is solved, not one of F x F (Woodbury; Bertinetto et al. 2019, equation 4).
    """
    targets = 2.0 * functional.one_hot(labels, ways).to(support.dtype) - 1  # (n, N)
    centre, intercept = support.mean(0), targets.mean(0)
    centred = support - centre
    kernel = centred @ centred.T + penalty * torch.eye(len(support), dtype=support.dtype, device=support.device)
    weights = centred.T @ torch.linalg.solve(kernel, targets - intercept)  # (F, N)
    return (queries - centre) @ weights + intercept


class Maml(FewShotNetwork):
    """A few gradient steps on the support, from learned weights and at learned rates. Embeddings are the trunk's maps.

    The last layer begins at zero, since the softmax ignores a component that its rows share. `rates` are stored as
    offsets: effective rate = initial rate x (1 + RATE_PACE x offset).
    """

    def __init__(self, network: LogoNetwork, config: FewShotConfig, *, keep_statistics: bool):
        super().__init__(network, config, keep_statistics=keep_statistics)
        learned = list(self._learned().values())
        if config.rates == "layer":
            self.rates = nn.Parameter(torch.zeros(config.inner_steps, len(learned) + 1))
        elif config.rates == "element":
            self.rates = nn.ParameterList(torch.zeros_like(weight) for weight in [*learned, torch.zeros(self.width)])

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._trunk_maps(pixels)

    def solve(self, support: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, ways: int) -> torch.Tensor:
        return self._logits(self.adapt(support, labels, ways), queries)

    def adapt(self, support: torch.Tensor, labels: torch.Tensor, ways: int) -> dict[str, torch.Tensor]:
        """The weights after the inner steps on (n, ...) maps, by name.

        Finn et al. 2017, equation 1. Without `second_order`, inner gradients are constants (section 5.2).
        """

        def loss(weights: dict[str, torch.Tensor]) -> torch.Tensor:
            return functional.cross_entropy(self._logits(weights, support), labels)

        weights = {**self._learned(), "head": support.new_zeros(ways, self.width)}
        for step in range(self.config.inner_steps):
            gradients = grad(loss)(weights)
            if not (self.config.second_order and torch.is_grad_enabled()):
                gradients = {name: gradient.detach() for name, gradient in gradients.items()}
            weights = {
                name: weight - self._rate(index, step, name) * gradients[name]
                for index, (name, weight) in enumerate(weights.items())
            }
        return weights

    def _logits(self, weights: dict[str, torch.Tensor], maps: torch.Tensor) -> torch.Tensor:
        body = {name: weight for name, weight in weights.items() if name != "head"}
        features = functional.normalize(functional_call(self.rest, body, (maps,)), dim=1)
        return SCALE * features @ weights["head"].T

    def _learned(self) -> dict[str, torch.Tensor]:
        weights = dict(self.rest.named_parameters())
        return {name: weights[name] for name in self.learned}

    def _rate(self, index: int, step: int, name: str) -> torch.Tensor | float:
        first = self.config.head_rate if name == "head" else self.config.inner_rate
        if self.config.rates == "fixed":
            return first
        change = self.rates[step, index] if self.config.rates == "layer" else self.rates[index]
        return first * (1 + RATE_PACE * change)


METHODS: dict[str, type[FewShotNetwork]] = {"maml": Maml, "prototypes": Prototypes, "ridge": Ridge}


class Rest(nn.Module):
    """(B, C, h, w) maps -> (B, F) features: a backbone without its trunk."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.backbone.forward_head(self.backbone.forward_features(maps), pre_logits=True)


def split_network(network: LogoNetwork, blocks: int) -> tuple[nn.Module, Rest]:
    """The frozen stem and first `blocks` stages, and the rest, with unchanged parameter names. -1: nothing is frozen.

    Raises RecipeError if the network has no stages.
    """
    body = network.backbone
    if blocks < 0:
        return nn.Sequential(), Rest(body)
    if not all(hasattr(body, part) for part in ("conv_stem", "bn1", "blocks")) or blocks > len(body.blocks):
        raise RecipeError(
            f"{network.name} has no stem and {blocks} stages; lower few_shot.fit.frozen_blocks, to -1 at last"
        )
    stages = OrderedDict((str(index), body.blocks[index]) for index in range(blocks))
    trunk = nn.Sequential(
        OrderedDict(conv_stem=body.conv_stem, bn1=body.bn1, blocks=nn.Sequential(stages))
    ).requires_grad_(False)
    body.conv_stem = body.bn1 = nn.Identity()
    for index in range(blocks):
        body.blocks[index] = nn.Identity()
    return trunk, Rest(body)


def few_shot_objective(queries: int) -> Objective:
    """The cross-entropy of the queries; each class has `queries` of them, in order."""

    def objective(network, support, query_pixels):
        logits = network(support, query_pixels).float()  # (T, N * Q, N)
        ways = logits.shape[2]
        targets = torch.arange(ways, device=logits.device).repeat_interleave(queries).repeat(len(logits))
        return {"cross_entropy": functional.cross_entropy(logits.flatten(0, 1), targets)}

    return objective


@torch.no_grad()
def embed_pixels(network: FewShotNetwork, pixels: np.ndarray, device: torch.device) -> torch.Tensor:
    """(B, ...): the embedded (B, S, S, 3) uint8 pixels, in evaluation mode."""
    network.eval()
    batches = torch.from_numpy(pixels).split(BATCH)
    return torch.cat([network.embed(batch.to(device)) for batch in batches])
