"""Tables of the committed bundles, from results of `logo-edge evaluate`, `compress` and the fuzz tests."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from logo_edge.bundle.record import VECTORS
from logo_edge.classifier import Classifier
from logo_edge.results import WITHHELD
from logo_edge_bench.experiments.record import BUNDLES
from logo_edge_bench.markdown import markdown, named, share, short, table_of
from logo_edge_compress.figures import named_slices
from logo_edge_train.data.icons import LABELS
from logo_edge_train.data.manifest import read_manifest

LANGUAGES = {"python": "Python, `classify`", "server": "`logo-edge serve`", "native": "C++ example", "web": "Chromium"}


@cache
def test_split(count: int) -> str:
    """`test split`, with the rounds of labelling that a result of `count` logos covers where these are not all.

    Raises ValueError where no first rounds together have as many logos.
    """
    rounds = [row.round for row in read_manifest(LABELS).split("test")]
    for last in sorted(set(rounds)):
        if sum(number <= last for number in rounds) == count:
            covered = " of round 1" if last == 1 else f" of rounds 1 to {last}"
            return "test split" + ("" if last == max(rounds) else covered)
    raise ValueError(f"a result of {count} logos of the test split; labels.csv has {len(rounds)} there")


def default_bundle(evaluation: dict, default_report: dict, default_robustness: dict) -> str:
    """The default bundle's figures on the test split beside the required ones."""
    bundle, robust = evaluation["subjects"][0], default_robustness["subjects"][0]
    first, outliers, teachers = bundle["by_round"]["1"], robust["outliers"], default_report["stages"][0]["test"]
    thumbnails = robust["slices"]["thumbnail"]["96 px, JPEG 60"]
    answered_90 = np.searchsorted(bundle["risk_coverage"]["coverage"], 0.9)
    worst = {"far": outliers["worst_far"], "near": min(outliers["near"], key=outliers["auroc"].get)}
    rows = [
        ["accuracy, all", share(bundle["accuracy"]), ">= 93 %"],
        ["accuracy, sure", share(bundle["accuracy_sure"]), ">= 98.5 %"],
        ["accuracy on round 1, all", share(first["accuracy"]), ">= 94 %"],
        ["accuracy on round 1, sure", share(first["accuracy_sure"]), ">= 99 %"],
        *([f"recall of `{label}`", share(recall), ">= 84 %"] for label, recall in bundle["recall"].items()),
        [
            "behind its teachers",
            f"{100 * (teachers['accuracy']['value'] - bundle['accuracy']['value']):.1f} points of "
            + short(teachers["accuracy"]),
            "<= 1.0",
        ],
        ["calibration error (ECE less its bias)", share(bundle["ece_debiased"]), "<= 1.5 %"],
        ["error at 90 % coverage", f"{bundle['risk_coverage']['risk'][answered_90]:.1%}", "<= 2 %"],
        [
            "JPEG thumbnails of 96 px, quality 60",
            f"{100 * (thumbnails['value'] - robust['accuracy']['value']):+.1f} points: {short(thumbnails)}",
            ">= -2.0",
        ],
        [
            f"AUROC, far pictures; worst family: {worst['far']}",
            f"{outliers['auroc_together']['far']:.3f}; {outliers['auroc'][worst['far']]:.3f}",
            ">= 0.95, each",
        ],
        [
            f"AUROC, near pictures (emoji, flags); worst: {worst['near']}",
            f"{outliers['auroc_together']['near']:.3f}; {outliers['auroc'][worst['near']]:.3f}",
            ">= 0.85",
        ],
        ["far pictures that get a label", share(outliers["answered_together"]["far"]), "<= 5 %"],
        ["logos called no logo", share(outliers["logos_rejected"]), "<= 3 %"],
        ["size on disk", f"{bundle['size_bytes'] / 1e6:.2f} MB", "<= 1.2 MB"],
    ]
    return markdown([f"test split, {bundle['count']:,} logos", "measured (95 % interval)", "must reach"], rows)


def slices(evaluation: dict) -> str:
    """Every bundle by round of labelling and by icon set."""
    by_subject = [{"all": subject, **named_slices(subject)} for subject in evaluation["subjects"]]
    figures = [
        column
        for name, own in zip(BUNDLES, by_subject, strict=True)
        for column in (
            (f"`{name}`, all", lambda part, own=own: share(own[part]["accuracy"])),
            ("sure", lambda part, own=own: share(own[part]["accuracy_sure"])),
        )
    ]
    return table_of(
        by_subject[0], ("test split", str), ("logos", lambda part: str(by_subject[0][part]["count"])), *figures
    )


def choice(result: dict) -> str:
    """The bundle that ships beside the one before it, on val, by which it was chosen."""
    ships, before = result["subjects"]
    figures = {
        "all": lambda own: own["accuracy"],
        "sure": lambda own: own["accuracy_sure"],
        **{f"recall of `{label}`": lambda own, label=label: own["recall"][label] for label in before["recall"]},
        "JPEG thumbnails of 96 px, quality 60": lambda own: own["slices"]["thumbnail"]["96 px, JPEG 60"],
        "JPEG, quality 15": lambda own: own["slices"]["jpeg"]["quality 15"],
        "24 px": lambda own: own["slices"]["size"]["24 px"],
        "answers in balanced mode that are right": lambda own: own["answered"]["accuracy"],
    }
    rows = [[title, share(figure(ships)), share(figure(before))] for title, figure in figures.items()]
    rows.append(["answered in balanced mode", *(f"{own['answered']['share']:.1%}" for own in (ships, before))])
    return markdown([f"val split, {ships['count']} logos", "ships", "before"], rows)


