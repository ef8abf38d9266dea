"""The sections of a report: every chart, sheet and table beside one sentence that says what to see in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from PIL import Image

from logo_edge.probabilities import softmax
from logo_edge_compress.figures import named_slices
from logo_edge_report import charts
from logo_edge_report.attacks import ATTACKS
from logo_edge_report.evaluate import CONFIDENT, HISTOGRAM
from logo_edge_report.page import Exhibit, Panel, Section, Table
from logo_edge_report.sheets import make_sheet, thumbnail
from logo_edge_report.statistics import auroc
from logo_edge_report.subjects import Subject
from logo_edge_train.data.manifest import LogoRow

SHOWN = 24  # logos of a sheet
SLICES = {"size": "delivered size", "jpeg": "JPEG quality", "thumbnail": "thumbnail"}


@dataclass(frozen=True)
class Evaluated:
    """A subject on the split: its (N, K) logits, and the figures that `evaluate_predictions` gave."""

    subject: Subject
    logits: np.ndarray
    figures: dict

    @property
    def probabilities(self) -> np.ndarray:
        return softmax(self.subject.calibrated(self.logits))


def summary_section(subjects: list[Evaluated], stages: list[dict], split: str) -> Section:
    """Accuracy, calibration and size of every subject, and of every stage of the compression."""
    shown = subjects[-1]
    figures, first = shown.figures, subjects[0].figures
    rows: list[tuple[str, ...]] = [
        ("accuracy, all", *(share(s.figures["accuracy"]) for s in subjects)),
        ("accuracy, sure", *(share(s.figures["accuracy_sure"]) for s in subjects)),
        *((f"recall of {label}", *(share(s.figures["recall"][label]) for s in subjects)) for label in first["recall"]),
        ("calibration error, corrected", *(share(s.figures["calibration_error_debiased"]) for s in subjects)),
        ("plain ECE", *(f"{s.figures['ece']:.1%}" for s in subjects)),
        ("NLL, nats", *(f"{s.figures['nll']:.3f}" for s in subjects)),
        ("Brier score", *(f"{s.figures['brier']:.3f}" for s in subjects)),
        ("answered", *(f"{s.figures['answered']['share']:.1%}" for s in subjects)),
        ("accuracy of the answered", *(share(s.figures["answered"]["accuracy"]) for s in subjects)),
        ("size", *(f"{s.subject.size_bytes / 1e6:.2f} MB" for s in subjects)),
    ]
    caption = (
        f"{shown.subject.name} is right on {share(figures['accuracy'])} of the {figures['count']} logos of {split}, and "
        f"on {share(figures['accuracy_sure'])} of the {figures['count_sure']} that the annotators were sure of "
        "(95 % intervals)."
    )
    if agreement := figures["annotator_agreement"]:
        caption += f" Two annotators agree on {agreement['value']:.1%}."
    exhibits = [Exhibit("Figures", caption, table=Table(("", *(s.subject.name for s in subjects)), tuple(rows)))]
    if stages:
        exhibits.append(stages_exhibit(stages, split))
    return Section("summary", "Summary", tuple(exhibits))


def stages_exhibit(stages: list[dict], split: str) -> Exhibit:
    """A row for every stage of a compression, from the teachers to what is packed."""
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
    """A row for every round of labelling and every icon set; None where all logos are of one."""
    if not (slices := named_slices(figures)):
        return None
    hardest = min(slices, key=lambda name: slices[name]["accuracy"]["value"])
    rows = tuple(
        (name, str(entry["count"]), share(entry["accuracy"]), share(entry["accuracy_sure"]))
        for name, entry in slices.items()
    )
    caption = f"Hardest: {hardest}, {share(slices[hardest]['accuracy'])} of {slices[hardest]['count']} logos."
    return Exhibit(title, caption, table=Table(("", "logos", "all", "sure"), rows))


def training_section(histories: dict[str, list[dict]]) -> Section | None:
    """Loss on train, loss and accuracy on val after every epoch, a line per network."""
    histories = {name: history for name, history in histories.items() if history}
    if not histories:
        return None
    best = {name: max(history, key=lambda entry: entry["accuracy"]) for name, history in histories.items()}
    first = next(iter(best))
    rising = [name for name, history in histories.items() if history[-1]["nll"] > 1.05 * min(e["nll"] for e in history)]
    losses = sorted({name for history in histories.values() for name in _losses(history[0])})
    rows = tuple(
        (
            name,
            *(f"{history[-1][key]:.1%}" for key in ("accuracy", "worst_recall")),
            f"{sum(entry['seconds'] for entry in history) / 60:.0f} min",
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
            "What is minimised, on augmented views and softened labels"
            + (
                "; teachers and student minimise different losses, so that only the slopes compare."
                if len(losses) > 1
                else ", so that it stays above the loss on val."
            ),
            (
                Panel(
                    "Losses on train by epoch",
                    charts.lines(
                        {
                            (name if len(losses) == 1 else f"{name}, {loss.replace('_', ' ')}"): {
                                entry["epoch"]: entry[loss] for entry in history
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
            "Worst recall is that of its weakest class.",
            table=Table(("", "accuracy", "worst recall", "took"), rows),
        ),
    )
    return Section("training", "Training", exhibits)


def _losses(record: dict) -> list[str]:
    """The named losses: every record of an epoch holds them first, before `epoch`."""
    return list(takewhile(lambda name: name != "epoch", record))


def _by_epoch(histories: dict[str, list[dict]], key: str) -> dict[str, dict[float, float]]:
    return {name: {entry["epoch"]: entry[key] for entry in history} for name, history in histories.items()}


def errors_section(
    shown: Evaluated, images: Sequence[Image.Image], rows: list[LogoRow], targets: np.ndarray
) -> Section:
    """Which labels are taken for which, and the most confident errors as pictures."""
    figures, labels = shown.figures, shown.subject.labels
    probabilities = shown.probabilities
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predicted != targets)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:SHOWN]
    weakest = min(labels, key=lambda label: figures["recall"][label]["value"])
    told = [k for k in labels if np.isfinite(figures["precision"][k]["value"])]
    least_precise = min(told, key=lambda label: figures["precision"][label]["value"])
    exhibits = [
        Exhibit(
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
            f"Least recall: {weakest}, of whose logos {share(figures['recall'][weakest])} are "
            f"found. Least precision: {least_precise}, right {share(figures['precision'][least_precise])} of the times "
            "that it is said.",
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
            [f"is {labels[targets[i]]}{'' if rows[i].sure else ', unsure'}" for i in worst],
        )
        unsure = sum(not rows[i].sure for i in worst)
        exhibits.append(
            Exhibit(
                "The most confident errors",
                f"The {len(worst)} of {len(wrong)} errors that the network believes most; "
                f"the annotators were themselves unsure of {unsure} of them.",
                (Panel("Logos named wrongly", sheet=sheet),),
            )
        )
    if slices := slices_exhibit(figures, "Accuracy by round and icon set"):
        exhibits.append(slices)
    return Section("errors", "Errors", tuple(exhibits))


def confusion_finding(confusion: list[list[int]], labels: tuple[str, ...]) -> str:
    """Which label is most often taken for which other."""
    off = np.array(confusion)
    np.fill_diagonal(off, 0)
    if not off.sum():
        return "True labels down, predicted ones across: no error at all."
    true, said = np.unravel_index(off.argmax(), off.shape)
    return (
        f"True labels down, predicted ones across. Most errors: {labels[true]} called {labels[said]} "
        f"({off[true, said]} of {off.sum()})."
    )


def confidence_section(
    shown: Evaluated, before: dict, members: np.ndarray, targets: np.ndarray, images: Sequence[Image.Image]
) -> Section:
    """Whether confidence can be believed. `before`: the figures at temperature 1; members: (M, N, K) logits."""
    figures, subject = shown.figures, shown.subject
    probabilities = shown.probabilities
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    correct = predicted == targets
    exhibits = [
        _reliability(subject, before, figures),
        Exhibit(
            "Confidence of right and wrong answers",
            f"{figures['confident']['share']:.0%} of the logos get more than "
            f"{CONFIDENT:.0%} confidence, and of those {share(figures['confident']['accuracy'])} are right.",
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
    if len(members) > 1:
        exhibits.append(_uncertainty_map(members, targets))
    if sets := figures["prediction_sets"]:
        exhibits.append(_prediction_sets(sets))
    order = np.argsort(confidence, kind="stable")[:SHOWN]
    sheet = make_sheet(
        [[thumbnail(images[i])] for i in order],
        [
            " / ".join(f"{subject.labels[k]} {probabilities[i, k]:.0%}" for k in np.argsort(-probabilities[i])[:2])
            for i in order
        ],
        [f"is {subject.labels[targets[i]]}" for i in order],
    )
    exhibits.append(
        Exhibit(
            "The most uncertain logos",
            f"The {len(order)} logos with the least confidence, {confidence[order[0]]:.0%} to "
            f"{confidence[order[-1]]:.0%}: {int(correct[order].sum())} are named rightly all the same. Each with its two "
            "likeliest labels.",
            (Panel("Logos with the least confidence", sheet=sheet),),
        )
    )
    return Section("confidence", "Confidence", tuple(exhibits))


def _reliability(subject: Subject, before: dict, after: dict) -> Exhibit:
    curves = {"T = 1": before["reliability"]}
    error = after["calibration_error_debiased"]
    gap = after["mean_confidence"] - after["accuracy"]["value"]
    caption = "On the dashed line, confidence is what it says. "
    if subject.temperature != 1 or subject.scaling:
        scaling = f" with {subject.scaling.method} scaling" if subject.scaling else ""
        curves[f"T = {subject.temperature:.2f}"] = after["reliability"]
        caption += (
            f"Temperature {subject.temperature:.2f}{scaling} takes plain ECE from {before['ece']:.1%} to {after['ece']:.1%}, NLL "
            f"from {before['nll']:.3f} to {after['nll']:.3f}; "
        )
    caption += (
        f"{subject.name} is {'over' if gap > 0 else 'under'}confident by {abs(gap) * 100:.1f} points on the mean, with a "
        f"corrected calibration error of {share(error)}."
    )
    return Exhibit("Reliability", caption, (Panel("Accuracy against confidence", charts.reliability_diagram(curves)),))


def _selection_finding(subject: Subject, figures: dict) -> str:
    curve, answered = figures["risk_coverage"], figures["answered"]
    half = float(np.interp(0.5, curve["coverage"], curve["risk"]))
    text = f"Where only the more confident half is answered, {half:.1%} are wrong; of all, {curve['risk'][-1]:.1%}."
    if subject.abstain_below > 0:
        text += (
            f" At the packed threshold, {subject.abstain_below:.2f}, {answered['share']:.0%} are answered"
            f"{', those taken for no logo left out,' if subject.familiarity else ''} and "
            f"{share(answered['accuracy'])} of the answers are right."
        )
    return text


def _uncertainty_map(members: np.ndarray, targets: np.ndarray) -> Exhibit:
    """Confidence of the ensemble against the mutual information of member and label (Depeweg et al. 2018)."""
    each = softmax(members)  # (M, N, K)
    mean = each.mean(0)
    disagreement = _entropy(mean) - _entropy(each).mean(0)
    correct = mean.argmax(1) == targets
    caption = (
        f"Each logo by the confidence of the {len(members)} teachers together and by how much they disagree (epistemic "
        "uncertainty). Low and to the right they agree; high up, another teacher would have said something else."
    )
    if correct.any() and not correct.all():
        found = auroc(disagreement[~correct], disagreement[correct])
        both = auroc(-mean.max(1)[~correct], -mean.max(1)[correct])
        caption += f" Disagreement tells errors from right answers with AUROC {found:.2f}, confidence with {both:.2f}."
    svg = charts.uncertainty_map(mean.max(1), np.maximum(disagreement, 0), correct)
    return Exhibit("Uncertainty map", caption, (Panel("Disagreement against confidence", svg),))


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    """Nats, over the last axis."""
    return -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(-1)


def _prediction_sets(sets: dict) -> Exhibit:
    rows = tuple(
        (
            f"{float(level):.0%}",
            f"{entry['coverage']:.1%}",
            f"{entry['expected_low']:.1%} to {entry['expected_high']:.1%}",
            f"{entry['mean_size']:.2f}",
        )
        for level, entry in sets.items()
    )
    kept = [level for level, e in sets.items() if e["expected_low"] <= e["coverage"] <= e["expected_high"]]
    return Exhibit(
        "Prediction sets",
        f"Sets of labels that promise to hold the true one: {len(kept)} of {len(sets)} levels are "
        "within the range that chance allows.",
        table=Table(("promised", "covered", "chance allows", "labels"), rows),
    )


def robustness_section(figures: dict, split: str, whose: str) -> Section | None:
    """Whatever an evaluation holds of slices, corruptions, attacks and foreign images."""
    exhibits: list[Exhibit] = []
    for kind, found in figures.get("slices", {}).items():
        title = f"Accuracy by {SLICES.get(kind, kind)}"
        worst, best = (pick(found, key=lambda name: found[name]["value"]) for pick in (min, max))
        caption = f"Best: {best}, {share(found[best])}; worst: {worst}, {share(found[worst])}."
        if found[worst]["value"] == found[best]["value"]:
            caption = f"The same everywhere: {share(found[best])}."
        exhibits.append(Exhibit(title, caption, (Panel(title, charts.share_bars(found)),)))
    if corruptions := figures.get("corruptions"):
        exhibits.append(_corruptions(corruptions))
    if attacks := figures.get("attacks"):
        left = {f"{name}, {size}": entry for name in ATTACKS for size, entry in attacks.get(name, {}).items()}
        worst = min(left, key=lambda name: left[name]["value"])
        exhibits.append(
            Exhibit(
                "Attacks",
                f"Accuracy on {attacks['count']} sure logos where every pixel may be changed by so much against "
                f"{attacks['from']}: {worst} leaves {share(left[worst])}.",
                table=Table(("attack, strength", "sure"), tuple((name, share(entry)) for name, entry in left.items())),
            )
        )
    if areas := figures.get("outliers", {}).get("auroc"):
        hardest = min(areas, key=areas.get)
        bars = {name: {"value": value, "low": value, "high": value} for name, value in areas.items()}
        exhibits.append(
            Exhibit(
                "Images that are no logos",
                "How well the logo score distinguishes them from logos (AUROC; the dashed line is "
                f"guessing): hardest are {hardest}, {areas[hardest]:.2f}.",
                (Panel("AUROC by kind of foreign image", charts.share_bars(bars, ideal=0.5)),),
            )
        )
    title = f"Robustness of {whose} on {split}"
    return Section("robustness", title, tuple(exhibits)) if exhibits else None


def _corruptions(found: dict) -> Exhibit:
    names, mean = found["by_corruption"], found["mean"]
    worst = max(mean, key=int)
    series = {name: {int(s): entry["value"] for s, entry in by.items()} for name, by in names.items()}
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
