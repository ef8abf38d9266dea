"""The model card of a bundle, its intended use, its weaknesses and its known failures."""

from __future__ import annotations

import re

import numpy as np

from logo_edge.bundle.calibration import Calibration, Mode
from logo_edge.bundle.record import Bundle
from logo_edge.names import printable
from logo_edge.preprocess import CROP
from logo_edge_compress.figures import named_slices

CARD = "card.md"
CONFUSIONS = 8  # listed pairs of classes


def model_card(bundle: Bundle) -> str:
    """The text of card.md: intended use, training data, figures, limits and known failures."""
    provenance, calibration, lines = bundle.provenance, bundle.calibration, []
    weaknesses = find_weaknesses(bundle)
    scaling = f", {calibration.scaling.method} scaling" if calibration.scaling else ""
    familiarity = calibration.familiarity
    rejects = (
        f"In modes balanced and strict a picture whose logo score is below {familiarity.threshold:.2f} gets no label "
        f"and the reason `not_a_logo`; this happens to at most {familiarity.false_positive_rate:.0%} of images like "
        "those of its manifest. "
        if familiarity
        else ""
    )
    for split, figures in bundle.metrics.items():
        recalls = ", ".join(f"{_text(label)} {_percent(recall)}" for label, recall in figures["recall"].items())
        lines += [
            f"### On the {split} split ({figures['count']} images, {figures['count_sure']} of them sure)",
            "",
            f"- accuracy: {_percent(figures['accuracy'])} on all, {_percent(figures['accuracy_sure'])} on sure ones",
            f"- recall: {recalls}",
            *_label_lines(figures),
            *(
                f"- {name}, {part['count']} of {figures['count']}: {_percent(part['accuracy'])} on all, "
                f"{_percent(part['accuracy_sure'])} on sure ones"
                for name, part in named_slices(figures).items()
            ),
            f"- calibration error, bias-corrected (RMS, Kumar et al. 2019): "
            f"{_percent(figures['calibration_error_debiased'])}; "
            f"ECE less its bias: {_percent(figures['ece_debiased'])}; plain 15-bin ECE: {figures['ece']:.1%}",
            f"- NLL {figures['nll']:.3f}, Brier {figures['brier']:.3f}",
            "",
        ]
    return "\n".join(
        [
            f"# {_text(bundle.name)}",
            "",
            f"{'Finds in' if calibration.multi_label else 'Classifies'} images {_as_labels(bundle)}. "
            f"{provenance.get('student', '?')}, {bundle.model.precision}, {bundle.input.size_px} px, temperature "
            f"{calibration.temperature:.3f}{scaling}; {_describe_thresholds(calibration)}.",
            "",
            "## Intended use",
            "",
            provenance.get("intended_use") or _text(intended_use(bundle)),
            "",
            *(["Of an image that is not square, only the central square is read.", ""] * (bundle.input.fit == CROP)),
            "Not for images of other kinds or of other classes.",
            "",
            "## Trained on",
            "",
            *_data_lines(provenance.get("data")),
            f"- recipe `{provenance.get('recipe', '?')}`; teachers: {', '.join(provenance.get('teachers', ())) or '?'}",
            f"- labels and images: sha256 `{provenance.get('data_hash', '?')}`; temperature and thresholds were fitted "
            "on calib, every choice was made on val, and no choice saw the other splits below",
            *(
                [f"- calibrated again, and measured, on other labels and images: sha256 `{again}`"]
                if (again := provenance.get("recalibrated_on"))
                else []
            ),
            "",
            "## Figures, with 95 % intervals",
            "",
            *lines,
            "## Limits",
            "",
            *(f"- {_text(weakness)}" for weakness in weaknesses),
            *([""] if weaknesses else []),
            f"{rejects}Confidence is calibrated on images like those of its manifest: on other pictures that it does "
            "not reject, and on damaged images, it may be confidently wrong. The images that it was trained on are not "
            "part of the bundle; marks among them belong to their owners.",
            "",
            "## Known failures",
            "",
            *(f"- {_text(failure)}" for failure in find_failures(bundle) or ["none was seen on the images above"]),
            "",
        ]
    )


def intended_use(bundle: Bundle) -> str:
    """The use that `compress --intended-use` names, or what the bundle does."""
    count = "any number" if bundle.calibration.multi_label else "one"
    return bundle.provenance.get("intended_use") or (
        f"To give images like those that it was trained on {count} of {len(bundle.labels)} labels, or none where it is "
        f"not confident: {', '.join(map(printable, bundle.labels))}."
    )


def _as_labels(bundle: Bundle) -> str:
    names = ", ".join(map(_text, bundle.labels))
    return f"any of {names}, or none of them" if bundle.calibration.multi_label else f"as {names}"


def _describe_thresholds(calibration: Calibration) -> str:
    """The lowest confidence that gives a label, of each label if there are several."""
    if calibration.label_thresholds is None:
        balanced, strict = (calibration.abstain_below[mode] for mode in (Mode.BALANCED, Mode.STRICT))
        return f"gives no label below {balanced:.1%} confidence, in mode strict below {strict:.1%}"
    strict = calibration.label_thresholds[Mode.STRICT]
    lowest = ", ".join(
        f"{_text(label)} {value:.1%} (strict {strict[label]:.1%})"
        for label, value in calibration.label_thresholds[Mode.BALANCED].items()
    )
    return f"an image may have several labels or none, and each is given from a probability of its own on: {lowest}"


