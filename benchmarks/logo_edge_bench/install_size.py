"""The size of a bare install, measured from a checkout."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from logo_edge.errors import DatasetError

NOT_OURS = ("pip", "setuptools", "_distutils_hack", "distutils-precedence")


def measure_install_size() -> dict:
    """Megabytes of site-packages after a bare install of this checkout's wheel, without pip and setuptools."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").exists():
        raise DatasetError("the install size is measured from a checkout; this logo-edge is installed from a wheel")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "-q", "-c", root / "constraints.txt", root], check=True)
        site = next(Path(folder).glob("lib/python*/site-packages"))
        sizes = {
            package.name: sum(path.stat().st_size for path in [package, *package.rglob("*")] if path.is_file())
            for package in site.iterdir()
            if not package.name.startswith(NOT_OURS)
        }
    largest = dict(sorted(sizes.items(), key=lambda item: -item[1])[:8])
    return {"megabytes": sum(sizes.values()) / 1e6, "largest": {name: size / 1e6 for name, size in largest.items()}}
