"""A pruned network is a plain, smaller one: it can be run, stored and exported, and is faster."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from logo_edge.errors import RunError
from logo_edge.preprocess import InputContract
from logo_edge_compress.distill.prune import count_macs, prune_channels
from logo_edge_compress.onnx.export import export_onnx
from logo_edge_compress.search.latency_table import onnx_latency
from logo_edge_compress.verify import run_onnx
from logo_edge_train.architecture import Architecture
from logo_edge_train.checkpoints import load_network, save_member
from logo_edge_train.data.manifest import FILES, LogoRow, read_manifest, write_manifest
from logo_edge_train.models import LogoNetwork, resize_layers
from logo_edge_train.recipe import PruneConfig

CLASSES, SIZE = ("disc", "bars", "word"), 96


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("logos"), np.random.default_rng(0)
    rows = []
    for index in range(9):
        Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{index}.png")
        rows.append(LogoRow(FILES, "", f"{index}.png", str(index), CLASSES[index % 3], (), True, "train"))
    write_manifest(folder / "manifest.csv", rows)
    return read_manifest(folder / "manifest.csv")


def slim(network, manifest, **settings):
    return prune_channels(network, PruneConfig(**settings), manifest, CLASSES, InputContract(SIZE))


def build(name):
    torch.manual_seed(0)
    network = LogoNetwork(name, len(CLASSES)).eval()
    network.learn_epistemic("dirichlet")
    return network


@pytest.mark.parametrize("importance", ["taylor", "magnitude"])
@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv4_conv_small_050", "mobilenetv3_small_050"])
def test_it_computes_and_comes_back_from_its_checkpoint(name, importance, manifest, tmp_path):
    network = build(name).requires_grad_(False)  # as a fit gives it
    pruned = slim(network, manifest, share=0.4, importance=importance)
    assert 0.4 < count_macs(pruned, SIZE) / count_macs(network, SIZE) <= 0.6
    assert count_macs(network, SIZE) == count_macs(build(name), SIZE), "the network that was given is as it was"
    convs = [module for module in pruned.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(convs) >= 4
    assert all(conv.out_channels % 8 == 0 for conv in convs)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in pruned.parameters()), "it learns on"
    save_member(tmp_path / "pruned.safetensors", pruned)
    again = load_network(tmp_path / "pruned.safetensors", Architecture(name, SIZE), len(CLASSES))
    pixels = torch.randint(0, 256, (3, SIZE, SIZE, 3), dtype=torch.uint8)
    with torch.no_grad():
        for logits, wanted in zip(
            vars(again.answer(pixels)).values(), vars(pruned.answer(pixels)).values(), strict=True
        ):
            assert torch.allclose(logits, wanted, atol=0.05, rtol=0.05)


def test_it_is_exported_and_faster(manifest, tmp_path):
    network = build("resnet10t")
    pruned = slim(network, manifest, share=0.6, importance="magnitude")
    whole, small = (
        export_onnx(item, SIZE, tmp_path / f"{name}.onnx") for name, item in (("w", network), ("s", pruned))
    )
    pixels = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    with torch.no_grad():
        assert run_onnx(small, pixels) == pytest.approx(pruned(torch.from_numpy(pixels)).numpy(), abs=1e-3)
    assert small.stat().st_size < whole.stat().st_size
    times = {path: min(onnx_latency(path, pixels[:1]).p50_ms for _ in range(3)) for path in (whole, small)}
    assert times[small] < 0.8 * times[whole]


def test_what_cannot_lose_channels_is_refused(manifest):
    with pytest.raises(RunError, match="plain_vit_tiny cannot lose channels"):
        slim(LogoNetwork("plain_vit_tiny", len(CLASSES), size_px=SIZE), manifest, share=0.3)


def test_a_checkpoint_of_a_wider_network_does_not_fit():
    wide = {"backbone.fc.weight": torch.zeros(len(CLASSES) + 1, 512)}
    with pytest.raises(RunError, match=r"backbone\.fc\.weight is \(4, 512\)"):
        resize_layers(LogoNetwork("resnet10t", len(CLASSES)), wide)
