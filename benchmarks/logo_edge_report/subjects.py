"""Subjects of an evaluation: a packed bundle, an ONNX file, a checkpoint, or the ensemble of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from logo_edge.bundle.calibration import Conformal, Familiarity, Mode, Scaling
from logo_edge.bundle.record import RECORD, Bundle, read_bundle
from logo_edge.decision import calibrated_logits, is_logo, logo_score
from logo_edge.errors import RunError
from logo_edge.preprocess import InputContract, preprocess
from logo_edge.probabilities import sigmoid, softmax
from logo_edge_train.metrics import is_correct

if TYPE_CHECKING:
    from logo_edge_train.data.manifest import Manifest
    from logo_edge_train.models import LogoNetwork
    from logo_edge_train.runs import Run

BATCH = 32
Forward = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Subject:
    """`predict` gives (N, K) float32 logits before temperature for images from `load_image`.

    `forward`, of a single network, gives the logits of (B, S, S, C) uint8 pixels of its `contract`; `network`, of a
    checkpoint, can be differentiated.
    """

    name: str
    kind: str  # bundle, onnx, checkpoint or run
    labels: tuple[str, ...]
    predict: Callable[[Sequence[Image.Image]], np.ndarray]
    temperature: float = 1.0
    scaling: Scaling | None = None
    conformal: tuple[Conformal, ...] = ()
    abstain_below: float = 0.0
    familiarity: Familiarity | None = None
    size_bytes: int = 0
    forward: Forward | None = None
    contract: InputContract | None = None
    network: LogoNetwork | None = None
    run: Run | None = None  # of a run or one of its checkpoints
    bundle: Bundle | None = None
    multi_label: bool = False
    label_thresholds: dict[str, float] | None = None  # of mode balanced, in a multi-label bundle

    def calibrated(self, logits: np.ndarray) -> np.ndarray:
        """(N, K) calibrated logits, whose softmax, multi-label sigmoid, gives the probabilities, from `predict`'s."""
        return calibrated_logits(logits, self.temperature, self.scaling, multi_label=self.multi_label)

    def given(self, logits: np.ndarray) -> np.ndarray:
        """(N, K) bool: the labels that are given for (N, K) logits; a bundle uses its thresholds of mode balanced."""
        calibrated = self.calibrated(logits)
        if self.multi_label:
            lowest = list(self.label_thresholds.values()) if self.label_thresholds else 0.5
            given = sigmoid(calibrated) >= np.array(lowest)
        else:
            probabilities = softmax(calibrated)
            highest = np.eye(len(self.labels), dtype=bool)[probabilities.argmax(1)]
            given = highest & (probabilities >= self.abstain_below)
        return given & is_logo(logo_score(logits), self.familiarity)[:, None]

    def answered(self, logits: np.ndarray) -> np.ndarray:
        """(N,) bool: whether any label is given for (N, K) logits."""
        return self.given(logits).any(1)

    def correct(self, images: Sequence[Image.Image], targets: np.ndarray) -> np.ndarray:
        """(N,) bool: whether the likeliest label of each image, or all its labels, are right (`metrics.is_correct`)."""
        return is_correct(self.calibrated(self.predict(images)), targets)


def load_subject(path: Path, *, public_key: Path | None = None) -> Subject:
    """The subject at `path`: a bundle's or run's folder, an .onnx file or a .safetensors checkpoint inside a run.

    With `public_key` only a bundle signed with its private key is loaded. Raises RunError for any other path,
    BundleError or RunError where it is damaged or not signed.
    """
    if public_key or (path / RECORD).exists():
        return _bundle_subject(path, public_key)
    if (path / "run.json").exists():
        return _run_subject(path)
    if path.suffix == ".onnx" and path.exists():
        return _onnx_subject(path)
    if path.suffix == ".safetensors" and path.exists():
        return _checkpoint_subject(path)
    raise RunError(
        f"{path}: found no subject; expected a bundle (with {RECORD}), a run (with run.json), or an .onnx or "
        ".safetensors file of a run"
    )