def _label_lines(figures: dict) -> list[str]:
    """The figures that only multi-label predictions have."""
    if not figures.get("multi_label"):
        return []
    precisions = ", ".join(f"{_text(label)} {_percent(part)}" for label, part in figures["precision"].items())
    average = ", ".join(f"{_text(label)} {part:.3f}" for label, part in figures["average_precision"].items())
    return [
        "- accuracy is the share of images with exactly their labels, each given if it is more probable than not",
        f"- precision: {precisions}",
        f"- average precision: {average}; F1 {figures['f1']:.3f}, mean over the labels {figures['f1_macro']:.3f}",
    ]


def find_failures(bundle: Bundle) -> list[str]:
    """Sentences about errors on the last split with figures (test, if there is one): the weakest parts, the confusions.

    Listed are the class and the slice of the lowest accuracy, and the most frequent of all confusions.
    """
    if not bundle.metrics:
        return []
    split, figures = list(bundle.metrics.items())[-1]
    if figures.get("multi_label"):
        return [
            f"on {split} the label of the lowest {kind} is {printable(label)}, with {part['value']:.1%}"
            for kind in ("recall", "precision")
            for label, part in [min(figures[kind].items(), key=lambda item: item[1]["value"])]
            if part["value"] < 1
        ]
    confusion = np.array(figures["confusion"])  # (K, K), rows are true
    wrong = confusion * (1 - np.eye(len(confusion), dtype=int))
    if not wrong.any():
        return []
    labels = [printable(label) for label in bundle.labels]
    seen = np.flatnonzero(confusion.sum(1))
    recall = confusion.diagonal()[seen] / confusion.sum(1)[seen]
    weakest = seen[recall.argmin()]
    failures = [f"on {split} the weakest class is {labels[weakest]}, of which it recognises {recall.min():.1%}"]
    if slices := named_slices(figures):
        name, part = min(slices.items(), key=lambda item: item[1]["accuracy"]["value"])
        failures.append(f"on {split} the weakest part is {name}, with an accuracy of {part['accuracy']['value']:.1%}")
    most = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    return failures + [
        f"takes {wrong[true, guess]} of {confusion[true].sum()} images of {labels[true]} for {labels[guess]} on {split}"
        for true, guess in zip(*np.unravel_index(most, wrong.shape), strict=True)
        if wrong[true, guess]
    ]


def _data_lines(data: dict | None) -> list[str]:
    """A table of images by class and split, and where they come from; bundles of earlier releases do not know."""
    if not data:
        return []
    splits = data["splits"]
    rows = [[_text(name), *(f"{counts[name]:,}" for counts in splits.values())] for name in next(iter(splits.values()))]
    table = [["images", *splits], ["---", *["---:"] * len(splits)], *rows]
    return [
        *(f"| {' | '.join(cells)} |" for cells in table),
        "",
        f"- {data['images']:,} images in {data['groups']:,} groups of copies, {data['unsure']:,} labels marked as not "
        f"sure; {data['left_out']:,} were not trained on, because they look like an image of another split",
        f"- from {', '.join(f'{_text(name)} ({count:,})' for name, count in data['sources'].items())}",
    ]


def _text(name: str) -> str:
    """A name as Markdown that is only text: no markup, no HTML, no end of a line or of a table's cell."""
    return re.sub(r"[\\`*\[\]<>|]|(?<!\w)_|_(?!\w)", r"\\\g<0>", printable(name))


def _percent(figure: dict) -> str:
    return f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})"


def find_weaknesses(bundle: Bundle) -> list[str]:
    """Sentences about what a user must know: a mode without a promised risk, a single answer, a class never recognised.

    A class counts as never recognised if no image of it is, on any split.
    """
    weaknesses = [f"mode {mode}: {why}" for mode, why in bundle.provenance.get("unpromised", {}).items()]
    if not bundle.metrics:
        return weaknesses
    if bundle.calibration.multi_label:
        never = [
            label
            for label in bundle.labels
            if all(figures["recall"][label]["value"] == 0 for figures in bundle.metrics.values())
        ]
        return weaknesses + [
            f"finds {label!r} on no image of {' and '.join(bundle.metrics)} that has it" for label in never
        ]
    confusion = np.sum([figures["confusion"] for figures in bundle.metrics.values()], axis=0)  # (K, K), rows are true
    images = f"the {confusion.sum()} images of {' and '.join(bundle.metrics)}"
    answers = np.flatnonzero(confusion.sum(0))
    if len(answers) == 1:
        return [*weaknesses, f"gives {bundle.labels[answers[0]]!r} for each of {images}"]
    missed = np.flatnonzero((confusion.sum(1) > 0) & (confusion.diagonal() == 0))
    return weaknesses + [
        f"recognises none of the {confusion[k].sum()} images of {bundle.labels[k]!r} among {images}" for k in missed
    ]
