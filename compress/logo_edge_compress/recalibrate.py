"""Calibrates a packed bundle again (`logo-edge calibrate`)."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from logo_edge.backends.base import WITH_WEIGHTS
from logo_edge.bundle.record import VECTORS, Bundle, read_bundle
from logo_edge.classifier import Classifier
from logo_edge.decision import calibrated_logits
from logo_edge.errors import BundleError, DatasetError, RecipeError
from logo_edge.likeness.space import SPACE
from logo_edge_compress.bom import BOM
from logo_edge_compress.calibrate import fit_calibration
from logo_edge_compress.card import CARD
from logo_edge_compress.figures import summarize_rows
from logo_edge_compress.onnx.embedding_output import embed_bundle
from logo_edge_compress.pack import ARTIFACTS, COREML, describe_calibration, open_view, pack_bundle, reference
from logo_edge_train.data.manifest import LogoRow, Manifest, labelled_rows, targets_of
from logo_edge_train.keys import data_hash, row_hashes
from logo_edge_train.recipe import CalibrateConfig
from logo_edge_train.recipe_io import BUILT_IN, load_recipe


def recalibrate(
    folder: Path, manifest: Manifest, config: CalibrateConfig, *, artifact: Path | None = None, out: Path | None = None
) -> Bundle:
    """The bundle in `folder`, packed again with a calibration fitted on its logits of the manifest's calib split.

    The logits are those of the artifact that it is packed for (`ARTIFACTS`), or of all members. With `artifact`, which
    `logo-edge export` made of the bundle, a copy of the bundle that also holds this artifact is packed to `out`. Each
    variant is calibrated on its own logits.
    Figures on val and test and the reference are updated and, if the manifest has a train split, the embedding; a
    signature is dropped; every other file stays. Raises DatasetError where calib is empty, lacks a class or has labels
    that the bundle does not know, MissingExtraError where the artifact's library is missing, BundleError where the
    bundle cannot hold the artifact, or holds Core ML's, which does not run here.
    """
    bundle = read_bundle(folder)
    if COREML in bundle.files:
        raise BundleError(
            f"{folder}: {COREML} does not run here, so its logits are not known; make the bundle again with "
            "`logo-edge compress RUN --target coreml`"
        )
    backend, held = next(
        ((backend, folder / name) for backend, name in ARTIFACTS.items() if name in bundle.files), ("onnxruntime", None)
    )
    added = {}
    if artifact:
        names = {PurePosixPath(name).suffix: (backend, name) for backend, name in ARTIFACTS.items()}
        if held or bundle.members or artifact.suffix not in names:
            holds = held.name if held else f"{len(bundle.members) or 1} model"
            raise BundleError(
                f"{folder}: holds {holds}, the artifact is {artifact}; expected a bundle of one model without an "
                f"artifact, and a file that ends in {', '.join(names)}"
            )
        backend, name = names[artifact.suffix]
        added[name] = artifact
        if artifact.suffix in WITH_WEIGHTS:
            added[PurePosixPath(name).with_suffix(".bin").as_posix()] = artifact.with_suffix(".bin")
    artifact = artifact or held
    classifier = Classifier(bundle, backend=backend, artifact=artifact)
    labels = classifier.labels
    multi_label = bundle.calibration.multi_label
    rows = {"calib": labelled_rows(manifest, "calib", labels, "the bundle's", multi_label=multi_label)}
    if missing := sorted(set(labels) - {label for row in rows["calib"] for label in row.every_label}):
        raise DatasetError(
            f"split 'calib' has no image of class {', '.join(missing)}; the calibration needs some of each"
        )
    rows |= {
        name: labelled_rows(manifest, name, labels, "the bundle's", multi_label=multi_label)
        for name in ("val", "test")
        if manifest.split(name)
    }
    logits = {name: _logits(classifier, manifest, part) for name, part in rows.items()}
    fitted = fit_calibration(logits["calib"], targets_of(rows["calib"], labels), labels, config)
    calibration = fitted.calibration
    calibrated = {
        name: calibrated_logits(part, calibration.temperature, calibration.scaling, multi_label=multi_label)
        for name, part in logits.items()
    }
    variants = []
    for variant in bundle.variants:
        own = _logits(open_view(bundle.of_variant(variant)), manifest, rows["calib"])
        refitted = fit_calibration(own, targets_of(rows["calib"], labels), labels, config)
        variants.append(replace(variant, calibration=refitted.calibration))
    metrics = {name: summarize_rows(calibrated[name], part, labels) for name, part in rows.items() if name != "calib"}
    provenance = {**bundle.provenance, **describe_calibration(config, fitted)}
    provenance["recalibrated_on"] = data_hash(row_hashes(manifest, manifest.rows))
    if provenance["recalibrated_on"] == provenance.get("data_hash"):
        del provenance["recalibrated_on"]
    bundle = replace(
        bundle,
        calibration=calibration,
        variants=tuple(variants),
        metrics=metrics,
        reference=reference(logits["calib"], labels, calibration),
        provenance=provenance,
    )
    rewritten = {
        bundle.model.file,
        SPACE,
        CARD,
        BOM,
        *(name for name in bundle.files if name.startswith(f"{PurePosixPath(VECTORS).parent}/")),
    }
    unchanged = {name: bundle.folder / name for name in bundle.files if name not in rewritten}
    with tempfile.TemporaryDirectory() as work:
        model, space = bundle.model_path, {}
        if not bundle.members:
            bundle, model, space = embed_bundle(bundle, model, Path(work), manifest)
        return pack_bundle(bundle, model, out or folder, {**unchanged, **space, **added})


def _logits(classifier: Classifier, manifest: Manifest, rows: list[LogoRow]) -> np.ndarray:
    """(N, K), image by image."""
    return np.concatenate([classifier.logits(classifier.read_pixels(manifest.image_path(row))[None]) for row in rows])


def read_config(bundle: Bundle, recipe: str | None, overrides: tuple[str, ...]) -> CalibrateConfig:
    """The settings to calibrate with: the recipe's or, without one, those of the bundle's calibration, overridden.

    Raises RecipeError where the bundle is of an earlier release, which stored only the name of its recipe, and no
    built-in recipe has that name.
    """
    own = bundle.provenance.get("calibrate")
    if recipe is None and own is not None:
        recipe, overrides = "cpu", (*(f"calibrate.{key}={value}" for key, value in dict(own).items()), *overrides)
    elif recipe is None:
        recipe = str(bundle.provenance.get("recipe"))
        if not (BUILT_IN / f"{recipe}.toml").exists():
            raise RecipeError(
                f"{bundle.folder}: stores no risks, and its recipe {recipe!r} is not built in; give --recipe, the TOML "
                "file that it was made with"
            )
    return load_recipe(recipe, overrides, used=("calibrate",)).calibrate
