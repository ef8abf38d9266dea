"""Writes the documents' tables from the committed results, and the references; or checks both (--check).

The check fails where a document does not show its tables, and where a figure of its prose has no source (figures.py).

A table stands between `<!-- table: NAME -->` and `<!-- end -->` in README.md and docs/*/*.md. The function NAME of one
of MODULES renders it. Each of its parameters is the record of a result, by the name of the JSON file in
benchmarks/results; `result` is that of NAME. `<!-- table: NAME: ONE; OTHER -->` shows only the rows that begin with
these cells.
"""

from __future__ import annotations

import re
import sys
from collections import ChainMap
from inspect import signature
from pathlib import Path
from typing import Annotated

from logo_edge.bundle.record import read_bundle
from logo_edge_bench.experiments import (
    compression_tables,
    figures,
    own_tables,
    peer_tables,
    references,
    runtime_tables,
    shipped,
    training_tables,
)
from logo_edge_bench.experiments.record import BUNDLES, RESULTS, ROOT, read_record, result_path
from logo_edge_train.provenance import hashes_of

MARKED = re.compile(r"(<!-- table: (\w+)(?:: ([^\n]+))? -->\n).*?(<!-- end -->)", re.DOTALL)
MODULES = (compression_tables, own_tables, peer_tables, runtime_tables, shipped, training_tables)
EXPERIMENTS = "python -m logo_edge_bench.experiments"
COMMANDS = {  # that write a result; of the others, the experiment of the same name
    "bench": "make bench",
    "choice": "logo-edge evaluate",
    "cpu_pipeline": f"{EXPERIMENTS} pipeline",
    "default_report": "logo-edge compress",
    "depthwise": f"{EXPERIMENTS} quantizers",
    "evaluation": "logo-edge evaluate",
    "mutants": "python tests/fuzz/mutants.py",
    "peers": "make peers",
    "proposal_accuracy": "logo-edge data organize",
    **{f"{name}_calibration": f"{EXPERIMENTS} calibration" for name in BUNDLES},
    **{f"{name}_robustness": "logo-edge evaluate" for name in BUNDLES},
}
OTHER = "on an earlier bundle; not measured again yet"
METHODS = "on the logos of round 1: it compares methods, not bundles"
EARLIER = {  # results of bundles or logos that are not today's: why they are kept, as their tables say
    "baseline-avx512_vnni": OTHER,
    "peers": f"{OTHER}. These peers learned from labels alone and got no temperature, and most see 128 px where the "
    "bundle sees 96",
    **dict.fromkeys(("ablation", "augmentation", "distillation", "few_shot", "logo_vit", "pretraining"), METHODS),
    **dict.fromkeys(("proposal_accuracy", "quantizers", "search", "students"), METHODS),
    **dict.fromkeys(("teachers", "uncertainty"), METHODS),
    **dict.fromkeys(("kills", "mutants"), "with an earlier bundle: they try the code"),
    "formats": f"{OTHER}, of the same network and size",
    "choice": "on the bundle that ships and the one before it: it says why it was chosen",
    "cpu_pipeline": "with the logos of round 1; not measured again yet",
}
# Of bundles that ship or of today's code, measured before results had a provenance:
UNSTAMPED = {"memory", "robust_calibration", "robust_robustness"}


def measure(*, check: Annotated[bool, "write nothing; exit status 1 where a document is not current"] = False) -> None:
    outdated, shipped = [], shipped_hashes()
    if wrong := [text for path in sorted(RESULTS.glob("*.json")) if (text := check_origin(path, shipped))]:
        sys.exit("\n".join(wrong))
    generated = references.render_pages()
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*/*.md"))]:
        text = document.read_text(encoding="utf-8")
        current = generated.get(document) or MARKED.sub(
            lambda match: match[1] + render_table(match[2], match[3]) + "\n" + match[4], text
        )
        if current != text and check:
            outdated.append(str(document.relative_to(ROOT)))
        elif current != text:
            document.write_text(current, encoding="utf-8")
    if outdated:
        sys.exit(f"{', '.join(outdated)}: not what results, docstrings and --help say; run {EXPERIMENTS} tables")
    if check and (wrong := figures.check_figures(figures.read_pages(), EARLIER)):
        sys.exit("\n".join(wrong))


def shipped_hashes() -> list[dict]:
    """The hashes of the committed bundles."""
    return [hashes_of(read_bundle(folder)) for folder in BUNDLES.values()]


def is_current(record: dict, shipped: list[dict]) -> bool:
    """Whether the result, or each part of it, says where it comes from, and no other bundle than those is measured."""
    parts = [part for part in record.values() if isinstance(part, dict) and "provenance" in part] or [record]
    origins = [part.get("provenance", {}) for part in parts]
    return all("date" in origin and all(own in shipped for own in origin["bundles"].values()) for origin in origins)


def check_origin(path: Path, shipped: list[dict]) -> str:
    """What is wrong with the origin of a committed result, or empty."""
    current, excused = is_current(read_record(path, {}), shipped), path.stem in EARLIER or path.stem in UNSTAMPED
    if current and excused:
        return f"{path.name} is of the bundles that ship; remove {path.stem!r} from EARLIER or UNSTAMPED in tables.py"
    if current or excused:
        return ""
    return (
        f"{path.name} has no provenance, or is of a bundle that does not ship; measure it again with "
        f"`{COMMANDS.get(path.stem, f'{EXPERIMENTS} {path.stem}')}`, or say in EARLIER in tables.py why it is kept"
    )


def render_table(name: str, first_cells: str | None = None) -> str:
    """The table, or the command that writes its missing result; a parameter with a default may be missing."""
    render, records, notes = ChainMap(*map(vars, MODULES))[name], {}, []
    for parameter in signature(render).parameters.values():
        result = name if parameter.name == "result" else parameter.name
        records[parameter.name] = read_record(result_path(result), None)
        if records[parameter.name] is None and parameter.default is parameter.empty:
            command = COMMANDS.get(result, f"{EXPERIMENTS} {result}")
            return f"Not measured yet: `{command}` writes benchmarks/results/{result}.json."
        if result in EARLIER:
            notes.append(f"\n\nMeasured earlier ({result}.json): {EARLIER[result]}.")
    table = render(**records)
    return (keep_rows(table, first_cells.split("; ")) if first_cells else table) + "".join(notes)


def keep_rows(table: str, first_cells: list[str]) -> str:
    """The table's head and its rows that begin with these cells, in this order."""
    head, rule, *rows = table.split("\n\n")[0].splitlines()
    by_cell = {cell: [row for row in rows if row.startswith(f"| {cell} |")] for cell in first_cells}
    if absent := [cell for cell, kept in by_cell.items() if not kept]:
        sys.exit(f"no row begins with {absent} below\n{head}\nbut {[row.split(' | ')[0] for row in rows]}")
    return "\n".join([head, rule, *(row for kept in by_cell.values() for row in kept)])
