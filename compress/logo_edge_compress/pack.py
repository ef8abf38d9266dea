"""A verified, calibrated artifact -> a bundle's folder, replaced in one step."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from logo_edge.backends.choose import candidates
from logo_edge.bundle.calibration import Calibration, Mode
from logo_edge.bundle.record import Bundle, list_files, read_bundle, write_bundle_record
from logo_edge.classifier import Classifier
from logo_edge.decision import calibrated_probabilities, given_labels, logo_score
from logo_edge.errors import BundleError
from logo_edge.files import folder_beside, json_text
from logo_edge.monitor import reference_of
from logo_edge_compress.bom import BOM, bill_of_materials
from logo_edge_compress.calibrate import Fitted
from logo_edge_compress.card import CARD, model_card
from logo_edge_compress.onnx.embedding_output import SAMPLES
from logo_edge_train.data.manifest import Manifest
from logo_edge_train.organize.describe import describe_manifest
from logo_edge_train.recipe import CalibrateConfig

ARTIFACTS = {  # by backend, beside model.onnx
    "openvino": "model.xml",
    "litert": "model.tflite",
    "torchscript": "model.pt",
    "ncnn": "model.param",
    "mnn": "model.mnn",
    "executorch": "model.pte",
}
COREML = "model.mlpackage.zip"  # beside model.onnx too, and run by no backend of ours
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of renameat2(2)


def pack_bundle(bundle: Bundle, model: Path, folder: Path, extra: dict[str, Path] | None = None) -> Bundle:
    """Writes `model`, its record `bundle`, golden vectors, a card and a bill of materials to `folder`; reads it back.

    `extra` are further files by their names in the bundle: the members of an ensemble, the artifact for another
    backend, the space of `embed_bundle`, the files of variants. The vectors are the project's own drawings with the
    logits of this artifact, and those of each variant.
    An existing bundle is replaced in one step, and what killed packings to the same folder left is deleted. Raises
    BundleError for any other existing folder.
    """
    refuse_other_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(folder) as temporary:
        part = temporary / "bundle"
        part.mkdir()
        for name, path in {bundle.model.file: model, **(extra or {})}.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, part / name)
        bundle = replace(bundle, folder=part)
        views = [bundle, *map(bundle.of_variant, bundle.variants)]
        for view in views:
            _write_vectors(view)
        (part / CARD).write_text(model_card(bundle), encoding="utf-8")
        materials = bill_of_materials(replace(bundle, files=list_files(part)))
        (part / BOM).write_text(json_text(materials, indent=None), encoding="utf-8")
        write_bundle_record(replace(bundle, files=list_files(part)))
        packed = read_bundle(part)
        for view in (packed, *map(packed.of_variant, packed.variants)):
            open_view(view).run_vectors()
        put_folder(part, folder)
    return read_bundle(folder)


def open_view(view: Bundle) -> Classifier:
    """The bundle or its variant on the first installed backend that reads its file, ONNX Runtime before others."""
    return Classifier(view, backend=candidates(view.model_path)[0])


def put_folder(part: Path, folder: Path) -> None:
    """Renames `part` to `folder`; an existing folder is exchanged with it, so that `folder` exists at every moment.

    Linux exchanges the two names in one step (renameat2(2), RENAME_EXCHANGE). Elsewhere, and on file systems without
    that call, there are two steps: a process that is killed between them leaves the old folder as PART-replaced.
    """
    if folder.exists():
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        exchange = getattr(libc, "renameat2", None)
        if exchange and not exchange(AT_FDCWD, os.fsencode(part), AT_FDCWD, os.fsencode(folder), RENAME_EXCHANGE):
            return
        folder.rename(part.with_name(f"{part.name}-replaced"))
    part.rename(folder)


def describe_data(manifest: Manifest, left_out: int) -> dict:
    """The data's part of a bundle's provenance: counts by split and class, and by source.

    `left_out` is the number of images that training did not use, since they look like held-out ones.
    """
    description = describe_manifest(manifest)
    return {
        "images": description.rows,
        "groups": description.groups,
        "unsure": sum(not row.sure for row in manifest.rows),
        "left_out": left_out,
        "splits": description.counts,
        "sources": description.sources,
    }


def describe_calibration(config: CalibrateConfig, fitted: Fitted) -> dict:
    """The calibration's part of a bundle's provenance: its settings and, by mode, why a risk is not promised."""
    return {"calibrate": asdict(config), "unpromised": {mode.value: why for mode, why in fitted.unpromised.items()}}


def reference(logits: np.ndarray, labels: tuple[str, ...], calibration: Calibration) -> dict:
    """`monitor.reference_of` the (N, K) logits of calib, before temperature, with the thresholds of balanced."""
    probabilities = calibrated_probabilities(logits, calibration)
    answered = given_labels(calibration, Mode.BALANCED, probabilities, logo_score(logits)).any(1)
    return reference_of(probabilities.max(1), probabilities.argmax(1), labels, answered)


def refuse_other_folder(folder: Path) -> None:
    """Raises BundleError if `folder` is not empty and is no bundle."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "bundle.json").exists():
        raise BundleError(f"{folder} exists and is no bundle; give --out another folder")


def _write_vectors(bundle: Bundle) -> None:
    classifier = open_view(replace(bundle, files=list_files(bundle.folder)))  # the record has no vectors yet
    (bundle.folder / bundle.vectors).parent.mkdir(exist_ok=True)
    vectors = []
    for sample in sorted(SAMPLES.glob("*.png")):
        image = f"vectors/{sample.name}"
        shutil.copyfile(sample, bundle.folder / image)
        logits = classifier.logits(classifier.read_pixels(sample)[None])
        decision = classifier.decide(logits)[0]
        vectors.append(
            {
                "image": image,
                "logits": [round(float(value), 5) for value in logits[0]],
                "label": decision.label,
                "best_guess": decision.best_guess,
                "confidence": round(decision.confidence, 6),
            }
        )
    (bundle.folder / bundle.vectors).write_text(json_text({"vectors": vectors}), encoding="utf-8")
