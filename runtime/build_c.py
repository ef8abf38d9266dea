"""Compiles preprocess.c into the package where there is a C compiler; without one the runtime uses Pillow.

On Linux and macOS the compiler is `cc`, or the value of CC. On Windows it is Visual Studio's, which setuptools finds.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import import_module
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "runtime/c/preprocess.c"
PACKAGE = "runtime/logo_edge"
WINDOWS = sys.platform == "win32"
LIBRARY = "_preprocess.dll" if WINDOWS else "_preprocess.so"
FUNCTIONS = ["logo_edge_preprocess", "logo_edge_unfilter"]
FLAGS = ("-std=c11", "-O3", "-fPIC", "-shared", "-ffp-contract=off")
MSVC_FLAGS = ("/std:c11", "/fp:strict")  # strict: no fused multiply-adds; setuptools adds /O2


class CompilePreprocessing(BuildHookInterface):
    """A wheel with the library is for this platform and any Python; one without it is for any platform.

    An editable installation has the library beside its source and builds it each time.
    """

    def initialize(self, version: str, build_data: dict) -> None:
        self.folder = Path(tempfile.mkdtemp())
        beside = Path(self.root, PACKAGE, LIBRARY)
        if version == "editable":
            beside.unlink(missing_ok=True)
        library = self._compile(self.folder / LIBRARY)
        if library and version == "editable":
            partial = beside.with_name(f"{LIBRARY}.partial")
            shutil.copyfile(library, partial)
            partial.replace(beside)
        elif library:
            build_data["force_include"][str(library)] = f"logo_edge/{LIBRARY}"
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform_tag()}"  # ctypes loads it: no ABI of Python's

    def finalize(self, version: str, build_data: dict, artifact_path: str) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _compile(self, library: Path) -> Path | None:
        source = Path(self.root, SOURCE)
        failure = compile_with_msvc(source, library) if WINDOWS else compile_with_cc(source, library)
        if failure:
            self.app.display_warning(f"{SOURCE} was not compiled, Pillow will preprocess, which is slower: {failure}")
        return None if failure else library


def compile_with_cc(source: Path, library: Path) -> str:
    """Writes `library` and returns "", or the reason why there is none."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        return f"no C compiler ({compiler[0]})"
    if sys.platform == "darwin":
        oldest, processor = macos_target()
        compiler += ["-arch", processor, f"-mmacosx-version-min={oldest}"]
    command = [*compiler, *FLAGS, str(source), "-o", str(library), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stderr.strip() or f"{compiler[0]} gave status {done.returncode}") if done.returncode else ""


def compile_with_msvc(source: Path, library: Path) -> str:
    """Writes `library` and returns "", or the reason why there is none."""
    import_module("setuptools")  # first: it provides distutils
    from distutils.ccompiler import new_compiler
    from distutils.errors import CCompilerError, DistutilsPlatformError

    compiler = new_compiler(plat="nt", compiler="msvc")
    try:
        objects = compiler.compile([str(source)], output_dir=str(library.parent), extra_preargs=[*MSVC_FLAGS])
        compiler.link_shared_object(objects, str(library), export_symbols=FUNCTIONS)
    except (CCompilerError, DistutilsPlatformError) as error:
        return str(error)
    return ""


def platform_tag() -> str:
    """The wheel's platform. On macOS it names the one processor of the library; Python itself may be for two."""
    name = sysconfig.get_platform()
    if name.startswith("macosx-"):
        name = "-".join(("macosx", *macos_target()))
    return re.sub("[-.]", "_", name)


def macos_target() -> tuple[str, str]:
    """The oldest macOS, and the processor, that the library is for: of cibuildwheel's settings, else of this machine.

    Raises ValueError where ARCHFLAGS names two processors.
    """
    processors = re.findall(r"-arch\s+(\S+)", os.environ.get("ARCHFLAGS", "")) or [platform.machine()]
    if len(processors) > 1:
        raise ValueError(f"found ARCHFLAGS for {' and '.join(processors)}; expected one: build a wheel for each")
    oldest = os.environ.get("MACOSX_DEPLOYMENT_TARGET") or sysconfig.get_config_var("MACOSX_DEPLOYMENT_TARGET")
    major, minor = (int(part) for part in f"{oldest}.0".split(".")[:2])
    if processors[0] == "arm64":
        major = max(major, 11)  # the first for it
    return f"{major}.{0 if major >= 11 else minor}", processors[0]  # tags after 10 have no minor versions
