"""LogoViT: the statistics of a logo, the attention bias, the heads, and the interface of any other network."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from logo_edge.errors import RecipeError
from logo_edge_compress.onnx.export import export_onnx
from logo_edge_compress.verify import EXPORTED, run_onnx, verify
from logo_edge_train.losses import noisy_log_softmax, supervised_objective
from logo_edge_train.models import (
    LogoNetwork,
    attention_focus,
    attention_layers,
    attention_maps,
    find_ink,
    near_ink,
    normalise,
)
from logo_edge_train.models.extractors import (
    autocorrelation,
    count_colours,
    measure_colour,
    measure_ramps,
    measure_regularity,
    measure_shape,
    measure_text,
    mirror_images,
    oriented_edges,
    soft_ink,
)
from logo_edge_train.models.logo_vit import PREFIX, LogoBias, Prediction
from logo_edge_train.recipe_io import recipe_from_dict

SIDE = 64


@pytest.fixture(scope="module")
def network() -> LogoNetwork:
    torch.manual_seed(0)
    return LogoNetwork("logo_vit_tiny", 4, size_px=SIDE).eval()


def noise(count: int, side: int = SIDE) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def drawing(side: int = 96) -> np.ndarray:
    """(side, side, 3) uint8: blank white."""
    return np.full((side, side, 3), 255, np.uint8)


def square(side: int = 96) -> np.ndarray:
    """A flat dark square over the middle half."""
    picture = drawing(side)
    picture[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = (40, 60, 120)
    return picture


def fading_square(side: int = 96) -> np.ndarray:
    """The same square, fading from left to right."""
    picture = drawing(side)
    shade = np.linspace(20, 200, side // 2).round().astype(np.uint8)
    picture[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = shade[None, :, None]
    return picture


def strokes(side: int = 96) -> np.ndarray:
    """Vertical strokes across the middle, like lettering."""
    picture = drawing(side)
    for left in range(4, side - 8, 8):
        picture[side // 2 - 8 : side // 2 + 8, left : left + 3] = 20
    return picture


def disc(side: int = 96) -> np.ndarray:
    """A flat disc in the middle."""
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2
    inside = (side / 4 + 0.5 - np.hypot(y, x)).clip(0, 1)[:, :, None]  # smooth at its edge
    return (255 + inside * (np.array((40, 60, 120)) - 255)).round().astype(np.uint8)


def seen(*pictures: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The colours and the ink of the pictures, the inputs of the extractors."""
    colours = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
    return colours, soft_ink(colours)


# Statistics of a logo.


def test_ink_is_what_differs_from_the_corners_also_where_one_of_them_is_inked():
    picture = square()
    picture[:4, :4] = 0
    ink = find_ink(torch.from_numpy(picture)[None])[0]
    assert ink[:4, :4].all()
    assert ink[24:72, 24:72].all()
    assert int(ink.sum()) == 48 * 48 + 16


@pytest.mark.parametrize("step", [1, 4])
def test_a_fade_is_told_from_a_flat_fill(step):
    flat, fade, lines = measure_ramps(*seen(square(), fading_square(), strokes()), step)
    assert float(flat[1:].sum()) == pytest.approx(0, abs=1e-6)
    assert float(flat[0]) > 0.2
    assert float(fade[1:].sum()) > 0.5
    assert float(lines[1:].sum()) == pytest.approx(0, abs=1e-6)


def test_noise_of_a_jpeg_is_no_fade():
    noisy = square().astype(int) + np.random.default_rng(0).integers(-3, 4, (96, 96, 3))
    (shares,) = measure_ramps(*seen(noisy.clip(0, 255).astype(np.uint8)), 4)
    assert float(shares[2:].sum()) < 0.05


