"""Writes the documents' tables from the committed results, or checks that the documents show them (--check).

A table stands between `<!-- table: NAME -->` and `<!-- end -->` in README.md and docs/*.md. The function NAME of one of
MODULES renders it. Each of its parameters is the record of a result, by the name of the JSON file in
benchmarks/results; `result` is that of NAME.
"""

from __future__ import annotations

import re
import sys
from collections import ChainMap
from inspect import signature
from typing import Annotated

from logo_edge_bench.experiments import compression_tables, peers, runtime_tables, shipped, training_tables
from logo_edge_bench.experiments.record import BUNDLES, ROOT, read_record, result_path

MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
MODULES = (compression_tables, peers, runtime_tables, shipped, training_tables)
EXPERIMENTS = "python -m logo_edge_bench.experiments"
COMMANDS = {  # that write a result; of the others, the experiment of the same name
    "bench": "make bench",
    "cpu_pipeline": f"{EXPERIMENTS} pipeline",
    "default_report": "logo-edge compress",
    "evaluation": "logo-edge evaluate",
    "mutants": "python tests/fuzz/mutants.py",
    "peers": "make peers",
    "proposal_accuracy": "logo-edge data organize",
    **{f"{name}_calibration": f"{EXPERIMENTS} calibration" for name in BUNDLES},
    **{f"{name}_robustness": "logo-edge evaluate" for name in BUNDLES},
}


def measure(*, check: Annotated[bool, "write nothing; exit status 1 where a document is not current"] = False) -> None:
    outdated = []
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = document.read_text(encoding="utf-8")
        current = MARKED.sub(lambda match: match[1] + render_table(match[2]) + "\n" + match[3], text)
        if current != text and check:
            outdated.append(document.name)
        elif current != text:
            document.write_text(current, encoding="utf-8")
    if outdated:
        sys.exit(f"{', '.join(outdated)}: the tables differ from benchmarks/results; run {EXPERIMENTS} tables")


def render_table(name: str) -> str:
    """The table, or the command that writes its missing result; a parameter with a default may be missing."""
    render, records = ChainMap(*map(vars, MODULES))[name], {}
    for parameter in signature(render).parameters.values():
        result = name if parameter.name == "result" else parameter.name
        records[parameter.name] = read_record(result_path(result), None)
        if records[parameter.name] is None and parameter.default is parameter.empty:
            command = COMMANDS.get(result, f"{EXPERIMENTS} {result}")
            return f"Not measured yet: `{command}` writes benchmarks/results/{result}.json."
    return render(**records)
