"""All networks of a search space in one module, weighted by the architecture parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from logo_edge_train.models.composed import Head, Trunk, build_attention
from logo_edge_train.models.imagenet import has_imagenet_weights
from logo_edge_train.models.network import build_body
from logo_edge_train.models.normalise import normalise
from logo_edge_train.recipe import SearchConfig


class Supernet(nn.Module):
    """(B, S, S, 3) uint8 RGB -> (B, K) float32 logits of the `chosen` architecture; `mix` returns those of several.

    An architecture is (backbone, attention, head), an index into each choice. `alphas` holds the parameters of the
    three choices; their softmax is the weight of each option (Liu et al. 2019, arXiv:1806.09055).
    """

    def __init__(self, config: SearchConfig, classes: int):
        super().__init__()
        bodies = [
            build_body(
                name, classes, size_px=config.size_px, pretrained=config.pretrained and has_imagenet_weights(name)
            )
            for name in config.backbones
        ]
        self.trunks = nn.ModuleList(Trunk(body) for body in bodies)
        self.attentions = nn.ModuleList(build_attention(name) for name in config.attentions)
        self.heads = nn.ModuleList(Head(name, classes) for name in config.heads)
        options = (self.trunks, self.attentions, self.heads)
        self.alphas = nn.ParameterList(nn.Parameter(torch.zeros(len(choice))) for choice in options)
        self.chosen = (0, 0, 0)

    def weights(self) -> list[nn.Parameter]:
        """All parameters except the alphas."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("alphas.")]

    def shares(self) -> list[torch.Tensor]:
        """The softmax of each choice's alphas."""
        return [alpha.softmax(0) for alpha in self.alphas]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        backbone, attention, head = self.chosen
        return self.heads[head](self.attentions[attention](self.trunks[backbone](normalise(pixels))))

    def mix(self, pixels: torch.Tensor, paths: Sequence[int]) -> torch.Tensor:
        """(B, K): the logits of the backbones `paths`, weighted by the softmax of their alphas only.

        After each backbone, all attention blocks and heads are weighted by their shares: they cost little. Backbones
        are combined in the logits, because their feature maps have different sizes.
        """
        planes, (_, attentions, heads) = normalise(pixels), self.shares()
        logits = []
        for path in paths:
            features = self.trunks[path](planes)
            features = _weighted_sum(attentions, [block(features) for block in self.attentions])  # (B, WIDTH, H, W)
            logits.append(_weighted_sum(heads, [head(features) for head in self.heads]))  # (B, K)
        return _weighted_sum(self.alphas[0][list(paths)].softmax(0), logits)

    @torch.no_grad()
    def draw_paths(self, count: int) -> list[int]:
        """`count` different backbones, drawn by their shares; 0: all of them."""
        share = self.shares()[0]
        if not count or count >= len(share):
            return list(range(len(share)))
        return torch.multinomial(share.cpu(), count).tolist()


def _weighted_sum(shares: torch.Tensor, parts: list[torch.Tensor]) -> torch.Tensor:
    return sum(share * part for share, part in zip(shares, parts, strict=True))
