"""A verified, calibrated artifact -> a bundle's folder, whole or not at all."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath

import numpy as np

from logo_edge.bundle.calibration import Calibration, Mode
from logo_edge.bundle.record import VECTORS, Bundle, list_files, read_bundle, write_bundle_record
from logo_edge.classifier import Classifier
from logo_edge.decision import calibrated_logits, is_answered, logo_score
from logo_edge.errors import BundleError, DatasetError, RecipeError
from logo_edge.files import folder_beside, json_text
from logo_edge.likeness.space import SPACE
from logo_edge.monitor import reference_of
from logo_edge.probabilities import softmax
from logo_edge_compress.calibrate import Fitted, fit_calibration
from logo_edge_compress.figures import named_slices, summarize_rows
from logo_edge_compress.onnx.embedding_output import SAMPLES, embed_bundle
from logo_edge_train.data.manifest import Manifest, labelled_rows, targets_of
from logo_edge_train.recipe import CalibrateConfig
from logo_edge_train.recipe_io import BUILT_IN, load_recipe

CARD = "card.md"
ARTIFACTS = {"openvino": "model.xml", "torchscript": "model.pt"}  # beside model.onnx, by backend

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of renameat2(2)


def pack_bundle(bundle: Bundle, model: Path, folder: Path, extra: dict[str, Path] | None = None) -> Bundle:
    """Writes `model` and what `bundle` says of it to `folder`, with golden vectors and a card, and reads it back.

    `extra` are further files by their names in the bundle: the members of an ensemble, the artifact for another
    backend, the space of `embed_bundle`. The vectors are the project's own drawings with the logits of this very artifact. A bundle that is there already
    is replaced in one step, and what killed packings to the same folder left is deleted; any other folder is refused with BundleError.
    """
    refuse_other_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(folder) as beside:
        part = beside / "bundle"
        part.mkdir()
        for name, path in {bundle.model.file: model, **(extra or {})}.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, part / name)
        bundle = replace(bundle, folder=part)
        _write_vectors(bundle)
        (part / CARD).write_text(model_card(bundle), encoding="utf-8")
        write_bundle_record(replace(bundle, files=list_files(part)))
        Classifier.load(part).run_vectors()
        put_folder(part, folder)
    return read_bundle(folder)


def put_folder(part: Path, folder: Path) -> None:
    """Puts `part` in the place of `folder`, which takes its place where there is one: at no moment there is none.

    Linux exchanges the two names in one step (renameat2(2), RENAME_EXCHANGE). Elsewhere, and on file systems that cannot,
    there are two steps: a process that is killed between them leaves the old folder as PART-replaced.
    """
    if folder.exists():
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        exchange = getattr(libc, "renameat2", None)
        if exchange and not exchange(AT_FDCWD, os.fsencode(part), AT_FDCWD, os.fsencode(folder), RENAME_EXCHANGE):
            return
        folder.rename(part.with_name(f"{part.name}-replaced"))
    part.rename(folder)


def recalibrate(folder: Path, manifest: Manifest, renders: Path, config: CalibrateConfig) -> Bundle:
    """The bundle in `folder`, packed anew with a calibration fitted on its own logits of the manifest's calib split.

    They are those of the artifact that it is packed for: the OpenVINO or TorchScript file, or all members. Its figures on val
    and test, where the manifest has them, its reference and, of a manifest with a train split, its embedding are brought
    up to date; every other file stays, but for a signature. Raises DatasetError where calib is empty, lacks a class or has
    labels that the bundle does not know, MissingExtraError where the artifact's library is missing.
    """
    bundle = read_bundle(folder)
    backend, artifact = next(
        ((backend, folder / name) for backend, name in ARTIFACTS.items() if name in bundle.files), ("onnxruntime", None)
    )
    classifier = Classifier(bundle, backend=backend, artifact=artifact)
    labels = classifier.labels
    rows = {"calib": labelled_rows(manifest, "calib", labels, "the bundle's")}
    if missing := sorted(set(labels) - {row.label for row in rows["calib"]}):
        raise DatasetError(
            f"split 'calib' has no logo of class {', '.join(missing)}; the calibration needs some of each"
        )
    rows |= {
        name: labelled_rows(manifest, name, labels, "the bundle's") for name in ("val", "test") if manifest.split(name)
    }
    logits = {
        name: np.concatenate(
            [classifier.logits(classifier.read_pixels(manifest.image_path(row, renders))[None]) for row in part]
        )
        for name, part in rows.items()
    }
    fitted = fit_calibration(logits["calib"], targets_of(rows["calib"], labels), labels, config)
    calibration = fitted.calibration
    calibrated = {
        name: calibrated_logits(part, calibration.temperature, calibration.scaling) for name, part in logits.items()
    }
    metrics = {name: summarize_rows(calibrated[name], part, labels) for name, part in rows.items() if name != "calib"}
    bundle = replace(
        bundle,
        calibration=calibration,
        metrics=metrics,
        reference=reference(logits["calib"], labels, calibration),
        provenance={**bundle.provenance, **describe_calibration(config, fitted)},
    )
    remade = {
        bundle.model.file,
        SPACE,
        CARD,
        *(name for name in bundle.files if name.startswith(f"{PurePosixPath(VECTORS).parent}/")),
    }
    kept = {name: bundle.folder / name for name in bundle.files if name not in remade}
    with tempfile.TemporaryDirectory() as work:
        model, space = bundle.model_path, {}
        if not bundle.members:
            bundle, model, space = embed_bundle(bundle, model, Path(work), manifest, renders)
        return pack_bundle(bundle, model, folder, {**kept, **space})


def describe_calibration(config: CalibrateConfig, fitted: Fitted) -> dict:
    """What a bundle's provenance says of its calibration: what was asked for, and by mode what is not promised."""
    return {"calibrate": asdict(config), "unpromised": {mode.value: why for mode, why in fitted.unpromised.items()}}


