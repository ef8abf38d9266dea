"""The sections of a report: charts, sheets and tables, each with a caption that states the finding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from PIL import Image

from logo_edge.probabilities import sigmoid, softmax
from logo_edge_compress.figures import named_slices
from logo_edge_report import charts
from logo_edge_report.attacks import ATTACKS
from logo_edge_report.evaluate import CONFIDENT, HISTOGRAM
from logo_edge_report.page import Exhibit, Panel, Section, Table
from logo_edge_report.sheets import make_sheet, thumbnail
from logo_edge_report.statistics import auroc
from logo_edge_report.subjects import Subject
from logo_edge_train.data.manifest import LogoRow

SHOWN = 24  # images of a sheet
SLICES = {"size": "delivered size", "jpeg": "JPEG quality", "thumbnail": "thumbnail"}


@dataclass(frozen=True)
class Evaluated:
    """A subject on the split: its (N, K) logits and the figures of `evaluate_predictions`."""

    subject: Subject
    logits: np.ndarray
    figures: dict

    @property
    def probabilities(self) -> np.ndarray:
        return (sigmoid if self.subject.multi_label else softmax)(self.subject.calibrated(self.logits))


def summary_section(subjects: list[Evaluated], stages: list[dict], split: str) -> Section:
    """Accuracy, calibration and size of every subject, and of every stage of the compression."""
    shown = subjects[-1]
    figures, first = shown.figures, subjects[0].figures
    rows: list[tuple[str, ...]] = [
        ("accuracy, all", *(share(s.figures["accuracy"]) for s in subjects)),
        ("accuracy, sure", *(share(s.figures["accuracy_sure"]) for s in subjects)),
        *((f"recall of {label}", *(share(s.figures["recall"][label]) for s in subjects)) for label in first["recall"]),
        (
            "calibration error (RMS, bias-corrected)",
            *(share(s.figures["calibration_error_debiased"]) for s in subjects),
        ),
        ("plain ECE", *(f"{s.figures['ece']:.1%}" for s in subjects)),
        ("NLL, nats", *(f"{s.figures['nll']:.3f}" for s in subjects)),
        ("Brier score", *(f"{s.figures['brier']:.3f}" for s in subjects)),
        ("answered", *(f"{s.figures['answered']['share']:.1%}" for s in subjects)),
        ("accuracy of the answered", *(share(s.figures["answered"]["accuracy"]) for s in subjects)),
        ("size", *(f"{s.subject.size_bytes / 1e6:.2f} MB" for s in subjects)),
    ]
    caption = (
        f"{shown.subject.name} classifies {share(figures['accuracy'])} of the {figures['count']} images of {split} "
        f"correctly, and {share(figures['accuracy_sure'])} of the {figures['count_sure']} images with a sure label (95 "
        "% intervals)."
    )
    if agreement := figures["annotator_agreement"]:
        caption += f" Two annotators agree on {agreement['value']:.1%}."
    exhibits = [Exhibit("Figures", caption, table=Table(("", *(s.subject.name for s in subjects)), tuple(rows)))]
    if stages:
        exhibits.append(stages_exhibit(stages, split))
    return Section("summary", "Summary", tuple(exhibits))


def stages_exhibit(stages: list[dict], split: str) -> Exhibit:
    """A row for every stage of a compression, from the teachers to the packed model."""
    labels = list(stages[0][split]["recall"])
    rows = tuple(
        (
            stage["stage"],
            *(f"{stage[split][key]['value']:.1%}" for key in ("accuracy", "accuracy_sure")),
            *(f"{stage[split]['recall'][label]['value']:.1%}" for label in labels),
            f"{stage[split]['calibration_error_debiased']['value']:.1%}",
            f"{stage['size_bytes'] / 1e6:.2f}",
            f"{stage['latency']['p50_ms']:.2f}" if stage["latency"] else "-",
        )
        for stage in stages
    )
    first, last = stages[0], stages[-1]
    lost = first[split]["accuracy"]["value"] - last[split]["accuracy"]["value"]
    caption = (
        f"From {first['stage']} to {last['stage']} the model shrinks {first['size_bytes'] / last['size_bytes']:.1f} "
        f"times and {'loses' if lost >= 0 else 'gains'} {abs(lost) * 100:.1f} points of accuracy"
    )
    timed = [stage for stage in stages if stage["latency"]]
    if last["latency"] and timed[0]["latency"] != last["latency"]:
        caption += (
            f"; one image takes {last['latency']['p50_ms']:.1f} ms, as {timed[0]['stage']} it takes "
            f"{timed[0]['latency']['p50_ms']:.1f} ms"
        )
    head = ("stage", "all", "sure", *labels, "calib. error", "MB", "p50 ms")
    return Exhibit("Stages of the compression", f"{caption}.", table=Table(head, rows))


def slices_exhibit(figures: dict, title: str) -> Exhibit | None:
    """A row for every round of labelling and every icon set; None where there is only one."""
    if not (slices := named_slices(figures)):
        return None
    hardest = min(slices, key=lambda name: slices[name]["accuracy"]["value"])
    rows = tuple(
        (name, str(figures["count"]), share(figures["accuracy"]), share(figures["accuracy_sure"]))
        for name, figures in slices.items()
    )
    caption = f"Hardest: {hardest}, {share(slices[hardest]['accuracy'])} of {slices[hardest]['count']} images."
    return Exhibit(title, caption, table=Table(("", "images", "all", "sure"), rows))


def training_section(histories: dict[str, list[dict]]) -> Section | None:
    """Loss on train, loss and accuracy on val after every epoch, a line per network."""
    histories = {name: history for name, history in histories.items() if history}
    if not histories:
        return None
    best = {name: max(history, key=lambda epoch: epoch["accuracy"]) for name, history in histories.items()}
    first = next(iter(best))
    rising = [name for name, history in histories.items() if history[-1]["nll"] > 1.05 * min(e["nll"] for e in history)]
    losses = sorted({name for history in histories.values() for name in _losses(history[0])})
    rows = tuple(
        (
            name,
            *(f"{history[-1][key]:.1%}" for key in ("accuracy", "worst_recall")),
            f"{sum(epoch['seconds'] for epoch in history) / 60:.0f} min",
        )
        for name, history in histories.items()
    )
    leader = max(histories, key=lambda name: histories[name][-1]["accuracy"])
    verdict = f"{', '.join(rising)} overfits" if rising else "no network ends more than 5 % above its best"
    exhibits = (
        Exhibit(
            "Accuracy",
            f"Accuracy on val of the averaged weights; {first} is best after epoch {best[first]['epoch']} "
            f"of {len(histories[first])}, at {best[first]['accuracy']:.1%}.",
            (Panel("Accuracy on val by epoch", charts.lines(_by_epoch(histories, "accuracy"), "epoch", "accuracy")),),
        ),
        Exhibit(
            "Loss on val",
            f"The negative log-likelihood on val should fall and stay down: {verdict}.",
            (
                Panel(
                    "Loss on val by epoch",
                    charts.lines(_by_epoch(histories, "nll"), "epoch", "loss on val, nats", percent=False),
                ),
            ),
        ),
        Exhibit(
            "Losses on train",
            "The minimised loss, on augmented views and softened labels"
            + (
                "; teachers and student minimise different losses, so only the slopes are comparable."
                if len(losses) > 1
                else ", so it stays above the loss on val."
            ),
            (
                Panel(
                    "Losses on train by epoch",
                    charts.lines(
                        {
                            (name if len(losses) == 1 else f"{name}, {loss.replace('_', ' ')}"): {
                                epoch["epoch"]: epoch[loss] for epoch in history
                            }
                            for loss in losses
                            for name, history in histories.items()
                            if loss in history[0]
                        },
                        "epoch",
                        "loss on train",
                        percent=False,
                    ),
                ),
            ),
        ),
        Exhibit(
            "At the end of training",
            f"Best at the end: {leader}, {histories[leader][-1]['accuracy']:.1%} on val. "
            "Worst recall is the recall of the weakest class.",
            table=Table(("", "accuracy", "worst recall", "time"), rows),
        ),
    )
    return Section("training", "Training", exhibits)


def _losses(record: dict) -> list[str]:
    """The named losses, which come first in the record of an epoch, before `epoch`."""
    return list(takewhile(lambda name: name != "epoch", record))


def _by_epoch(histories: dict[str, list[dict]], key: str) -> dict[str, dict[float, float]]:
    return {name: {epoch["epoch"]: epoch[key] for epoch in history} for name, history in histories.items()}


def errors_section(
    shown: Evaluated, images: Sequence[Image.Image], rows: list[LogoRow], targets: np.ndarray
) -> Section:
    """The confusion of labels, and the most confident errors as pictures."""
    figures, labels = shown.figures, shown.subject.labels
    probabilities = shown.probabilities
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(~is_top_true(probabilities, targets))
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:SHOWN]
    weakest = min(labels, key=lambda label: figures["recall"][label]["value"])
    predicted_labels = [k for k in labels if np.isfinite(figures["precision"][k]["value"])]
    least_precise = min(predicted_labels, key=lambda label: figures["precision"][label]["value"])
    exhibits = [
        labels_exhibit(figures)
        if shown.subject.multi_label
        else Exhibit(
            "Confusion matrix",
            confusion_finding(figures["confusion"], labels),
            (
                Panel(
                    "Confusion matrix: true labels down, predicted ones across",
                    charts.confusion_matrix(figures["confusion"], list(labels)),
                ),
            ),
        ),
        Exhibit(
            "Recall and precision",
            f"Lowest recall: {weakest}, {share(figures['recall'][weakest])}. "
            f"Lowest precision: {least_precise}, {share(figures['precision'][least_precise])}.",
            (
                Panel("Recall by class", charts.share_bars(figures["recall"]), heading="Recall"),
                Panel("Precision by class", charts.share_bars(figures["precision"]), heading="Precision"),
            ),
        ),
    ]
    if len(worst):
        sheet = make_sheet(
            [[thumbnail(images[i])] for i in worst],
            [f"{labels[predicted[i]]} {confidence[i]:.0%}" for i in worst],
            [f"is {rows[i].label}{'' if rows[i].sure else ', unsure'}" for i in worst],
        )
        unsure = sum(not rows[i].sure for i in worst)
        exhibits.append(
            Exhibit(
                "The most confident errors",
                f"The {len(worst)} of {len(wrong)} errors with the highest confidence; the annotators were unsure of "
                f"{unsure} of them.",
                (Panel("Misclassified images", sheet=sheet),),
            )
        )
    if slices := slices_exhibit(figures, "Accuracy by round and icon set"):
        exhibits.append(slices)
    return Section("errors", "Errors", tuple(exhibits))


def labels_exhibit(figures: dict) -> Exhibit:
    """The figures of each label of multi-label predictions."""
    average = figures["average_precision"]
    hardest = min(average, key=average.get)
    rows = tuple(
        (
            label,
            f"{figures['class_shares'][label]['true']:.1%}",
            share(figures["recall"][label]),
            share(figures["precision"][label]),
            f"{average[label]:.3f}",
        )
        for label in average
    )
    caption = (
        f"A label is predicted if it is more probable than not; an image is right if exactly its labels are. F1 over "
        f"all labels {figures['f1']:.3f}; lowest average precision: {hardest}, {average[hardest]:.3f}."
    )
    head = ("label", "images with it", "recall", "precision", "average precision")
    return Exhibit("Labels", caption, table=Table(head, rows))


def is_top_true(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N,) bool: whether the most probable label is the image's or, with (N, K) targets, one of the image's."""
    top = probabilities.argmax(1)
    return targets[np.arange(len(top)), top] == 1 if targets.ndim == 2 else top == targets