def stages(default_report: dict) -> str:
    """Every stage of the run that made the default bundle."""
    teachers = default_report["stages"][0]["test"]
    return table_of(
        default_report["stages"],
        (f"stage ({test_split(teachers['count'])})", "{stage}"),
        ("all", "{test[accuracy][value]:.1%}"),
        ("sure", "{test[accuracy_sure][value]:.1%}"),
        *((label, f"{{test[recall][{label}][value]:.1%}}") for label in teachers["recall"]),
        ("calib. error", "{test[calibration_error_debiased][value]:.1%}"),
        ("MB", lambda stage: f"{stage['size_bytes'] / 1e6:.2f}"),
        ("p50 ms", lambda stage: f"{stage['latency']['p50_ms']:.2f}" if stage["latency"] else "-"),
    )


def proposals(proposal_accuracy: dict) -> str:
    """How often `data organize` proposes the annotators' label."""
    return table_of(
        [split for split in ("val", "test") if split in proposal_accuracy],
        ("split", str),
        ("accuracy", lambda split: share(proposal_accuracy[split]["accuracy"])),
        *(
            (f"recall of `{label}`", lambda split, label=label: share(proposal_accuracy[split]["recall"][label]))
            for label in proposal_accuracy["test"]["recall"]
        ),
    )


def robustness(default_robustness: dict, robust_robustness: dict) -> str:
    """Attacks and corruptions on test: of each result the bundle, then the checkpoint that it was made from."""
    header, rows = ["test split"], {}
    for name, result in zip(BUNDLES, (default_robustness, robust_robustness), strict=True):
        for subject in result["subjects"]:
            kind = "INT8 bundle" if subject["kind"] == "bundle" else "FP32 checkpoint"
            header.append(f"`{name}`, {kind}, {subject['count']:,} logos")
            figures = {"accuracy, all": share(subject["accuracy"]), "accuracy, sure": share(subject["accuracy_sure"])}
            for attack in ("FGSM", "PGD-10"):
                for radius, accuracy in subject["attacks"][attack].items():
                    figures[f"{attack} {radius}, sure"] = share(accuracy)
            for severity in ("1", "3", "5"):
                kept = subject["corruptions"]["mean"][severity] / subject["accuracy"]["value"]
                figures[f"corruptions, severity {severity}, of clean"] = f"{kept:.1%}"
            for figure, text in figures.items():
                rows.setdefault(figure, [figure]).append(text)
    return markdown(header, list(rows.values()))


def corruptions(default_robustness: dict) -> str:
    """The default bundle's accuracy under each corruption on test."""
    figures = default_robustness["subjects"][0]["corruptions"]
    rows = [
        [name, *(short(accuracy[severity]) for severity in figures["mean"])]
        for name, accuracy in figures["by_corruption"].items()
    ]
    rows.append(["mean", *(f"{mean:.1%}" for mean in figures["mean"].values())])
    return markdown(["accuracy at severity", *figures["mean"]], rows)


def outliers(default_robustness: dict) -> str:
    """How the default bundle's logo score separates logos from other pictures, and which of these it answers."""
    figures = default_robustness["subjects"][0]["outliers"]
    rows = [
        [
            family,
            "near" if family in figures["near"] else "far",
            f"{auroc:.3f}",
            *(share(figures[key][family]) for key in ("answered", "rejected")),
        ]
        for family, auroc in figures["auroc"].items()
    ]
    rows += [
        [f"all {kind}", kind, f"{auroc:.3f}", share(figures["answered_together"][kind]), ""]
        for kind, auroc in figures["auroc_together"].items()
    ]
    rows.append([f"{figures['logos']:,} logos of test", "", "", "", share(figures["logos_rejected"])])
    return markdown(["", "", "AUROC", "answered in balanced mode", "called no logo"], rows)


def demo() -> str:
    """What `make demo` prints, from the vectors of the default bundle."""
    classifier = Classifier.load()
    vectors = json.loads(classifier.bundle.read(VECTORS))["vectors"]
    results = classifier.decide(np.array([vector["logits"] for vector in vectors], np.float32))
    rows = [
        [
            Path(vector["image"]).stem,
            result.label or f"({WITHHELD[result.reason]}), best guess {result.best_guess}",
            f"{result.confidence:.1%}",
        ]
        for vector, result in zip(vectors, results, strict=True)
    ]
    return markdown(["drawing", "label", "confidence"], rows)


def mutants(result: dict) -> str:
    """What each language did with the mutated files, and the most that one of them took."""
    return table_of(
        named(result),
        ("", lambda run: LANGUAGES[run["name"]]),
        ("files", "{files:,}"),
        ("classified", lambda run: f"{sum(run['classified'].values()):,}"),
        ("refused", lambda run: f"{sum(run['errors'].values()):,}"),
        ("broken", lambda run: str(len(run["broken"]))),
        ("most CPU", "{slowest_cpu_s:.2f} s"),
        ("memory", "{peak_memory_mb:.0f} MB"),
        ("slowest healthy answer", lambda run: f"{run['slowest_healthy_s']:.2f} s" if run["slowest_healthy_s"] else ""),
    )
