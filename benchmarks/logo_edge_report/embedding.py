"""The features before the last layer, laid out in a plane: t-SNE over checkpoints, regions of decision, separation."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from logo_edge.errors import MissingExtraError
from logo_edge_train.models import normalise

try:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.metrics import silhouette_score
except ImportError as error:
    raise MissingExtraError("report", "scikit-learn") from error

BATCH = 32
NEIGHBOURS = 12
SHRUNK = 1.0  # spread of a layout from which another starts: the width of the t distribution
GRID = 160  # cells of the plane along each axis
Window = tuple[float, float, float, float]  # left, right, bottom, top


@torch.inference_mode()
def penultimate(network: nn.Module, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) features and (N, K) logits, float32, of (N, S, S, 3) uint8."""
    features, logits = [], []
    for start in range(0, len(pixels), BATCH):
        maps = network.backbone.forward_features(normalise(torch.from_numpy(pixels[start : start + BATCH])))
        features.append(network.backbone.forward_head(maps, pre_logits=True).numpy())
        logits.append(network.backbone.forward_head(maps).numpy())
    return np.concatenate(features), np.concatenate(logits)


def embed(checkpoints: list[np.ndarray], *, seed: int = 0) -> list[np.ndarray]:
    """One (N, 2) layout per checkpoint's (N, D) features of the same images, in order.

    The last checkpoint is laid out by t-SNE (van der Maaten and Hinton 2008) from its principal components; each
    earlier one starts from the layout of the one after it, shrunk, and without early exaggeration: groups keep their
    places, but are only there where the features have them. The exact gradient is the same on every run.
    """
    layouts: list[np.ndarray] = []
    for features in reversed(checkpoints):
        reduced = PCA(min(50, *features.shape), random_state=seed, svd_solver="full").fit_transform(features)
        first = not layouts
        model = TSNE(
            perplexity=min(30.0, (len(features) - 1) / 3),
            random_state=seed,
            method="exact",
            init="pca" if first else layouts[-1] / layouts[-1].std() * SHRUNK,
            early_exaggeration=12.0 if first else 1.0,
            max_iter=1000 if first else 700,
        )
        layouts.append(model.fit_transform(reduced).astype(np.float32))
    return layouts[::-1]


def window_of(layouts: list[np.ndarray], margin: float = 0.06) -> Window:
    """The rectangle that holds every point of every layout, with a margin."""
    points = np.concatenate(layouts)
    low, high = points.min(0), points.max(0)
    low, high = low - margin * (high - low), high + margin * (high - low)
    return float(low[0]), float(high[0]), float(low[1]), float(high[1])


def decision_regions(points: np.ndarray, probabilities: np.ndarray, window: Window) -> np.ndarray:
    """(GRID, GRID) integers, row 0 at the bottom: the class predicted there."""
    across, up = np.linspace(*window[:2], GRID), np.linspace(*window[2:], GRID)
    positions = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    return blend(points, probabilities, positions).argmax(1).reshape(GRID, GRID)


def blend(points: np.ndarray, probabilities: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(M, K) probabilities at `positions` (M, 2), from the nearest points weighted by the inverse squared distance.

    At a point they equal its own (Shepard 1968), so the regions agree with the network there.
    """
    squared = ((positions[:, None] - points[None]) ** 2).sum(-1)  # (M, N)
    nearest = np.argsort(squared, axis=1, kind="stable")[:, :NEIGHBOURS]
    weights = 1 / np.maximum(np.take_along_axis(squared, nearest, axis=1), 1e-12)  # (M, n)
    return (weights[..., None] * probabilities[nearest]).sum(1) / weights.sum(1, keepdims=True)


def separation(features: np.ndarray, targets: np.ndarray) -> float:
    """Mean silhouette by cosine distance, -1 to 1: how much nearer an image is to its own class. Rousseeuw 1987."""
    return float(silhouette_score(features, targets, metric="cosine"))
