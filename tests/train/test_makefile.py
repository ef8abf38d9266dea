"""Variables given to make reach the commands unchanged, whatever characters they have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from order import SLOWEST, slowest_first

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
# of `make test`:
OF_MAKE = {"DATA", "RECIPE", "PRESET", "GATES", "PEERS_OF", "MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS"}


@pytest.fixture
def run_make(tmp_path):
    """A function: the arguments of every `logo-edge` and Python that make starts, in order."""
    edge, log = tmp_path / "venv" / "bin" / "python", tmp_path / "log"
    edge.parent.mkdir(parents=True)
    edge.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"open({str(log)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\nprint('somewhere')\n"
    )
    edge.chmod(0o755)

    def run(*arguments: str, **variables: str) -> list[list[str]]:
        stamps = [word for name in ("full", "base", "data") for word in ("-o", f".stamps/{name}")]
        programs = [f"EDGE={edge}", f"BASE_EDGE={edge}", f"VENV={edge.parents[1]}"]
        command = ["make", "--silent", *stamps, *programs, *arguments]
        clean = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env={**clean, **variables})
        calls = [json.loads(line) for line in log.read_text().splitlines()]
        log.unlink()
        return calls

    return run


@pytest.mark.parametrize("name", ["My Products (2026)", 'it\'s [new] "x"', "$HOME `id` $(id)", "a;b&c|d#e\\n"])
def test_a_folder_of_any_name_is_trained_on_and_names_the_run_and_the_bundle(run_make, name):
    expected = [
        ["train", "--recipe", "cpu", "--out", f"runs/{name}-cpu", "--data", f"sub folder/{name}/"],
        ["compress", f"runs/{name}-cpu", "--out", f"bundles/{name}-cpu"],
    ]
    assert run_make("train", "compress", f"DATA=sub folder/{name}/") == expected
    assert run_make("train", "compress", DATA=f"sub folder/{name}/") == expected


def test_without_data_the_projects_own_logos_are_trained_on_and_the_gates_checked(run_make):
    train, compress, where, check = run_make("train", "compress")
    assert train == ["train", "--recipe", "cpu", "--out", "runs/cpu"]
    assert compress == ["compress", "runs/cpu", "--out", "bundles/cpu"]
    assert where == ["data", "where"]
    assert check == [
        "check",
        "bundles/cpu",
        "--gates",
        "benchmarks/gates/cpu.toml",
        "--images",
        "somewhere",
        "--manifest",
        "train/logo_edge_train/data/labels.csv",
    ]


def test_recipe_and_gates_are_not_code_either(run_make, tmp_path):
    (tmp_path / "my logos").mkdir()
    search, train = run_make("train", "RECIPE=full", "DATA=my logos")
    assert search == ["search", "--recipe", "full", "--out", "runs/my logos-full", "--data", "my logos"]
    assert train[2] == "runs/my logos-full/search/derived.toml"
    *_, check = run_make("compress", "RECIPE=my recipe.toml", "GATES=my gates.toml", f"DATA={tmp_path / 'my logos'}")
    assert check[3] == "my gates.toml"
    assert check[-2:] == ["--manifest", "somewhere"]  # of the folder, as `data where DIR` says


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS always has a display")
@pytest.mark.parametrize(("display", "opened"), [({"DISPLAY": ":0"}, 1), ({"WAYLAND_DISPLAY": "w"}, 1), ({}, 0)])
def test_the_demo_writes_a_picture_sheet_and_opens_it_if_there_is_a_display(run_make, tmp_path, display, opened):
    opener = tmp_path / "bin" / "xdg-open"
    opener.parent.mkdir()
    opener.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/opened\nexit 3\n')
    opener.chmod(0o755)
    screens = {"DISPLAY": "", "WAYLAND_DISPLAY": "", "PATH": f"{opener.parent}:{os.environ['PATH']}", **display}
    printed, written = run_make("demo", **screens)
    assert printed == ["classify", "runtime/logo_edge/samples"]
    assert written == [*printed, "--out", "runs/demo.html", "--overwrite"]
    assert ((tmp_path / "opened").read_text() if opened else "runs/demo.html\n") == "runs/demo.html\n"
    assert (tmp_path / "opened").exists() == bool(opened)


def test_peers_learn_from_the_run_that_is_named_and_are_measured_with_its_labels(run_make):
    train, measure, tables = run_make("peers", "PEERS_OF=runs/my $run", "PRESET=quick")
    assert train == ["benchmarks/peers/run.py", "train", "--run", "runs/my $run"]
    assert measure[1:6] == ["measure", "--run", "runs/my $run", "--preset", "quick"]
    assert tables[-1] == "tables"
    assert run_make("peers")[0] == ["benchmarks/peers/run.py", "train"]


def test_the_suite_begins_with_its_slowest_files_and_keeps_the_order_of_the_others():
    assert [name for name in SLOWEST if not (TESTS / name).exists()] == []
    slow = [TESTS / name for name in SLOWEST]
    others = [TESTS / "bench/test_gates.py", Path(__file__)]
    items = [SimpleNamespace(path=path, name=name) for path in (*others, *reversed(slow)) for name in ("b", "a")]
    slowest_first(items)
    assert [item.path for item in items[::2]] == [*slow, *others]
    assert [item.name for item in items] == ["b", "a"] * len(items[::2]), "tests of a file keep theirs"
