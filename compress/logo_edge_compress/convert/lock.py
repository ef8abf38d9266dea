"""Writes the lock of a converter's environment, with hashes for several systems, without downloading the packages.

    python -m logo_edge_compress.convert.lock NAME PACKAGE==VERSION... [--shares torch numpy] [--folder locks]

Versions are resolved for this system; hashes are collected for the Pythons and the platforms below that have wheels.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from logo_edge.files import write_file
from logo_edge_compress.convert.environments import LOCKS

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
GLIBC = ("2_17", "2_26", "2_27", "2_28", "2_31", "2_34", "2_35")
PLATFORMS = {
    **{
        f"Linux {machine}": [f"manylinux{version}_{machine}" for version in ("2014", *(f"_{part}" for part in GLIBC))]
        for machine in ("x86_64", "aarch64")
    },
    "macOS arm64": [f"macosx_{version}_0_arm64" for version in (11, 12, 13, 14, 15)],
}


def resolve(wanted: list[str], *options: str) -> dict[str, tuple[str, str]]:
    """{package: (version, sha256)} that pip would install. Raises CalledProcessError."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    done = subprocess.run(
        [*command, "--only-binary=:all:", *options, *wanted], capture_output=True, text=True, check=True
    )
    packages = {}
    for item in json.loads(done.stdout)["install"]:
        name = normal_name(item["metadata"]["name"])
        packages[name] = item["metadata"]["version"], item["download_info"]["archive_info"]["hashes"]["sha256"]
    return packages


def resolve_for(versions: dict[str, str], python: str, tags: list[str]) -> dict[str, tuple[str, str]]:
    """As `resolve`, of those of these packages that have a wheel for this Python and platform."""
    options = ["--target", "unused", "--no-deps", "--python-version", python]
    options += [word for tag in tags for word in ("--platform", tag)]
    versions = dict(versions)
    while versions:
        try:
            return resolve([f"{name}=={version}" for name, version in versions.items()], *options)
        except subprocess.CalledProcessError as error:
            missing = re.search(r"No matching distribution found for ([\w.-]+)==", error.stderr)
            if missing is None:
                raise
            del versions[normal_name(missing[1])]
    return {}


def normal_name(package: str) -> str:
    """The name as an index lists it."""
    return re.sub(r"[-_.]+", "-", package).lower()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("packages", nargs="+")
    parser.add_argument("--shares", nargs="*", default=[])
    parser.add_argument("--no-deps", action="store_true", help="the packages alone")
    parser.add_argument("--pythons", nargs="+", default=PYTHONS, help="versions of Python, such as 3.12")
    parser.add_argument("--folder", type=Path, default=LOCKS, help="where NAME.txt is written")
    options = parser.parse_args()
    resolved = resolve(options.packages, *(["--no-deps"] if options.no_deps else []))
    versions = {name: version for name, (version, _) in resolved.items() if name not in options.shares}
    hashes: dict[str, set[str]] = {name: set() for name in versions}
    for python in options.pythons:
        for system, tags in PLATFORMS.items():
            resolved = resolve_for(versions, python, tags)
            for name, (_, sha256) in resolved.items():
                hashes[name].add(sha256)
            missing = ", ".join(sorted(versions.keys() - resolved.keys()))
            print(f"Python {python}, {system}: {f'no {missing}' if missing else 'all'}", flush=True)
    lines = ["# " + " ".join(["python -m logo_edge_compress.convert.lock", *sys.argv[1:]])]
    if options.shares:
        lines.append(f"# shares: {' '.join(options.shares)}")
    for name, version in sorted(versions.items()):
        lines.append(" ".join([f"{name}=={version}", *(f"--hash=sha256:{digest}" for digest in sorted(hashes[name]))]))
    write_file(options.folder / f"{options.name}.txt", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