@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_flat_colours_are_counted(count):
    random, picture = np.random.default_rng(1), drawing(120)
    colours = [(0, 0, 0), (200, 0, 0), (0, 180, 0), (0, 0, 200), (200, 180, 0), (0, 180, 200)]
    random.shuffle(colours)
    for index in range(count):
        picture[12:108, 12 + 96 * index // count : 12 + 96 * (index + 1) // count] = colours[index]
    (figures,) = count_colours(*seen(picture))
    assert float(figures[0].exp()) == pytest.approx(count, rel=0.15)


def test_a_row_of_strokes_is_told_from_a_blob():
    colours, ink = seen(strokes(), square())
    row, blob = measure_text(colours, ink)
    assert float(row[0].expm1()) == pytest.approx(22, rel=0.1), "eleven strokes have 22 edges"
    assert float(blob[0].expm1()) == pytest.approx(2, rel=0.1)
    row, blob = measure_regularity(oriented_edges(colours)[0])
    assert float(row[2]) > 0.8, "the strokes return after 8 px of 96: between 4 and 6 64ths"
    assert float(row[7:].min()) < -0.1
    assert float(blob[:3].max()) < 0.1


@pytest.mark.parametrize("count", [7, 32])
def test_autocorrelation_is_that_of_its_definition(count):
    values = np.random.default_rng(0).normal(size=(2, count)).astype(np.float32)
    expected = [np.correlate(row, row, "full")[count - 1 :] for row in values]
    assert np.allclose(autocorrelation(torch.from_numpy(values)), expected, atol=1e-4)


def test_a_disc_is_told_from_a_square_by_its_contour():
    round_one, square_one = measure_shape(*seen(disc(), square()))
    assert float(round_one[:8].std()) < 0.2 * float(square_one[:8].std()), "a disc's contour faces all directions alike"
    bends = slice(8, 15)
    assert int(round_one[bends].argmax()) == 2, "radius a quarter of the side: log2(4 + 1)"
    assert int(square_one[bends].argmax()) == 0


def test_symmetry_is_seen():
    lopsided = drawing()
    lopsided[20:60, 10:40] = 0
    whole, half = measure_shape(*seen(square(), lopsided))
    assert torch.allclose(whole[19:26], torch.ones(7), atol=0.05)
    assert float(half[19]) < 0.4


@pytest.mark.parametrize("measure", [measure_colour, measure_text, measure_shape])
def test_statistics_are_finite_few_and_smooth_at_any_size(measure):
    counts = set()
    for side in (32, 96, 224):
        colours = seen(drawing(side), square(side), strokes(side), np.asarray(noise(1, side)[0]))[0].requires_grad_(
            True
        )
        statistics = measure(colours, soft_ink(colours))
        statistics.sum().backward()
        assert torch.isfinite(statistics).all()
        assert torch.isfinite(colours.grad).all()
        assert float(colours.grad[2:].abs().sum()) > 0
        assert float(statistics.detach().abs().max()) < 10
        counts.add(statistics.shape[1])
    assert len(counts) == 1


# The attention bias.


@pytest.mark.parametrize("which", range(7))
def test_a_place_and_its_mirror_image_share_a_learned_score(which):
    side = 4
    bias = LogoBias(heads=2, side=side)
    with torch.no_grad():
        bias.relative.zero_()
        bias.symmetry[1, which] = 3.0
    geometry = bias.geometry().detach()
    positions = torch.arange(side * side)
    image = mirror_images(positions.view(side, side))[which].flatten()
    assert geometry[0].abs().sum() == 0, "each head learns its own"
    assert torch.equal(geometry[1, positions, image], torch.full((side * side,), 3.0))
    assert int((geometry[1] != 0).sum()) == side * side


def test_mirrored_pairs_of_places_begin_with_the_same_scores():
    side = 5
    geometry = LogoBias(heads=3, side=side).geometry().detach()
    for image in mirror_images(torch.arange(side * side).view(side, side)):
        moved = image.flatten()
        assert torch.allclose(geometry[:, moved][:, :, moved], geometry, atol=1e-6)
    assert float(geometry[0, 0, -1]) < float(geometry[0, 0, 1]) < 0, "the first head looks near"
    assert float(geometry[-1].abs().max()) == 0, "the last one anywhere"


def test_empty_patches_get_next_to_no_attention_and_those_with_ink_all_the_rest(network):
    pixels = torch.from_numpy(drawing(SIDE))[None]
    pixels[0, 2:12, 2:28] = 0
    maps, _ = attention_maps(network, pixels)
    inked = find_ink(pixels)[0].reshape(4, 16, 4, 16).any(3).any(1).flatten()
    assert int(inked.sum()) == 2
    to_patches = maps[:, 0, :, :, PREFIX:]
    assert float(to_patches[..., ~inked].sum() / to_patches.sum()) < 0.02
    with torch.no_grad():
        off = LogoNetwork("logo_vit_tiny", 4, size_px=SIDE)
        for bias in off.backbone.biases:
            bias.ink.zero_()
    assert attention_focus(network, pixels) > attention_focus(off, pixels)


def test_a_blank_picture_gives_numbers(network):
    with torch.no_grad():
        assert torch.isfinite(network(torch.full((1, SIDE, SIDE, 3), 255, dtype=torch.uint8))).all()


def test_focus_is_the_share_near_the_ink(network):
    pixels = torch.from_numpy(drawing(SIDE))[None].repeat(2, 1, 1, 1)
    pixels[0, 20:28, 20:28] = 0  # patch (1, 1): itself and eight around it
    pixels[1, 20:28, 20:28] = pixels[1, -3:, 20:28] = 0
    inside = near_ink(pixels, (4, 4))
    assert inside[0].view(4, 4).sum(1).tolist() == [3, 3, 3, 0]
    assert inside[1].view(4, 4).sum(1).tolist() == [3, 3, 3, 3]
    assert near_ink(pixels, (4, 4), reach=0).sum(1).tolist() == [1, 2]
    assert 0.9 < attention_focus(network, pixels, reach=0) <= attention_focus(network, pixels) <= 1


@pytest.mark.parametrize("name", ["logo_vit_tiny", "plain_vit_tiny"])
def test_the_maps_are_attention_whose_rows_sum_to_one_and_so_is_their_rollout(name):
    backbone = LogoNetwork(name, 4, size_px=SIDE).backbone.train()
    maps, rollout = attention_maps(backbone, normalise(noise(2)))
    tokens = 16 + backbone.num_prefix_tokens
    assert maps.shape == (6, 2, 3, tokens, tokens)
    assert torch.allclose(maps.sum(-1), torch.ones(6, 2, 3, tokens), atol=1e-5)
    assert torch.allclose(rollout.sum(-1), torch.ones(2, tokens), atol=1e-5)
    assert backbone.training, "left as it was"


def test_looking_at_attention_computes_what_the_fused_kernel_does(network):
    pixels, layers = noise(2), attention_layers(network)
    with torch.no_grad():
        fused = network(pixels)
        for layer in layers:
            layer.fused_attn = False
        open_ = network(pixels)
        for layer in layers:
            layer.fused_attn = True
    assert len(layers) == 6
    assert torch.allclose(fused, open_, atol=1e-5)


# The heads.


def test_the_prior_sees_the_aspects_and_no_patch(network):
    pixels = noise(2)
    with torch.no_grad():
        features = network.backbone.forward_features(normalise(pixels))
        for name, parameter in network.backbone.named_parameters():
            if name.startswith("patch_embed"):
                parameter.add_(0.1)
        moved = network.backbone.forward_features(normalise(pixels))
        for name, parameter in network.backbone.named_parameters():
            if name.startswith("patch_embed"):
                parameter.sub_(0.1)
        before, after = (network.backbone.forward_prior(tokens) for tokens in (features, moved))
    assert not torch.allclose(features[:, 0], moved[:, 0], atol=1e-3)
    assert torch.equal(before, after)


def test_the_prior_counts_for_nothing_at_first_and_by_its_weight_then():
    torch.manual_seed(0)
    network = LogoNetwork("logo_vit_tiny", 4, size_px=SIDE).eval()
    with torch.no_grad():
        first, logits = network(noise(2), whole=True), network(noise(2))
        network.backbone.prior_weight.fill_(2.0)
        then = network(noise(2), whole=True)
    assert isinstance(first, Prediction)
    assert first.prior_logits.shape == first.log_variance.shape == (2, 4)
    assert torch.allclose(first.logits, logits)
    assert torch.allclose(then.logits, first.logits + 2 * first.prior_logits, atol=1e-5)


def test_without_variance_the_aleatoric_loss_is_the_cross_entropy():
    torch.manual_seed(0)
    logits, targets = torch.randn(8, 4) * 3, torch.randint(0, 4, (8,))
    log_probabilities = noisy_log_softmax(logits, torch.full((8, 4), -torch.inf))
    assert torch.allclose(log_probabilities, logits.log_softmax(1), atol=1e-5)

    class Sure(nn.Module):
        def forward(self, _pixels, whole=False):
            return Prediction(logits, logits, torch.full((8, 4), -100.0)) if whole else logits

    batch = (None, torch.eye(4)[targets], torch.ones(8), None)
    noisy = supervised_objective(0.1, aleatoric=True)(Sure(), *batch)["cross_entropy"]
    assert float(noisy) == pytest.approx(float(supervised_objective(0.1)(Sure(), *batch)["cross_entropy"]), abs=1e-5)
    assert float(noisy) == pytest.approx(float(cross_entropy(logits, targets, label_smoothing=0.1)), abs=1e-5)


def test_variance_makes_a_wrong_and_sure_logit_cheaper():
    torch.manual_seed(0)
    logits = torch.tensor([[8.0, 0.0, 0.0]]).repeat(64, 1)
    sure, unsure = (-noisy_log_softmax(logits, torch.full((64, 3), v))[:, 1].mean() for v in (-20.0, 3.0))
    assert float(unsure) < 0.8 * float(sure)


def test_only_a_network_with_a_head_for_it_learns_variances():
    with pytest.raises(RecipeError, match="test_vit has no head of log variances"):
        LogoNetwork("test_vit", 3).learn_variance()
    with pytest.raises(RecipeError, match="unknown field distill.fit.aleatoric"):
        recipe_from_dict({"distill": {"fit": {"aleatoric": True}}})


# The interface of any other network.


@pytest.mark.parametrize(("name", "side"), [("logo_vit_tiny", 96), ("logo_vit_small", 64), ("plain_vit_tiny", 96)])
def test_every_size_gives_logits_and_timms_interface(name, side):
    backbone = timm.create_model(name, num_classes=5, img_size=side)
    planes = normalise(noise(2, side))
    features = backbone.forward_features(planes)
    assert backbone.patch_embed.grid_size == (side // 16, side // 16)
    assert features.shape == (2, (side // 16) ** 2 + backbone.num_prefix_tokens, backbone.num_features)
    assert backbone(planes).shape == backbone.forward_head(features).shape == (2, 5)
    assert backbone.forward_head(features, pre_logits=True).shape == (2, backbone.num_features)
    backbone.reset_classifier(7)
    assert backbone.get_classifier().out_features == backbone(planes).shape[1] == 7
    backbone.reset_classifier(0)
    assert backbone(planes).shape == (2, backbone.num_features)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_gradient_reaches_every_parameter(checkpointing):
    torch.manual_seed(0)
    network = LogoNetwork("logo_vit_tiny", 4, size_px=SIDE).train()
    network.backbone.set_grad_checkpointing(checkpointing)
    network.learn_variance()
    pixels = torch.from_numpy(np.stack([strokes(SIDE), square(SIDE), fading_square(SIDE)]))
    output = network(pixels, whole=True)
    loss = cross_entropy(output.logits, torch.tensor([0, 1, 2])) + cross_entropy(
        output.prior_logits, torch.tensor([0, 1, 2])
    )
    (loss + output.log_variance.square().sum()).backward()
    silent = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert silent == {"backbone.biases.5.relative", "backbone.biases.5.symmetry"}, (
        "no one reads the last layer's patches"
    )


def test_the_reference_size_passes_forward_and_backward():
    network = LogoNetwork("logo_vit_base", 4, size_px=224).train()
    backbone = network.backbone
    assert (backbone.embed_dim, len(backbone.blocks), backbone.blocks[0].attn.num_heads) == (768, 12, 12)
    assert (backbone.blocks[0].mlp.fc1.out_features, backbone.patch_embed.grid_size) == (3072, (14, 14))
    logits = network(noise(1, 224))
    logits.logsumexp(1).sum().backward()
    assert logits.shape == (1, 4)
    assert torch.isfinite(backbone.patch_embed.proj[0].weight.grad).all()


@pytest.mark.parametrize("side", [96, 128])
def test_the_plain_one_has_as_many_parameters(side):
    logo, plain = (LogoNetwork(name, 4, size_px=side).float32_bytes for name in ("logo_vit_tiny", "plain_vit_tiny"))
    assert plain == pytest.approx(logo, rel=0.02)


def test_transformers_of_timm_are_built_for_the_size_they_are_asked_for():
    pixels = noise(1, 96)
    for name in ("test_vit", "vit_tiny_patch16_224"):
        assert LogoNetwork(name, 3, size_px=96)(pixels).shape == (1, 3)
    assert LogoNetwork("test_resnet", 3, size_px=96)(pixels).shape == (1, 3)
    with pytest.raises(RecipeError, match="expected a multiple of 16"):
        LogoNetwork("logo_vit_tiny", 3, size_px=100)


@pytest.mark.slow
def test_the_exported_graph_gives_the_networks_logits(network, tmp_path):
    pixels = torch.cat([noise(5), torch.from_numpy(np.stack([strokes(SIDE), fading_square(SIDE), drawing(SIDE)]))])
    with torch.no_grad():
        network.backbone.prior_weight.fill_(1.0)
        logits = network(pixels).numpy()
    path = export_onnx(network, SIDE, tmp_path / "logo_vit.onnx")
    network.backbone.prior_weight.detach().zero_()
    assert verify(logits, run_onnx(path, pixels.numpy()), EXPORTED, "fp32").images == 8
