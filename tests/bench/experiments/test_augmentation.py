"""The learned augmentation policy: what is chosen, what is kept, and what its result holds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from logo_edge_bench.experiments import augmentation
from logo_edge_train.data.manifest import FILES, LogoRow, read_manifest, write_manifest


def test_an_operation_gets_the_greatest_magnitude_that_costs_little_in_every_class():
    labels = np.array(["a", "b"] * 50)
    losses = {name: np.zeros(100) for name in augmentation.variants()}
    losses["shear 1.00"] = np.full(100, 0.2)  # costs too much
    losses["shear 0.67"] = np.full(100, 0.02)  # of 0.05: three fifths of the probability
    losses["tint 1.00"] = np.where(labels == "a", 0.11, 0.0)  # little on average, too much in one class
    policy, costs = augmentation.learn_policy(losses, labels, ("a", "b"))
    assert {"shear 0.15 0.67", "tint 0.25 0.67", "noise 0.25 1.00"} <= set(policy)
    assert costs["tint 1.00"]["by_class"] == {"a": pytest.approx(0.11), "b": 0}


def test_losses_are_kept_beside_the_networks_and_the_result_holds_none(tmp_path, monkeypatch):
    rows = [LogoRow(FILES, "", f"{at}.png", str(at), "ab"[at % 2], ("ab"[at % 2],), True, "train") for at in range(24)]
    write_manifest(tmp_path / "manifest.csv", rows)
    manifest, computed = read_manifest(tmp_path / "manifest.csv"), []

    def compute(fitted, dataset, augment, views, device):
        computed.append(augment)
        return {"nats": np.full(len(dataset), 0.5)}

    monkeypatch.setattr(augmentation, "read_logos", lambda: manifest)
    monkeypatch.setattr(augmentation, "find_lookalikes", lambda *_: set())
    monkeypatch.setattr(augmentation, "draw_dataset", lambda manifest, rows, network: rows)
    monkeypatch.setattr(augmentation, "cross_entropies", compute)
    for _ in range(2):
        augmentation.measure(out=tmp_path / "out.json", work=tmp_path / "work", device="cpu")
    assert len(computed) == augmentation.FOLDS * len(augmentation.variants())
    record = json.loads((tmp_path / "out.json").read_text())
    assert set(record) == {"split", "settings", "costs", "policy", "provenance"}
    augmentation.measure(views=3, out=tmp_path / "out.json", work=tmp_path / "work", device="cpu")
    assert len(computed) == 2 * augmentation.FOLDS * len(augmentation.variants())
