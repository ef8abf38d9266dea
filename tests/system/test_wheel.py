"""The built wheel, installed bare: it classifies, it is small, and it says which extra the other verbs need."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from logo_edge import __version__

ROOT = Path(__file__).parents[2]
MAX_SITE_PACKAGES_BYTES = 220_000_000
OF_THE_ENVIRONMENT = ("pip", "setuptools", "_distutils_hack", "distutils-precedence", "wheel")
ABSENT = ("torch", "torchvision", "timm", "cv2", "onnx")
EXTRAS = ("", "fast", "svg", "parquet", "sign", "fast,svg,parquet,sign")
PIP = (
    sys.executable,
    "-m",
    "pip",
    "--disable-pip-version-check",
    "--python",
)  # of this environment: a new one needs none


def run(*command: str | Path, folder: Path, **settings: str) -> subprocess.CompletedProcess:
    """Runs a command outside the repository, so that only installed modules can be imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | settings
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def must_run(*command: str | Path, folder: Path, **settings: str) -> str:
    """The stdout of a command that must succeed."""
    result = run(*command, folder=folder, **settings)
    assert result.returncode == 0, f"{command}: {result.stdout[-2000:]}\n{result.stderr[-2000:]}"
    return result.stdout


def size_bytes(site_packages: Path) -> int:
    """The size of all files except those of a new environment."""
    installed = [top for top in site_packages.iterdir() if not top.name.startswith(OF_THE_ENVIRONMENT)]
    return sum(path.stat().st_size for top in installed for path in (top, *top.rglob("*")) if path.is_file())


def build_wheel(folder: Path, *options: str, **settings: str) -> Path:
    """The wheel, built from an sdist beside it or, with the option --wheel, from the checkout."""
    must_run(
        sys.executable, "-m", "build", *options, "--no-isolation", "--outdir", folder, ROOT, folder=folder, **settings
    )
    (archive,) = folder.glob("logo_edge-*.whl")
    return archive


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory) -> Path:
    """The programs of an environment with the wheel alone, compiled to bytecode as pip does by default."""
    return install(wheel, "", tmp_path_factory.mktemp("bare") / "own", "--compile")


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_the_wheel_is_of_any_platform_and_pillow_preprocesses(compiler, tmp_path):
    wheel = build_wheel(tmp_path, "--wheel", CC=compiler)
    assert wheel.name.endswith("-py3-none-any.whl")
    binaries = install(wheel, "", tmp_path / "own")
    sample = ROOT / "runtime" / "logo_edge" / "samples" / "01-simple.png"
    assert "Pillow" in must_run(binaries / "logo-edge", "info", folder=tmp_path)
    (record,) = json.loads(must_run(binaries / "logo-edge", "classify", "--json", sample, folder=tmp_path))
    assert record["label"] == "simple"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
def test_with_a_compiler_the_wheel_is_of_this_platform_and_has_the_library(wheel, bare, tmp_path):
    assert "-py3-none-linux_" in wheel.name
    assert "preprocess.c" in must_run(bare / "logo-edge", "info", folder=tmp_path)


@pytest.mark.slow
def test_the_sdist_holds_what_a_wheel_the_tests_and_the_documents_need_and_nothing_built(wheel):
    (archive,) = wheel.parent.glob("logo_edge-*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    needed = {"runtime/c/preprocess.c", "runtime/native/CMakeLists.txt", "tests/conftest.py", "docs/use/runtime.md"}
    assert needed | {"Makefile", "constraints.txt", "SECURITY.md", ".ci/run"} <= names
    assert not [name for name in names if re.search(r"/_preprocess\.|node_modules|__pycache__|^\.venv|^runs/", name)]


@pytest.mark.slow
def test_the_wheel_holds_every_room_and_no_experiment(wheel):
    names = ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if name.endswith(".py")} == {
        "logo_edge",
        "logo_edge_train",
        "logo_edge_compress",
        "logo_edge_bench",
        "logo_edge_report",
    }
    assert not [name for name in names if "/experiments/" in name]


def install(wheel: Path, extras: str, folder: Path, *options: str) -> Path:
    """The programs of a new environment with the wheel and these extras; not compiled to bytecode, to save time."""
    venv.create(folder)
    wanted = f"logo-edge[{extras}] @ {wheel.as_uri()}" if extras else str(wheel)
    must_run(
        *PIP,
        folder / "bin" / "python",
        "install",
        *(options or ["--no-compile"]),
        "-c",
        ROOT / "constraints.txt",
        wanted,
        folder=folder,
    )
    return folder / "bin"


