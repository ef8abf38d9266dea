"""The model card of a bundle, and its weaknesses."""

from __future__ import annotations

import numpy as np

from logo_edge.bundle.calibration import Mode
from logo_edge.bundle.record import Bundle
from logo_edge_compress.figures import named_slices

CARD = "card.md"


def model_card(bundle: Bundle) -> str:
    """The text of card.md: how the bundle was made, its figures and its limits."""
    provenance, calibration, lines = bundle.provenance, bundle.calibration, []
    weaknesses = find_weaknesses(bundle)
    scaling = f", {calibration.scaling.method} scaling" if calibration.scaling else ""
    familiarity = calibration.familiarity
    rejects = (
        f"In modes balanced and strict a picture whose logo score is below {familiarity.threshold:.2f} gets no label "
        f"and the reason `not_a_logo`; this happens to at most {familiarity.false_positive_rate:.0%} of logos. "
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
            f"# {bundle.name}",
            "",
            f"Classifies logos as {', '.join(bundle.labels)}. {provenance.get('student', '?')}, "
            f"{bundle.model.precision}, {bundle.input.size_px} px, temperature {calibration.temperature:.3f}{scaling}; "
            f"gives no label below {calibration.abstain_below[Mode.BALANCED]:.1%} confidence, in mode strict below "
            f"{calibration.abstain_below[Mode.STRICT]:.1%}.",
            "",
            "## Made from",
            "",
            f"- recipe `{provenance.get('recipe', '?')}`; teachers: {', '.join(provenance.get('teachers', ())) or '?'}",
            f"- labelled logos: manifest with sha256 `{str(provenance.get('data_hash', '?'))[:16]}...`; temperature "
            "and thresholds were fitted on its calib split, every choice was made on val, and no choice saw the other "
            "splits below",
            "",
            "## Figures, with 95 % intervals",
            "",
            *lines,
            "## Limits",
            "",
            *(f"- {weakness}" for weakness in weaknesses),
            *([""] if weaknesses else []),
            f"{rejects}Confidence is calibrated on logos like those of its manifest: on other pictures that it "
            "accepts as logos, and on damaged images, it may be confidently wrong. The marks that it was trained on "
            "belong to their owners and are not part of the bundle.",
            "",
        ]
    )


def _percent(figure: dict) -> str:
    return f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})"


def find_weaknesses(bundle: Bundle) -> list[str]:
    """Sentences about what a user must know: a mode without a promised risk, a single answer, a class never recognised.

    A class counts as never recognised if no logo of it is, on any split.
    """
    weaknesses = [f"mode {mode}: {why}" for mode, why in bundle.provenance.get("unpromised", {}).items()]
    if not bundle.metrics:
        return weaknesses
    confusion = np.sum([figures["confusion"] for figures in bundle.metrics.values()], axis=0)  # (K, K), rows are true
    logos = f"the {confusion.sum()} logos of {' and '.join(bundle.metrics)}"
    answers = np.flatnonzero(confusion.sum(0))
    if len(answers) == 1:
        return [*weaknesses, f"gives {bundle.labels[answers[0]]!r} for each of {logos}"]
    missed = np.flatnonzero((confusion.sum(1) > 0) & (confusion.diagonal() == 0))
    return weaknesses + [
        f"recognises none of the {confusion[k].sum()} logos of {bundle.labels[k]!r} among {logos}" for k in missed
    ]
