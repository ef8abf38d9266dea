"""The build hook: the compilers that it calls and their flags, the wheel's tag, and the C code without extensions."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from logo_edge import InputContract, preprocess
from logo_edge.preprocess import preprocess_by_pillow

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "runtime" / "c" / "preprocess.c"
preprocessing = import_module("logo_edge.preprocess")  # the package's name for it is the function


@pytest.fixture
def build_c():
    """A new copy of the module, which is no package's."""
    specification = importlib.util.spec_from_file_location("build_c", ROOT / "runtime" / "build_c.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
@pytest.mark.parametrize(
    "flags",
    ["-DLOGO_EDGE_NO_VECTORS -pedantic-errors", "-DLOGO_EDGE_NO_AVX2"],
    ids=["as MSVC reads it", "without AVX2"],
)
def test_c_without_the_vectors_of_x86_gives_pillow_s_pixels_too(build_c, monkeypatch, tmp_path, flags):
    monkeypatch.setenv("CC", f"cc {flags} -Wall -Wextra -Werror")
    assert build_c.compile_with_cc(SOURCE, tmp_path / "plain.so") == ""
    monkeypatch.setattr(preprocessing, "LIBRARY", preprocessing.load_library(tmp_path / "plain.so"))
    random = np.random.default_rng(2)
    sizes = [(300, 200, 3), (700, 90, 4), (90, 700, 4), (400, 333, 4), (9, 5, 3)]
    for size, details in zip(sizes, (False, False, False, True, True), strict=True):
        pixels, contract = random.integers(0, 256, size, np.uint8), InputContract(96, details=details)
        assert np.array_equal(preprocess(pixels, contract), preprocess_by_pillow(pixels.copy(), contract)), size


def test_on_windows_visual_studio_compiles_and_exports_the_function(build_c, monkeypatch, tmp_path):
    import_module("setuptools")  # first: it provides distutils
    from distutils.ccompiler import new_compiler

    kind, commands = type(new_compiler(plat="nt", compiler="msvc")), []
    msvc = sys.modules[kind.__module__]
    monkeypatch.setattr(msvc, "get_platform", lambda: "win-amd64")
    monkeypatch.setattr(msvc, "get_host_platform", lambda: "win-amd64")
    monkeypatch.setattr(msvc, "_get_vc_env", lambda specification: {"path": "", "include": "", "lib": ""})
    monkeypatch.setattr(kind, "call", lambda compiler, command, **options: commands.append(command))
    assert build_c.compile_with_msvc(SOURCE, tmp_path / "_preprocess.dll") == ""
    compiling, linking = commands
    assert {"/std:c11", "/fp:strict", "/O2", f"/Tc{SOURCE}"} <= set(compiling)
    assert {"/EXPORT:logo_edge_preprocess", "/EXPORT:logo_edge_unfilter"} <= set(linking)
    assert {"/DLL", f"/OUT:{tmp_path / '_preprocess.dll'}"} <= set(linking)
    monkeypatch.setattr(msvc, "_get_vc_env", lambda specification: None)
    assert "Visual Studio" in build_c.compile_with_msvc(SOURCE, tmp_path / "_preprocess.dll")


@pytest.mark.parametrize(
    ("python", "machine", "settings", "tag"),
    [
        ("linux-aarch64", "aarch64", {}, "linux_aarch64"),
        ("win-amd64", "AMD64", {}, "win_amd64"),
        ("macosx-10.13-universal2", "arm64", {"MACOSX_DEPLOYMENT_TARGET": "10.13"}, "macosx_11_0_arm64"),
        ("macosx-10.13-universal2", "x86_64", {"MACOSX_DEPLOYMENT_TARGET": "10.13"}, "macosx_10_13_x86_64"),
        ("macosx-14.2-arm64", "arm64", {"MACOSX_DEPLOYMENT_TARGET": "14.2"}, "macosx_14_0_arm64"),
        (
            "macosx-10.13-universal2",
            "arm64",
            {"ARCHFLAGS": "-arch x86_64", "MACOSX_DEPLOYMENT_TARGET": "11"},
            "macosx_11_0_x86_64",
        ),
    ],
)
def test_the_tag_names_the_platform_of_the_library_and_never_universal2(
    build_c, monkeypatch, python, machine, settings, tag
):
    monkeypatch.setattr(sysconfig, "get_platform", lambda: python)
    monkeypatch.setattr(build_c.platform, "machine", lambda: machine)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert build_c.platform_tag() == tag


def test_a_library_for_two_processors_is_refused(build_c, monkeypatch):
    monkeypatch.setenv("ARCHFLAGS", "-arch x86_64 -arch arm64")
    with pytest.raises(ValueError, match="ARCHFLAGS for x86_64 and arm64; expected one"):
        build_c.macos_target()


def test_on_macos_the_compiler_gets_what_the_tag_says(build_c, monkeypatch, tmp_path):
    commands = []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(
        subprocess, "run", lambda command, **options: commands.append(command) or subprocess.CompletedProcess([], 0)
    )
    monkeypatch.setenv("ARCHFLAGS", "-arch arm64")
    monkeypatch.setenv("MACOSX_DEPLOYMENT_TARGET", "10.9")
    monkeypatch.delenv("CC", raising=False)
    assert build_c.compile_with_cc(SOURCE, tmp_path / "library") == ""
    assert commands[0][:4] == ["cc", "-arch", "arm64", "-mmacosx-version-min=11.0"]
