"""Compiles preprocess.c into the package where there is a C compiler; without one the runtime uses Pillow."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "runtime/c/preprocess.c"
PACKAGE = "runtime/logo_edge"
LIBRARY = "_preprocess.so"
FLAGS = ("-std=c11", "-O3", "-fPIC", "-shared", "-ffp-contract=off")


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
            partial = beside.with_suffix(".so.partial")
            shutil.copyfile(library, partial)
            partial.replace(beside)
        elif library:
            build_data["force_include"][str(library)] = f"logo_edge/{LIBRARY}"
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def finalize(self, version: str, build_data: dict, artifact_path: str) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _compile(self, library: Path) -> Path | None:
        compiler = shlex.split(os.environ.get("CC", "cc"))
        if os.name != "posix" or shutil.which(compiler[0]) is None:
            self.app.display_warning(f"no C compiler ({compiler[0]}): Pillow will preprocess, which is slower")
            return None
        command = [*compiler, *FLAGS, str(Path(self.root, SOURCE)), "-o", str(library), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            self.app.display_warning(f"{SOURCE} does not compile, Pillow will preprocess: {done.stderr.strip()}")
            return None
        return library
