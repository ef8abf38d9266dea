"""Measures frozen features: a linear probe and a vote of nearest neighbours, tuned on the train split."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from logo_edge_train.models import LogoNetwork

FOLDS = 5
NEIGHBOURS = (1, 3, 5, 10, 20, 40)
INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # on weights of standardised features
BATCH = 64


@torch.no_grad()
def features_of(
    network: LogoNetwork, pixels: np.ndarray, device: torch.device, read: Callable = LogoNetwork.features
) -> np.ndarray:
    """(N, F) float32: the features of (N, S, S, 3) uint8 pixels that the classifier reads, in evaluation mode.

    `read` takes other features from the network and a batch of pixels, such as LogoNetwork.stage_features.
    """
    network.eval()
    parts = (torch.from_numpy(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH))
    return np.concatenate([read(network, part.to(device)).float().cpu().numpy() for part in parts])


def linear_probe(features: np.ndarray, targets: np.ndarray, groups: Sequence[str]) -> GridSearchCV:
    """A logistic regression on standardised features; grouped cross-validation chooses its penalty."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return _search(model, {"logisticregression__C": INVERSE_PENALTIES}, features, targets, groups)


def neighbour_probe(features: np.ndarray, targets: np.ndarray, groups: Sequence[str]) -> GridSearchCV:
    """The vote of the k nearest logos by angle of standardised features; grouped cross-validation chooses k."""
    model = make_pipeline(StandardScaler(), KNeighborsClassifier(metric="cosine", weights="distance"))
    counts = [count for count in NEIGHBOURS if count <= max(1, len(features) // 3)]
    return _search(model, {"kneighborsclassifier__n_neighbors": counts}, features, targets, groups)


def _search(
    model: BaseEstimator, grid: dict, features: np.ndarray, targets: np.ndarray, groups: Sequence[str]
) -> GridSearchCV:
    folds = min(FOLDS, len(set(groups)), int(np.bincount(targets).max()))
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    with warnings.catch_warnings():  # a class of few logos can only be in few folds
        warnings.filterwarnings("ignore", "The least populated class in y", UserWarning)
        return GridSearchCV(model, grid, cv=split).fit(features, targets, groups=groups)
