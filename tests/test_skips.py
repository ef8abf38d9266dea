"""Every skip of a test has a row in the table of CONTRIBUTING.md, and every reason in the table is one of a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = re.compile(r"\| reason, as pytest gives it \| kind \|\n\| --- \| --- \|\n((?:\|.*\n)+)")


def words_of(node: ast.expr) -> str:
    """The text of a string, with ... for each part that an f-string computes."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
    return ast.literal_eval(node)


def reasons_of(source: str) -> list[str]:
    """The reasons of all skips in a file of tests. Raises where one has none, or is an expected failure."""
    reasons = []
    for call in ast.walk(ast.parse(source)):
        name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
        if name == "pytest.importorskip":
            reasons.append("could not import ...")
        elif name == "pytest.skip":
            reasons.append(words_of(call.args[0]))
        elif name == "pytest.mark.skipif":
            reasons.append(words_of(next(keyword.value for keyword in call.keywords if keyword.arg == "reason")))
        assert name not in ("pytest.xfail", "pytest.mark.xfail", "pytest.mark.skip"), name
    return reasons


def test_the_reasons_of_skips_are_those_of_the_table():
    in_tests = {reason for path in TESTS.rglob("*.py") for reason in reasons_of(path.read_text(encoding="utf-8"))}
    (rows,) = TABLE.findall((TESTS.parent / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    in_table = {reason for row in rows.splitlines() for reason in re.findall("`([^`]+)`", row.split("|")[1])}
    assert len(in_tests) >= 15
    assert in_tests == in_table


def test_a_skip_is_found_in_each_form():
    code = """
pytest.importorskip("ray")
pytest.skip(f"no {name} here")
@pytest.mark.skipif(True, reason="not today")
def test(): ...
"""
    assert sorted(reasons_of(code)) == ["could not import ...", "no ... here", "not today"]
