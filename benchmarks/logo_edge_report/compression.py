"""The candidates and the choice of `logo-edge compress` -> one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from logo_edge_compress.report import REPORT
from logo_edge_compress.targets import TARGETS
from logo_edge_report import charts
from logo_edge_report.page import Exhibit, Panel, Section, Table, render_page
from logo_edge_report.sections import slices_exhibit, stages_exhibit
from logo_edge_train.runs import write_text

PAGE = "compress_report.html"
MOST_SENSITIVE = 12  # layers in a table
BACKEND_TITLES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "litert": "LiteRT",
    "tensorrt": "TensorRT",
    "torchscript": "TorchScript",
    "ncnn": "NCNN",
    "mnn": "MNN",
    "executorch": "ExecuTorch",
    "coreml": "Core ML",
    "members": "Several members",
}


def make_page(folder: Path) -> Path:
    """Writes compress_report.html beside the compress_report.json in `folder`."""
    record = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    sections = [
        choice_section(record),
        *(section for name in BACKEND_TITLES if (section := backend_section(record, name))),
    ]
    if lost := lost_section(record):
        sections.append(lost)
    sections += [
        Section(
            f"stages-{target}",
            f"Packed for {target}",
            tuple(
                exhibit
                for exhibit in (stages_exhibit(choice["stages"], "val"), _tested(choice["stages"][-1]))
                if exhibit
            ),
        )
        for target, choice in record["targets"].items()
        if "stages" in choice
    ]
    machine = record["machine"]
    page = render_page(
        sections,
        title=record["run"],
        about="candidates and choice",
        description="",
        recipe="",
        lead=f"{len(record['candidates'])} candidates, compared on {record['val']} images of val; recipe "
        f"{record['recipe']}, teachers {', '.join(record['teachers']['networks'])}.",
        making={
            "measured on": f"{machine['cpu']} ({', '.join(machine['isa'])})",
            "onnxruntime": machine["onnxruntime"],
            **record["versions"],
        },
        command="logo-edge compress",
        files=REPORT,
    )
    write_text(folder / PAGE, page)
    return folder / PAGE


def _tested(stage: dict) -> Exhibit | None:
    """The packed model on the slices of test, for reports only."""
    return slices_exhibit(stage["test"], "Test split, by round and icon set") if "test" in stage else None


def choice_section(record: dict) -> Section:
    """The choice for each target, its limits and the reason."""
    rows = [("the teachers", "-", "-", f"{record['teachers']['val']['accuracy']:.1%}", "-", "-")]
    reasons = []
    for target, choice in record["targets"].items():
        candidate = _chosen(record, choice)
        rows.append(
            (
                target,
                candidate["title"] if candidate else "nothing",
                _limits(choice["limits"]),
                *(
                    (
                        f"{candidate['accuracy']:.1%}",
                        _milliseconds(candidate, "p50_ms"),
                        f"{candidate['size_bytes'] / 1e6:.2f}",
                    )
                    if candidate
                    else ("-", "-", "-")
                ),
            )
        )
        reasons.append(f"For {target}, {_one_line(choice['sentence'])}")
    head = ("for", "chosen", "limits", "accuracy", "p50 ms", "MB")
    return Section("choice", "Choice", (Exhibit("By target", " ".join(reasons), table=Table(head, tuple(rows))),))


def backend_section(record: dict, backend: str) -> Section | None:
    """The candidates of one backend: two planes and a table; None where there are none."""
    candidates = [
        candidate for candidate in record["candidates"] if candidate["backend"] == backend and "accuracy" in candidate
    ]
    if not candidates:
        return None
    targets = {name: choice for name, choice in record["targets"].items() if TARGETS[name].backend == backend}
    dominated = {title: by for choice in targets.values() for title, by in choice["dominated"].items()}
    refused = {title: why for choice in targets.values() for title, why in choice["refused"].items()}
    chosen = {candidate["title"] for choice in targets.values() if (candidate := _chosen(record, choice))}
    exhibits = [
        _plane(candidates, dominated, chosen, *plane)
        for plane in (
            (
                "Accuracy against latency",
                "median latency, ms, one thread",
                lambda candidate: candidate["cost"] and candidate["cost"]["p50_ms"],
            ),
            ("Accuracy against size", "size, MB", lambda candidate: candidate["size_bytes"] / 1e6),
        )
        if sum(plane[2](candidate) is not None for candidate in candidates) > 1
    ]
    rows = tuple(
        (
            candidate["title"],
            _mark(candidate["title"], chosen, refused, dominated),
            f"{candidate['accuracy']:.1%}",
            f"{candidate['worst_recall']:.1%}",
            f"{candidate['ece']:.1%}",
            _mean(candidate["ood"]),
            _milliseconds(candidate, "p50_ms"),
            _milliseconds(candidate, "p95_ms"),
            f"{candidate['size_bytes'] / 1e6:.2f}",
            f"{candidate['cost']['peak_memory_mb']:.0f}" if candidate["cost"] else "-",
            f"{candidate['parity']['top1_agreement']:.1%}",
            f"{candidate['parity']['kl_nats']:.4f}",
        )
        for candidate in candidates
    )
    head = (
        "candidate",
        "",
        "accuracy",
        "worst class",
        "ECE",
        "OOD",
        "p50 ms",
        "p95 ms",
        "MB",
        "memory MB",
        "agreement",
        "KL",
    )
    exhibits.append(
        Exhibit("Candidates", _describe_table(candidates, dominated, refused, record), table=Table(head, rows))
    )
    exhibits += [
        _sensitivity_exhibit(candidate, record["candidates"])
        for candidate in candidates
        if candidate.get("sensitivity")
    ]
    if missed := {title: texts for choice in targets.values() for title, texts in choice["misses"].items()}:
        table = Table(("candidate", "misses"), tuple((title, "; ".join(texts)) for title, texts in missed.items()))
        exhibits.append(
            Exhibit("Limits that are not met", f"{len(missed)} of {len(candidates)} candidates miss one.", table=table)
        )
    return Section(backend, BACKEND_TITLES[backend], tuple(exhibits))


def _sensitivity_exhibit(mixed: dict, candidates: list[dict]) -> Exhibit:
    """The cost of every layer in INT8, and that of each INT8 candidate of the student."""
    layers, restored = mixed["sensitivity"]["layers"], mixed["sensitivity"]["restored"]
    rows = [
        (
            other["name"],
            other["status"],
            f"{other['parity']['kl_nats']:.4f}",
            f"{other['parity']['top1_agreement']:.1%}",
        )
        for other in candidates
        if (other["student"], other["backend"]) == (mixed["student"], mixed["backend"])
        and other["precision"] == "int8"
        and other.get("parity")
    ]
    rows += [
        (layer["name"], layer["operator"], f"{layer['kl_nats']:.4f}", "")
        for layer in sorted(layers, key=lambda layer: -layer["kl_nats"])[:MOST_SENSITIVE]
    ]
    return Exhibit(
        f"Layer by layer, {mixed['student']}",
        "Each layer in INT8 alone, all others in FP32: the KL of the logits on val. "
        f"Left in FP32 by {mixed['name']}: {', '.join(restored) or 'none'}. The table has every INT8 candidate, then "
        f"the {MOST_SENSITIVE} most sensitive layers alone.",
        (Panel("KL in nats by layer, in the order of the graph", charts.layer_bars(layers, restored)),),
        Table(("in INT8", "", "KL, nats", "agreement"), tuple(rows)),
    )


def _plane(
    candidates: list[dict], dominated: dict, chosen: set[str], title: str, label: str, cost: Callable
) -> Exhibit:
    points = [
        {
            "x": cost(candidate),
            "y": candidate["accuracy"],
            "student": candidate["student"],
            "precision": candidate["precision"].upper(),
            "dominated": candidate["title"] in dominated,
            "chosen": candidate["title"] in chosen,
        }
        for candidate in candidates
        if cost(candidate) is not None
    ]
    label_text = (
        f"{len(points)} candidates by {label} and accuracy on val; chosen: {', '.join(sorted(chosen)) or 'none'}"
    )
    return Exhibit(
        title,
        "The line is the front: no candidate is both cheaper and more accurate. Hollow ones are dominated in accuracy, "
        "latency and size together; the ring marks the choice. Differences below about three points may be chance.",
        (Panel(label_text, charts.pareto_plane(points, label)),),
    )


def lost_section(record: dict) -> Section | None:
    """The candidates that were refused, failed or were not tried, with the reasons; None where all were made."""
    lost = [candidate for candidate in record["candidates"] if candidate["status"] != "made"]
    if not lost:
        return None
    rows = tuple((candidate["title"], candidate["status"], _one_line(candidate["reason"])) for candidate in lost)
    caption = (
        "Refused: the artifact disagrees with its parent on real images. Failed: the converter raised, crashed or was "
        "killed. Not tried: the budget was used up; run the same command again."
    )
    return Section(
        "lost",
        "Not made",
        (Exhibit("Candidates without figures", caption, table=Table(("candidate", "", "why"), rows)),),
    )


def _describe_table(candidates: list[dict], dominated: dict, refused: dict, record: dict) -> str:
    families = ", ".join(record["outliers"]) or "none were drawn"
    sentences = [
        "All on val, calibrated on calib. ECE: calibration error minus its bias. OOD: AUROC of the logo score "
        f"against images that are no logos ({families}); 50 % is chance. Latencies by turns, one image, one thread. "
        "Memory: the peak of a process that loads and runs the model. Agreement and KL compare each candidate with "
        "its parent.",
        f"{len(dominated)} of {len(candidates)} are dominated.",
        record["int8_range"],
        *(f"Refused: {title} is {why}." for title, why in refused.items()),
        *sorted({candidate["not_measured"] for candidate in candidates if candidate["not_measured"]}),
    ]
    return " ".join(sentences)


def _chosen(record: dict, choice: dict) -> dict | None:
    return next(
        (
            candidate
            for candidate in record["candidates"]
            if "chosen" in choice and (candidate["student"], candidate["name"]) == (choice["chosen"], choice["method"])
        ),
        None,
    )


def _mark(title: str, chosen: set[str], refused: dict, dominated: dict) -> str:
    if title in chosen:
        return "chosen"
    if title in refused:
        return "refused"
    return "dominated" if title in dominated else "on the front"


def _limits(limits: dict) -> str:
    forms = {"size_mb": "{:g} MB", "latency_ms": "{:g} ms", "accuracy_drop": "{:g} points", "ece": "ECE {:g} %"}
    return ", ".join(form.format(limits[name]) for name, form in forms.items() if limits[name] is not None) or "none"


def _milliseconds(candidate: dict, key: str) -> str:
    return f"{candidate['cost'][key]:.2f}" if candidate["cost"] else "-"


def _mean(ood: dict[str, float]) -> str:
    return f"{sum(ood.values()) / len(ood):.3f}" if ood else "-"


def _one_line(text: str) -> str:
    return " ".join(text.split())
