"""The C++ example, built once against the ONNX Runtime that Python has, with headers out of an npm package."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import files
from pathlib import Path

import onnxruntime
import pytest

from logo_edge_train.data.icons import install_packages

HERE = Path(__file__).parent
HEADERS = (
    "com.github.asus4.onnxruntime"  # a plug-in for Unity: of all that it holds, only the C++ headers for iOS are kept
)


@dataclass(frozen=True)
class Programs:
    """The built example, and the program that shows its intermediate results; their build, and CMake's settings."""

    build: Path
    settings: tuple[str, ...]

    @property
    def example(self) -> Path:
        return self.build / "example" / "logo-edge-native"

    @property
    def contract(self) -> Path:
        return self.build / "contract"

    def classify(self, *arguments: str | Path) -> subprocess.CompletedProcess:
        return subprocess.run([self.example, *arguments], capture_output=True, text=True, timeout=300, check=False)

    def show(self, *arguments: str | Path) -> bytes:
        return subprocess.run([self.contract, *arguments], capture_output=True, timeout=300, check=True).stdout

    def cmake(self, *arguments: str | Path) -> subprocess.CompletedProcess:
        return subprocess.run(["cmake", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def programs(tmp_path_factory) -> Programs:
    missing = [tool for tool in ("cmake", "g++") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} here; docs/use/devices.md says what the example needs")
    folder = tmp_path_factory.mktemp("native")
    settings = (
        "-DCMAKE_BUILD_TYPE=Release",
        "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON",
        "-DCMAKE_CXX_FLAGS=-Werror",
        "-DCMAKE_C_FLAGS=-Werror",
        f"-DONNXRUNTIME_ROOT={lay_out_onnxruntime(folder / 'onnxruntime')}",
        f"-DJSON_INCLUDE={json_headers()}",
    )
    built = Programs(folder / "build", settings)
    configured = built.cmake("-S", HERE, "-B", built.build, *settings)
    for package, needed in (("PNG", "libpng-dev"), ("JPEG", "libjpeg-dev")):
        if f"Could NOT find {package}" in configured.stderr:
            pytest.skip(f"no {needed} here; docs/use/devices.md says what the example needs")
    assert configured.returncode == 0, configured.stderr
    compiled = built.cmake("--build", built.build, "--parallel", "2")
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr
    return built


def lay_out_onnxruntime(folder: Path) -> Path:
    """The wheel's library and the package's headers, in a folder like those of ONNX Runtime's releases."""
    plugins = install_packages(HERE, "native") / HEADERS / "Plugins"
    for unused in (path for path in plugins.iterdir() if path.name != "iOS~"):
        shutil.rmtree(unused) if unused.is_dir() else unused.unlink()
    (header,) = plugins.glob("iOS~/*/ios-arm64/*/Headers/onnxruntime_cxx_api.h")
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    (folder / "lib").mkdir(parents=True)
    (folder / "include").symlink_to(header.parent)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / "lib" / name).symlink_to(library)
    return folder


def json_headers() -> Path:
    (header,) = (path for path in files("nlohmann-json") if path.name == "json.hpp")
    return Path(os.path.realpath(header.locate())).parents[1]
