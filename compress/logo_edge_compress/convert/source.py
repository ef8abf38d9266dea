"""What an export starts from: a bundle, or the run that it was made from, and the images to verify with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from logo_edge.bundle.record import RECORD, Bundle, read_bundle
from logo_edge.classifier import Classifier
from logo_edge.errors import DatasetError, ExportError, RecipeError
from logo_edge.images.load import load_image
from logo_edge.preprocess import InputContract, preprocess
from logo_edge.tables.find import walk_images
from logo_edge_compress.convert.request import Images
from logo_edge_compress.quantize.fitting import (
    check_fitting,
    describe_fitting,
    find_copies,
    fitting_rows,
    refuse_fitting,
)
from logo_edge_train.architecture import Architecture
from logo_edge_train.data.manifest import read_manifest
from logo_edge_train.keys import ROWS, check_rows, file_hash

LEAST_IMAGES = 8  # fewer are too few to verify an artifact
FITTING_IMAGES = 32
COMPUTED_IN = {"fp16": "fp32", "int8-weights": "fp32"}  # precision of the arithmetic where only storage has fewer bits


@dataclass(frozen=True)
class Source:
    """The input of an export: ONNX graphs by precision, and their bundle, or a run's student, folder and manifest."""

    name: str
    input: InputContract
    graphs: dict[str, Path]
    bundle: Bundle | None = None
    student: Path | None = None
    run: Path | None = None
    manifest: Path | None = None
    multi_label: bool = False


def read_source(path: Path, *, public_key: Path | None = None) -> Source:
    """The bundle in folder `path`, or the compressed run in folder `path`.

    With `public_key`, it must be a bundle signed with that key. Raises BundleError where the bundle is damaged or not
    signed, ExportError where `path` is neither, or a run not compressed yet, RunError where the run's manifest is
    another one by now.
    """
    if public_key or (path / RECORD).exists():
        bundle = read_bundle(path, public_key=public_key)
        Classifier(bundle).run_vectors(limit=1)
        precision = COMPUTED_IN.get(bundle.model.precision, bundle.model.precision)
        multi_label = bundle.calibration.multi_label
        return Source(bundle.name, bundle.input, {precision: bundle.model_path}, bundle, multi_label=multi_label)
    work = path / "compress" if (path / "run.json").exists() else path
    run = path if work != path else path.parent
    try:
        report = json.loads((work / "report.json").read_text(encoding="utf-8"))
        trained = json.loads((run / "run.json").read_text(encoding="utf-8"))
        manifest, multi_label = Path(trained["manifest"]), trained.get("multi_label", False)
        contract = Architecture.parse(report["chosen"]).contract
        graphs = {precision: work / path for precision, path in report["graphs"].items()}
    except (OSError, ValueError, KeyError, RecipeError) as error:
        raise ExportError(
            f"{path}: found neither a bundle ({RECORD}) nor a compressed run ({error!r}); expected a folder that "
            "`logo-edge compress` wrote, or RUN/compress-RECIPE. Compress the run first: logo-edge compress RUN"
        ) from error
    check_rows(read_manifest(manifest), run / ROWS, manifest)
    name = run.resolve().name + work.name.removeprefix("compress")
    student = next(iter(graphs.values())).parent / "student.safetensors"
    return Source(name, contract, graphs, student=student, run=run, manifest=manifest, multi_label=multi_label)


def read_images(data: Path, contract: InputContract, *, fits: bool = False) -> Images:
    """The train and val images of the manifest CSV at `data`, or the images of a folder, alternately.

    `fits`: an INT8 is fitted on the first. Raises DatasetError where fewer than LEAST_IMAGES remain to verify with or,
    with `fits`, where those to fit on are refused (`quantize.fitting`).
    """
    if is_folder := data.is_dir() and not (data / "manifest.csv").exists():
        paths = [Path(path) for path in walk_images(data)]
        fitting, verifying = paths[::2], paths[1::2]
        copied = find_copies(fitting, verifying)
        fitting = [path for path in fitting[:: max(1, -(-len(fitting) // FITTING_IMAGES))] if path not in copied]
        if fits:
            refuse_fitting(len(fitting), [], data)
        fitted_on = {"split": "every other file", "images": len(fitting), "files_sha256": list(map(file_hash, fitting))}
    else:
        manifest = read_manifest(data / "manifest.csv" if data.is_dir() else data)
        rows = fitting_rows(manifest, FITTING_IMAGES)
        if fits:
            check_fitting(manifest, rows, data)
        fitting, verifying = manifest.image_paths(rows), manifest.image_paths(manifest.split("val"))
        fitted_on = describe_fitting(manifest, rows)
    if len(verifying) < LEAST_IMAGES or not fitting:
        raise DatasetError(
            f"{data}: {len(verifying)} images to verify on and {len(fitting)} to fit on; expected at least "
            f"{LEAST_IMAGES} and 1. Give --data a folder of {2 * LEAST_IMAGES} images or more, or a manifest whose "
            "splits train and val have images"
        )
    return Images(
        *(np.stack([preprocess(load_image(path), contract) for path in part]) for part in (fitting, verifying)),
        whole_val=not is_folder,
        fitted_on=fitted_on,
    )
