"""The preprocessed images of candidates: written one by one, read where they are used."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from hostile_tree import draw_mark

from logo_edge.preprocess import InputContract
from logo_edge_compress.candidates import pixels as stage
from logo_edge_train.data.images import pixels_of
from logo_edge_train.data.manifest import FILES, LogoRow, Manifest


def test_pixels_are_written_one_by_one_and_mapped_as_they_were_preprocessed(tmp_path):
    rows = []
    for index in range(24):
        draw_mark(index, size_px=40).save(tmp_path / f"{index}.png")
        split = ("train", "train", "val", "calib")[index // 2 % 4]
        rows.append(LogoRow(FILES, "", f"{index}.png", f"{index}", "ab"[index % 2], split=split))
    manifest, contract = Manifest(tuple(rows), tmp_path), InputContract(32, details=True)
    run = SimpleNamespace(recipe=SimpleNamespace(quantize=SimpleNamespace(calibration_images=0)))
    folder = stage.save_pixels(run, manifest, contract, {}, tmp_path / "pixels")
    loaded = stage.load_pixels(folder)
    assert set(loaded) == {"val", "calib", stage.FITTING}
    for name, split in (("val", "val"), ("calib", "calib"), (stage.FITTING, "train")):
        assert isinstance(loaded[name], np.memmap)
        assert loaded[name].flags.writeable, "PyTorch takes no arrays that it could not write"
        assert (loaded[name] == pixels_of(manifest.split(split), manifest, contract)).all()
    assert stage.save_pixels(run, manifest, contract, {}, folder) == folder
