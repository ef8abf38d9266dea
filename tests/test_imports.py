"""Imports between files: one way through the rooms, and no circle."""

from __future__ import annotations

import ast
from collections.abc import Collection
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {  # package: each imports from its own room and those before it
    "logo_edge": "runtime",
    "logo_edge_train": "train",
    "logo_edge_compress": "compress",
    "logo_edge_bench": "benchmarks",
    "logo_edge_report": "benchmarks",
}


def read_imports() -> dict[str, set[str]]:
    """{module: project modules that it imports}."""
    paths = {}
    for package, room in ROOMS.items():
        for path in sorted((ROOT / room / package).rglob("*.py")):
            parts = path.relative_to(ROOT / room).with_suffix("").parts
            paths[".".join(parts).removesuffix(".__init__")] = path
    return {module: imported_modules(ast.parse(path.read_text()), paths) - {module} for module, path in paths.items()}


def imported_modules(tree: ast.Module, modules: Collection[str]) -> set[str]:
    """The dotted names of those of `modules` that the file imports, also inside functions."""
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            imported |= {name if name in modules else str(node.module) for name in members}
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    return imported & set(modules)


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    modules = read_imports()
    assert len(modules) > 150
    assert sum(map(len, modules.values())) > 500
    return modules


def test_imports_go_one_way_through_the_rooms(imports):
    order = list(dict.fromkeys(ROOMS.values()))
    rank = {module: order.index(ROOMS[module.split(".")[0]]) for module in imports}
    backwards = {(one, other) for one, others in imports.items() for other in others if rank[other] > rank[one]}
    assert backwards == set()


def test_no_module_imports_itself_through_others(imports):
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))
