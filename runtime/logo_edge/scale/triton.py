"""A bundle as a model repository for NVIDIA Triton: `logo-edge export-triton`.

    NAME_preprocess/   `preprocess` as a graph: one image (H, W, 4) uint8 RGBA -> pixels
    NAME_network/      the bundle's own graph, batched dynamically -> logits
    NAME_decision/     the bundle's calibration and thresholds as a graph -> label, confidence, ...
    NAME/              the ensemble of the three, which clients call

All run in Triton's ONNX Runtime backend, without Python. The configuration follows Triton's "Model Configuration" and
model_config.proto.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from logo_edge.bundle.calibration import Mode
from logo_edge.bundle.record import VECTORS, Bundle
from logo_edge.classifier import Classifier
from logo_edge.errors import ExportError
from logo_edge.files import folder_beside
from logo_edge.images.load import load_image
from logo_edge.results import Rejection
from logo_edge.scale.preprocess_graph import parse_graph, preprocess_graph

PARTS = ("preprocess", "network", "decision")
REASONS = ("", *(reason.value for reason in Rejection if reason != Rejection.NO_LABEL))  # why there is no label
BACKEND, ENSEMBLE = 'backend: "onnxruntime"', 'platform: "ensemble"'
TOLERANCE = 1e-6  # of a probability: the decision graph computes in float64 and returns float32

DECISION = """
<ir_version: IR_VERSION, opset_import: ["" : OPSET]>
decide (float[batch, CLASSES] logits, bool[batch, 1] is_blank) => (
  string[batch, 1] label, string[batch, 1] best_guess, float[batch, 1] confidence, float[batch, CLASSES] probabilities,
  float[batch, 1] logo_score, bool[batch, 1] is_logo, string[batch, 1] reason
)
<int64[1] classes = {1}>
{
  exact = Cast <to = 11> (logits)
  tempered = Div (exact, temperature)
  SCALE
  shares = Softmax <axis = 1> (calibrated)
  highest = ReduceMax <keepdims = 1> (shares, classes)
  best = ArgMax <axis = 1, keepdims = 1> (shares)
  best_guess = Gather (labels, best)
  score = ReduceLogSumExp <keepdims = 1> (exact, classes)
  is_logo = GreaterOrEqual (score, least_logo_score)
  is_sure = GreaterOrEqual (highest, abstain_below)
  by_confidence = Where (is_sure, no_reason, low_confidence)
  by_score = Where (is_logo, by_confidence, not_a_logo)
  by_content = Where (is_blank, blank, by_score)
  reason_index = Where (rejects_unfit, by_content, by_confidence)
  reason = Gather (reasons, reason_index)
  is_answered = Equal (reason_index, no_reason)
  given = Where (is_answered, best, no_label)
  label = Gather (labels, given)
  logo_score = Cast <to = 1> (score)
  confidence = Cast <to = 1> (highest)
  probabilities = Cast <to = 1> (shares)
}
"""
TEMPERATURE_ALONE = "calibrated = Identity (tempered)"
SCALING = (
    "logarithms = LogSoftmax <axis = 1> (tempered) mapped = MatMul (logarithms, weight) calibrated = Add (mapped, bias)"
)


@dataclass(frozen=True)
class Serving:
    """How Triton runs the models: `instances` of each at once with `threads` CPU threads; the network on `device`.

    `device` is cpu or gpu. A request waits up to `queue_delay_us` microseconds for others, for a pass of up to
    `max_batch` images.
    """

    max_batch: int = 32
    queue_delay_us: int = 500
    instances: int = 1
    threads: int = 1
    device: str = "cpu"


def write_repository(classifier: Classifier, out: Path, name: str, serving: Serving) -> int:
    """Writes the classifier's bundle and mode as models of repository `out`; returns the number of checked vectors.

    Raises ExportError, and writes nothing, if a vector disagrees, the bundle is an ensemble or the name is not
    usable; MissingExtraError without the package onnx.
    """
    bundle = classifier.bundle
    if bundle.members:
        raise ExportError(
            f"{bundle.folder}: an ensemble of {len(bundle.members)} models; expected one. Export a bundle of one model "
            "such as `logo-edge compress --target cpu` packs, or serve this one with `logo-edge serve`"
        )
    if bundle.calibration.multi_label:
        raise ExportError(
            f"{bundle.folder}: a multi-label bundle; expected one label an image. Serve this one with `logo-edge serve`"
        )
    if not name or not all(letter.isascii() and (letter.isalnum() or letter in "_-") for letter in name):
        raise ExportError(f"--name {name!r}: expected letters, digits, _ and -")
    folders = [out / f"{name}_{part}" for part in PARTS] + [out / name]
    if taken := [str(folder) for folder in folders if folder.exists()]:
        raise ExportError(f"{', '.join(taken)}: there already; delete it, or choose another --name or --out")
    graphs = {
        f"{name}_preprocess": preprocess_graph(bundle.input).SerializeToString(),
        f"{name}_network": bundle.read(bundle.model.file),
        f"{name}_decision": decision_graph(classifier).SerializeToString(),
    }
    checked = _verify(classifier, list(graphs.values()))
    try:
        out.mkdir(parents=True, exist_ok=True)
        parent = out.resolve().parent  # a server does not look there; but a rename needs the same file system
        can_use_parent = os.access(parent, os.W_OK) and parent.stat().st_dev == out.stat().st_dev
        with folder_beside(out.resolve() if can_use_parent else out / out.resolve().name) as part:
            for model, config in configurations(bundle, name, serving).items():
                version = part / model / "1"
                version.mkdir(parents=True)
                (part / model / "config.pbtxt").write_text(config, encoding="utf-8")
                if model in graphs:
                    (version / "model.onnx").write_bytes(graphs[model])
                else:
                    (version / ".keep").touch()  # the ensemble's version is empty; Git would drop the folder
            for folder in folders:  # the ensemble last: a server that polls then finds its parts
                os.rename(part / folder.name, folder)
    except OSError as error:
        reason = f"{error.filename or out}: {error.strerror}"
        raise ExportError(f"{reason}; expected a folder that can be written") from error
    return checked


def decision_graph(classifier: Classifier):
    """An ONNX model of `Classifier.decide`: logits (B, K) float32 and is_blank (B, 1) bool -> the decision.

    `label` is "" if it abstains, `reason` is "" if it does not.
    """
    bundle, calibration = classifier.bundle, classifier.bundle.calibration
    familiarity, scaling = calibration.familiarity, calibration.scaling
    constants = {
        "labels": np.array([*bundle.labels, ""], object),
        "no_label": np.array(len(bundle.labels), np.int64),
        "temperature": np.array(calibration.temperature, np.float64),
        "abstain_below": np.array(classifier.threshold, np.float64),
        "rejects_unfit": np.array(classifier.mode != Mode.BEST_GUESS),
        "reasons": np.array(REASONS, object),
        "no_reason": np.array(0, np.int64),
        **{reason: np.array(index, np.int64) for index, reason in enumerate(REASONS) if reason},
        "least_logo_score": np.array(-np.inf if familiarity is None else familiarity.threshold, np.float64),
    }
    if scaling:
        constants |= {
            "weight": np.array(scaling.weight, np.float64).T.copy(),
            "bias": np.array(scaling.bias, np.float64),
        }
    text = DECISION.replace("SCALE", SCALING if scaling else TEMPERATURE_ALONE)
    return parse_graph(text.replace("CLASSES", str(len(bundle.labels))), constants)


def configurations(bundle: Bundle, name: str, serving: Serving) -> dict[str, str]:
    """The config.pbtxt of every model of the repository, by name; the ensemble is last."""
    size, channels, classes, model = bundle.input.size_px, bundle.input.channels, len(bundle.labels), bundle.model
    preprocess, network, decision = (f"{name}_{part}" for part in PARTS)
    logits = ("FP32", [classes])
    outputs = [
        ("label", "STRING", [1]),
        ("best_guess", "STRING", [1]),
        ("confidence", "FP32", [1]),
        ("probabilities", "FP32", [classes]),
        ("logo_score", "FP32", [1]),
        ("is_logo", "BOOL", [1]),
        ("reason", "STRING", [1]),
    ]
    image = [("image", "UINT8", [-1, -1, 4])]
    pixels = [("pixels", "UINT8", [1, size, size, channels]), ("is_blank", "BOOL", [1, 1])]
    network_input, network_output = (model.input_name, "UINT8", [size, size, channels]), (model.output_name, *logits)
    decision_inputs = [("logits", *logits), ("is_blank", "BOOL", [1])]
    steps = [
        _step(preprocess, {"image": "image"}, {"pixels": "pixels", "is_blank": "is_blank"}),
        _step(network, {model.input_name: "pixels"}, {model.output_name: "logits"}),
        _step(decision, {"logits": "logits", "is_blank": "is_blank"}, {output: output for output, *_ in outputs}),
    ]
    batching = f"dynamic_batching {{ max_queue_delay_microseconds: {serving.queue_delay_us} }}"
    on_cpu, on_device = _instances(serving, "cpu"), [batching, *_instances(serving, serving.device)]
    ensemble_outputs = [(output, kind, [1, *dims]) for output, kind, dims in outputs]
    scheduling = [f"ensemble_scheduling {{ step [ {', '.join(steps)} ] }}"]
    batch = serving.max_batch
    return {
        preprocess: _config(preprocess, BACKEND, 0, image, pixels, on_cpu),
        network: _config(network, BACKEND, batch, [network_input], [network_output], on_device),
        decision: _config(decision, BACKEND, batch, decision_inputs, outputs, on_cpu),
        name: _config(name, ENSEMBLE, 0, image, ensemble_outputs, scheduling),
    }


def _config(name: str, platform: str, max_batch: int, inputs: list, outputs: list, settings: list[str]) -> str:
    def tensors(specifications: list[tuple[str, str, list[int]]]) -> str:
        return ", ".join(
            f"{{ name: {json.dumps(tensor)} data_type: TYPE_{kind} dims: {dims} }}"
            for tensor, kind, dims in specifications
        )

    lines = [
        f'name: "{name}"',
        platform,
        f"max_batch_size: {max_batch}",
        f"input [ {tensors(inputs)} ]",
        f"output [ {tensors(outputs)} ]",
        *settings,
    ]
    return "\n".join(lines) + "\n"


def _step(model: str, inputs: dict[str, str], outputs: dict[str, str]) -> str:
    maps = [f"input_map {{ key: {json.dumps(key)} value: {json.dumps(value)} }}" for key, value in inputs.items()]
    maps += [f"output_map {{ key: {json.dumps(key)} value: {json.dumps(value)} }}" for key, value in outputs.items()]
    return f'{{ model_name: "{model}" model_version: -1 {" ".join(maps)} }}'


def _instances(serving: Serving, device: str) -> list[str]:
    return [
        f"instance_group [ {{ count: {serving.instances} kind: KIND_{device.upper()} }} ]",
        f'parameters {{ key: "intra_op_thread_count" value: {{ string_value: "{serving.threads}" }} }}',
    ]


def _verify(classifier: Classifier, graphs: list[bytes]) -> int:
    """Runs the three graphs in order on the bundle's vectors, which it counts. Raises ExportError if one disagrees."""
    import onnxruntime

    bundle = classifier.bundle
    sessions = [onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]) for graph in graphs]
    vectors = json.loads(bundle.read(VECTORS))["vectors"]
    for vector in vectors:
        image = bundle.read(vector["image"])
        pixels, is_blank = sessions[0].run(None, {"image": np.asarray(load_image(image).convert("RGBA"))})
        (logits,) = sessions[1].run([bundle.model.output_name], {bundle.model.input_name: pixels})
        label, best_guess, _, probabilities, score, is_logo, reason = sessions[2].run(
            None, {"logits": logits, "is_blank": is_blank}
        )
        expected = classifier.classify(image)
        decision = (label[0, 0] or None, best_guess[0, 0], bool(is_logo[0, 0]), reason[0, 0] or None)
        off = float(np.abs(probabilities[0] - list(expected.probabilities.values())).max())
        if (
            not np.array_equal(pixels[0], classifier.read_pixels(image))
            or decision != (expected.label, expected.best_guess, expected.is_logo, expected.reason)
            or not off <= TOLERANCE
            or not np.isclose(score[0, 0], expected.logo_score, rtol=TOLERANCE, atol=TOLERANCE)
        ):
            raise ExportError(
                f"{bundle.folder / vector['image']}: the graphs give {decision}, probabilities off by {off:.3g}; "
                f"expected {expected}. Report this"
            )
    return len(vectors)