@pytest.mark.slow
@pytest.mark.parametrize("extras", EXTRAS, ids=lambda extras: extras or "bare")
def test_with_any_of_its_extras_the_runtime_classifies_without_torch(wheel, bare, extras, tmp_path):
    binaries, chosen = install(wheel, extras, tmp_path / "own") if extras else bare, set(extras.split(","))
    look = f"import json, importlib.util as u; print(json.dumps([n for n in {ABSENT} if u.find_spec(n)]))"
    assert json.loads(must_run(binaries / "python", "-c", look, folder=tmp_path)) == []
    where = "import logo_edge; print(logo_edge.__path__[0])"
    samples = Path(must_run(binaries / "python", "-c", where, folder=tmp_path).strip()) / "samples"
    classify = [binaries / "logo-edge", "classify", "--json"]
    (record,) = json.loads(must_run(*classify, samples / "01-simple.png", folder=tmp_path))
    assert record["label"] == "simple"
    drawn = run(*classify, samples / "01-simple.svg", folder=tmp_path)
    (record,) = json.loads(drawn.stdout)
    assert record.get("label") == "simple" if "svg" in chosen else "logo-edge[svg]" in record["error"]
    counted = len(json.loads(must_run(*classify, samples, folder=tmp_path)))
    assert counted == (16 if "svg" in chosen else 8)
    table = run(*classify[:-1], samples, "--out", tmp_path / "results.parquet", folder=tmp_path)
    assert table.returncode == 0 if "parquet" in chosen else "logo-edge[parquet]" in table.stderr
    for backend, extra in (("openvino", "openvino"), ("litert", "litert"), ("torchscript", "torchscript")):
        artifact = tmp_path / {"openvino": "a.xml", "litert": "a.tflite", "torchscript": "a.pt"}[backend]
        artifact.write_bytes(b"")
        artifact.with_suffix(".bin").write_bytes(b"")  # the other half of an OpenVINO artifact
        refused = run(
            *classify, samples / "01-simple.png", "--backend", backend, "--artifact", artifact, folder=tmp_path
        )
        assert refused.returncode == 2
        assert f"logo-edge[{extra}]" in refused.stderr


@pytest.mark.slow
def test_the_bill_of_materials_names_the_wheel_and_the_libraries_of_the_base_install(bare, tmp_path):
    pytest.importorskip("cyclonedx_py", reason="needs cyclonedx-bom, of the extra dev")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    must_run(ROOT / ".ci" / "bom", bare / "python", tmp_path / "bom.json", folder=tmp_path, PATH=path)
    document = json.loads((tmp_path / "bom.json").read_text())
    versions = {part["name"]: part["version"] for part in document["components"]}
    assert versions["logo-edge"] == __version__
    assert {"numpy", "onnxruntime", "pillow", "typer"} <= versions.keys()
    assert not {"torch", "onnx", "pytest"} & versions.keys()
    (uses,) = (set(part["dependsOn"]) for part in document["dependencies"] if part["ref"].startswith("logo-edge"))
    assert len(uses) == 4


@pytest.mark.slow
def test_the_bare_wheel_classifies_and_stays_small(bare, tmp_path):
    where = "import logo_edge; print(logo_edge.__path__[0])"
    package = Path(must_run(bare / "python", "-c", where, folder=tmp_path).strip())
    assert package.is_relative_to(bare.parent)
    assert 10_000_000 < size_bytes(package.parent) <= MAX_SITE_PACKAGES_BYTES

    train = run(bare / "logo-edge", "train", folder=tmp_path)
    assert train.returncode == 2
    assert "pip install 'logo-edge[train]'" in train.stderr
    assert "classify" in must_run(bare / "logo-edge", "--help", folder=tmp_path)

    samples = sorted((package / "samples").glob("*.png"))
    assert len(samples) >= 8
    (record,) = json.loads(must_run(bare / "logo-edge", "classify", "--json", samples[0], folder=tmp_path))
    assert record["best_guess"] in record["probabilities"]
    assert sum(record["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert "golden vectors agree" in must_run(bare / "logo-edge", "info", "--self-test", folder=tmp_path)