def confusion_finding(confusion: list[list[int]], labels: tuple[str, ...]) -> str:
    """The most frequent confusion of two labels."""
    off = np.array(confusion)
    np.fill_diagonal(off, 0)
    if not off.sum():
        return "True labels down, predicted ones across: no errors."
    true, predicted = np.unravel_index(off.argmax(), off.shape)
    return (
        f"True labels down, predicted ones across. Most errors: {labels[true]} classified as {labels[predicted]} "
        f"({off[true, predicted]} of {off.sum()})."
    )


def confidence_section(
    shown: Evaluated, before: dict, members: np.ndarray, targets: np.ndarray, images: Sequence[Image.Image]
) -> Section:
    """The reliability of confidence. `before`: the figures at temperature 1; members: (M, N, K) logits."""
    figures, subject = shown.figures, shown.subject
    probabilities = shown.probabilities
    confidence, correct = probabilities.max(1), is_top_true(probabilities, targets)
    exhibits = [
        _reliability(subject, before, figures),
        Exhibit(
            "Confidence of right and wrong answers",
            f"{figures['confident']['share']:.0%} of the images get more than {CONFIDENT:.0%} confidence; "
            f"{share(figures['confident']['accuracy'])} of them are right.",
            (
                Panel(
                    "Histogram of confidence",
                    charts.confidence_histogram(
                        figures["confidence_histogram"],
                        np.histogram(confidence[~correct], HISTOGRAM, (0, 1))[0].tolist(),
                    ),
                ),
            ),
        ),
        Exhibit(
            "Error among the answered",
            _selection_finding(subject, figures),
            (Panel("Error by share answered", charts.risk_coverage_curve({subject.name: figures["risk_coverage"]})),),
        ),
    ]
    if len(members) > 1 and not subject.multi_label:
        exhibits.append(_uncertainty_map(members, targets))
    if sets := figures["prediction_sets"]:
        exhibits.append(_prediction_sets(sets, multi_label=subject.multi_label))
    order = np.argsort(confidence, kind="stable")[:SHOWN]
    sheet = make_sheet(
        [[thumbnail(images[i])] for i in order],
        [
            " / ".join(f"{subject.labels[k]} {probabilities[i, k]:.0%}" for k in np.argsort(-probabilities[i])[:2])
            for i in order
        ],
        [f"is {_true_labels(subject, targets[i])}" for i in order],
    )
    exhibits.append(
        Exhibit(
            "The most uncertain images",
            f"The {len(order)} images with the lowest confidence, {confidence[order[0]]:.0%} to "
            f"{confidence[order[-1]]:.0%}, with their two likeliest labels; {int(correct[order].sum())} are right.",
            (Panel("Images with the lowest confidence", sheet=sheet),),
        )
    )
    return Section("confidence", "Confidence", tuple(exhibits))


