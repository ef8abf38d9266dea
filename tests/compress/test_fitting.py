"""INT8 is fitted on enough images, of every class and of the train split alone, or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from logo_edge.errors import DatasetError
from logo_edge.preprocess import InputContract
from logo_edge_compress.convert.source import read_images
from logo_edge_compress.quantize.fitting import check_fitting, describe_fitting, fitting_rows
from logo_edge_train.data.manifest import FILES, LogoRow, read_manifest, write_manifest
from logo_edge_train.keys import data_hash, row_hashes

TRAIN, HELD_OUT = 20, 8  # of each class


@pytest.fixture
def manifest(tmp_path):
    """Two classes of small pictures, each of another colour."""
    rows = []
    for label in ("disc", "bars"):
        for index, split in enumerate(["train"] * TRAIN + ["val"] * HELD_OUT):
            name = f"{label}-{index}.png"
            Image.new("RGB", (9, 9), (index, 9 * (label == "disc"), 0)).save(tmp_path / name)
            rows.append(LogoRow(FILES, "", name, name, label, (), True, split))
    write_manifest(tmp_path / "manifest.csv", rows)
    return read_manifest(tmp_path / "manifest.csv")


def test_a_sample_of_train_is_accepted_and_described(manifest):
    rows = fitting_rows(manifest, 20)
    check_fitting(manifest, rows, "here")
    described = describe_fitting(manifest, rows)
    assert described == {
        "split": "train",
        "images": 20,
        "by_class": {"bars": 10, "disc": 10},
        "rows_sha256": data_hash(row_hashes(manifest, rows)),
    }
    before = described["rows_sha256"]
    Image.new("RGB", (9, 9)).save(manifest.image_path(rows[0]))
    assert describe_fitting(manifest, rows)["rows_sha256"] != before, "the digest covers what the files hold"


def test_few_images_and_missing_classes_are_refused(manifest):
    rows = manifest.split("train")
    with pytest.raises(DatasetError, match="here: INT8 has 15 images to fit on; expected at least 16"):
        check_fitting(manifest, rows[5:20], "here")
    with pytest.raises(DatasetError, match="INT8 has no image of bars to fit on; expected every class"):
        check_fitting(manifest, [row for row in rows if row.label == "disc"], "here")


def test_copies_of_images_of_other_splits_are_left_out(manifest):
    train, val = manifest.split("train"), manifest.split("val")
    manifest.image_path(train[3]).write_bytes(manifest.image_path(val[0]).read_bytes())
    assert [row.icon for row in fitting_rows(manifest, 0)] == [row.icon for row in train if row != train[3]]


def test_an_export_that_fits_refuses_before_it_works_and_one_that_does_not_is_free(manifest, tmp_path):
    write_manifest(tmp_path / "manifest.csv", [*manifest.split("train")[:9], *manifest.split("val")])
    assert len(read_images(tmp_path / "manifest.csv", InputContract(16)).fitting) == 9
    with pytest.raises(DatasetError, match="9 images to fit on"):
        read_images(tmp_path / "manifest.csv", InputContract(16), fits=True)


def test_copies_in_a_folder_are_not_fitted_on(tmp_path):
    for index in range(40):
        Image.fromarray(np.full((9, 9, 3), index, np.uint8)).save(tmp_path / f"{index:02}.png")
    assert read_images(tmp_path, InputContract(16), fits=True).fitted_on["images"] == 20
    (tmp_path / "01.png").write_bytes((tmp_path / "02.png").read_bytes())
    assert read_images(tmp_path, InputContract(16), fits=True).fitted_on["images"] == 19
