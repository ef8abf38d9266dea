"""The built wheel, installed bare: it classifies, it is small, and it says which extra the other verbs need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_SITE_PACKAGES_BYTES = 220_000_000
OF_THE_ENVIRONMENT = ("pip", "setuptools", "_distutils_hack", "distutils-precedence", "wheel")
ABSENT = ("torch", "cv2", "onnx")


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess:
    """A command run outside the repository, so that only what is installed can be imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def must_run(*command: str | Path, folder: Path) -> str:
    """The command's stdout, once it has succeeded."""
    result = run(*command, folder=folder)
    assert result.returncode == 0, f"{command}: {result.stdout[-2000:]}\n{result.stderr[-2000:]}"
    return result.stdout


def size_bytes(site_packages: Path) -> int:
    """Of all files but those that a new environment holds anyway."""
    entries = [entry for entry in site_packages.iterdir() if not entry.name.startswith(OF_THE_ENVIRONMENT)]
    return sum(path.stat().st_size for entry in entries for path in (entry, *entry.rglob("*")) if path.is_file())


@pytest.mark.slow
def test_the_bare_wheel_classifies_and_stays_small(tmp_path):
    must_run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT, folder=tmp_path)
    (wheel,) = tmp_path.glob("logo_edge-*.whl")
    venv.create(tmp_path / "bare", with_pip=True)
    binaries = tmp_path / "bare" / "bin"
    must_run(binaries / "python", "-m", "pip", "install", "--disable-pip-version-check", "-c", ROOT / "constraints.txt",
             wheel, folder=tmp_path)  # fmt: skip

    look = f"import json, importlib.util as u; print(json.dumps([n for n in {ABSENT} if u.find_spec(n)]))"
    assert json.loads(must_run(binaries / "python", "-c", look, folder=tmp_path)) == []
    where = "import logo_edge; print(logo_edge.__path__[0])"
    package = Path(must_run(binaries / "python", "-c", where, folder=tmp_path).strip())
    assert package.is_relative_to(tmp_path)
    assert 10_000_000 < size_bytes(package.parent) <= MAX_SITE_PACKAGES_BYTES

    train = run(binaries / "logo-edge", "train", folder=tmp_path)
    assert train.returncode == 2
    assert "pip install 'logo-edge[train]'" in train.stderr
    assert "classify" in must_run(binaries / "logo-edge", "--help", folder=tmp_path)

    samples = sorted((package / "samples").glob("*.png"))
    assert len(samples) >= 8
    (record,) = json.loads(must_run(binaries / "logo-edge", "classify", "--json", samples[0], folder=tmp_path))
    assert record["best_guess"] in record["probabilities"]
    assert sum(record["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert "golden vectors agree" in must_run(binaries / "logo-edge", "info", "--self-test", folder=tmp_path)