def _true_labels(subject: Subject, target: np.ndarray) -> str:
    """The label of an integer target or, multi-label, the labels of a target of (K,) 0 or 1."""
    if not subject.multi_label:
        return subject.labels[target]
    return " and ".join(label for label, own in zip(subject.labels, target, strict=True) if own) or "none of the labels"


def _reliability(subject: Subject, before: dict, after: dict) -> Exhibit:
    curves = {"T = 1": before["reliability"]}
    error = after["calibration_error_debiased"]
    gap = after["mean_confidence"] - after["accuracy"]["value"]
    if subject.multi_label:  # of all labels of all images
        bins, count = after["reliability"], sum(part["count"] for part in after["reliability"])
        gap = sum(part["count"] * (part["confidence"] - part["accuracy"]) for part in bins) / count
    caption = "On the dashed line, confidence equals accuracy. "
    if subject.temperature != 1 or subject.scaling:
        scaling = f" with {subject.scaling.method} scaling" if subject.scaling else ""
        curves[f"T = {subject.temperature:.2f}"] = after["reliability"]
        caption += (
            f"Temperature {subject.temperature:.2f}{scaling} changes plain ECE from {before['ece']:.1%} to "
            f"{after['ece']:.1%} and NLL from {before['nll']:.3f} to {after['nll']:.3f}; "
        )
    caption += (
        f"{subject.name} is {'over' if gap > 0 else 'under'}confident by {abs(gap) * 100:.1f} points on average, with "
        f"a calibration error (RMS, bias-corrected) of {share(error)}."
    )
    return Exhibit("Reliability", caption, (Panel("Accuracy against confidence", charts.reliability_diagram(curves)),))


