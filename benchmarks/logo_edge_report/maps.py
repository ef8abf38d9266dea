"""Heat maps: Grad-CAM of a convolutional network, attention and its rollout of a transformer."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import nn

from logo_edge_report.sheets import THUMBNAIL_PX
from logo_edge_train.models import attention_layers, attention_maps, find_ink, normalise, patch_mass

GRAD_CAM, ATTENTION, ROLLOUT = "Grad-CAM", "attention of the last block", "attention rollout"
HEAT = cv2.COLORMAP_INFERNO


def explain(network: nn.Module, pixels: np.ndarray, classes: np.ndarray) -> dict[str, np.ndarray]:
    """Method -> (B, h, w) float32 heat, each map reaching 1; pixels: (B, S, S, 3) uint8, classes: (B,) integers.

    Attention is the same for every class. A network with neither spatial features nor tokens gives no method.
    """
    if _has_tokens(network):
        layers, rollout = attention_maps(network, torch.from_numpy(pixels))
        prefix, grid = network.backbone.num_prefix_tokens, network.backbone.patch_embed.grid_size
        return {ATTENTION: token_maps(layers[-1].mean(1), prefix, grid), ROLLOUT: token_maps(rollout, prefix, grid)}
    heat = class_activation(network, pixels, classes)
    return {} if heat is None else {GRAD_CAM: heat}


def class_activation(network: nn.Module, pixels: np.ndarray, classes: np.ndarray) -> np.ndarray | None:
    """(B, h, w) heat for the class of each row, from the features before pooling; None where these are no map.

    Grad-CAM: channels weighted by the mean gradient of the class's logit, summed, negative parts dropped.
    Selvaraju et al. 2017, arXiv:1610.02391.
    """
    backbone, rows = network.backbone, torch.arange(len(pixels))
    with torch.no_grad():
        features = backbone.forward_features(normalise(torch.from_numpy(pixels)))
    if features.ndim != 4:
        return None
    features.requires_grad_(True)  # (B, C, h, w)
    with torch.enable_grad():
        logits = backbone.forward_head(features)
        gradient = torch.autograd.grad(logits[rows, torch.from_numpy(classes)].sum(), features)[0]
    heat = (gradient.mean((2, 3), keepdim=True) * features).sum(1).relu()  # (B, h, w)
    heat = heat.detach().numpy()
    return (heat / np.maximum(heat.max((1, 2), keepdims=True), 1e-12)).astype(np.float32)


def token_maps(rows: torch.Tensor, prefix: int, grid: tuple[int, int]) -> np.ndarray:
    """(B, h, w) heat of (B, N, N): the attention of the class token, or of the mean patch, to each patch."""
    heat = patch_mass(rows, prefix).reshape(-1, *grid).numpy()
    low, high = heat.min((1, 2), keepdims=True), heat.max((1, 2), keepdims=True)
    return ((heat - low) / np.maximum(high - low, 1e-12)).astype(np.float32)


def overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """(96, 96, 3) uint8: the picture in grey and lighter, under the heat, which hides the more the hotter it is."""
    side = (THUMBNAIL_PX, THUMBNAIL_PX)
    wide = np.clip(cv2.resize(heat.astype(np.float32), side, interpolation=cv2.INTER_CUBIC), 0, 1)
    colour = cv2.applyColorMap((80 + 150 * wide).astype(np.uint8), HEAT)[:, :, ::-1].astype(np.float32)
    grey = 60 + 0.76 * cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)[:, :, None]
    share = 0.8 * wide[:, :, None] ** 0.7
    return ((1 - share) * grey + share * colour).round().astype(np.uint8)


def heat_on_ink(pictures: np.ndarray, heat: np.ndarray) -> tuple[float, float]:
    """The share of the heat that lies on the drawing, and the share of the area that the drawing covers.

    pictures: (B, S, S, 3) uint8, whose corners are background; heat: (B, h, w).
    """
    ink = find_ink(torch.from_numpy(pictures)).numpy()  # (B, S, S)
    side = (ink.shape[2], ink.shape[1])
    wide = np.stack([cv2.resize(one.astype(np.float32), side, interpolation=cv2.INTER_LINEAR) for one in heat])
    return float((wide * ink).sum() / max(wide.sum(), 1e-9)), float(ink.mean())


def _has_tokens(network: nn.Module) -> bool:
    """Whether it is a plain vision transformer of timm's, whose patches lie on a grid."""
    parts = ("blocks", "num_prefix_tokens", "patch_embed")
    return all(hasattr(network.backbone, part) for part in parts) and bool(attention_layers(network))
