"""Networks that read detail planes beside RGB, from the recipe to the exported graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from logo_edge.errors import RecipeError
from logo_edge.preprocess import DETAIL_PX, InputContract, preprocess
from logo_edge_compress.onnx.export import export_body, export_onnx
from logo_edge_compress.quantize.static import quantize_body
from logo_edge_compress.verify import run_onnx
from logo_edge_train.architecture import Architecture
from logo_edge_train.data.augment import LogoAugmentation, weaken
from logo_edge_train.data.dataset import LogoDataset
from logo_edge_train.data.manifest import FILES, LogoRow, Manifest
from logo_edge_train.models import LogoNetwork
from logo_edge_train.recipe import AugmentConfig
from logo_edge_train.recipe_io import recipe_from_dict

DETAILED = Architecture.parse("test_efficientnet+details@32")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """(12, 32, 32, 7) uint8: fades and bars as a network of DETAILED sees them."""
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(12):
        ends = random.integers(0, 256, (2, 3))
        fade = ends[0] + np.linspace(0, 1, 200)[None, :, None] * (ends[1] - ends[0]) + np.zeros((200, 1, 1))
        fade[60:90] = random.integers(0, 256, 3)
        pictures.append(preprocess(fade.astype(np.uint8), DETAILED.contract))
    return np.stack(pictures)


def test_the_name_of_a_network_says_what_it_reads():
    assert DETAILED.contract == InputContract(32, details=True)
    assert Architecture.parse("test_efficientnet@32").contract == InputContract(32)
    assert Architecture.parse("test_efficientnet+details+measures@32").contract.channels == 7
    for wrong in ("test_efficientnet+measures+details", "test_efficientnet+details+details"):
        with pytest.raises(RecipeError, match="details after the backbone"):
            LogoNetwork(wrong, 4)


def test_with_imagenet_weights_the_planes_count_for_nothing_at_first():
    plain, detailed = (
        LogoNetwork(f"tf_efficientnet_lite0{suffix}", 4, pretrained=True).eval() for suffix in ("", "+details")
    )
    views = torch.randint(0, 256, (2, 64, 64, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(detailed.features(views), plain.features(views[..., :3]), atol=1e-4)


def test_the_stem_learns_the_planes_and_so_cannot_be_frozen():
    network = LogoNetwork(DETAILED.model, 4).train()
    network(torch.randint(0, 256, (4, 32, 32, 7), dtype=torch.uint8)).sum().backward()
    assert network.backbone.conv_stem.weight.grad[:, 3:].abs().sum() > 0
    with pytest.raises(RecipeError, match="the stem must learn the detail planes; set frozen_blocks = -1"):
        network.freeze(2)
    frozen = {"teachers": ["tf_efficientnet_lite0+details@32"], "fit": {"frozen_blocks": 2}}
    with pytest.raises(RecipeError, match="train.fit.frozen_blocks is 2"):
        recipe_from_dict({"train": frozen})


def test_statistics_are_measured_of_rgb_alone(pixels):
    torch.manual_seed(0)
    network = LogoNetwork("test_efficientnet+details+measures", 4).eval()
    planes = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    other = planes.clone()
    other[:, 3:] = 0
    assert torch.equal(network.backbone.measure(planes), network.backbone.measure(other))


def test_a_view_has_the_planes_of_the_damaged_picture(tmp_path):
    Image.new("RGBA", (300, 200), (200, 40, 40, 255)).save(tmp_path / "flat.png")
    row = LogoRow(FILES, "", "flat.png", label="a")
    augment = AugmentConfig(p_low_resolution=1.0, least_px=24)
    dataset = LogoDataset(Manifest((row,), tmp_path), [row], ("a", "b"), contract=DETAILED.contract, augment=augment)
    sides = set()
    for position in range(12):
        picture = dataset.picture(position)
        sides.add(len(picture))
        assert np.array_equal(dataset[position][0], preprocess(picture, DETAILED.contract))
    assert 24 <= min(sides) < max(sides) <= 160


def test_a_picture_is_as_large_as_the_planes_need_and_may_be_scaled_up_again():
    logo = Image.new("RGBa", (300, 200), (20, 90, 160, 255))
    still = LogoAugmentation(weaken(AugmentConfig(), 0.0), DETAILED.contract)
    assert still.draw_picture(logo, 0).shape == (DETAIL_PX, DETAIL_PX, 3)
    augment = AugmentConfig(p_low_resolution=1.0, least_px=24, p_rescale=1.0)
    enlarged = LogoAugmentation(augment, DETAILED.contract)
    assert max(len(enlarged.draw_picture(logo, seed)) for seed in range(12)) > 160


def test_the_graph_reads_the_planes_in_fp32_and_int8(pixels, tmp_path):
    torch.manual_seed(0)
    network = LogoNetwork(DETAILED.model, 4).eval()
    torch.nn.init.normal_(network.backbone.conv_stem.weight)
    with torch.no_grad():
        wanted = network(torch.from_numpy(pixels)).numpy()
        blind = network(torch.from_numpy(pixels * np.array([1, 1, 1, 0, 0, 0, 0], np.uint8))).numpy()
    assert np.abs(wanted - blind).max() > 0.05 * np.abs(wanted).max()
    exported = export_onnx(network, 32, tmp_path / "fp32.onnx")
    assert run_onnx(exported, pixels) == pytest.approx(wanted, abs=1e-4)
    body = tmp_path / "body.onnx"
    export_body(network, 32, body)
    int8 = quantize_body(body, body, pixels, 32, tmp_path / "int8.onnx", method="minmax", reduce_range=True)
    assert np.corrcoef(run_onnx(int8, pixels).ravel(), wanted.ravel())[0, 1] > 0.95
