"""`logo-edge init` writes a project whose own commands work, and overwrites nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import SHELL
from pictures import COLOURS, write_squares
from typer.testing import CliRunner

from logo_edge import __version__
from logo_edge_bench.commands import init
from logo_edge_bench.gates import read_gates
from logo_edge_train.recipe_io import load_recipe

WRITTEN = {
    ".github/workflows/check.yml",
    ".gitignore",
    "Makefile",
    "README.md",
    "gates.toml",
    "recipe.toml",
    "requirements.txt",
}
TINY = Path(__file__).parents[1] / "tiny.toml"
OF_MAKE = {"DATA", "SPLIT", "EDGE", "MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS"}  # of `make test`


def written(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def project(tmp_path) -> Path:
    result = CliRunner().invoke(init, [str(tmp_path / "our project")])
    assert result.exit_code == 0, result.output
    return tmp_path / "our project"


@pytest.fixture
def shell(tmp_path):
    """A function that runs a command in a folder, with `logo-edge` on the path."""
    (tmp_path / "bin").mkdir()
    edge = tmp_path / "bin" / "logo-edge"
    edge.write_text(
        f"#!{sys.executable}\nif __name__ == '__main__':  # processes that it starts import it\n    {SHELL}\n"
    )
    edge.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
    environment["PATH"] = f"{edge.parent}{os.pathsep}{environment['PATH']}"

    def run(command: str, folder: Path) -> subprocess.CompletedProcess:
        return subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)

    return run


def test_the_files_are_those_that_the_verbs_read(project):
    assert written(project) == WRITTEN
    recipe, built_in = load_recipe(str(project / "recipe.toml")), load_recipe("cpu")
    assert recipe.name == "own"
    assert (recipe.train, recipe.distill, recipe.quantize) == (built_in.train, built_in.distill, built_in.quantize)
    assert read_gates(project / "gates.toml").size_mb == 4
    comment, release = (project / "requirements.txt").read_text().splitlines()
    assert comment.startswith("# ")
    assert "logo-edge @ ADDRESS" in comment
    assert release == f"logo-edge=={__version__}"


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_nothing_is_overwritten_and_then_nothing_is_written(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).symlink_to("nowhere") if name == "Makefile" else (tmp_path / name).write_text("ours")
    before = written(tmp_path)
    result = CliRunner().invoke(init, [str(tmp_path)])
    assert result.exit_code != 0
    assert f"{name} there already" in str(result.exception)
    assert written(tmp_path) == before


def test_files_of_a_repository_stay_and_another_recipe_is_copied(tmp_path):
    (tmp_path / "notes.txt").write_text("ours")
    assert CliRunner().invoke(init, [str(tmp_path), "--recipe", "smoke"]).exit_code == 0
    assert written(tmp_path) == {*WRITTEN, "notes.txt"}
    assert load_recipe(str(tmp_path / "recipe.toml")).train == load_recipe("smoke").train


@pytest.mark.parametrize("line", ['name="mine"\r\n', "  'name' = 'mine'\n", "", '# name = "x"\nname = "mine"\n'])
def test_a_recipe_of_ones_own_is_copied_under_its_new_name_whatever_its_form(tmp_path, line):
    mine = tmp_path / "mine.toml"
    mine.write_text(f'{line}description = "name = 1"\n[train]\nteachers = ["mobilenetv3_small_050@64"]')
    result = CliRunner().invoke(init, [str(tmp_path / "it's ours"), "--recipe", str(mine)])
    assert result.exit_code == 0, result.exception
    assert "make -C '" in result.output, "a shell takes it as one word"
    copied = load_recipe(str(tmp_path / "it's ours" / "recipe.toml"))
    assert (copied.name, copied.train) == ("own", load_recipe(str(mine)).train)
    mine.write_text("[train]\nteachers = 3\n")
    assert CliRunner().invoke(init, [str(tmp_path / "new"), "--recipe", str(mine)]).exit_code != 0
    assert not (tmp_path / "new").exists()


def test_the_ci_job_checks_the_bundle_and_fails_if_a_gate_does(project, fake_bundle, shell):
    fake_bundle().rename(project / "bundle")
    write_squares(project, COLOURS, {"val": 8, "test": 8})
    job = yaml.safe_load((project / ".github/workflows/check.yml").read_text())["jobs"]["check"]
    install, *commands = [step["run"] for step in job["steps"] if "run" in step]
    assert install == "python -m pip install -r requirements.txt"
    (project / "gates.toml").write_text("accuracy = 0.9\nsize_mb = 4\np99_ms = 60000\n")
    results = [shell(command, project) for command in commands]
    assert [result.returncode for result in results] == [0, 0], results
    assert "3 golden vectors agree" in results[0].stdout
    assert "3 of 3 gates hold on test" in results[1].stdout
    (project / "gates.toml").write_text("size_mb = 0.00001\n")
    failed = shell(commands[-1], project)
    assert failed.returncode == 2, "the status of make"
    assert "FAILS  size_mb" in failed.stdout


@pytest.mark.slow
def test_the_targets_go_from_a_folder_to_a_checked_bundle(tmp_path, shell):
    assert CliRunner().invoke(init, [str(tmp_path / "ours"), "--recipe", str(TINY)]).exit_code == 0
    images = tmp_path / "squares"
    images.mkdir()
    write_squares(images, COLOURS, {"train": 20, "val": 8, "calib": 8, "test": 8})
    for label in COLOURS:
        (tmp_path / "ours" / "data" / label).mkdir(parents=True)
        for path in images.glob(f"{label}-*.png"):
            path.rename(tmp_path / "ours" / "data" / label / path.name)
    (tmp_path / "ours" / "gates.toml").write_text("size_mb = 40\n")
    result = shell('make describe bundle check EDGE="$(command -v logo-edge)"', tmp_path / "ours")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 of 1 gates hold on val" in result.stdout
    assert {"manifest.csv", "describe.html", "bundle/card.md", "bundle/bom.json"} <= written(tmp_path / "ours")
    card = (tmp_path / "ours" / "bundle" / "card.md").read_text()
    assert "- 132 images in " in card
