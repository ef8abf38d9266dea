"""Networks cut after a stage: their layers, their classifier, and refused names."""

from __future__ import annotations

import pytest
import torch

from logo_edge.errors import RecipeError
from logo_edge_train.models import LogoNetwork

PIXELS = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_the_first_stages_are_those_of_the_whole_network():
    whole, cut = (LogoNetwork(f"tf_efficientnet_lite0{stages}", 4, pretrained=True).eval() for stages in ("", ":5"))
    kept = cut.state_dict()
    assert all(torch.equal(whole.state_dict()[key], kept[key]) for key in kept if "classifier" not in key)
    assert cut.float32_bytes < whole.float32_bytes / 4
    assert torch.equal(
        cut.features(PIXELS),
        whole.backbone.forward_intermediates(
            (PIXELS.permute(0, 3, 1, 2).float() - 127) / 128, indices=[3], intermediates_only=True
        )[0].mean((2, 3)),
    )
    assert cut(PIXELS).shape == (2, 4)
    assert cut.stage_features(PIXELS).shape == (2, 2 * (16 + 24 + 40 + 112))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tf_efficientnet_lite0:7", "expected 1 to 6 stages"),
        ("tf_efficientnet_lite0:", "expected 1 to 6 stages"),
        ("tf_efficientnet_lite0:all", "expected 1 to 6 stages"),
        ("resnet10t:2", "only an EfficientNet"),
    ],
)
def test_what_cannot_be_cut_is_refused(name, reason):
    with pytest.raises(RecipeError, match=reason):
        LogoNetwork(name, 4)
