"""The attention of a network: its weights, their entropy, their rollout, and its share on the drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from logo_edge_train.models.extractors import find_ink


def attention_layers(network: nn.Module) -> list[nn.Module]:
    """The timm layers that weight tokens by a softmax; [] for a convolutional network."""
    return [
        module
        for module in network.modules()
        if hasattr(module, "fused_attn") and isinstance(getattr(module, "attn_drop", None), nn.Module)
    ]


def attention_entropy(network: nn.Module, pixels: torch.Tensor) -> float:
    """Mean entropy of the attention rows in nats, over heads, images and layers: 0 (one token) to log N (uniform).

    pixels: (B, S, S, 3) uint8.
    """
    entropies = map_attention(network, pixels, lambda rows: torch.special.entr(rows.float()).sum(-1).mean())
    return float(torch.stack(entropies).mean())


def attention_maps(network: nn.Module, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights of every layer, (L, B, H, N, N), and their rollout, (B, N, N); all rows sum to 1.

    pixels: the input of `network`.
    """
    maps = torch.stack(map_attention(network, pixels, lambda rows: rows.float()))
    return maps, attention_rollout(maps)


def attention_rollout(maps: torch.Tensor) -> torch.Tensor:
    """(B, N, N), rows sum to 1: the contribution of each input token to each output token, from (L, B, H, N, N).

    Heads are averaged; the residual has weight one half. Abnar and Zuidema 2020, arXiv:2005.00928.
    """
    identity = torch.eye(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    rolled = identity.expand(maps.shape[1], -1, -1)
    for layer in maps.mean(2):  # (B, N, N)
        mixed = 0.5 * layer + 0.5 * identity
        rolled = mixed / mixed.sum(-1, keepdim=True) @ rolled
    return rolled


def patch_mass(rows: torch.Tensor, prefix: int) -> torch.Tensor:
    """(B, patches) of (B, N, N): the attention of the class token, or without one the mean token, to each patch.

    prefix: the number of tokens before the patches; the first of them is the class token.
    """
    return rows[:, 0, prefix:] if prefix else rows.mean(1)


def attention_focus(network: nn.Module, pixels: torch.Tensor, *, reach: int = 1) -> float:
    """The share, 0 to 1, of the rollout's mass on patches `near_ink`; mean over the images.

    network: a LogoNetwork whose backbone is a plain vision transformer; pixels: (B, S, S, 3) uint8.
    """
    backbone = network.backbone
    mass = patch_mass(attention_maps(network, pixels)[1], backbone.num_prefix_tokens)  # (B, patches)
    inside = near_ink(pixels, backbone.patch_embed.grid_size, reach=reach).to(mass)
    return float(((mass * inside).sum(1) / mass.sum(1)).mean())


def near_ink(pixels: torch.Tensor, grid: tuple[int, int], *, reach: int = 1) -> torch.Tensor:
    """(B, patches) bool: patches with ink, or within `reach` patches (also diagonally) of one with ink.

    pixels: (B, S, S, 3) uint8.
    """
    inked = functional.adaptive_max_pool2d(find_ink(pixels)[:, None].float(), grid)  # (B, 1, h, w)
    return functional.max_pool2d(inked, 2 * reach + 1, stride=1, padding=reach).flatten(1) > 0


@torch.no_grad()
def map_attention(
    network: nn.Module, pixels: torch.Tensor, take: Callable[[torch.Tensor], torch.Tensor]
) -> list[torch.Tensor]:
    """`take` of the attention weights of each layer, (B, H, N, N), whose rows sum to 1."""
    layers, taken, training = attention_layers(network), [], network.training
    assert layers, "a network without attention"
    hooks = [
        layer.attn_drop.register_forward_pre_hook(lambda _module, rows: taken.append(take(rows[0]))) for layer in layers
    ]
    try:
        with open_attention(network):
            network.eval()(pixels)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return taken


@contextmanager
def open_attention(network: nn.Module) -> Iterator[None]:
    """A context in which attention layers do not use the fused kernel, which hides their weights."""
    layers = attention_layers(network)
    fused = [layer.fused_attn for layer in layers]
    try:
        for layer in layers:
            layer.fused_attn = False
        yield
    finally:
        for layer, was_fused in zip(layers, fused, strict=True):
            layer.fused_attn = was_fused
