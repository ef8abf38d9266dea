"""The stamp of a file of figures: when, by which commit, on which machine and bundles it was measured."""

from __future__ import annotations

import re
import subprocess

from logo_edge.bundle.record import DEFAULT_BUNDLE, DIGEST, read_bundle
from logo_edge_train.provenance import CHECKOUT, current_commit, provenance


def test_figures_say_when_by_which_commit_and_on_which_bundles_they_were_measured():
    bundle = read_bundle(DEFAULT_BUNDLE)
    origin = provenance([bundle], preset="quick")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", origin["date"])
    assert re.fullmatch(r"[0-9a-f]{12}\+?", origin["commit"]) or not (CHECKOUT / ".git").exists()
    assert origin["machine"]["cpu"]
    assert origin["versions"]["numpy"]
    assert origin["preset"] == "quick"
    record = (DEFAULT_BUNDLE / DIGEST).read_text().split()[0]
    assert origin["bundles"] == {bundle.name: {"model_sha256": bundle.model_sha256, "record_sha256": record}}
    assert list(provenance([bundle, bundle])["bundles"]) == [bundle.name, f"{bundle.name} 2"], "none is lost"


def test_a_commit_has_a_plus_where_code_differs_and_none_where_only_results_do(tmp_path):
    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    code, result = tmp_path / "code.py", tmp_path / "benchmarks" / "results" / "one.json"
    result.parent.mkdir(parents=True)
    code.touch()
    result.touch()
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    assert re.fullmatch("[0-9a-f]{12}", current_commit(tmp_path))
    result.write_text("{}")
    assert not current_commit(tmp_path).endswith("+")
    code.write_text("1")
    assert current_commit(tmp_path).endswith("+")
    assert current_commit(result.parent) == "", "a folder inside another repository"


def test_an_installed_package_has_no_commit(tmp_path):
    assert current_commit(tmp_path) == ""
