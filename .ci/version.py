"""Writes `__version__` of runtime/logo_edge/__init__.py into the npm package and the C++ header, which CMake reads.

python .ci/version.py                   # after `__version__` was changed; pip reads it by itself
python .ci/version.py --check           # exit status 1 if another version stands somewhere
python .ci/version.py --check v0.2.0    # or if the release of that tag is not ready
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = "runtime/logo_edge/__init__.py"
COPIES = {  # file -> times that the version stands in it
    "runtime/web/package.json": 1,
    "runtime/web/package-lock.json": 2,
    "runtime/native/logo_edge.hpp": 1,
}
COPY = re.compile(r'("name": "logo-edge-web",\s+"version": "|#define LOGO_EDGE_VERSION ")([^"]+)')


def main(arguments: list[str]) -> int:
    (version,) = re.findall(r'^__version__ = "(\d+\.\d+\.\d+)"$', (ROOT / SOURCE).read_text(encoding="utf-8"), re.M)
    faults = []
    for name, times in COPIES.items():
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        versions = [copy for _, copy in COPY.findall(text)]
        if len(versions) != times:
            faults.append(f"{name}: the version stands there {len(versions)} times; expected {times}")
        elif set(versions) != {version} and arguments:
            faults.append(f"{name}: {versions[0]}; expected {version}, as in {SOURCE}: run python .ci/version.py")
        elif set(versions) != {version}:
            path.write_text(COPY.sub(rf"\g<1>{version}", text), encoding="utf-8")
    if tags := arguments[1:]:
        if tags[0] != f"v{version}":
            faults.append(f"tag {tags[0]}: expected v{version}, the version in {SOURCE}")
        if f"\n## {version}\n" not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
            faults.append(f"CHANGELOG.md: no heading '## {version}'; name the version there, without '(unreleased)'")
    print("\n".join(faults) or f"{version} everywhere")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