def _selection_finding(subject: Subject, figures: dict) -> str:
    curve, answered = figures["risk_coverage"], figures["answered"]
    half = float(np.interp(0.5, curve["coverage"], curve["risk"]))
    text = f"The error is {half:.1%} for the more confident half and {curve['risk'][-1]:.1%} for all images."
    if subject.abstain_below > 0:
        thresholds = "thresholds" if subject.multi_label else f"threshold, {subject.abstain_below:.2f},"
        text += (
            f" At the packed {thresholds} {answered['share']:.0%} are answered"
            f"{' (images rejected as no logo are not)' if subject.familiarity else ''} and "
            f"{share(answered['accuracy'])} of the answers are right."
        )
    return text


def _uncertainty_map(members: np.ndarray, targets: np.ndarray) -> Exhibit:
    """The ensemble's confidence and the mutual information of member and label (Depeweg et al. 2018)."""
    each = softmax(members)  # (M, N, K)
    mean = each.mean(0)
    disagreement = _entropy(mean) - _entropy(each).mean(0)
    correct = mean.argmax(1) == targets
    caption = (
        f"Each image by the confidence of the ensemble of {len(members)} teachers and by their disagreement (epistemic "
        "uncertainty). At the lower right they agree; high up, single teachers differ."
    )
    if correct.any() and not correct.all():
        by_disagreement = auroc(disagreement[~correct], disagreement[correct])
        by_confidence = auroc(-mean.max(1)[~correct], -mean.max(1)[correct])
        caption += (
            f" Disagreement detects errors with AUROC {by_disagreement:.2f}, confidence with {by_confidence:.2f}."
        )
    svg = charts.uncertainty_map(mean.max(1), np.maximum(disagreement, 0), correct)
    return Exhibit("Uncertainty map", caption, (Panel("Disagreement against confidence", svg),))


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    """Nats, over the last axis."""
    return -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(-1)


