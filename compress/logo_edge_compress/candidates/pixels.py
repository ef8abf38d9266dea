"""The preprocessed images that every candidate of one input contract is run on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from logo_edge.preprocess import InputContract, preprocess
from logo_edge_compress.quantize.fitting import fitting_rows
from logo_edge_train.data.images import pixels_of
from logo_edge_train.data.manifest import Manifest
from logo_edge_train.data.outliers import Family, draw_pictures
from logo_edge_train.runs import Run

SPLITS = ("val", "calib", "test")
FITTING = "fitting"  # the pixels that quantization is fitted on
OUTLIERS = "outliers-"  # before the name of a family


def save_pixels(
    run: Run, manifest: Manifest, contract: InputContract, outliers: dict[str, Family], folder: Path
) -> Path:
    """Writes the images to `folder` as (N, S, S, C) uint8 .npy files, and returns the folder.

    val, calib, test, the logos of train that quantization is `fitting` on, and `outliers-FAMILY`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "complete").exists():
        return folder
    for name in SPLITS:
        if rows := manifest.split(name):
            np.save(folder / f"{name}.npy", pixels_of(rows, manifest, contract))
    rows = fitting_rows(manifest, run.recipe.quantize.calibration_images)
    np.save(folder / f"{FITTING}.npy", pixels_of(rows, manifest, contract))
    for name, family in outliers.items():
        pictures = [preprocess(image, contract) for image in draw_pictures(name, family)]
        np.save(folder / f"{OUTLIERS}{name}.npy", np.stack(pictures))
    (folder / "complete").touch()
    return folder


def load_pixels(folder: Path) -> dict[str, np.ndarray]:
    """Name -> (N, S, S, C) uint8."""
    return {path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))}


def pixel_files(folder: Path, *names: str) -> dict[str, Path]:
    """The files of these names, as inputs of an `artifact_key`."""
    return {f"pixels/{name}": folder / f"{name}.npy" for name in names}
