"""Networks with statistics as features: their input, its standardisation, and refused backbones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from logo_edge.errors import RecipeError
from logo_edge_train.models import LogoNetwork, normalise
from logo_edge_train.models.feature_network import FAR, WIDTH

NAME = "test_resnet+measures"


def draw(colour: tuple[int, int, int], *, fading: bool, size_px: int = 96) -> torch.Tensor:
    """(S, S, 3) uint8: a square of one colour, or one that fades to white."""
    pixels = np.full((size_px, size_px, 3), 255, np.uint8)
    share = np.linspace(0, 0.8, size_px // 2)[None, :, None] if fading else 0.0
    inside = slice(size_px // 4, size_px // 4 + size_px // 2)
    pixels[inside, inside] = (np.array(colour) * (1 - share) + 255 * share).astype(np.uint8)
    return torch.from_numpy(pixels)


@pytest.fixture
def network() -> LogoNetwork:
    torch.manual_seed(0)
    return LogoNetwork(NAME, 3, size_px=96).eval()


def test_the_classifier_reads_the_pooled_features_and_the_measures(network):
    pixels = torch.stack([draw((200, 0, 0), fading=True), draw((0, 0, 200), fading=False)])
    read = network.features(pixels)
    body = network.backbone.body
    pooled = body.forward_head(body.forward_features(normalise(pixels)), pre_logits=True)
    assert read.shape == (2, pooled.shape[1] + WIDTH)
    assert torch.allclose(read[:, : pooled.shape[1]], pooled, atol=1e-5)
    assert torch.allclose(network(pixels), network.backbone.get_classifier()(read), atol=1e-5)


def test_fades_are_measured_whatever_the_colour_and_the_size(network):
    def told(colour, fading, size_px):
        return network.backbone.measure(normalise(draw(colour, fading=fading, size_px=size_px)[None]))[0]

    apart = (told((200, 0, 0), True, 96) - told((200, 0, 0), False, 96)).abs()
    assert apart.max() > 0.5
    for size_px in (64, 192):
        again = (told((0, 0, 200), True, size_px) - told((0, 0, 200), False, size_px)).abs()
        assert again[apart.argmax()] > 0.5 * apart.max()


def test_statistics_are_standardised_over_what_was_seen(network):
    logos = [draw((shade, 0, 255 - shade), fading=fading) for shade in range(0, 256, 25) for fading in (True, False)]
    measured, standardise = network.backbone.measure(normalise(torch.stack(logos))), network.backbone.standardise
    standardise.train()
    for _ in range(200):
        standardise(measured)
    standardised, varied = standardise.eval()(measured), measured.std(0) > 5e-3
    assert varied.sum() > 10
    assert standardised[:, varied].mean(0).abs().max() < 0.2
    assert (standardised[:, varied].std(0) - 1).abs().max() < 0.2
    assert FAR > 2, "few of them are cut off"


def test_no_gradient_passes_to_the_pixels_through_the_measures(network):
    planes = normalise(draw((200, 0, 0), fading=True)[None].float()).requires_grad_()
    features = network.backbone.forward_features(planes)
    features[:, network.backbone.channels :].sum().backward()
    assert planes.grad is None or not planes.grad.abs().sum()


def test_stages_freeze_and_a_transformer_is_refused():
    network = LogoNetwork("tf_efficientnet_lite0+measures", 2, size_px=64)
    network.freeze(1)
    assert not network.backbone.body.conv_stem.weight.requires_grad
    assert network.backbone.project[0].weight.requires_grad
    with pytest.raises(RecipeError, match="no maps of features"):
        LogoNetwork("vit_tiny_patch16_224+measures", 2, size_px=64)
    with pytest.raises(RecipeError, match=r"backbone\+measures"):
        LogoNetwork("test_resnet+something", 2, size_px=64)