def _prediction_sets(sets: dict, *, multi_label: bool) -> Exhibit:
    rows = tuple(
        (
            f"{float(level):.0%}",
            f"{figures['coverage']:.1%}",
            f"{figures['expected_low']:.1%} to {figures['expected_high']:.1%}",
            f"{figures['mean_size']:.2f}",
        )
        for level, figures in sets.items()
    )
    promise = "contain the true one with the promised probability"
    if multi_label:
        promise = "hold the promised share of an image's labels"
    kept = [level for level, e in sets.items() if e["expected_low"] <= e["coverage"] <= e["expected_high"]]
    return Exhibit(
        "Prediction sets",
        f"Sets of labels that {promise}: {len(kept)} of {len(sets)} levels are within the range of chance.",
        table=Table(("promised", "covered", "chance allows", "labels"), rows),
    )


def robustness_section(figures: dict, split: str, whose: str) -> Section | None:
    """The slices, corruptions, attacks and outliers of an evaluation."""
    exhibits: list[Exhibit] = []
    for kind, accuracies in figures.get("slices", {}).items():
        title = f"Accuracy by {SLICES.get(kind, kind)}"
        worst, best = (pick(accuracies, key=lambda name: accuracies[name]["value"]) for pick in (min, max))
        caption = f"Best: {best}, {share(accuracies[best])}; worst: {worst}, {share(accuracies[worst])}."
        if accuracies[worst]["value"] == accuracies[best]["value"]:
            caption = f"The same everywhere: {share(accuracies[best])}."
        exhibits.append(Exhibit(title, caption, (Panel(title, charts.share_bars(accuracies)),)))
    if corruptions := figures.get("corruptions"):
        exhibits.append(_corruptions(corruptions))
    if attacks := figures.get("attacks"):
        left = {f"{name}, {size}": own for name in ATTACKS for size, own in attacks.get(name, {}).items()}
        worst = min(left, key=lambda name: left[name]["value"])
        exhibits.append(
            Exhibit(
                "Attacks",
                f"Accuracy on {attacks['count']} sure images with every pixel changed by at most this strength, "
                f"against {attacks['from']}: {worst} leaves {share(left[worst])}.",
                table=Table(("attack, strength", "sure"), tuple((name, share(own)) for name, own in left.items())),
            )
        )
    if areas := figures.get("outliers", {}).get("auroc"):
        hardest = min(areas, key=areas.get)
        bars = {name: {"value": value, "low": value, "high": value} for name, value in areas.items()}
        exhibits.append(
            Exhibit(
                "Images that are no logos",
                f"AUROC of the logo score (dashed line: chance); hardest are {hardest}, {areas[hardest]:.2f}.",
                (Panel("AUROC by family of images that are no logos", charts.share_bars(bars, ideal=0.5)),),
            )
        )
    title = f"Robustness of {whose} on {split}"
    return Section("robustness", title, tuple(exhibits)) if exhibits else None


def _corruptions(figures: dict) -> Exhibit:
    names, mean = figures["by_corruption"], figures["mean"]
    worst = max(mean, key=int)
    series = {name: {int(s): accuracy["value"] for s, accuracy in by.items()} for name, by in names.items()}
    hardest = min(names, key=lambda name: names[name][worst]["value"])
    caption = (
        f"At severity {worst} the mean accuracy is {mean[worst]:.1%}; most harmful is {hardest}, "
        f"{share(names[hardest][worst])}."
    )
    return Exhibit(
        "Corruptions",
        caption,
        (Panel("Accuracy by corruption and severity", charts.lines(series, "severity", "accuracy")),),
    )


def share(figure: dict) -> str:
    """A share with its interval, in percent."""
    if not np.isfinite(figure["value"]):
        return "unknown"
    return f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})"
