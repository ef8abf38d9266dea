"""Writes the documents' tables from the committed results, or checks that the documents show them (--check).

A table stands between `<!-- table: NAME -->` and `<!-- end -->` in README.md and docs/*.md.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated

from logo_edge_bench.experiments.record import RESULTS, ROOT

MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Table:
    """A table of the documents: `render` gets the records of `results`, each as its JSON file has it.

    Left out, the only result is that of the experiment that defines `render`. Where a result is missing the document
    says which `command` writes it, or, with `partial`, `render` gets None for it.
    """

    render: Callable[..., str]
    results: tuple[str, ...] | None = None
    command: str = ""
    partial: bool = False

    def text(self) -> str:
        experiment = self.render.__module__.rpartition(".")[2]
        records = {name: read_result(name) for name in ((experiment,) if self.results is None else self.results)}
        missing = [name for name, record in records.items() if record is None]
        if missing and not self.partial:
            command = self.command or f"python -m logo_edge_bench.experiments {experiment}"
            return f"Not measured yet: `{command}` writes benchmarks/results/{missing[0]}.json."
        return self.render(*records.values())


def measure(*, check: Annotated[bool, "write nothing; exit status 1 where a document is not current"] = False) -> None:
    tables, outdated = find_tables(), []
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = document.read_text(encoding="utf-8")
        current = MARKED.sub(lambda match: match[1] + tables[match[2]].text() + "\n" + match[3], text)
        if current != text and check:
            outdated.append(document.name)
        elif current != text:
            document.write_text(current, encoding="utf-8")
    if outdated:
        command = "python -m logo_edge_bench.experiments tables"
        sys.exit(f"{', '.join(outdated)}: the tables differ from benchmarks/results; run {command}")


def find_tables() -> dict[str, Table]:
    """{name: table} of every experiment."""
    tables: dict[str, Table] = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        module = import_module(f"logo_edge_bench.experiments.{path.stem}")
        tables |= getattr(module, "TABLES", {})
    return tables


def read_result(name: str) -> dict | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
