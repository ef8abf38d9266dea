"""Detectors of images that are no logos, by the familiarity of their features; fitted on the train split alone.

Each takes the (N, F) features of logos and their (N,) integer targets, and gives a function (B, F) -> (B,), higher for
images like the logos. Features may have any scale: all detectors standardise them but ViM, which needs the classifier's
own input.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import logsumexp
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

Familiarity = Callable[[np.ndarray], np.ndarray]


def mahalanobis(features: np.ndarray, targets: np.ndarray) -> Familiarity:
    """Minus the squared distance to the closest class mean, with the shared covariance of the classes.

    Lee et al. 2018, arXiv:1807.03888; the covariance is shrunk (Ledoit and Wolf 2004), as F may come near to N.
    """
    scaler = StandardScaler().fit(features)
    scaled = scaler.transform(features)
    means = np.stack([scaled[targets == label].mean(0) for label in np.unique(targets)])  # (K, F)
    within = LedoitWolf(assume_centered=True).fit(scaled - means[np.searchsorted(np.unique(targets), targets)])

    def familiarity(others: np.ndarray) -> np.ndarray:
        moved = scaler.transform(others)
        return -np.min([within.mahalanobis(moved - mean) for mean in means], axis=0)

    return familiarity


def background(features: np.ndarray, _targets: np.ndarray) -> Familiarity:
    """Minus the squared Mahalanobis distance to the mean of all logos."""
    return mahalanobis(features, np.zeros(len(features), int))


def relative_mahalanobis(features: np.ndarray, targets: np.ndarray) -> Familiarity:
    """`mahalanobis` minus `background`. Ren et al. 2021, arXiv:2106.09022."""
    near, anywhere = mahalanobis(features, targets), background(features, targets)
    return lambda others: near(others) - anywhere(others)


def nearest_neighbours(features: np.ndarray, _targets: np.ndarray, *, k: int = 10) -> Familiarity:
    """Minus the distance to the k-th closest logo, features scaled to length 1. Sun et al. 2022, arXiv:2204.06507."""
    scaler = StandardScaler().fit(features)

    def direct(rows: np.ndarray) -> np.ndarray:
        scaled = scaler.transform(rows)
        return scaled / np.linalg.norm(scaled, axis=1, keepdims=True)

    index = NearestNeighbors(n_neighbors=min(k, len(features))).fit(direct(features))
    return lambda others: -index.kneighbors(direct(others))[0][:, -1]


def virtual_logit(features: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, dimensions: int = 512) -> Familiarity:
    """ViM: the logo score minus the norm of the residual outside the features' first principal dimensions.

    That length is scaled so that over the logos its mean is that of the largest logit; the features are seen from where
    all logits of `weight` (K, F) and `bias` (K,) are 0. Wang et al. 2022, arXiv:2203.10807.
    """
    origin = -np.linalg.pinv(weight) @ bias
    moved = features - origin
    _, vectors = np.linalg.eigh(moved.T @ moved / len(moved))  # of growing variance
    rest = vectors[:, : -min(dimensions, features.shape[1] - 1)]
    scale = (features @ weight.T + bias).max(1).mean() / np.linalg.norm(moved @ rest, axis=1).mean()

    def familiarity(others: np.ndarray) -> np.ndarray:
        logits = others @ weight.T + bias
        return logsumexp(logits, axis=1) - scale * np.linalg.norm((others - origin) @ rest, axis=1)

    return familiarity


def on_one_scale(familiarity: Familiarity, held_out: np.ndarray) -> Familiarity:
    """The familiarity minus its median over held-out logos, in interquartile ranges, so several can be added."""
    low, middle, high = np.percentile(familiarity(held_out), [25, 50, 75])
    return lambda others: (familiarity(others) - middle) / (high - low)
