"""Maps, embedding, landscape, charts and sheets, each on an example whose answer is known."""

from __future__ import annotations

import base64
import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import silhouette_score
from torch import nn

from logo_edge_report import charts, embedding, landscape, maps, svg_chart
from logo_edge_report.pictures import Pictured, regions_at, rise_distance
from logo_edge_report.sheets import THUMBNAIL_PX, make_sheet, thumbnail
from logo_edge_train.architecture import Architecture
from logo_edge_train.models import LogoNetwork, attention_maps

SIDE = 32


class CornerBackbone(nn.Module):
    """Class k is how bright corner k is: its features are the brightness, cut to one corner for each channel."""

    def forward_features(self, x):
        masks = torch.zeros(4, 8, 8)
        masks[0, :4, :4] = masks[1, :4, 4:] = masks[2, 4:, :4] = masks[3, 4:, 4:] = 1
        return nn.functional.avg_pool2d(x.mean(1, keepdim=True), SIDE // 8) * masks

    def forward_head(self, features, pre_logits=False):
        pooled = features.mean((2, 3))
        return pooled if pre_logits else pooled * 2


class CornerNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = CornerBackbone()


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    return LogoNetwork("test_vit", 3).eval()


def noise(count: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("corner", range(4))
def test_grad_cam_lights_the_corner_that_the_class_depends_on_and_no_other(corner):
    white = np.full((1, SIDE, SIDE, 3), 255, np.uint8)
    heat = maps.explain(CornerNetwork(), white, np.array([corner]))[maps.GRAD_CAM][0]
    expected = np.zeros((8, 8))
    top, left = divmod(corner, 2)
    expected[4 * top : 4 * top + 4, 4 * left : 4 * left + 4] = 1
    assert np.allclose(heat, expected, atol=1e-6)


def test_the_weights_of_attention_are_those_of_the_network_and_leave_it_as_it_was(transformer):
    pixels = noise(2, 160)
    with torch.no_grad():
        before = transformer(torch.from_numpy(pixels))
        attention, rollout = attention_maps(transformer, torch.from_numpy(pixels))
        after = transformer(torch.from_numpy(pixels))
    tokens = transformer.backbone.patch_embed.num_patches + transformer.backbone.num_prefix_tokens
    blocks = len(transformer.backbone.blocks)
    assert attention.shape[:2] == (blocks, 2)
    assert attention.shape[3:] == (tokens, tokens)
    assert np.allclose(attention.sum(-1), 1, atol=1e-5)
    assert np.allclose(rollout.sum(-1), 1, atol=1e-5)
    assert torch.equal(before, after)


def test_a_transformer_is_explained_by_attention_and_rollout(transformer):
    explanations = maps.explain(transformer, noise(2, 160), np.array([0, 1]))
    assert list(explanations) == [maps.ATTENTION, maps.ROLLOUT]
    for heat in explanations.values():
        assert heat.shape == (2, *transformer.backbone.patch_embed.grid_size)
        assert np.allclose(heat.max((1, 2)), 1)


def test_heat_on_ink_is_the_share_of_the_heat_over_the_drawing():
    picture = np.full((1, 16, 16, 3), 255, np.uint8)
    picture[0, 4:12, 4:12] = 0
    inside = np.zeros((1, 16, 16), np.float32)
    inside[0, 6:10, 6:10] = 1
    assert maps.heat_on_ink(picture, inside) == (pytest.approx(1), 0.25)
    assert maps.heat_on_ink(picture, np.ones((1, 16, 16), np.float32))[0] == pytest.approx(0.25)


def test_hot_places_hide_the_picture_and_cold_ones_show_it():
    picture = np.full((THUMBNAIL_PX, THUMBNAIL_PX, 3), 255, np.uint8)
    heat = np.zeros((4, 4))
    heat[0, 0] = 1
    laid = maps.overlay(picture, heat).astype(int)
    assert laid[-1, -1].min() > 245
    assert np.ptp(laid[5, 5]) > 80


def test_the_features_before_the_last_layer_give_the_networks_logits():
    torch.manual_seed(0)
    network = LogoNetwork("test_resnet", 3).eval()
    pixels = noise(5, SIDE)
    features, logits = embedding.penultimate(network, pixels)
    with torch.no_grad():
        assert np.allclose(logits, network(torch.from_numpy(pixels)).numpy(), atol=1e-5)
        head = network.backbone.get_classifier()(torch.from_numpy(features)).numpy()
    assert np.allclose(head, logits, atol=1e-5)


def blobs(spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Sixty points of 10 features around three centres, and which centre is whose."""
    random, targets = np.random.default_rng(0), np.repeat(np.arange(3), 20)
    return (np.eye(3, 10)[targets] * 5 + random.normal(0, spread, (60, 10))).astype(np.float32), targets


def test_the_regions_say_what_the_network_says_at_every_logo():
    random = np.random.default_rng(1)
    points, probabilities = random.normal(0, 10, (80, 2)), random.dirichlet([1, 1, 1], 80)
    assert np.allclose(embedding.blend(points, probabilities, points), probabilities, atol=1e-6)
    window = embedding.window_of([points])
    sorted_points = points[np.argsort(points[:, 0])]
    halves = np.eye(2)[(sorted_points[:, 0] > 0).astype(int)]
    regions = embedding.decision_regions(sorted_points, halves, window)
    assert (regions_at(regions, sorted_points, window) == halves.argmax(1)).mean() > 0.95
    assert regions[:, 0].max() == 0
    assert regions[:, -1].min() == 1


def test_layouts_keep_their_places_and_show_no_groups_that_the_features_lack():
    apart, targets = blobs(0.3)
    noise_alone = np.random.default_rng(1).normal(0, 1, apart.shape).astype(np.float32)
    moved = apart + np.random.default_rng(2).normal(0, 0.3, apart.shape).astype(np.float32)
    first, near, last = embedding.embed([noise_alone, moved, apart])
    centred = (near - near.mean(0)) - (last - last.mean(0))
    assert np.linalg.norm(centred, axis=1).mean() < 0.15 * np.ptp(last, axis=0).max()
    assert silhouette_score(last, targets) > 0.6
    assert silhouette_score(first, targets) < 0.2
    assert np.array_equal(first, embedding.embed([noise_alone, moved, apart])[0])


def test_separation_is_high_where_classes_are_apart_and_nought_where_they_are_not():
    features, targets = blobs(0.3)
    assert embedding.separation(features, targets) > 0.9
    assert abs(embedding.separation(features, np.random.default_rng(0).permutation(targets))) < 0.1


def test_every_filter_of_a_direction_has_the_norm_of_the_networks_own():
    torch.manual_seed(0)
    network = LogoNetwork("test_resnet", 3)
    steps, parameters = landscape.random_direction(network, seed=0), dict(network.named_parameters())
    assert steps.keys() == {name for name, parameter in parameters.items() if parameter.ndim > 1}
    for name, step in steps.items():
        assert torch.allclose(step.flatten(1).norm(dim=1), parameters[name].flatten(1).norm(dim=1), rtol=1e-4), name
    other = landscape.random_direction(network, seed=1)
    assert not any(torch.allclose(step, other[name]) for name, step in steps.items())


def test_the_middle_of_the_landscape_is_the_networks_loss_and_the_network_is_left_alone():
    torch.manual_seed(0)
    network = LogoNetwork("test_resnet", 3).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    pixels, targets, said = noise(6, SIDE), np.array([0, 1, 2, 0, 1, 2]), []
    steps, losses = landscape.loss_plane(network, pixels, targets, points=3, reach=0.5, seed=0, say=said.append)
    with torch.no_grad():
        expected = nn.functional.cross_entropy(network(torch.from_numpy(pixels)), torch.from_numpy(targets))
    assert steps.tolist() == [-0.5, 0, 0.5]
    assert losses[1, 1] == pytest.approx(float(expected), rel=1e-5)
    assert np.ptp(losses) > 0
    assert len(said) == 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


class Steep(nn.Module):
    """Two logits that differ by 10 where its weights are its own, and by the less the further they are from there."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 4))

    def forward(self, pixels):
        margin = 10 - 40 * (self.weight - 1).norm()
        return margin * torch.tensor([[0.5, -0.5]]).repeat(len(pixels), 1)


def test_the_plane_reaches_as_far_as_the_bowl_does():
    pixels, targets = noise(2, 4), np.array([0, 0])
    assert landscape.find_reach(Steep(), pixels, targets, rise=1.0, seed=0) == 1 / 8  # the step's norm is 2 reach
    assert landscape.find_reach(Steep(), pixels, targets, rise=1e3, seed=0) == 1


def test_the_distance_of_a_rise_is_that_of_a_bowl():
    steps = np.linspace(-1, 1, 41)
    across, up = np.meshgrid(steps, steps)
    assert rise_distance(steps, 3 + 2 * (across**2 + up**2)) == pytest.approx(0.5, abs=0.01)
    assert rise_distance(steps, np.ones((41, 41))) is None


CHARTS = {
    "confusion": lambda: charts.confusion_matrix([[3, 1], [0, 4]], ["a $ b", "<b>"]),
    "reliability": lambda: charts.reliability_diagram(
        {name: [{"confidence": 0.5, "accuracy": 0.6}, {"confidence": 0.9, "accuracy": 1.0}] for name in ("x", "y")}
    ),
    "risk": lambda: charts.risk_coverage_curve({"x": {"coverage": [0.5, 1], "risk": [0, 0.1]}}),
    "histogram": lambda: charts.confidence_histogram([0, 0, 3, 9], [0, 0, 2, 1]),
    "bars": lambda: charts.share_bars(
        {"x": {"value": 0.5, "low": 0.4, "high": 0.6}, "never": dict.fromkeys(("value", "low", "high"), float("nan"))},
        ideal=0.5,
    ),
    "lines": lambda: charts.lines({"x": {1: 0.2, 2: 0.4}, "y": {1: 0.3}}, "epoch", "accuracy"),
    "uncertainty": lambda: charts.uncertainty_map(np.array([0.5, 0.9]), np.array([0.2, 0.0]), np.array([False, True])),
    "classes": lambda: charts.class_plane(
        np.eye(2),
        np.array([0, 1]),
        ("a", "b"),
        regions=np.zeros((4, 4), int),
        wrong=np.array([True, False]),
        window=(-1, 2, -1, 2),
    ),
    "confidence": lambda: charts.confidence_plane(
        np.eye(2), np.array([0.4, 1]), np.array([True, False]), (-1, 2, -1, 2)
    ),
    "surface": lambda: charts.loss_surface(np.linspace(-1, 1, 5), np.arange(25.0).reshape(5, 5), 20.0),
}


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_xml_in_the_pages_ink_and_the_same_each_time(name):
    svg = CHARTS[name]()
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "viewBox" in root.attrib
    assert "currentColor" in svg
    assert not [fixed for fixed in ("#000000", svg_chart.INK, ": black", "#000;") if fixed in svg]
    assert "<style" not in svg
    assert svg == CHARTS[name]()
    for label in root.iter("{http://www.w3.org/2000/svg}text"):
        assert "fill: currentColor" in label.attrib.get("style", "") or label.attrib.get("fill") == "currentColor"


def test_ids_of_two_charts_never_meet():
    ids = []
    for make in CHARTS.values():
        ids += [element.attrib["id"] for element in ElementTree.fromstring(make()).iter() if "id" in element.attrib]
    assert len(ids) > 10
    assert len(ids) == len(set(ids))


def test_a_sheet_has_a_cell_for_every_logo_and_its_tiles_where_it_says():
    colours = np.random.default_rng(0).integers(0, 256, (22, 3))
    tiles = [np.full((THUMBNAIL_PX, THUMBNAIL_PX, 3), colour, np.uint8) for colour in colours]
    sheet = make_sheet([tiles[i : i + 2] for i in range(0, 22, 2)], [f"logo {i}" for i in range(11)], [""] * 11)
    assert (len(sheet.cells), sheet.columns, sheet.rows) == (11, 8, 3)
    positions = [position for cell in sheet.cells for position in cell.tiles]
    assert len(set(positions)) == 22
    image = Image.open(io.BytesIO(base64.b64decode(sheet.uri.removeprefix("data:image/webp;base64,"))))
    assert image.size == (8 * THUMBNAIL_PX, 3 * THUMBNAIL_PX)
    for (column, row), colour in zip(positions, colours, strict=True):
        middle = image.getpixel(((column + 0.5) * THUMBNAIL_PX, (row + 0.5) * THUMBNAIL_PX))
        assert np.abs(np.array(middle) - colour).max() < 12  # WebP is lossy


def test_a_thumbnail_is_square_on_the_background_that_the_runtime_picks():
    small = thumbnail(Image.new("RGBA", (40, 20), (200, 0, 0, 255)))
    assert small.shape == (THUMBNAIL_PX, THUMBNAIL_PX, 3)
    assert (thumbnail(Image.new("RGBA", (10, 10), (0, 0, 0, 0))) == 255).all()


def test_few_snapshots_are_chosen_at_even_distances(tmp_path):
    every = tuple((epoch, tmp_path) for epoch in range(1, 13))
    pictured = Pictured("x", tmp_path, Architecture("test_resnet", 32), ("a",), every)
    assert [epoch for epoch, _ in pictured.chosen_snapshots(4)] == [1, 5, 8, 12]
    assert pictured.chosen_snapshots(20) == list(every)
