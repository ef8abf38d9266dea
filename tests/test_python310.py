"""The code keeps to Python 3.10, which JetPack 6 has: its grammar, and no library that came later."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
LATER = {  # module -> names that Python 3.11 to 3.14 added and this project used or might use
    "asyncio": {"Barrier", "Runner", "TaskGroup", "timeout", "timeout_at"},
    "contextlib": {"chdir"},
    "datetime": {"UTC"},
    "enum": {"ReprEnum", "StrEnum", "member", "nonmember", "verify"},
    "hashlib": {"file_digest"},
    "itertools": {"batched"},
    "math": {"cbrt", "exp2", "sumprod"},
    "tomllib": {"load", "loads", "tomllib"},
    "typing": {"LiteralString", "Never", "NotRequired", "Required", "Self", "Unpack", "assert_never", "override"},
}


def later_names(tree: ast.Module) -> set[str]:
    """What the file uses of LATER, and `add_note`; branches on sys.version_info are left out."""
    names, waiting = set(), [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "sys.version_info" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names if alias.name in LATER.get(node.module, ())}
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name in LATER.get(alias.name, ())}
        if isinstance(node, ast.Attribute):
            module = node.value.id if isinstance(node.value, ast.Name) else ""
            if node.attr == "add_note" or (node.attr in LATER.get(module, ()) and module != "tomllib"):
                names.add(f"{module}.{node.attr}")
        waiting += ast.iter_child_nodes(node)
    return names


def test_every_file_keeps_to_python_3_10():
    paths = [path for room in ("runtime", "train", "compress", "benchmarks") for path in (ROOT / room).rglob("*.py")]
    assert len(paths) > 200
    used = {}
    for path in paths:
        if "node_modules" not in path.parts:
            used[str(path)] = later_names(ast.parse(path.read_text(), feature_version=(3, 10)))
    assert {path: names for path, names in used.items() if names} == {}


def test_later_names_are_recognised():
    source = "import tomllib, enum\nfrom datetime import UTC\nclass M(enum.StrEnum): pass\nerror.add_note('')"
    assert later_names(ast.parse(source)) == {"tomllib", "datetime.UTC", "enum.StrEnum", "error.add_note"}
    assert later_names(ast.parse("if sys.version_info >= (3, 11):\n    import tomllib")) == set()
