"""Composed networks keep their logits when exported, and the latency of each part is measured once."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from logo_edge.timing import Latency
from logo_edge_compress.commands import search
from logo_edge_compress.onnx.export import export_onnx
from logo_edge_compress.search import latency_table as latency
from logo_edge_compress.search.latency_table import measure_options
from logo_edge_compress.verify import EXPORTED, run_onnx, verify
from logo_edge_train.data.manifest import FILES, LogoRow, write_manifest
from logo_edge_train.models import LogoNetwork
from logo_edge_train.recipe import SearchConfig
from logo_edge_train.recipe_io import load_recipe

SIZE = 32
TINY = SearchConfig(backbones=("test_resnet", "test_vit"), attentions=("none", "mhsa"), heads=("linear",), size_px=SIZE)


@pytest.mark.parametrize(
    "name", ["test_resnet+none+linear", "test_vit+se+mlp", "test_resnet+cbam+attention_pool", "test_vit+mhsa+ensemble"]
)
def test_a_composed_network_exports_to_the_same_logits(name, tmp_path):
    torch.manual_seed(0)
    network = LogoNetwork(name, 5).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (9, SIZE, SIZE, 3), dtype=np.uint8)
    with torch.no_grad():
        logits = network(torch.from_numpy(pixels)).numpy()
    logits_of_graph = run_onnx(export_onnx(network, SIZE, tmp_path / "fp32.onnx"), pixels, batch_size=4)
    assert verify(logits, logits_of_graph, EXPORTED, name).images == 9
    assert np.ptp(logits, axis=0).min() > 1e-4, "the logits tell the images apart"


def test_every_option_is_timed_and_the_table_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "latency.json"
    table = measure_options(TINY, 3, path)
    assert list(table.backbones) == ["test_resnet", "test_vit"]
    assert all(ms > 0 for ms in table.backbones.values())
    assert table.attentions["mhsa"] > table.attentions["none"] >= 0
    assert table.machine["onnxruntime"]
    assert json.loads(path.read_text()) == asdict(table)
    monkeypatch.setattr(latency, "onnx_latency", lambda *_: pytest.fail("measured twice"))
    assert measure_options(TINY, 3, path) == table


def test_a_table_of_another_machine_or_space_is_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "export_module", lambda *_: None)
    monkeypatch.setattr(latency, "onnx_latency", lambda *_: Latency(2.0, 2.0, 2.0, 1))
    path = tmp_path / "latency.json"
    small = SearchConfig(backbones=("test_resnet",), attentions=("none",), heads=("linear",), size_px=SIZE)
    measure_options(small, 3, path)
    for stale in ({"machine": {"cpu": "another"}}, {"backbones": {"test_vit": 1.0}}, {"size_px": 48}):
        path.write_text(json.dumps({**json.loads(path.read_text()), **stale}))
        table = measure_options(small, 3, path)
        assert table.machine["cpu"] != "another"
        assert list(table.backbones) == ["test_resnet"]
        assert table.size_px == SIZE
        assert (table.backbones["test_resnet"], table.heads["linear"]) == (2.0, 0.0), "a call is counted once"


def test_the_command_searches_and_leaves_a_recipe_that_can_be_read(tmp_path):
    random, rows = np.random.default_rng(0), []
    for label in ("light", "dark"):
        for index, split in enumerate(["train"] * 8 + ["val"] * 2):
            pixels = random.integers(0, 100, (24, 24, 3)) + (150 if label == "light" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{label}-{index}.png")
            rows.append(LogoRow(FILES, "", f"{label}-{index}.png", f"{label}-{index}", label, (label,), True, split))
    write_manifest(tmp_path / "manifest.csv", rows)
    settings = [
        "backbones=['test_resnet']",
        "attentions=['none','se']",
        "heads=['linear']",
        f"size_px={SIZE}",
        "batch_size=4",
    ]
    arguments = [
        "--data",
        str(tmp_path / "manifest.csv"),
        "--recipe",
        "smoke",
        "--out",
        str(tmp_path / "run"),
        "--target-ms",
        "1000",
        *(part for setting in settings for part in ("--set", f"search.{setting}")),
    ]
    result = CliRunner().invoke(search, arguments)
    assert result.exit_code == 0, result.output
    derived = tmp_path / "run" / "search" / "derived.toml"
    assert f"logo-edge train --recipe {derived}" in result.output.replace("\n", "")
    recipe = load_recipe(str(derived))
    assert recipe.search.target_ms == 1000
    assert recipe.train.teachers[0].startswith("test_resnet+")
    lines = (tmp_path / "run" / "metrics" / "search.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines].count("epoch") == 2