def read_config(bundle: Bundle, recipe: str | None, overrides: tuple[str, ...]) -> CalibrateConfig:
    """What to calibrate the bundle by: a recipe's settings or, without one, those that it was calibrated by, overridden.

    Raises RecipeError where the bundle is of an earlier release, which kept only the name of its recipe, and there is
    none of that name.
    """
    own = bundle.provenance.get("calibrate")
    if recipe is None and own is not None:
        recipe, overrides = "cpu", (*(f"calibrate.{key}={value}" for key, value in dict(own).items()), *overrides)
    elif recipe is None:
        recipe = str(bundle.provenance.get("recipe"))
        if not (BUILT_IN / f"{recipe}.toml").exists():
            raise RecipeError(
                f"{bundle.folder}: keeps no risks, and its recipe {recipe!r} is not one of ours; give --recipe, the TOML file "
                "that it was made by"
            )
    return load_recipe(recipe, overrides, used=("calibrate",)).calibrate


def find_weaknesses(bundle: Bundle) -> list[str]:
    """What a bundle should not ship with unseen: a mode that promises nothing, one answer to everything, a class missed.

    Each is a sentence. A class counts as missed where no split recognises a single logo of it.
    """
    weaknesses = [f"mode {mode}: {why}" for mode, why in bundle.provenance.get("unpromised", {}).items()]
    if not bundle.metrics:
        return weaknesses
    confusion = np.sum([figures["confusion"] for figures in bundle.metrics.values()], axis=0)  # (K, K), rows are true
    where = f"the {confusion.sum()} logos of {' and '.join(bundle.metrics)}"
    given = np.flatnonzero(confusion.sum(0))
    if len(given) == 1:
        return [*weaknesses, f"gives {bundle.labels[given[0]]!r} for each of {where}"]
    missed = np.flatnonzero((confusion.sum(1) > 0) & (confusion.diagonal() == 0))
    return weaknesses + [
        f"recognises none of the {confusion[k].sum()} logos of {bundle.labels[k]!r} among {where}" for k in missed
    ]


