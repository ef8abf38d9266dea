"""A verified, calibrated artifact -> a bundle's folder, whole or not at all."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from logo_edge.bundle import VECTORS, Bundle, list_files, read_bundle, write_bundle_record
from logo_edge.classifier import Classifier
from logo_edge.decision import Calibration, Mode, calibrated_logits
from logo_edge.errors import BundleError, DatasetError
from logo_edge.manifest import Manifest, labelled_rows, targets_of
from logo_edge.metrics import softmax, summarize
from logo_edge.monitor import reference_of
from logo_edge_compress.calibrate import fit_calibration
from logo_edge_compress.embed import SAMPLES, embed_bundle

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of renameat2(2)


def pack_bundle(bundle: Bundle, model: Path, folder: Path, extra: dict[str, Path] | None = None) -> Bundle:
    """Writes `model` and what `bundle` says of it to `folder`, with golden vectors and a card, and reads it back.

    `extra` are further files by their names in the bundle: the members of an ensemble, the artifact for another
    backend, the space of `embed_bundle`. The vectors are the project's own drawings with the logits of this very artifact. A bundle that is there already
    is replaced in one step; any other folder is refused with BundleError.
    """
    refuse_other_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        part = Path(temporary) / "bundle"
        part.mkdir()
        for name, path in {bundle.model.file: model, **(extra or {})}.items():
            shutil.copyfile(path, part / name)
        bundle = replace(bundle, folder=part)
        _write_vectors(bundle)
        (part / "card.md").write_text(model_card(bundle), encoding="utf-8")
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


def recalibrate(folder: Path, manifest: Manifest, renders: Path, *, risks: dict[Mode, float],
                false_positive_rate: float) -> Bundle:  # fmt: skip
    """The bundle in `folder`, packed anew with a calibration fitted on its own logits of the manifest's calib split.

    Its figures on val and test, where the manifest has them, its reference and, of a manifest with a train split, its
    embedding are brought up to date; a signature is not kept. Raises DatasetError where calib is empty or has labels that the bundle does not know, or lacks one.
    """
    classifier = Classifier.load(folder)
    bundle, labels = classifier.bundle, classifier.labels
    rows = {"calib": labelled_rows(manifest, "calib", labels, "the bundle's")}
    if missing := sorted(set(labels) - {row.label for row in rows["calib"]}):
        raise DatasetError(
            f"split 'calib' has no logo of class {', '.join(missing)}; the calibration needs some of each"
        )
    rows |= {
        name: labelled_rows(manifest, name, labels, "the bundle's") for name in ("val", "test") if manifest.split(name)
    }
    logits = {
        name: np.concatenate([
            classifier.logits(classifier.read_pixels(manifest.image_path(row, renders))[None]) for row in part
        ])
        for name, part in rows.items()
    }  # fmt: skip
    targets = {name: targets_of(part, labels) for name, part in rows.items()}
    calibration = fit_calibration(
        logits["calib"], targets["calib"], labels, risks=risks, false_positive_rate=false_positive_rate
    )
    calibrated = {
        name: calibrated_logits(part, calibration.temperature, calibration.scaling) for name, part in logits.items()
    }
    metrics = {
        name: summarize(calibrated[name], targets[name], np.array([row.sure for row in rows[name]], bool), 1.0, labels)
        for name in rows if name != "calib"
    }  # fmt: skip
    bundle = replace(bundle, calibration=calibration, metrics=metrics, reference=reference(calibrated["calib"], labels, calibration))  # fmt: skip
    with tempfile.TemporaryDirectory() as work:
        bundle, model, extra = embed_bundle(bundle, bundle.model_path, Path(work), manifest, renders)
        return pack_bundle(bundle, model, folder, extra)


def reference(calibrated: np.ndarray, labels: tuple[str, ...], calibration: Calibration) -> dict:
    """`monitor.reference_of` the (N, K) calibrated logits of calib, by the threshold of balanced."""
    probabilities = softmax(calibrated)
    return reference_of(probabilities.max(1), probabilities.argmax(1), labels, calibration.abstain_below[Mode.BALANCED])


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
            {"image": image, "logits": [round(float(value), 5) for value in logits[0]], "label": decision.label,
             "best_guess": decision.best_guess, "confidence": round(decision.confidence, 6)}
        )  # fmt: skip
    (bundle.folder / VECTORS).write_text(json.dumps({"vectors": vectors}, indent=1) + "\n", encoding="utf-8")


def model_card(bundle: Bundle) -> str:
    """The bundle's card.md: what it is for, how it was made, what it reaches, where it fails."""
    provenance, calibration, lines = bundle.provenance, bundle.calibration, []
    scaling = f", {calibration.scaling.method} scaling" if calibration.scaling else ""
    for split, figures in bundle.metrics.items():
        recalls = ", ".join(f"{label} {_percent(recall)}" for label, recall in figures["recall"].items())
        lines += [
            f"### On the {split} split ({figures['count']} logos, {figures['count_sure']} of them sure)", "",
            f"- accuracy: {_percent(figures['accuracy'])} on all, {_percent(figures['accuracy_sure'])} on sure ones",
            f"- recall: {recalls}",
            f"- calibration error, bias-corrected (RMS, Kumar et al. 2019): "
            f"{_percent(figures['calibration_error_debiased'])}; ECE less its bias: {_percent(figures['ece_debiased'])}; "
            f"plain 15-bin ECE: {figures['ece']:.1%}",
            f"- NLL {figures['nll']:.3f}, Brier {figures['brier']:.3f}", "",
        ]  # fmt: skip
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
            "It sorts what is a logo already; it does not say whether a picture is one. Confidence is calibrated on "
            "logos like those of its manifest: on photographs, screenshots or damaged images it may be confidently "
            "wrong. The marks that it was trained on belong to their owners and are not part of the bundle.",
            "",
        ]
    )


def _percent(figure: dict) -> str:
    return f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})"
