"""The preprocessed images that every candidate of one input contract is run on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from logo_edge.preprocess import InputContract, preprocess
from logo_edge_compress.quantize.fitting import fitting_rows
from logo_edge_train.data.images import each_pixels
from logo_edge_train.data.manifest import LogoRow, Manifest
from logo_edge_train.data.outliers import Family, draw_pictures
from logo_edge_train.runs import Run

SPLITS = ("val", "calib", "test")
FITTING = "fitting"  # the pixels that quantization is fitted on
OUTLIERS = "outliers-"  # before the name of a family


def save_pixels(
    run: Run, manifest: Manifest, contract: InputContract, outliers: dict[str, Family], folder: Path
) -> Path:
    """Writes the images to `folder` as (N, S, S, C) uint8 .npy files, and returns the folder.

    val, calib, test, the images of train that quantization is `fitting` on, and `outliers-FAMILY`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "complete").exists():
        return folder
    for name in SPLITS:
        if rows := manifest.split(name):
            _save(rows, manifest, contract, folder / f"{name}.npy")
    rows = fitting_rows(manifest, run.recipe.quantize.calibration_images)
    _save(rows, manifest, contract, folder / f"{FITTING}.npy")
    for name, family in outliers.items():
        pictures = [preprocess(image, contract) for image in draw_pictures(name, family)]
        np.save(folder / f"{OUTLIERS}{name}.npy", np.stack(pictures))
    (folder / "complete").touch()
    return folder


def _save(rows: list[LogoRow], manifest: Manifest, contract: InputContract, path: Path) -> None:
    """Writes the rows' images one by one: they need not fit into memory."""
    shape = (len(rows), contract.size_px, contract.size_px, contract.channels)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for pixels in each_pixels(rows, manifest, contract):
            file.write(pixels.tobytes())


def load_pixels(folder: Path) -> dict[str, np.ndarray]:
    """Name -> (N, S, S, C) uint8, read from the file where they are used."""
    return {path.stem: np.load(path, mmap_mode="c") for path in sorted(folder.glob("*.npy"))}


def pixel_files(folder: Path, *names: str) -> dict[str, Path]:
    """The files of these names, as inputs of an `artifact_key`."""
    return {f"pixels/{name}": folder / f"{name}.npy" for name in names}