def manifest_of(subjects: Sequence[Subject], path: Path | None) -> Manifest:
    """The manifest at `path`, else of the first run among the subjects, else labels.csv.

    Raises RunError, with the number of different rows, where a run's manifest has changed since the run.
    """
    from logo_edge_train.data.icons import LABELS
    from logo_edge_train.data.manifest import read_manifest
    from logo_edge_train.keys import ROWS, check_rows

    runs = [subject.run for subject in subjects if subject.run]
    path = path or (runs[0].manifest_path if runs else LABELS)
    manifest = read_manifest(path)
    for run in runs:
        if path.resolve() == run.manifest_path.resolve():
            check_rows(manifest, run.folder / ROWS, path)
    return manifest


def _bundle_subject(folder: Path, public_key: Path | None) -> Subject:
    from logo_edge.classifier import Classifier

    bundle = read_bundle(folder, public_key=public_key)
    classifier = Classifier(bundle)

    calibration = bundle.calibration
    return Subject(
        bundle.name,
        "bundle",
        bundle.labels,
        partial(_in_batches, bundle.input, classifier.logits),
        calibration.temperature,
        calibration.scaling,
        calibration.conformal,
        calibration.abstain_below[Mode.BALANCED],
        calibration.familiarity,
        bundle.size_bytes,
        classifier.logits,
        bundle.input,
        bundle=bundle,
        multi_label=calibration.multi_label,
        label_thresholds=calibration.label_thresholds and calibration.label_thresholds[Mode.BALANCED],
    )


def _onnx_subject(path: Path) -> Subject:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model_input = session.get_inputs()[0]
    run = _run_of(path)
    contract = InputContract(model_input.shape[1], details=model_input.shape[3] > 3, fit=run.architecture(0).fit)

    def forward(pixels: np.ndarray) -> np.ndarray:
        return session.run(None, {model_input.name: pixels})[0]

    return Subject(
        path.name,
        "onnx",
        run.classes,
        partial(_in_batches, contract, forward),
        forward=forward,
        contract=contract,
        size_bytes=path.stat().st_size,
        run=run,
        multi_label=run.multi_label,
    )


def _run_subject(folder: Path) -> Subject:
    from logo_edge_train.evaluate import ensemble_logits
    from logo_edge_train.runs import read_run

    run = read_run(folder)
    count = len(run.record["members"])
    members = [(run.load_member(index), run.architecture(index).contract) for index in range(count)]

    def predict(images: Sequence[Image.Image]) -> np.ndarray:
        logits = [_in_batches(contract, partial(_torch_logits, network), images) for network, contract in members]
        return ensemble_logits(np.stack(logits), multi_label=run.multi_label)

    size = sum(network.float32_bytes for network, _ in members)
    return Subject(
        f"{folder.name} ({count} teachers)",
        "run",
        run.classes,
        predict,
        run.temperature,
        size_bytes=size,
        run=run,
        multi_label=run.multi_label,
    )


def _checkpoint_subject(path: Path) -> Subject:
    from logo_edge_train.architecture import Architecture
    from logo_edge_train.checkpoints import load_network

    run = _run_of(path)
    record = path.with_suffix(".json")
    try:
        member = json.loads(record.read_text(encoding="utf-8"))
        architecture = Architecture.parse(member.get("architecture") or member["student"])
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{record}: {error!r}; expected the record that `logo-edge train` writes beside it") from error
    network = load_network(path, architecture, len(run.classes))
    forward = partial(_torch_logits, network)
    return Subject(
        f"{path.stem} {architecture}",
        "checkpoint",
        run.classes,
        partial(_in_batches, architecture.contract, forward),
        size_bytes=network.float32_bytes,
        forward=forward,
        contract=architecture.contract,
        network=network,
        run=run,
        multi_label=run.multi_label,
    )


def _torch_logits(network: LogoNetwork, pixels: np.ndarray) -> np.ndarray:
    import torch

    with torch.inference_mode():
        return network(torch.from_numpy(pixels)).numpy()


def _in_batches(contract: InputContract, forward: Forward, images: Sequence[Image.Image]) -> np.ndarray:
    parts = []
    for start in range(0, len(images), BATCH):
        pixels = np.stack([preprocess(images[i], contract) for i in range(start, min(start + BATCH, len(images)))])
        parts.append(forward(pixels))
    return np.concatenate(parts).astype(np.float32)


def _run_of(path: Path) -> Run:
    from logo_edge_train.runs import read_run

    for folder in path.resolve().parents:
        if (folder / "run.json").exists():
            return read_run(folder)
    raise RunError(f"{path}: in no run's folder; its class names are in the run.json of the run that it belongs to")