def reference(logits: np.ndarray, labels: tuple[str, ...], calibration: Calibration) -> dict:
    """`monitor.reference_of` the (N, K) logits of calib, before temperature, by the thresholds of balanced."""
    probabilities = softmax(calibrated_logits(logits, calibration.temperature, calibration.scaling))
    confidence = probabilities.max(1)
    answered = is_answered(calibration, Mode.BALANCED, confidence, logo_score(logits))
    return reference_of(confidence, probabilities.argmax(1), labels, answered)


def refuse_other_folder(folder: Path) -> None:
    """Raises BundleError where `folder` holds something that is no bundle."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "bundle.json").exists():
        raise BundleError(f"{folder} exists and is no bundle; give --out another folder")


def _write_vectors(bundle: Bundle) -> None:
    classifier = Classifier(replace(bundle, files=list_files(bundle.folder)))  # which has no vectors to check yet
    (bundle.folder / VECTORS).parent.mkdir()
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
    (bundle.folder / VECTORS).write_text(json_text({"vectors": vectors}), encoding="utf-8")


def model_card(bundle: Bundle) -> str:
    """The bundle's card.md: what it is for, how it was made, what it reaches, where it fails."""
    provenance, calibration, lines = bundle.provenance, bundle.calibration, []
    weaknesses = find_weaknesses(bundle)
    scaling = f", {calibration.scaling.method} scaling" if calibration.scaling else ""
    familiarity = calibration.familiarity
    rejects = (
        f"In modes balanced and strict a picture whose logo score is below {familiarity.threshold:.2f} gets no label and the "
        f"reason `not_a_logo`; so do at most {familiarity.false_positive_rate:.0%} of logos. "
        if familiarity
        else ""
    )
    for split, figures in bundle.metrics.items():
        recalls = ", ".join(f"{label} {_percent(recall)}" for label, recall in figures["recall"].items())
        lines += [
            f"### On the {split} split ({figures['count']} logos, {figures['count_sure']} of them sure)",
            "",
            f"- accuracy: {_percent(figures['accuracy'])} on all, {_percent(figures['accuracy_sure'])} on sure ones",
            f"- recall: {recalls}",
            *(
                f"- {name}, {entry['count']} of {figures['count']}: {_percent(entry['accuracy'])} on all, "
                f"{_percent(entry['accuracy_sure'])} on sure ones"
                for name, entry in named_slices(figures).items()
            ),
            f"- calibration error, bias-corrected (RMS, Kumar et al. 2019): "
            f"{_percent(figures['calibration_error_debiased'])}; ECE less its bias: {_percent(figures['ece_debiased'])}; "
            f"plain 15-bin ECE: {figures['ece']:.1%}",
            f"- NLL {figures['nll']:.3f}, Brier {figures['brier']:.3f}",
            "",
        ]
    return "\n".join(
        [
            f"# {bundle.name}",
            "",
            f"Tells {', '.join(bundle.labels)} apart. {provenance.get('student', '?')}, {bundle.model.precision}, "
            f"{bundle.input.size_px} px, temperature {calibration.temperature:.3f}{scaling}; gives no label below "
            f"{calibration.abstain_below[Mode.BALANCED]:.1%} confidence, in mode strict below "
            f"{calibration.abstain_below[Mode.STRICT]:.1%}.",
            "",
            "## Made from",
            "",
            f"- recipe `{provenance.get('recipe', '?')}`; teachers: {', '.join(provenance.get('teachers', ())) or '?'}",
            f"- labelled logos: manifest with sha256 `{str(provenance.get('data_hash', '?'))[:16]}...`; temperature and "
            "thresholds from its calib split, every choice from val, the figures below from splits that no choice saw, "
            "where not named val",
            "",
            "## Figures, with 95 % intervals",
            "",
            *lines,
            "## Limits",
            "",
            *(f"- {weakness}" for weakness in weaknesses),
            *([""] if weaknesses else []),
            f"{rejects}Confidence is calibrated on logos like those of its manifest: on other pictures that it takes for "
            "logos, and on damaged images, it may be confidently wrong. The marks that it was trained on belong to their owners and are not part of the bundle.",
            "",
        ]
    )


def _percent(figure: dict) -> str:
    return f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})"
