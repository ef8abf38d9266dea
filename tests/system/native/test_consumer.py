"""A user's C++17 project: the example at the top of logo_edge.hpp, with the installed package or a copied folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from logo_edge import Classifier, Mode, __version__
from logo_edge.bundle.record import DEFAULT_BUNDLE

ROOT = Path(__file__).parents[3]
NATIVE = ROOT / "runtime" / "native"
SAMPLE = ROOT / "runtime" / "logo_edge" / "samples" / "01-simple.png"
INDENT = "//     "
pytestmark = pytest.mark.slow


@pytest.fixture
def example(tmp_path) -> Path:
    """The header's example as a file."""
    lines = (NATIVE / "logo_edge.hpp").read_text().splitlines()
    path = tmp_path / "example.cpp"
    path.write_text("\n".join(line.removeprefix(INDENT) for line in lines if line.startswith(INDENT)))
    assert "int main" in path.read_text()
    return path


def build_and_run(programs, folder: Path, *settings: str) -> str:
    """What the consumer prints of the sample."""
    build = folder / "consumer"
    configured = programs.cmake("-S", Path(__file__).with_name("consumer"), "-B", build, *programs.settings, *settings)
    assert configured.returncode == 0, configured.stderr
    compiled = programs.cmake("--build", build)
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr
    command = [build / "consumer", DEFAULT_BUNDLE, SAMPLE]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def check_printed(printed: str) -> None:
    result = Classifier.load(mode=Mode.STRICT).classify(SAMPLE)
    label, confidence = printed.split(", confidence ")
    assert label == result.label
    assert float(confidence) == pytest.approx(result.confidence, abs=0.001)


def test_the_example_of_the_header_builds_with_the_installed_package(programs, example, tmp_path):
    installed = programs.cmake("--install", programs.build, "--prefix", tmp_path / "prefix")
    assert installed.returncode == 0, installed.stderr
    settings = f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}", f"-DEXAMPLE={example}", f"-DEXPECTED={__version__}"
    check_printed(build_and_run(programs, tmp_path, *settings))
    assert not [path for path in (tmp_path / "prefix").rglob("*.cmake") if str(ROOT) in path.read_text()]


def test_it_builds_with_a_copied_folder_and_without_preprocess_c_says_what_to_copy(programs, example, tmp_path):
    shutil.copytree(NATIVE, tmp_path / "copy")
    missing = programs.cmake("-S", tmp_path / "copy", "-B", tmp_path / "build", *programs.settings)
    assert missing.returncode != 0
    assert "no preprocess.c; copy runtime/c of logo-edge to" in " ".join(missing.stderr.split())
    shutil.copytree(ROOT / "runtime" / "c", tmp_path / "copy" / "c")
    check_printed(build_and_run(programs, tmp_path, f"-DCOPIED={tmp_path / 'copy'}", f"-DEXAMPLE={example}"))
