"""The console tables of an evaluation."""

from __future__ import annotations

import math

from rich.console import Console

from logo_edge_compress.figures import named_slices
from logo_edge_report.attacks import ATTACKS
from logo_edge_train.console import LiteralTable, literal


def print_evaluation(evaluation: dict, console: Console | None = None) -> None:
    """One table of the subjects' figures, one of each kind of slice and condition, and the comparison of two."""
    console, subjects = console or Console(highlight=False), evaluation["subjects"]
    table = LiteralTable(title=f"{subjects[0]['count']} images of {evaluation['split']}, 95 % intervals")
    table.add_column("")
    for subject in subjects:
        table.add_column(f"{subject['name']}, {subject['size_bytes'] / 1e6:.2f} MB", justify="right")

    def row(name: str, pick) -> None:
        table.add_row(name, *(_share(pick(subject)) for subject in subjects))

    row("accuracy, all", lambda s: s["accuracy"])
    row("accuracy, sure", lambda s: s["accuracy_sure"])
    for label in subjects[0]["recall"]:
        row(f"recall {label}", lambda s, label=label: s["recall"][label])
    for label in subjects[0]["precision"]:
        row(f"precision {label}", lambda s, label=label: s["precision"][label])
    row("calibration error (RMS, bias-corrected)", lambda s: s["calibration_error_debiased"])
    table.add_row("plain ECE", *(f"{subject['ece']:.1%}" for subject in subjects))
    table.add_row("NLL, nats", *(f"{subject['nll']:.3f}" for subject in subjects))
    table.add_row("Brier", *(f"{subject['brier']:.3f}" for subject in subjects))
    row("area under risk-coverage", lambda s: s["area_under_risk_coverage"])
    table.add_row("share above 90 % confidence", *(f"{subject['confident']['share']:.1%}" for subject in subjects))
    row("accuracy above 90 % confidence", lambda s: s["confident"]["accuracy"])
    table.add_row("answered", *(f"{subject['answered']['share']:.1%}" for subject in subjects))
    row("accuracy of the answered", lambda s: s["answered"]["accuracy"])
    for level in subjects[0]["prediction_sets"]:
        table.add_row(
            f"sets at {float(level):.0%}: coverage, mean size",
            *(
                f"{s['prediction_sets'][level]['coverage']:.1%}, {s['prediction_sets'][level]['mean_size']:.2f}"
                for s in subjects
            ),
        )
    if agreement := subjects[0]["annotator_agreement"]:
        table.add_row("two annotators agree", _share(agreement), *[""] * (len(subjects) - 1))
    console.print(table)
    named = [named_slices(subject) for subject in subjects]
    by_kind = {
        f"round and icon set, {which}": [{name: rates[key] for name, rates in slices.items()} for slices in named]
        for which, key in (("all", "accuracy"), ("sure", "accuracy_sure"))
        if named[0]
    }
    by_kind |= {kind: [subject["slices"][kind] for subject in subjects] for kind in subjects[0].get("slices", {})}
    for kind, figures in by_kind.items():
        slices = LiteralTable(title=f"accuracy by {kind}")
        slices.add_column("")
        for subject in subjects:
            slices.add_column(subject["name"], justify="right")
        for name in figures[0]:
            slices.add_row(name, *(_share(own[name]) for own in figures))
        console.print(slices)
    _print_corruptions(subjects, console)
    _print_outliers(subjects, console)
    _print_attacks(subjects, console)
    if comparison := evaluation.get("comparison"):
        text = (
            f"{comparison['second']} less {comparison['first']}: {_share(comparison['difference'])}; alone right "
            f"{comparison['only_second_right']} against {comparison['only_first_right']}, "
            f"McNemar p = {comparison['mcnemar_p_value']:.3f}"
        )
        console.print(literal(text))


def _print_corruptions(subjects: list[dict], console: Console) -> None:
    for subject in subjects:
        if not (corruptions := subject.get("corruptions")):
            continue
        severities = list(corruptions["mean"])
        table = LiteralTable("", *severities, title=f"{subject['name']}: accuracy by corruption and severity")
        for name, by_severity in corruptions["by_corruption"].items():
            table.add_row(name, *(f"{by_severity[severity]['value']:.1%}" for severity in severities))
        table.add_row("mean", *(f"{corruptions['mean'][severity]:.1%}" for severity in severities))
        if clean := subject["accuracy"]["value"]:
            table.add_row(
                "share of clean", *(f"{corruptions['mean'][severity] / clean:.1%}" for severity in severities)
            )
        console.print(table)


def _print_outliers(subjects: list[dict], console: Console) -> None:
    for subject in subjects:
        if not (outliers := subject.get("outliers")):
            continue
        table = LiteralTable(
            "family", "", "AUROC", "answered", "called no logo", title=f"{subject['name']}: images that are no logos"
        )
        for family, value in outliers["auroc"].items():
            kind = "near" if family in outliers["near"] else "far"
            shares = (_share(outliers[key][family]) for key in ("answered", "rejected"))
            table.add_row(family, kind, f"{value:.3f}", *shares)
        for kind, value in outliers["auroc_together"].items():
            table.add_row(f"all {kind}", kind, f"{value:.3f}", _share(outliers["answered_together"][kind]), "")
        table.add_row(f"{outliers['logos']:,} images of the split", "", "", "", _share(outliers["logos_rejected"]))
        table.caption = f"worst far family: {outliers['worst_far']}; answered: with a label, in mode balanced"
        console.print(table)


def _print_attacks(subjects: list[dict], console: Console) -> None:
    for subject in subjects:
        if not (attacks := subject.get("attacks")):
            continue
        names = [name for name in ATTACKS if name in attacks]
        table = LiteralTable(
            "", *attacks[names[0]], title=f"{subject['name']}: accuracy on {attacks['count']} attacked sure images"
        )
        for name in names:
            table.add_row(name, *(_share(figure) for figure in attacks[name].values()))
        transferred = "" if attacks["from"] == subject["name"] else ", transferred"
        table.caption = literal(f"white-box on {attacks['from']}{transferred}")
        console.print(table)


def _share(figure: dict) -> str:
    if not math.isfinite(figure["value"]):
        return "unknown"
    return f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})"
