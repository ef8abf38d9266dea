"""Composed networks, `backbone+attention+head`, for `logo-edge search`."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

import torch
from timm.layers import Attention2d, AttentionPoolLatent, ConvNormAct, LayerNorm2d, SqueezeExcite
from timm.layers.cbam import CbamModule
from torch import nn

from logo_edge.errors import RecipeError

WIDTH = 256  # channels between the three parts, so that all combinations fit
ATTENTION_HEADS = 8


class ComposedNetwork(nn.Module):
    """(B, 3, S, S) normalised planes -> (B, K) logits, with timm's interface.

    `body` is any timm network; only its features are used.
    """

    def __init__(self, body: nn.Module, attention: str, head: str, classes: int, *, dropout: float = 0.0):
        super().__init__()
        self.trunk, self.attention = Trunk(body), build_attention(attention)
        self.head = Head(head, classes, dropout=dropout)
        self.num_features, self.head_hidden_size = WIDTH, self.head.classifier.in_features

    def forward_features(self, planes: torch.Tensor) -> torch.Tensor:
        return self.attention(self.trunk(planes))  # (B, WIDTH, H, W)

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return self.head(features, pre_logits)

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(planes))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether the backbone recomputes activations in the backward pass."""
        self.trunk.body.set_grad_checkpointing(enable)

    def get_classifier(self) -> nn.Linear:
        return self.head.classifier

    def reset_classifier(self, num_classes: int) -> None:
        self.head.classifier = nn.Linear(self.head_hidden_size, num_classes)


class Trunk(nn.Module):
    """(B, 3, S, S) planes -> (B, WIDTH, H, W): a timm network up to its last stage, and a 1x1 projection."""

    def __init__(self, body: nn.Module):
        super().__init__()
        body.prune_intermediate_layers(1)  # drops the layers after the last stage
        self.body, self.projection = body, ConvNormAct(body.num_features, WIDTH, 1)

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        features = self.body.forward_features(planes)
        if features.ndim == 3:  # (B, N, C) tokens, prefix tokens such as the class token first
            patches = features[:, self.body.num_prefix_tokens :].transpose(1, 2)
            side = isqrt(patches.shape[2])
            features = patches.unflatten(2, (side, side))  # (B, C, H, W)
        return self.projection(features)


class Head(nn.Module):
    """(B, WIDTH, H, W) -> (B, K) logits; with `pre_logits` the input of the last linear layer."""

    def __init__(self, name: str, classes: int, *, dropout: float = 0.0):
        super().__init__()
        self.pool, features = build_pool(name)
        self.dropout, self.classifier = nn.Dropout(dropout), nn.Linear(features, classes)

    def forward(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        pooled = self.dropout(self.pool(features))
        return pooled if pre_logits else self.classifier(pooled)


class SelfAttention(nn.Module):
    """(B, C, H, W) -> the same: multi-head self-attention between positions, with a residual connection."""

    def __init__(self):
        super().__init__()
        self.norm, self.attention = LayerNorm2d(WIDTH), Attention2d(WIDTH, num_heads=ATTENTION_HEADS)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features + self.attention(self.norm(features))


class AttentionPool(nn.Module):
    """(B, C, H, W) -> (B, C): the weighted mean over positions for a learned query."""

    def __init__(self):
        super().__init__()
        self.pool = AttentionPoolLatent(WIDTH, out_features=0, num_heads=ATTENTION_HEADS)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.pool(features.flatten(2).transpose(1, 2))


class JoinedPools(nn.Module):
    """(B, C, H, W) -> (B, F): the pooled features of the other three heads, concatenated.

    A linear layer on it is the sum of three linear layers: an ensemble of the three heads on shared features.
    """

    def __init__(self):
        super().__init__()
        self.pools = nn.ModuleList(build_pool(name)[0] for name in POOLS if name != "ensemble")

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.cat([pool(features) for pool in self.pools], 1)


def average_pool() -> nn.Module:
    """(B, C, H, W) -> (B, C)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


ATTENTIONS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "se": lambda: SqueezeExcite(WIDTH),  # Hu et al. 2018, arXiv:1709.01507
    "cbam": lambda: CbamModule(WIDTH),  # Woo et al. 2018, arXiv:1807.06521
    "mhsa": SelfAttention,  # Vaswani et al. 2017, arXiv:1706.03762
}
POOLS: dict[str, tuple[Callable[[], nn.Module], int]] = {  # and the number of features
    "linear": (average_pool, WIDTH),
    "mlp": (lambda: nn.Sequential(average_pool(), nn.Linear(WIDTH, 2 * WIDTH), nn.ReLU()), 2 * WIDTH),
    "attention_pool": (AttentionPool, WIDTH),
    "ensemble": (JoinedPools, 4 * WIDTH),
}


def build_attention(name: str) -> nn.Module:
    """(B, WIDTH, H, W) -> the same shape. Raises RecipeError for an unknown name."""
    if name not in ATTENTIONS:
        raise RecipeError(f"no attention block {name!r}; expected one of {', '.join(ATTENTIONS)}")
    return ATTENTIONS[name]()


def build_pool(name: str) -> tuple[nn.Module, int]:
    """The module (B, WIDTH, H, W) -> (B, F) below a head's last layer, and F. RecipeError for an unknown name."""
    if name not in POOLS:
        raise RecipeError(f"no head {name!r}; expected one of {', '.join(POOLS)}")
    build, features = POOLS[name]
    return build(), features
