"""Detectors of unfamiliar features: distances equal SciPy's and scikit-learn's, and far images score lower."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.spatial.distance import mahalanobis as scipy_mahalanobis
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from logo_edge.errors import RecipeError
from logo_edge_bench.experiments.novelty import (
    background,
    mahalanobis,
    nearest_neighbours,
    on_one_scale,
    relative_mahalanobis,
    virtual_logit,
)
from logo_edge_train.models import LogoNetwork, normalise
from logo_edge_train.pretrain.probe import features_of

FEATURES, CLASSES = 6, 3


@pytest.mark.parametrize("model", ["test_resnet", "test_efficientnet", "test_vit", "test_resnet+none+mlp"])
def test_the_stages_features_are_moments_of_timm_s_maps(model):
    torch.manual_seed(0)
    network, pixels = LogoNetwork(model, 3, size_px=32).eval(), torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    body = network.backbone.trunk.body if "+" in model else network.backbone
    with torch.no_grad():
        maps = body.forward_intermediates(normalise(pixels))[1]
    features = features_of(network, pixels.numpy(), torch.device("cpu"), LogoNetwork.stage_features)
    assert features.shape == (5, 2 * sum(part.shape[1] for part in maps))
    first = maps[0].flatten(2)
    assert features[:, : first.shape[1]] == pytest.approx(first.mean(2).numpy(), abs=1e-5)
    last = maps[-1].flatten(2)
    assert features[:, -last.shape[1] :] == pytest.approx(last.std(2, correction=0).numpy(), abs=1e-5)


def test_a_network_that_does_not_give_its_stages_is_refused():
    with pytest.raises(RecipeError, match="logo_vit_tiny does not give its stages; expected a timm network"):
        LogoNetwork("logo_vit_tiny", 3, size_px=32).stage_features(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))


@pytest.fixture(scope="module")
def logos() -> tuple[np.ndarray, np.ndarray]:
    """600 features of three classes, each direction of a scale of its own, and their targets."""
    random = np.random.default_rng(0)
    targets = np.repeat(np.arange(CLASSES), 200)
    features = random.normal(0, 1, (600, FEATURES)) + 3 * np.eye(CLASSES, FEATURES)[targets]
    return features * np.array([1, 2, 5, 10, 0.1, 1]), targets


@pytest.fixture(scope="module")
def others() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 8, (40, FEATURES)) * np.array([1, 2, 5, 10, 0.1, 1])


def standardise(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return (rows - features.mean(0)) / features.std(0)


def test_the_distance_to_the_closest_class_is_scipy_s(logos, others):
    features, targets = logos
    scaled, moved = standardise(features, features), standardise(features, others)
    means = np.stack([scaled[targets == label].mean(0) for label in range(CLASSES)])
    precision = np.linalg.inv(LedoitWolf(assume_centered=True).fit(scaled - means[targets]).covariance_)
    closest = [min(scipy_mahalanobis(row, mean, precision) ** 2 for mean in means) for row in moved]
    assert len(closest) == 40
    assert -mahalanobis(features, targets)(others) == pytest.approx(closest)


def test_the_closest_class_is_that_of_a_linear_discriminant(logos):
    features, targets = logos
    discriminant = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[1 / 3] * 3).fit(
        features, targets
    )
    alone = np.stack([mahalanobis(features[targets == k], targets[targets == k])(features) for k in range(CLASSES)])
    assert (discriminant.predict(features) == alone.argmax(0)).mean() > 0.95


def test_what_all_logos_share_is_taken_off(logos, others):
    features, targets = logos
    relative = mahalanobis(features, targets)(others) - background(features, targets)(others)
    assert relative_mahalanobis(features, targets)(others) == pytest.approx(relative)


@pytest.mark.parametrize("k", [1, 10, 5000])
def test_the_distance_to_the_kth_neighbour_is_scipy_s(logos, others, k):
    features, targets = logos
    known, asked = (standardise(features, rows) for rows in (features, others))
    angles = cdist(*(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (asked, known)))
    kth = np.sort(angles, axis=1)[:, min(k, len(features)) - 1]
    assert -nearest_neighbours(features, targets, k=k)(others) == pytest.approx(kth)


def test_the_virtual_logit_has_the_mean_of_the_largest_and_grows_outside_the_principal_space():
    random = np.random.default_rng(2)
    weight, bias = random.normal(size=(CLASSES, FEATURES)), random.normal(size=CLASSES)
    plane = np.linalg.qr(random.normal(size=(FEATURES, FEATURES)))[0]
    features = random.normal(size=(500, FEATURES)) * [9, 8, 7, 0.3, 0.2, 0.1] @ plane.T
    features -= np.linalg.pinv(weight) @ bias  # where all logits are 0
    familiarity = virtual_logit(features, weight, bias, dimensions=3)
    logits = features @ weight.T + bias
    virtual = np.logaddexp.reduce(logits, axis=1) - familiarity(features)
    assert virtual.min() >= 0
    assert virtual.mean() == pytest.approx(logits.max(1).mean())
    within, outside = features + plane[:, 0], features + 5 * plane[:, 5]
    changes = [
        np.logaddexp.reduce(moved @ weight.T + bias, axis=1) - familiarity(moved) - virtual
        for moved in (within, outside)
    ]
    assert np.abs(changes[0]).max() < 0.2 * changes[1].mean(), "a step inside the principal space changes nothing"


@pytest.mark.parametrize("fit", [mahalanobis, background, nearest_neighbours])
def test_what_is_far_from_all_logos_is_less_familiar(logos, fit):
    features, targets = logos
    familiarity, random = fit(features[::2], targets[::2]), np.random.default_rng(3)
    strange = -np.abs(random.normal(0, 1, (300, FEATURES)) * 20) * features.std(0)
    kept = familiarity(features[1::2])
    assert familiarity(strange).max() < np.median(kept)


def test_familiarities_on_one_scale_can_be_added_up(logos):
    features, targets = logos
    for fit in (mahalanobis, nearest_neighbours):
        scaled = on_one_scale(fit(features[::2], targets[::2]), features[1::2])(features[1::2])
        low, middle, high = np.percentile(scaled, [25, 50, 75])
        assert (middle, high - low) == pytest.approx((0, 1), abs=1e-9)
