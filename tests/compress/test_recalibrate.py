"""A packed bundle calibrated anew on its own logits keeps its model, and says of itself what the new splits show."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from logo_edge import Classifier, Mode, read_bundle
from logo_edge.bundle import RECORD
from logo_edge.errors import DatasetError
from logo_edge.manifest import FILES, LogoRow, Manifest
from logo_edge.signing import SIGNATURE, make_keys, sign_record
from logo_edge_compress.pack import put_folder, recalibrate

OPTIONS = {"risks": {Mode.BALANCED: 0.1, Mode.STRICT: 0.02}, "false_positive_rate": 0.05}


@pytest.fixture
def manifest(tmp_path):
    """40 noisy colours of each class on calib and test; one in eight is said to be another."""
    random, rows = np.random.default_rng(0), []
    for split in ("calib", "test"):
        for index in range(120):
            colour = random.integers(0, 160, 3)
            colour[index % 3] += 90
            Image.new("RGB", (16, 16), tuple(colour.tolist())).save(tmp_path / f"{split}-{index}.png")
            label = ("red", "green", "blue")[(index + (index % 8 == 0)) % 3]
            rows.append(LogoRow(FILES, "", f"{split}-{index}.png", str(index), label, (label,), True, split))
    return Manifest(tuple(rows), tmp_path)


def test_a_bundle_is_calibrated_anew_and_its_model_stays(fake_bundle, manifest, tmp_path):
    folder = fake_bundle(temperature=9.0, abstain_below=0.123)
    sign_record(folder / RECORD, make_keys(tmp_path / "ours")[0])
    before = read_bundle(folder)
    bundle = recalibrate(folder, manifest, tmp_path, **OPTIONS)
    assert bundle == read_bundle(folder)
    assert bundle.files["model.onnx"] == before.files["model.onnx"]
    assert 0 < bundle.calibration.temperature != 9.0
    assert bundle.calibration.abstain_below[Mode.BALANCED] != 0.123
    assert [entry.level for entry in bundle.calibration.conformal] == [0.8, 0.9, 0.95, 0.99]
    assert "99 needed" in bundle.calibration.conformal[-1].refused
    assert (bundle.metrics["test"]["count"], bundle.reference["count"]) == (120, 120)
    assert list(bundle.metrics) == ["test"]
    assert not (folder / SIGNATURE).exists()
    assert Classifier.load(folder).run_vectors() >= 8


def test_a_calib_split_without_a_class_is_refused_and_nothing_changes(fake_bundle, manifest, tmp_path):
    folder = fake_bundle()
    text = (folder / RECORD).read_text()
    kept = Manifest(tuple(row for row in manifest.rows if row.label != "blue"), manifest.folder)
    with pytest.raises(DatasetError, match="split 'calib' has no logo of class blue"):
        recalibrate(folder, kept, tmp_path, **OPTIONS)
    assert (folder / RECORD).read_text() == text


@pytest.mark.skipif(sys.platform != "linux", reason="the two names are exchanged in one step on Linux")
def test_a_bundle_is_replaced_in_one_step_with_no_moment_without_one(tmp_path, monkeypatch):
    for name in ("new", "bundle"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "says").write_text(name)
    monkeypatch.setattr(Path, "rename", lambda *names: pytest.fail("two renames leave a moment between them"))
    put_folder(tmp_path / "new", tmp_path / "bundle")
    assert [(tmp_path / name / "says").read_text() for name in ("bundle", "new")] == ["new", "bundle"]
